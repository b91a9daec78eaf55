"""Asks the base and the adapters all questions and scores the answers; the command verify calls it."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from common.i18n import _
from common.model_kind import ModelKind, kind_of
from common.settings import Settings
from finetune.verify.config import VerifyConfig
from finetune.verify.engine import Ask, Engine
from finetune.verify.figures import DEFAULT, Asked, score
from finetune.verify.questions import Question
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.rewordings import make, near
from finetune.verify.rewordings.file import Rewording
from finetune.verify.runinfo import Run
from finetune.verify.selection import Selection
from finetune.verify.sets import survey

FEWEST_TOKENS = 48  # limit of answers to a row with a short reference
OUTSIDE_TOKENS = 128  # limit of answers to questions that no row answers
BEFORE, AFTER, OTHER = "before", "after", "other"


class Screen(Protocol):
    """What shows the progress of the work: a progress bar."""

    def phase(self, text: str) -> None:
        """Show the name of the current phase."""

    def advance(self, count: int) -> None:
        """Count `count` more answers."""


@dataclass(frozen=True)
class Wordings:
    """The rewordings that are asked, how many the base, the rules and a person made, and their file."""

    rewordings: list[Rewording]
    by_base: int = 0
    by_rules: int = 0
    by_hand: int = 0
    path: Path | None = None

    @property
    def mostly_by_rules(self) -> bool:
        """Whether rules wrote half of them or more."""
        return self.by_rules > 0 and self.by_rules >= self.by_base + self.by_hand


@dataclass
class VerdictSession:
    """One verdict: its options, adapter, run and questions, and how many seconds its parts took."""

    args: argparse.Namespace
    cfg: VerifyConfig
    settings: Settings
    adapter: Path
    other: Path | None
    model_dir: Path
    run: Run
    selected: Selection
    old: Any  # the pattern of the old identity, or None
    folder: Path = Path()
    wordings: Wordings = field(default_factory=lambda: Wordings([]))
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def limits(self) -> dict[str, int]:
        """The longest answers in tokens, by kind: "identity", "general" and "rows"."""
        return {part: self.args.max_new_tokens or limit for part, limit in self.cfg.max_new_tokens.items()}

    @property
    def device(self) -> str:
        """The device on which the model answers: "cpu" or "cuda"."""
        return "cpu" if self.settings.wants_cpu else "cuda"

    @property
    def kind(self) -> ModelKind:
        """The kind of model: a real one, or one made for tests."""
        return kind_of(self.model_dir)


@dataclass
class Session:
    """A loaded engine and its adapters by side (before, after, other); None is the base."""

    engine: Engine
    adapters: dict[str, Any]
    names: dict[str, str]  # side -> its name on the screen
    limits: dict[str, int]
    bar: Screen
    seconds: dict[str, float] = field(default_factory=dict)

    def answer(self, asks: Sequence[Asked], old: Any, judge: Any) -> None:
        """Ask all questions and fill in their `scored`, with one call of the engine per side.

        Args:
            asks: The questions; those with answers in `given` are only scored.
            old: The pattern of the old identity, or None.
            judge: Compares answers with the data; None without data.
        """
        open_ = [each for each in asks if not each.given]
        wanted = [ask_of(each.question, each.system, self.limits) for each in open_]
        for side, adapter in self.adapters.items():
            clock = time.monotonic()
            self.bar.phase(_("asking {name} ({count} answers)").format(name=self.names[side], count=len(wanted)))
            answers = self.engine.answer(wanted, adapter, self.bar.advance)
            self.seconds[side] = time.monotonic() - clock
            clock = time.monotonic()
            by_ask = {id(each): answer for each, answer in zip(open_, answers, strict=True)}
            for each in asks:
                answer = by_ask.get(id(each)) or each.given.get(side)
                if answer is not None:
                    each.scored[side] = score(each.question, answer, old, judge)
            self.seconds["scoring"] = self.seconds.get("scoring", 0.0) + time.monotonic() - clock

    def weigh(self, asks: Sequence[Asked]) -> None:
        """Add the mean NLL of the reference to the scored answers to rows, if the engine can compute it."""
        weigh = getattr(self.engine, "nll", None)
        rows = [each for each in asks if each.question.row is not None and not each.given and each.prompt != DEFAULT]
        rows = [each for each in rows if each.question.part in ("learned", "trained")]
        if weigh is None or not rows:
            return
        clock = time.monotonic()
        self.bar.phase(_("scoring {count} reference answers").format(count=len(rows)))
        wanted = [ask_of(each.question, each.system, self.limits) for each in rows]
        references = [each.question.reference or "" for each in rows]
        for side, adapter in self.adapters.items():
            for each, value in zip(rows, weigh(wanted, references, adapter), strict=True):
                each.scored[side] = replace(each.scored[side], nll=value)
        self.seconds["weighing"] = time.monotonic() - clock


def ask_of(question: Question, system: str, limits: dict[str, int]) -> Ask:
    """A question in the form that an engine takes.

    Args:
        question: The question. A system prompt of its own replaces `system`.
        system: The system prompt of all other questions.
        limits: The longest answers in tokens, as VerifyConfig.max_new_tokens.
    """
    own = question.system if question.system is not None else system
    return Ask(question.messages, own, limit_of(question, limits), question.tools)


def limit_of(question: Question, limits: dict[str, int]) -> int:
    """The longest answer to a question in tokens; for a row, about twice the length of its reference."""
    if question.is_identity:
        return limits["identity"]
    if question.part in ("learned", "reworded", "unseen"):
        # Half a token per byte is ample: Qwen's tokenizer needs about 0.25, in English and in Chinese.
        return min(limits["rows"], max(FEWEST_TOKENS, len((question.reference or "").encode()) // 2 + 16))
    outside = question.part in ("out_of_scope", "near_miss")
    return min(limits["general"], OUTSIDE_TOKENS) if outside else limits["general"]


def wordings(selected: Selection, given: Path | None, folder: Path, base: make.Answerer | None) -> Wordings:
    """The rewordings to ask: from the user's file or the run's, else new ones, which are kept in `folder`.

    Args:
        selected: The questions of the verdict.
        given: The file of --rewordings.
        folder: The folder of rewordings.yaml.
        base: The base model; None if it cannot be asked for rewordings.

    Raises:
        UserError: A file cannot be read or written.
    """
    if selected.found is None or selected.chosen is None or not selected.chosen.reworded:
        return Wordings([])
    rows = [selected.found.rows[place] for place in selected.chosen.reworded]
    missed = [selected.found.rows[place] for place in survey.near_missed(selected.found, selected.chosen)]
    path = given or folder / rewordings_file.NAME
    is_new = not given and not path.is_file()
    known = make.make(rows, selected.found.rows, base) if is_new else rewordings_file.read(path)
    near.add(known, missed, selected.found.rows, base)
    if is_new:
        rewordings_file.write(path, known)
    by_key, _other = make.for_rows(known, selected.found.rows)
    made = Counter(maker for each in by_key.values() for maker in each.makers())
    return Wordings(known, made[rewordings_file.BASE], made[rewordings_file.RULES], made[rewordings_file.HAND], path)


def base_answers(engine: Engine, bar: Screen | None = None, what: str = "") -> make.Answerer:
    """The base, without adapters, as a function from questions to answers. It shows what it is doing.

    Args:
        engine: Answers.
        bar: Shows the name of the work; None: a line on stderr.
        what: The name of the work, with {count}, marked with N_; "": the base rewrites questions.
    """

    def answer(asks: Sequence[Ask]) -> list[str]:
        text = (_(what) if what else _("the base rewrites {count} questions")).format(count=len(asks))
        if bar:
            bar.phase(text)
        else:
            print(f"{text} ...", file=sys.stderr)
        return [each.text for each in engine.answer(asks, None, lambda _: None)]

    return answer
