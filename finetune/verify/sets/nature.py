"""What kind of data rows are: can what they teach be done for a question that was never seen, or are they facts?

A classifier, a rewriter or an extractor can be asked about rows that were left out of its training. A FAQ cannot: the
fact that a left-out row held is nowhere else.
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

FEWEST = 20  # rows that can be divided into a part to train on and a part to ask
SHARED_INSTRUCTION = 0.5  # of the rows begin with the same words: an instruction, then a text to work on
SHORTEST_INSTRUCTION = 12  # characters
OWN_NUMBERS = 0.3  # of the rows answer with a number that their question does not hold: those are facts
DERIVED = 0.5  # of an answer's n-grams stand in its question: it is made from it
STYLE = 0.8  # of the answers begin or end with the same words
STYLE_LENGTH = 8  # characters
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
ANSWERS_ARE = {
    "label": "the answers are labels",
    "json": "the answers are JSON",
    "code": "the answers are code",
}


@dataclass(frozen=True)
class Nature:
    """`kind` is how most answers are judged; `generalises` whether unseen rows can be asked; `why` says from what."""

    kind: str  # label, text, code or json
    generalises: bool
    why: Said


def of(rows: Sequence[DataRow], kinds: Sequence[str]) -> Nature:
    """The nature of rows whose answers are judged as `kinds`."""
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
    """Why text answers are a task that can be done for any question like these; None where they state facts."""
    if sum(map(brings_numbers, rows)) >= OWN_NUMBERS * len(rows):
        return None
    if shares_instruction(rows):
        return Said("most rows share an instruction")
    if statistics.median(derived(row) for row in rows) >= DERIVED:
        return Said("the answers are made from the questions")
    return Said("the answers share a form") if shares_style([row.answer for row in rows]) else None


def shares_instruction(rows: Sequence[DataRow]) -> bool:
    """Whether half of the rows ask in the same words first."""
    heads = Counter(instruction_of(row) for row in rows)
    heads.pop("", None)
    return bool(heads) and heads.most_common(1)[0][1] >= SHARED_INSTRUCTION * len(rows)


def instruction_of(row: DataRow) -> str:
    """The first line of a question that has more, or the words up to its first colon; "" where it has neither."""
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
    """Whether an answer holds a number that its question does not."""
    return bool(set(NUMBER.findall(row.answer)) - set(NUMBER.findall(row.question)))


def derived(row: DataRow) -> float:
    """The share of an answer's n-grams that its question holds."""
    said = grams(row.answer)
    return len(said & grams(row.question)) / len(said) if said else 0.0


def shares_style(answers: Sequence[str]) -> bool:
    """Whether most answers begin, or end, with the same few characters."""
    for cut in (slice(None, STYLE_LENGTH), slice(-STYLE_LENGTH, None)):
        ends = Counter(answer.strip()[cut] for answer in answers)
        if ends.most_common(1)[0][1] >= STYLE * len(answers):
            return True
    return False
