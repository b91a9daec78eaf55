"""Which rewordings count: those by rules only where they are as far from their question as people's own words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from finetune.data.content import question_key
from finetune.verify.questions import Question
from finetune.verify.rewordings.file import BASE, HAND, RULES, Rewording
from finetune.verify.sets import ask, rows, survey
from tests.unit.finetune.shop import THINGS


def asked(makers: Sequence[str], near: int, far: int) -> list[Question]:
    """Questions in words of which `near` hold their question, and `far` have nothing in common with it."""
    data = [
        rows.data_row({"query": f"How much is the {THINGS[n % 15]} of day {n}?", "response": f"{n} euros."}, n, "f")
        for n in range(near + far)
    ]
    found = survey.of_rows([row for row in data if row is not None])
    known = {
        question_key(row.question): Rewording(
            row.question, [f"Now: {row.question}" if n < near else f"zzz {n} vvv"], made=[makers[n % len(makers)]]
        )
        for n, row in enumerate(found.rows)
    }
    return ask.reworded(found, survey.sets(found), known)


def test_what_rules_wrote_near_the_question_is_asked_and_does_not_count() -> None:
    questions = asked([RULES], near=8, far=16)
    assert [question.counted for question in questions] == [*[False] * 8, *[True] * 16]


def test_where_few_are_far_the_dozen_least_like_count() -> None:
    questions = asked([RULES], near=20, far=4)
    assert sum(question.counted for question in questions) == ask.FEWEST
    assert all(question.counted for question in questions[20:])


@pytest.mark.parametrize("maker", [BASE, HAND])
def test_what_the_base_or_a_person_wrote_counts_however_near_it_is(maker: str) -> None:
    assert all(question.counted for question in asked([maker], near=20, far=4))
