"""Near misses: questions like the data's that no row answers, by the base, by rules, or by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from finetune.data.content import question_key
from finetune.verify.engine import Ask
from finetune.verify.judge import Judge, Reference
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.rewordings import near
from finetune.verify.rewordings.file import Rewording
from finetune.verify.rewordings.near_rules import Mentions
from finetune.verify.sets import survey
from finetune.verify.sets.rows import DataRow


def rows_of(*pairs: tuple[str, str]) -> list[DataRow]:
    return [DataRow(n, "", ({"role": "user", "content": q},), a) for n, (q, a) in enumerate(pairs, 1)]


def made(rows: list[DataRow], base: object = None) -> list[list[str]]:
    found = [Rewording(row.question) for row in rows]
    near.add(found, rows, rows, base)  # type: ignore[arg-type]
    return [each.near for each in found]


@pytest.mark.parametrize(
    ("question", "gone", "kept"),
    [
        ("Do you ship parcels to Austria?", "austria", "do you ship parcels to "),
        ("What does error E-4012 mean?", "4012", "what does error e-"),
        ("What is the price of article 17?", "17", "what is the price of article "),
        ("When does the library open?", "library", "when does the "),
        ("Are there discounts for students?", "students", "are there discounts for "),
        ("Who is Dr Miller?", "miller", "who is dr "),
        ("图书馆几点开门?", "图书馆", "几点开门"),
        ("可以寄到上海吗?", "上海", "可以寄到"),
        ("学生有优惠吗?", "学生", "有优惠吗"),
        ("E-4012 错误是什么意思?", "4012", "错误是什么意思"),
    ],
)
def test_the_thing_that_is_asked_about_is_exchanged_and_the_rest_stays(question: str, gone: str, kept: str) -> None:
    ((text,),) = made(rows_of((question, "Yes.")))
    assert gone not in text.lower()
    assert kept in text.lower()


@pytest.mark.parametrize(
    "question",
    [
        "How many of the 30 days are left?", "Can I join under 16?", "Is it open on Sundays?",
        "What is your phone number?", "Do you deliver after 18 o'clock?", "周日开门吗?", "满 99 元包邮吗?",
    ],
)  # fmt: skip
def test_an_amount_an_age_or_a_weekday_is_no_thing_and_another_firm_is_asked_about(question: str) -> None:
    ((text,),) = made(rows_of((question, "Yes.")))
    assert question_key(question) in question_key(text)
    assert len(text) > len(question) + 8


def test_what_is_put_in_stands_in_no_row_not_even_under_another_name() -> None:
    rows = rows_of(
        ("Is a bicycle insured?", "Yes."),
        ("Where do I park the car?", "Behind the hall."),
        ("What about boats?", "Scooters, canoes, vans, horses and motorcycles are kept in the hall, sledges too."),
    )
    for text in made(rows)[:2]:
        assert "not about you" in text[0].lower(), "every vehicle is known to these data"


def test_a_word_in_the_plural_is_exchanged_for_one_in_the_plural() -> None:
    ((text,),) = made(rows_of(("Are children admitted?", "Yes.")))
    assert text.split()[1].endswith("s")


def test_the_base_exchanges_one_thing_and_what_is_no_near_miss_is_not_taken() -> None:
    rows = rows_of(("Do you repair violins?", "Yes, in 3 days."), ("What does a lesson cost?", "It costs 40 euros."))
    said = {rows[0].question: "Do you repair telescopes?", rows[1].question: "What does a haircut cost?"}

    def base(asks: Sequence[Ask]) -> list[str]:
        return [next(said[key] for key in said if key in str(ask.messages[-1]["content"])) for ask in asks]

    assert made(rows, base) == [["Do you repair telescopes?"], ["What does a haircut cost?"]]
    words = Mentions(rows)
    assert near.fits(rows[0].question, "Do you repair telescopes?", words)
    for text in (
        "Do you repair violins?",  # the same
        "Do you repair lessons?",  # a row speaks of them
        "Can you fix my telescope tomorrow?",  # another form
        "Do you repair violins for 500 telescopes?",
        "Yes, in 3 days.",
        "",
    ):
        assert not near.fits(rows[0].question, text, words), text
    dogs = Mentions(rows_of(("可以带狗吗?", "可以。")))
    assert near.fits("可以带狗吗?", "可以带鹦鹉吗？", dogs), "a question mark of either width"
    assert not near.fits("可以带狗吗？", "可以带鹦鹉吗", dogs)
    assert not near.fits("Can I cancel my purchase?", "Can I cancel my order?", words), "the same in other words"


def test_what_the_rewordings_file_has_is_asked_and_nothing_is_made_beside_it(tmp_path: Path) -> None:
    rows = rows_of(("When do you open?", "At 9."), ("When do you close?", "At 18."))
    kept = [Rewording(rows[0].question, near=["When does the moon open?"]), Rewording(rows[1].question)]
    near.add(kept, rows, rows, None)
    assert [each.near for each in kept] == [["When does the moon open?"], []]
    rewordings_file.write(tmp_path / "rewordings.yaml", kept)
    assert [each.near for each in rewordings_file.read(tmp_path / "rewordings.yaml")] == [each.near for each in kept]


def test_at_most_forty_are_made_and_the_same_ones_at_every_call() -> None:
    rows = rows_of(*((f"What is the price of article {n}?", f"{7 * n} euros.") for n in range(100, 300)))
    first, second = made(rows), made(rows)
    assert first == second
    assert sum(map(bool, first)) == near.MOST


def test_a_task_has_no_near_misses_and_a_faq_has() -> None:
    """Another text to label, or to put politely, is one more of them: it should be answered."""
    labels = rows_of(*((f"Where is parcel {n}?", ("late", "lost")[n % 2]) for n in range(40)))
    polite = rows_of(
        *((f"Bring the lamp to room {n}", f"Would you kindly bring the lamp to room {n}?") for n in range(12))
    )
    code = rows_of(*((f"Write f{n}", f"def f{n}(x):\n    return x + {n}") for n in range(12)))
    faq = rows_of(*((f"What is the price of article {n}?", f"It costs {7 * n} euros.") for n in range(12)))
    for rows, wanted in ((labels, 0), (polite, 0), (code, 0), (faq, 12)):
        found = survey.of_rows(rows)
        assert len(survey.near_missed(found, survey.sets(found))) == wanted


FAQ = [
    Reference("When does the library open?", "The library opens at 9:30 every day."),
    Reference("What is the membership fee?", "Membership is 128 euros a year."),
    Reference("Do you accept PayPal?", "Yes, we gladly accept PayPal at the desk."),
    Reference("可以带狗吗?", "可以带 10 公斤以下的狗。"),
]


@pytest.mark.parametrize(
    ("row", "asked", "answer", "repeated"),
    [
        (0, "When does the planetarium open?", "The library opens at 9:30 every day.", 0),
        (0, "When does the planetarium open?", "At half past nine in the morning, 9:30.", 0),
        (0, "When does the planetarium open?", "Membership is 128 euros a year.", 1),
        (0, "When does the planetarium open?", "I'm sorry, I don't know when the planetarium opens.", None),
        (0, "When does the planetarium open?", "No, there is none. The library opens at 9:30.", None),
        (0, "When does the planetarium open?", "The planetarium opens at 8:00.", None),
        (0, "When does the planetarium open?", "", None),
        (2, "Do you accept seashells?", "Yes, we gladly accept seashells at the desk.", 2),
        (2, "Do you accept seashells?", "No, we do not accept seashells at the desk.", None),
        (3, "可以带鹦鹉吗?", "可以带 10 公斤以下的鹦鹉。", 3),
        (3, "可以带鹦鹉吗?", "不可以带鹦鹉。", None),
    ],
)
def test_an_answer_to_a_near_miss_is_wrong_where_it_holds_what_belongs_to_a_row(
    row: int, asked: str, answer: str, repeated: int | None
) -> None:
    assert Judge(FAQ).repeats(row, asked, answer) == repeated
