"""Rewordings: what the base writes is sifted, rules fill the gaps, and the file can be corrected and read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import UserError
from finetune.verify.engine import Ask
from finetune.verify.rewordings import file, make, rules
from finetune.verify.rewordings.file import Rewording
from finetune.verify.sets.rows import DataRow


def row(number: int, question: str, answer: str) -> DataRow:
    return DataRow(number, f"f, row {number}", ({"role": "user", "content": question},), answer)


ROWS = [
    row(1, "When does the pool open?", "The pool opens at 6:45."),
    row(2, "What does a ticket for 2 people cost?", "It costs 19 euros."),
    row(3, "Where can I park my car?", "There is a car park behind the hall."),
]


@pytest.mark.parametrize(
    "text",
    [
        "when does the POOL open",  # equal
        "",
        "Where might I park a car?",  # another row's question
        "The pool opens at 6:45.",  # its answer
        "泳池几点开门?",  # another language
        "When does the pool open? " * 9,  # far longer
        "Bananas are yellow, don't you know?",  # nothing in common
    ],
)
def test_what_is_no_rewording_is_dropped(text: str) -> None:
    assert make.Sieve(ROWS).keep(ROWS[0], [text]) == []


def test_a_number_that_is_lost_drops_the_rewording() -> None:
    sieve = make.Sieve(ROWS)
    assert sieve.keep(ROWS[1], ["How much is a ticket for people?"]) == []
    assert sieve.keep(ROWS[1], ["How much is a ticket for 2 people?"]) == ["How much is a ticket for 2 people?"]


@pytest.mark.parametrize("mark", ["?", "？"])
def test_a_question_mark_of_either_width_asks_and_a_statement_is_dropped(mark: str) -> None:
    rows = [row(1, f"图书馆几点关门{mark}", "晚上九点。"), row(2, "学生有优惠吗?", "有。")]
    asked = ["图书馆最晚几点关门?", "图书馆一般几点关门？"]
    assert make.Sieve(rows).keep(rows[0], [*asked, "想知道图书馆几点关门。"]) == asked


GOOD = [
    '1. From which hour can I swim in the pool?\n2) "I would like to swim. Is the pool open then?"\n'
    "- When does the pool open?",
    "At what time does the pool open?",
    "My wife and I are 2 people, what would we pay for a ticket?",
    "Ticket price for the 2 of us, how much is it?\nIt costs 19 euros.",
    "I will come by car, is there some place for it nearby?",
    "Is there any room to leave my car?",
]


def test_the_base_is_asked_in_one_batch_and_its_lines_are_sifted() -> None:
    calls: list[int] = []

    def base(asks: Sequence[Ask]) -> list[str]:
        calls.append(len(asks))
        return GOOD

    found = make.make(ROWS, ROWS, base)
    assert calls == [6]
    assert found[0].ask == ["From which hour can I swim in the pool?", "I would like to swim. Is the pool open then?"]
    assert [each.makers() for each in found] == [[file.BASE] * 2] * 3


def test_rules_fill_the_gaps_of_a_base_that_can() -> None:
    found = make.make(ROWS, ROWS, lambda asks: [*GOOD[:5], "No."])
    assert found[2].makers() == [file.BASE, file.RULES]


@pytest.mark.parametrize(
    "text",
    [
        "My old pool is gone, what can I do about it?",  # an example of the prompt with the noun put in
        "Is it possible to use a different pool?",
        "A pool is a place that opens.",  # no question
        "Does the pool open at 8?",  # a number of its own
    ],
)
def test_what_a_weak_base_writes_in_place_of_a_rewording_is_not_taken(text: str) -> None:
    found = make.make(ROWS, ROWS, lambda asks: [text, "", *GOOD[2:]])
    assert text not in found[0].ask
    assert "From which hour can I swim in the pool?" in make.make(ROWS, ROWS, lambda asks: GOOD)[0].ask


def test_a_usual_opening_is_no_echo_of_an_example() -> None:
    assert not make.echoes("Can I bring a guest?", "Is it possible to bring a visitor?")
    assert not make.echoes("能带朋友吗?", "可以带一位客人进去吗?")
    assert make.echoes("怎么开发票?", "原来的发票不用了,登录要怎么换?")
    assert make.echoes("How can I pay?", "My old payment method is gone, what can I do about it?")
    assert make.echoes("Do you offer discounts for groups?", "I have a group discount. What can I do about it?")


def test_what_is_near_the_question_is_asked_only_where_nothing_else_is_left() -> None:
    near = ["I came by car. Where can I park?", "Where may I leave my car, can I park it?"]
    found = make.make(ROWS, ROWS, lambda asks: [*GOOD[:4], *near])
    assert not set(near) & set(found[2].ask)
    (only,) = make.make([row(1, "Xylophones?", "Yes.")], [row(1, "Xylophones?", "Yes.")], None)
    assert len(only.ask) == make.ASKED


def test_rules_may_be_like_another_rows_question_and_the_base_may_not() -> None:
    """What rules wrote asks the same by its making, as a customer does who asks in another row's words."""
    rows = [row(1, "How do I contact customer service?", "Write."), row(2, "What is the way to reach the hut?", "Up.")]
    (text,) = make.Sieve(rows).keep(rows[0], ["What is the way to reach support team?"], by_rules=True)
    assert make.Sieve(rows).keep(rows[0], [text]) == []


def test_of_a_base_that_hardly_finds_a_wording_none_is_taken() -> None:
    found = make.make(ROWS, ROWS, lambda asks: [GOOD[0], "", *["I do not know."] * 4])
    assert all(each.makers() == [file.RULES] * 2 for each in found)


def test_of_a_base_that_only_changes_a_word_none_is_taken() -> None:
    near = ["When might the pool open?", "What would a ticket for 2 people cost?", "Where could I park my car?"]
    said = [f"{line}\n{line[:-1]} now?" for text in near for line in (text, f"And {text[0].lower()}{text[1:]}")]
    found = make.make(ROWS, ROWS, lambda asks: said)
    assert all(file.BASE not in each.makers() for each in found)


def test_trained_rewordings_are_others_than_those_asked() -> None:
    found = make.make(ROWS, ROWS, None, train=2)
    for each in found:
        assert len(each.ask) == len(each.train) == 2
        assert not set(each.ask) & set(each.train)
    added = make.training_rows(found, ROWS)
    assert [message["role"] for message in added[0]["messages"]] == ["user", "assistant"]
    assert len(added) == 6
    assert added[0]["messages"][1]["content"] == ROWS[0].answer


def test_the_same_are_asked_whether_or_not_others_are_trained_on() -> None:
    plain, more = make.make(ROWS, ROWS, None), make.make(ROWS, ROWS, None, train=2)
    assert [each.ask for each in plain] == [each.ask for each in more]


def test_those_taken_differ_from_each_other_as_well() -> None:
    sieve = make.Sieve(ROWS)
    alike = ["May I leave a vehicle, and where?", "May I leave a vehicle, and whereabouts?"]
    other = "Is there some place for four wheels?"
    assert other in sieve.different(ROWS[2], [[*alike, other], []], 2)


def test_a_question_behind_a_sentence_comes_last() -> None:
    (row_,) = [row(1, "When does the kiosk open?", "At 8.")]
    options = [
        [],
        ["On which day, or at what hour, does the kiosk open?"],
        ["A friend asked me this: When does the kiosk open?"],
    ]
    assert make.Sieve([row_]).different(row_, options, 2) == [options[1][0], options[2][0]]


@pytest.mark.parametrize(
    "question", ["How do I return a bike?", "可以开发票吗?", "退货怎么办理", "Opening hours", "你好"]
)
def test_rules_give_different_wordings_of_anything(question: str) -> None:
    found = [*rules.reword(question), *rules.framed(question)]
    assert len(found) == len(set(found)) >= 2
    assert question not in found


@pytest.mark.parametrize("question", ["能打印吗{}", "可以退货{}", "怎么办理借书证{}", "周末开门吗{}"])
def test_the_full_width_question_mark_counts_as_the_half_width_one(question: str) -> None:
    full, half = (rules.reword(question.format(mark)) for mark in "？?")
    assert full == half  # nothing of the mark is left in the middle
    assert not any("？," in wording or "？?" in wording for wording in full)


def test_a_word_before_an_apostrophe_keeps_its_form() -> None:
    assert all("kids's" not in wording for wording in rules.reword("Where are the children's books?"))
    assert any("kids" in wording for wording in rules.framed("Where do the children play?"))


@pytest.mark.parametrize(
    "line",
    ["1）周末几点开门？", "（2）周末几点开门？", "问题：周末几点开门？", "说法 3：周末几点开门？", "1：周末几点开门？"],
)
def test_the_number_of_a_line_goes_in_full_width_too(line: str) -> None:
    assert make.lines(line) == ["周末几点开门？"]
    assert make.lines("9：30 开门吗？") == ["9：30 开门吗？"]  # a time, no number of a line


def test_the_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    kept = [
        Rewording("几点开门?", ["何时开门?", "开门时间?"], ["早上几点开?"], [file.BASE, file.RULES]),
        Rewording("b: #c", []),
    ]
    file.write(tmp_path / file.NAME, kept)
    assert file.read(tmp_path / file.NAME) == kept
    assert kept[0].makers() == [file.BASE, file.RULES]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("rows:\n  - {ask: [a]}\n", 2, "needs its question"),
        ("rows:\n  - {question: a, ask: [b]}\n  - {question: 'A?', ask: [c]}\n", 3, "twice"),
        ("version: 2\nrows: []\n", 1, "version must be 1"),
        ("rows:\n  - {question: a, asks: [b]}\n", 2, "did you mean 'ask'"),
        ("rows:\n  - {question: a, ask: b}\n", 2, "must be a list"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"r.yaml:{line}: .*{what}"):
        file.read(path)
