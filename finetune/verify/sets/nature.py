"""Decides whether data teach a task, which generalises to unseen questions, or facts, which do not.

A classifier, a rewriter or an extractor can be asked rows that were left out of its training. A FAQ cannot: the fact in
a row that was left out is nowhere else.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.verify.nearness import grams
from finetune.verify.sets.rows import DataRow
from finetune.verify.words import Said

FEWEST = 20  # rows; fewer cannot be divided into a part to train on and a part to ask
SHARED_INSTRUCTION = 0.5  # share of rows that begin with the same instruction, followed by a text to work on
SHORTEST_INSTRUCTION = 12  # characters
OWN_NUMBERS = 0.3  # share of rows whose answer has a number that is not in the question: the answers are facts
DERIVED = 0.5  # share of an answer's n-grams that are in its question: the answer is made from the question
STYLE = 0.8  # share of answers that begin, or end, with the same characters
STYLE_LENGTH = 8  # characters
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
ANSWERS_ARE = {
    "label": "the answers are labels",
    "json": "the answers are JSON",
    "code": "the answers are code",
}


@dataclass(frozen=True)
class Nature:
    """How most answers are judged (`kind`), whether unseen rows can be asked (`generalises`), and the reason."""

    kind: str  # label, text, code or json
    generalises: bool
    why: Said


def of(rows: Sequence[DataRow], kinds: Sequence[str]) -> Nature:
    """The nature of rows; `kinds` says how the answer of each is judged."""
    kind = Counter(kinds).most_common(1)[0][0]
    if len(rows) < FEWEST:
        return Nature(kind, False, Said("fewer than {count} rows", count=FEWEST))
    if kind != "text":
        return Nature(kind, True, Said(ANSWERS_ARE[kind]))
    task = task_of(rows)
    if task is None:
        return Nature(kind, False, Said("a FAQ: the fact in a row that is left out is nowhere else"))
    return Nature(kind, True, task)


def task_of(rows: Sequence[DataRow]) -> Said | None:
    """Why rows with text answers are a task that generalises; None if their answers are facts."""
    if sum(map(brings_numbers, rows)) >= OWN_NUMBERS * len(rows):
        return None
    if shares_instruction(rows):
        return Said("most rows share an instruction")
    if statistics.median(derived(row) for row in rows) >= DERIVED:
        return Said("the answers are made from the questions")
    return Said("the answers share a form") if shares_style([row.answer for row in rows]) else None


def shares_instruction(rows: Sequence[DataRow]) -> bool:
    """Whether SHARED_INSTRUCTION of the rows begin with the same instruction."""
    heads = Counter(instruction_of(row) for row in rows)
    heads.pop("", None)
    return bool(heads) and heads.most_common(1)[0][1] >= SHARED_INSTRUCTION * len(rows)


def instruction_of(row: DataRow) -> str:
    """The first line of a question with several lines, else the words before its first colon, else ""."""
    text = row.question.strip()
    line, newline, rest = text.partition("\n")
    if newline and rest.strip() and len(line) >= SHORTEST_INSTRUCTION:
        return line.strip()
    for colon in (":", "\uff1a"):
        head, found, rest = text.partition(colon)
        if found and rest.strip() and SHORTEST_INSTRUCTION <= len(head) <= 200:
            return head.strip()
    return ""


def brings_numbers(row: DataRow) -> bool:
    """Whether an answer has a number that its question does not have."""
    return bool(set(NUMBER.findall(row.answer)) - set(NUMBER.findall(row.question)))


def derived(row: DataRow) -> float:
    """The share of an answer's n-grams that are in its question."""
    said = grams(row.answer)
    return len(said & grams(row.question)) / len(said) if said else 0.0


def shares_style(answers: Sequence[str]) -> bool:
    """Whether STYLE of the answers begin, or end, with the same STYLE_LENGTH characters."""
    for cut in (slice(None, STYLE_LENGTH), slice(-STYLE_LENGTH, None)):
        ends = Counter(answer.strip()[cut] for answer in answers)
        if ends.most_common(1)[0][1] >= STYLE * len(answers):
            return True
    return False
