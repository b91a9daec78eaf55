"""--mix: general questions that nothing else asks, and the base's own answers to them as rows to train on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from common.errors import UserError
from finetune.data.content import question_key
from finetune.sft import mixing
from finetune.verify import questions
from finetune.verify.engine import Ask
from finetune.verify.sets import survey
from finetune.verify.sets.rows import DataRow

WORKSPACE = Path(__file__).parents[4] / "workspace"
MIXED = yaml.safe_load((WORKSPACE / mixing.FILE).read_text(encoding="utf-8"))


def data(*pairs: tuple[str, str]) -> survey.Survey:
    found = [DataRow(n, "", ({"role": "user", "content": q},), a) for n, (q, a) in enumerate(pairs, 1)]
    return survey.of_rows(found)


FAQ = data(("When do you open?", "At 9:30."), ("Who wrote Don Quixote?", "Our founder did, she says."))


def test_nothing_else_asks_these_questions() -> None:
    files = [path for path in (WORKSPACE / "questions").glob("*.yaml") if path.name != Path(mixing.FILE).name]
    others = {question_key(each.text) for path in files for each in questions.read(path).all()}
    for language in ("en", "zh"):
        keys = [question_key(text) for text in MIXED[language]]
        assert len(keys) == len(set(keys)) >= 48
        assert not others & set(keys)


def test_the_base_answers_them_under_the_systems_prompt_and_the_training_gets_whole_sentences(tmp_path: Path) -> None:
    asked: list[Ask] = []

    def base(asks: Sequence[Ask]) -> list[str]:
        asked.extend(asks)
        return ["It is Oslo. It lies on a fj", *["Yes."] * (len(asks) - 2), ""]

    path = mixing.rows(12, FAQ, "Be kind.", base, tmp_path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(asked) == 12
    assert {each.system for each in asked} == {"Be kind."}
    assert len(lines) == 11, "an empty answer teaches nothing"
    assert lines[0]["messages"][1]["content"] == "It is Oslo."


def test_a_question_that_the_data_ask_is_left_out() -> None:
    asked = [each.text for each in mixing.questions(WORKSPACE / mixing.FILE, FAQ)]
    assert "Who wrote Don Quixote?" not in asked
    assert len(asked) == len(MIXED["en"]) - 1


def test_chinese_data_get_chinese_questions() -> None:
    found = mixing.questions(WORKSPACE / mixing.FILE, data(("几点开门?", "九点半。"), ("几点关门?", "晚上九点。")))
    assert [each.text for each in found] == MIXED["zh"]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("One. Two. Thr", "One. Two."), ("是的。因为", "是的。"), ("Oslo", "Oslo"), ("a, " * 200, ""),
        ("3.5 km. It", "3.5 km."), ("太好了！我", "太好了！"), ("好吗？我", "好吗？"),
    ],
)  # fmt: skip
def test_an_answer_that_was_cut_ends_with_a_whole_sentence(said: str, kept: str) -> None:
    assert mixing.whole_sentences(said) == kept


def test_too_many_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="write more there, or mix in fewer"):
        mixing.rows(500, FAQ, "", lambda asks: [""] * len(asks), tmp_path)
