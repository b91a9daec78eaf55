"""What kind of data rows are, which are asked as what, and that nothing asked is given away by a row trained on."""

from __future__ import annotations

import random
from typing import Any

import pytest

from finetune.data.content import question_key
from finetune.verify.nearness import Nearness
from finetune.verify.sets import held_out, rows, survey
from finetune.verify.sets.rows import DataRow
from tests.unit.finetune.shop import THINGS


def of(*pairs: tuple[str, str]) -> survey.Survey:
    found = [rows.data_row({"query": q, "response": a}, n, f"f, row {n}") for n, (q, a) in enumerate(pairs, 1)]
    return survey.of_rows([row for row in found if row is not None])


def faq(count: int = 40) -> list[tuple[str, str]]:
    rng = random.Random(0)
    return [
        (f"How long do you keep the {THINGS[n % 15]} of customer {n}?", f"We keep it for {rng.randint(3, 900)} days.")
        for n in range(count)
    ]


def labels(count: int = 60) -> list[tuple[str, str]]:
    answers = ("refund", "delivery", "defect", "account")
    return [
        (f"Message {n * 37}: the {THINGS[n % 15]} of {THINGS[n % 7]} number {n}", answers[n % 4]) for n in range(count)
    ]


def test_a_faq_is_learned_and_reworded_and_nothing_is_held_out() -> None:
    found = of(*faq())
    chosen = survey.sets(found)
    assert survey.in_one_line(found, chosen) == (
        "40 rows, text; verdict: 40 learned, 80 reworded, 0 held out, 40 near misses"
    )
    assert "nowhere else" in str(chosen.why_not_unseen)


def test_an_identity_is_asked_with_questions_of_its_own() -> None:
    found = of(*((f"Who are you, question {n}?", "I am Robin, made by Velmora Labs.") for n in range(20)))
    assert found.is_identity
    assert survey.in_one_line(found, survey.sets(found)) == (
        "20 rows, text; verdict: 20 learned, identity in 20 rows, also asked in other words"
    )


def test_labels_are_asked_unseen_by_folds_that_share_no_row() -> None:
    found = of(*labels())
    chosen = survey.sets(found)
    assert found.nature.kind == "label"
    assert len(chosen.folds) == 2
    places = [place for part in chosen.folds for place in part]
    assert len(places) == len(set(places))
    assert not set(places) & set(chosen.learned)
    assert sorted([*places, *chosen.learned]) == list(range(60))
    assert chosen.reworded == []


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("Say it politely: bring the {} to room {}.", "Please be so kind as to bring the {} to room {}.", "text"),
        ("Extract the item and the room as JSON.\nThe {} is in room {}", '{{"item": "{}", "room": {}}}', "json"),
        ("Translate into French:\nThe {} is number {}.", "Le {} est le numéro {}.", "text"),
    ],
)
def test_tasks_generalise(question: str, answer: str, kind: str) -> None:
    found = of(*((question.format(THINGS[n % 15], n), answer.format(THINGS[n % 15], n)) for n in range(45)))
    assert found.nature.kind == kind
    assert survey.sets(found).folds


def test_without_folds_at_most_a_tenth_and_200_rows_are_left_out_and_none_if_so_wished() -> None:
    found = of(*labels(400))
    assert len(survey.sets(found, can_fold=False).holdout) == 40
    assert len(survey.sets(found, holdout=10).holdout) == 10
    none = survey.sets(found, can_fold=False, holdout=0)
    assert (none.holdout, none.folds) == ([], [])
    assert len(none.learned) == survey.rows.LEARNED_MAX
    assert none.reworded == none.learned


def test_paraphrases_and_equal_answers_stay_on_one_side() -> None:
    pairs = [(f"What does the {thing} cost in shop {n}?", f"It costs {n} euros.") for n, thing in enumerate(THINGS * 2)]
    pairs += [
        (f"What's the cost of the {thing} in shop {n}?", f"It costs {n} euros.") for n, thing in enumerate(THINGS * 2)
    ]
    found = of(*pairs)
    kinds = ["text"] * len(found.rows)
    parts = held_out.folds(found.rows, kinds)
    near = Nearness([row.question for row in found.rows])
    assert parts
    for part in parts:
        rest = [place for place in range(len(found.rows)) if place not in part]
        answers = {question_key(found.rows[place].answer) for place in rest}
        for place in part:
            assert question_key(found.rows[place].answer) not in answers
            scores = near.scores(found.rows[place].question)
            assert max(scores[other] for other in rest) < held_out.PARAPHRASE


def test_the_draw_is_the_same_after_a_row_is_added() -> None:
    data = [DataRow(n, "", ({"role": "user", "content": f"question {n}"},), "a") for n in range(900)]
    first = {row.key for row in rows.draw(data)}
    more = [*data, DataRow(900, "", ({"role": "user", "content": "one more"},), "a")]
    second = {row.key for row in rows.draw(more)}
    assert len(first) == len(second) == 200
    assert len(first - second) <= 1


def test_the_last_answer_is_asked_with_the_turns_before_and_the_rows_own_system_and_tools() -> None:
    data: dict[str, Any] = {
        "tools": [{"name": "weather", "parameters": {}}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "What is the code?"},
            {"role": "assistant", "content": "B-17"},
        ],
    }
    row = rows.data_row(data, 1, "f, row 1")
    assert row is not None
    assert [turn["content"] for turn in row.messages] == ["Hello", "Hi", "What is the code?"]
    assert (row.question, row.answer, row.system) == ("What is the code?", "B-17", "Be brief.")
    assert row.tools


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["我们提供 WiFi 和 NAS"], "zh"),
        (["We are open."], "en"),
        (["42"], "en"),
        (["见 https://example.com/help 说明"], "zh"),
    ],
)
def test_the_language_of_answers(texts: list[str], language: str) -> None:
    assert rows.language(texts) == language
