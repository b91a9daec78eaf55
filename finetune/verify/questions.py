"""The questions that verify asks: read from YAML files, with line numbers in errors, or made from the dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common import host
from common.errors import UserError
from common.i18n import _
from finetune.data import reading
from finetune.verify import rules
from finetune.verify.scoring import compile_pattern, normalise
from finetune.verify.sets.rows import DataRow
from finetune.verify.yamlmarks import Node, load

VERSION = 1
ROLES = ("user", "assistant")
TRAINED_MAX = 200  # trained questions that are asked, evenly spread over a larger dataset
PARTS = ("trained", "heldout", "general", "alpaca", "learned", "reworded", "unseen", "out_of_scope", "near_miss")

Patterns = tuple[re.Pattern[str], ...]


@dataclass(frozen=True)
class Question:
    """One question. `part` is one of PARTS; `messages` end with the user's turn; `where` is its file and line."""

    id: str
    part: str
    kind: str
    messages: tuple[dict[str, str], ...]
    where: str
    expect: Patterns = ()
    forbid: Patterns = ()
    reference: str | None = None
    rule: dict[str, Any] | None = None
    counted: bool = True  # False: shown, not scored (says nothing about identity, or an easy rewording)
    row: int | None = None  # index into sets.survey.Survey.rows of the row whose answer is the reference
    system: str | None = None  # the row's own system prompt, which replaces the training's
    tools: Any = None  # the row's tools

    @property
    def is_identity(self) -> bool:
        """Whether the answer is judged for identity."""
        return self.part in ("trained", "heldout")

    @property
    def text(self) -> str:
        """The last turn: what is asked."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class TrainedEntry:
    """How to score a row of the dataset whose output matches `when`."""

    when: re.Pattern[str]
    expect: Patterns
    forbid: Patterns


@dataclass
class QuestionSet:
    """The content of questions files: held-out questions, general tasks, and how to score the dataset's own rows."""

    heldout: list[Question] = field(default_factory=list)
    general: list[Question] = field(default_factory=list)
    out_of_scope: list[Question] = field(default_factory=list)
    trained: list[TrainedEntry] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def all(self) -> list[Question]:
        """Held-out questions, general tasks, and out-of-scope questions."""
        return [*self.heldout, *self.general, *self.out_of_scope]


FILE_KEYS = ("version", "trained", "defaults", "heldout", "questions", "out_of_scope")
IDENTITY_KEYS = ("id", "kind", "question", "messages", "expect", "forbid")
GENERAL_KEYS = ("id", "kind", "question", "messages", "reference", "rule")


def read(path: str | Path) -> QuestionSet:
    """Read a questions file (docs/verify.md shows the format).

    Raises UserError, `FILE:LINE: what is wrong`, if something cannot be asked or scored.
    """
    root = load(Path(path), _("questions file"))
    parts = {} if isinstance(root.value(), list) else root.mapping(FILE_KEYS, _("a questions file"))
    listed = parts.get("questions") if parts else root
    if "version" in parts and parts["version"].value() != VERSION:
        raise parts["version"].error(
            _("version must be {version}; this release knows no other layout").format(version=VERSION)
        )
    forbid: Patterns = ()
    if "defaults" in parts:
        defaults = parts["defaults"].mapping(("forbid",), "defaults")
        forbid = _patterns(defaults["forbid"], "forbid") if "forbid" in defaults else ()
    found = QuestionSet(sources=[str(path)])
    for node in parts["trained"].items("trained") if "trained" in parts else []:
        entry = node.mapping(("when", "expect", "forbid"), _("an entry of trained"))
        if "when" not in entry or "expect" not in entry:
            raise node.error(_("an entry of trained needs both when and expect"))
        when = _patterns(entry["when"], "when")
        if len(when) != 1:
            raise entry["when"].error(_("when must be a single pattern"))
        own = _patterns(entry["forbid"], "forbid") if "forbid" in entry else forbid
        found.trained.append(TrainedEntry(when[0], _patterns(entry["expect"], "expect"), own))
    for node in parts["heldout"].items("heldout") if "heldout" in parts else []:
        found.heldout.append(_identity(node, forbid))
    for node in listed.items("questions") if listed else []:
        keys = node.mapping(None, _("a question"))
        if "expect" in keys:
            found.heldout.append(_identity(node, forbid))
        else:
            found.general.append(_general(node))
    for node in parts["out_of_scope"].items("out_of_scope") if "out_of_scope" in parts else []:
        found.out_of_scope.append(_out_of_scope(node))
    if not found.all():
        raise UserError(
            _("{path}: the file holds no questions; docs/verify.md shows what belongs in it").format(path=path)
        )
    check_unique(found.all())
    return found


def check_unique(questions: Iterable[Question]) -> None:
    """Raises UserError if two questions have the same id: the report could not tell them apart."""
    seen: dict[str, str] = {}
    for question in questions:
        if question.id in seen:
            raise UserError(
                _("{where}: the id {id!r} is already used in {seen}; rename one").format(
                    where=question.where, id=question.id, seen=seen[question.id]
                )
            )
        seen[question.id] = question.where


def _identity(node: Node, forbid: Patterns) -> Question:
    keys = node.mapping(IDENTITY_KEYS, _("an identity question"))
    if "expect" not in keys:
        raise node.error(_("an identity question needs expect: the patterns that its answer must match"))
    return Question(
        **_common(node, keys, "heldout"),
        expect=_patterns(keys["expect"], "expect"),
        forbid=_patterns(keys["forbid"], "forbid") if "forbid" in keys else forbid,
    )


def _general(node: Node) -> Question:
    keys = node.mapping(GENERAL_KEYS, _("a general question"))
    if "reference" not in keys and "rule" not in keys:
        raise node.error(_("a question needs expect (identity), or reference or rule (a general task)"))
    rule = keys["rule"].value() if "rule" in keys else None
    fault = rules.problem(rule) if "rule" in keys else None
    if fault:
        raise keys["rule"].error(fault)
    reference = keys["reference"].text("reference") if "reference" in keys else None
    return Question(**_common(node, keys, "general"), reference=reference, rule=rule)


def _out_of_scope(node: Node) -> Question:
    keys = node.mapping(("id", "kind", "question", "messages"), _("an out-of-scope question"))
    return Question(**_common(node, keys, "out_of_scope"))


def _common(node: Node, keys: dict[str, Node], part: str) -> dict[str, Any]:
    if "id" not in keys:
        raise node.error(_("a question needs an id, unique in its file"))
    if ("question" in keys) == ("messages" in keys):
        raise node.error(_("a question needs either question or messages"))
    if "question" in keys:
        messages = [{"role": "user", "content": keys["question"].text("question")}]
    else:
        messages = _messages(keys["messages"])
    return {
        "id": keys["id"].text("id"),
        "part": part,
        "kind": keys["kind"].text("kind") if "kind" in keys else part,
        "messages": tuple(messages),
        "where": f"{node.path}:{node.line}",
    }


def _messages(node: Node) -> list[dict[str, str]]:
    messages = []
    turns = node.items("messages")
    for number, turn in enumerate(turns):
        keys = turn.mapping(("role", "content"), _("a message"))
        if set(keys) != {"role", "content"}:
            raise turn.error(_("a message needs role and content"))
        role = keys["role"].text("role")
        if role != ROLES[number % 2]:
            raise keys["role"].error(
                _("the role here must be {role!r}: the turns alternate and begin with the user").format(
                    role=ROLES[number % 2]
                )
            )
        messages.append({"role": role, "content": keys["content"].text("content")})
    if len(messages) % 2 == 0:
        raise node.error(_("messages must end with a user turn, which the model answers"))
    return messages


def _patterns(node: Node, what: str) -> Patterns:
    nodes = node.items(what) if isinstance(node.value(), list) else [node]
    if not nodes and what == "expect":
        raise node.error(_("expect is empty: any answer would pass"))
    patterns = []
    for each in nodes:
        try:
            patterns.append(compile_pattern(each.text(what)))
        except ValueError as error:
            raise each.error(str(error)) from None
    return tuple(patterns)


# ------------------------------------------------------------------------------------------------- own brand


def rebrand(questions: QuestionSet, expect: str | None, forbid: str | None) -> QuestionSet:
    """The same questions, scored for another name.

    Args:
        questions: The questions as read.
        expect: --expect. It replaces the expected patterns of each identity question, and decides which rows of the
            dataset count.
        forbid: --forbid. It names the old identity instead of the questions' own forbidden patterns, which are dropped.
    """
    wanted = option("--expect", expect)

    def change(thing: Any) -> Any:
        return replace(
            thing, expect=(wanted,) if wanted else thing.expect, forbid=thing.forbid if forbid is None else ()
        )

    trained = [change(entry) for entry in questions.trained]
    if wanted:
        kept = questions.trained[0].forbid if questions.trained and forbid is None else ()
        trained = [TrainedEntry(wanted, (wanted,), kept)]
    return replace(questions, heldout=[change(question) for question in questions.heldout], trained=trained)


def option(name: str, source: str | None) -> re.Pattern[str] | None:
    """The pattern of a command-line option; None if it was not given. Raises UserError, which names the option."""
    if source is None:
        return None
    try:
        return compile_pattern(source)
    except ValueError as error:
        raise UserError(
            _("{name}: {error}; quote it for the shell, as in {name} 'My Company'").format(name=name, error=error)
        ) from None


# --------------------------------------------------------------------------------------------- trained questions


def from_rows(rows: Sequence[DataRow], entries: Sequence[TrainedEntry], limit: int = TRAINED_MAX) -> list[Question]:
    """The dataset's own questions, each scored by the first entry whose `when` matches the row's answer.

    Args:
        rows: The rows.
        entries: How to score rows. A row that no entry matches has `counted` False. It is left out if there are more
            than `limit` rows, 500 of Alpaca for example.
        limit: The most questions to return; they are evenly spread over the rows.
    """
    questions: list[Question] = []
    for row in rows:
        text = normalise(row.answer).norm
        entry = next((entry for entry in entries if entry.when.search(text)), None)
        questions.append(
            Question(
                id=f"trained-{len(questions) + 1:02d}",
                part="trained",
                kind="trained",
                messages=row.messages,
                where=row.where,
                expect=entry.expect if entry else (),
                forbid=entry.forbid if entry else (),
                reference=row.answer,
                counted=entry is not None,
            )
        )
    kept = questions if len(questions) <= limit else [question for question in questions if question.counted]
    step = max(1.0, len(kept) / limit)
    return [kept[int(place * step)] for place in range(min(limit, len(kept)))]


def read_rows(path: str | Path) -> list[tuple[tuple[dict[str, str], ...], str]]:
    """Rows of a dataset file as (messages up to the last user turn, output); rows of other forms are skipped.

    System turns are left out, since verify sets the system prompt. Raises UserError if the file cannot be read or has
    no question with an answer.
    """
    from qwen2.chat import standard_row

    rows = []
    for row in reading.read_rows(Path(path)):
        try:
            turns = standard_row(row.data)[0]
        except ValueError:
            continue
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in turns if turn["role"] != "system"]
        if [turn["role"] for turn in turns[-2:]] == ["user", "assistant"]:
            rows.append((tuple(turns[:-1]), turns[-1]["content"]))
    if not rows:
        more = host.call("check-data", dataset=path)
        raise UserError(
            _("{path}: no row has a question and its answer; {more} says what is wrong").format(path=path, more=more)
        )
    return rows
