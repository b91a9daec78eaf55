"""Make rewordings of questions: the base model writes some, a filter drops those that are none, rules fill the gaps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from finetune.data.content import question_key
from finetune.verify.engine import Ask
from finetune.verify.nearness import Nearness
from finetune.verify.rewordings import rules
from finetune.verify.rewordings.file import BASE, RULES, Rewording
from finetune.verify.sets.rows import DataRow, language

ASKED = 2  # a row, for verify
SPARE = 3  # lines that the base writes beyond those wanted, since some are dropped
LONGEST = 400  # characters of a question that is reworded
SHORTEST, WIDEST = 0.35, 3.0  # length of a rewording, in lengths of its question
PROMPT_ZH = (
    "把下面的问题换成{count}种不同的说法。意思不变,数字和名称保留,不要回答问题,每行写一种说法,不要编号。\n\n问题:{text}"
)
PROMPT_EN = (
    "Rewrite the question below in {count} different ways. Keep its meaning, its numbers and its names. "
    "Do not answer it. Write one question per line, without numbers.\n\nQuestion: {text}"
)
SYSTEM = "You are a helpful assistant."
LINE_HEAD = re.compile(r"^\s*(?:[-*•·]|\(?\d{1,2}[.)、:]|[①-⑩]|(?:说法|问题|question|version)\s*\d*\s*[::])\s*", re.I)
QUOTES = "\"'“”‘’「」『』`* "
KEPT = re.compile(r"\d+(?:[.,:]\d+)*|[A-Z][A-Za-z]*\d[\w-]*")  # numbers and codes, which a rewording must keep
ASKS = re.compile(r"[??吗呢]|什么|怎|如何|哪|谁|多少|几|是否|能不能|可以|告诉|想|请"
                  r"|\b(?:what|how|when|where|who|whom|whose|which|why|can|could|may|do|does|did|is|are|was|will|would|"
                  r"should|tell|know|wonder|want|need|like|explain|give|looking|help)\b", re.I)  # fmt: skip

Answerer = Callable[[Sequence[Ask]], Sequence[str]]  # the base model: asks in, texts out, all at once


def make(
    rows: Sequence[DataRow], all_rows: Sequence[DataRow], answer: Answerer | None, train: int = 0
) -> list[Rewording]:
    """ASKED rewordings of each row for verify, and `train` more for the training.

    Args:
        rows: The rows to reword.
        all_rows: Every row of the data: a rewording that is nearer to another of them is dropped.
        answer: The base model; None where it cannot be asked for such a thing (the stand-in).
        train: Rewordings of each row that go into the training and are never asked.
    """
    wanted = ASKED + train
    fit = [row for row in rows if 0 < len(row.question) <= LONGEST]
    written = _written(fit, wanted + SPARE, answer) if answer else [[] for _ in fit]
    sieve = Sieve(all_rows)
    found = []
    for row, lines in zip(fit, written, strict=True):
        base = sieve.keep(row, lines)
        base.sort(key=lambda text: sieve.likeness(row, text))  # the most different are asked: the hardest that are fair
        ruled = sieve.keep(row, rules.reword(row.question, wanted + SPARE), base) if len(base) < wanted else []
        chosen = [*base, *ruled][:wanted]
        asked = chosen[:: 2 if train else 1][:ASKED]  # asked and trained ones differ from the question equally
        made = [BASE if text in base else RULES for text in asked]
        found.append(Rewording(row.question, asked, [text for text in chosen if text not in asked], made))
    return found


def _written(rows: Sequence[DataRow], count: int, answer: Answerer) -> list[list[str]]:
    """The lines that the base writes for each row, all asked in one batch."""
    asks = []
    for row in rows:
        prompt = PROMPT_ZH if language([row.question]) == "zh" else PROMPT_EN
        text = prompt.format(count=count, text=row.question)
        limit = min(512, count * (len(row.question.encode()) // 2 + 16))
        asks.append(Ask(({"role": "user", "content": text},), SYSTEM, limit))
    return [lines(text) for text in answer(asks)]


def lines(text: str) -> list[str]:
    """The rewordings in what the base wrote: a line each, without numbers and quotation marks."""
    return [bare for line in text.splitlines() if (bare := LINE_HEAD.sub("", line).strip(QUOTES))]


class Sieve:
    """Drops what is no rewording of its row: equal, empty, another row's question, an answer, a number lost."""

    def __init__(self, rows: Sequence[DataRow]) -> None:
        self.place = {row.key: place for place, row in enumerate(rows)}
        self.keys = {question_key(row.question) for row in rows}
        self.questions = Nearness([row.question for row in rows])
        self.answers = Nearness([row.answer for row in rows])
        self.same = [question_key(row.answer) for row in rows]

    def keep(self, row: DataRow, texts: Sequence[str], beside: Sequence[str] = ()) -> list[str]:
        """Those of `texts` that are rewordings of the row, each once, and none that is in `beside`."""
        seen = {question_key(text) for text in beside}
        kept = []
        for text in texts:
            key = question_key(text)
            if key not in seen and self.fits(row, text):
                seen.add(key)
                kept.append(text)
        return kept

    def fits(self, row: DataRow, text: str) -> bool:
        """Whether a text asks what the row asks, in other words, as far as words can tell."""
        if not question_key(text) or question_key(text) in self.keys or "\n" in text:
            return False
        size = len(text) / max(len(row.question), 1)
        if not SHORTEST <= size <= max(WIDEST, 60 / max(len(row.question), 1)) or not ASKS.search(text):
            return False
        if set(KEPT.findall(row.question)) - set(KEPT.findall(text)):
            return False
        if language([text]) != language([row.question]):
            return False
        own = self.place[row.key]
        found = self.questions.scores(text)
        best = int(found.argmax())
        if found[best] > found[own] and self.same[best] != self.same[own]:
            return False
        return bool(found[own] > 0) and float(self.answers.scores(text).max()) < max(float(found[own]), 0.3)

    def likeness(self, row: DataRow, text: str) -> float:
        """How like its question a rewording is, from 0 to 1."""
        return float(self.questions.scores(text)[self.place[row.key]])


def for_rows(rewordings: Sequence[Rewording], rows: Sequence[DataRow]) -> tuple[dict[str, Rewording], list[str]]:
    """(rewordings by the key of their row's question, questions that no row asks)."""
    known = {question_key(row.question) for row in rows}
    found, strange = {}, []
    for each in rewordings:
        key = question_key(each.question)
        if key in known:
            found[key] = each
        else:
            strange.append(each.question)
    return found, strange


def training_rows(rewordings: Sequence[Rewording], rows: Sequence[DataRow]) -> list[dict[str, Any]]:
    """The rows that the training gets beside the dataset's own: each answer behind its question in other words."""
    by_key, _ = for_rows(rewordings, rows)
    added = []
    for row in rows:
        each = by_key.get(question_key(row.question))
        for text in each.train if each else ():
            head = [{"role": "system", "content": row.system}] if row.system is not None else []
            messages = [*head, *row.reworded(text), {"role": "assistant", "content": row.answer}]
            added.append({"messages": messages} | ({"tools": row.tools} if row.tools else {}))
    return added
