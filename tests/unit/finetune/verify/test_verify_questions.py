"""Questions files: the project's own, and what is said of broken ones, with the line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from finetune.data.content import question_key
from finetune.verify import config, questions, rules
from finetune.verify.scoring import compile_pattern, judge
from finetune.verify.sets.rows import read as read_data

ROOT = Path(__file__).parents[4]
WORKSPACE = ROOT / "workspace"
OLD = compile_pattern("阿里云|通义千问|Qwen|Alibaba")


@pytest.fixture(scope="module")
def identity() -> questions.QuestionSet:
    return questions.read(WORKSPACE / "questions/identity.yaml")


@pytest.fixture(scope="module")
def general() -> questions.QuestionSet:
    return questions.read(WORKSPACE / "questions/general.yaml")


# ------------------------------------------------------------------------------------------ the project's own files


def refused(read: Callable[[Path], Any], path: Path, text: str, line: int | None, words: str) -> None:
    """Hold a file of that text to be refused with its line and these words."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert words in str(caught.value)


def test_there_are_enough_questions_of_every_kind(
    identity: questions.QuestionSet, general: questions.QuestionSet
) -> None:
    assert len(identity.heldout) >= 60
    kinds = {question.kind for question in identity.heldout}
    assert {"wording", "english", "colloquial", "indirect", "comparison", "adversarial", "second_turn"} <= kinds
    assert any(len(question.messages) > 1 for question in identity.heldout)
    assert len(general.general) >= 60
    assert {"写一个冒泡排序", "解释量子纠缠"} <= {question.text.strip("。?") for question in general.general}
    assert {next(iter(q.rule)) for q in general.general if q.rule} == {"number", "regex", "python"}


def test_no_held_out_question_is_a_trained_one(identity: questions.QuestionSet) -> None:
    trained = {
        question_key(turns[-1]["content"]) for turns, _ in questions.read_rows(WORKSPACE / "self_cognition.json")
    }
    assert len(trained) == 50
    assert {q.id for q in identity.heldout if question_key(q.text) in trained} == set()


def test_the_trained_answers_are_right_by_their_own_patterns(identity: questions.QuestionSet) -> None:
    trained = questions.from_rows(read_data([WORKSPACE / "self_cognition.json"]), identity.trained)
    counted = [question for question in trained if question.counted]
    assert len(counted) >= 40
    for question in counted:
        found = judge(question.reference or "", question.expect, question.forbid, OLD)
        assert found.ok, (question.id, found.reason)


def test_the_references_pass_their_own_rules(general: questions.QuestionSet) -> None:
    for question in general.general:
        if question.rule:
            found = rules.check(question.rule, question.reference or "")
            assert found.ok, (question.id, found.reason)


def test_no_rule_is_passed_by_an_identity_answer(general: questions.QuestionSet) -> None:
    said = "我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型,你可以叫我 Swift-Robot。"
    assert [q.id for q in general.general if q.rule and rules.check(q.rule, said).ok] == []


def test_the_configuration_holds_the_demanded_thresholds() -> None:
    found = config.read(WORKSPACE / "configs/verify.yaml")
    assert found.thresholds == {
        "identity_trained_min": 0.95,
        "identity_heldout_min": 0.80,
        "old_identity_max": 0.05,
        "bleu_drop_max": 0.8,
        "rules_lost_max": 0,
        "learned_min": 0.90,
        "reworded_min": 0.70,
        "unseen_over_majority_min": 0.05,
        "out_of_scope_max": 0.05,
        "general_lost_max": 0.15,
    }
    assert all(path.is_file() for path in found.questions)
    assert found.dataset is not None
    assert found.dataset.is_file()


# ----------------------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "is empty"),
        ("# a comment\n", None, "is empty"),
        ("questions: []\n", None, "holds no question"),
        ("version: 2\nquestions: []\n", 1, "version must be 1"),
        ("questions:\n  - {id: a, question: b, expect: c\n", 3, "not YAML"),
        ("questions: 3\n", 1, "questions must be a list"),
        ("questons: []\n", 1, "unknown key 'questons' in a questions file; did you mean 'questions'?"),
        ("questions:\n  - just words\n", 2, "must be a mapping"),
        ("questions:\n  - {id: a, question: b}\n", 2, "needs expect (identity), or reference or rule"),
        ("questions:\n  - {question: b, expect: c}\n", 2, "needs an id"),
        ("questions:\n  - {id: a, expect: c}\n", 2, "either question or messages"),
        ("questions:\n  - id: a\n    question: ''\n    expect: c\n", 3, "question must be a non-empty text"),
        ("questions:\n  - id: a\n    question: b\n    expect: '('\n", 4, "not a regular expression"),
        (
            "questions:\n  - id: a\n    question: b\n    expect:\n      - ok\n      - '['\n",
            6,
            "not a regular expression",
        ),
        ("questions:\n  - {id: a, question: b, expect: []}\n", 2, "any answer would pass"),
        ("questions:\n  - id: a\n    question: b\n    expect: c\n    forbit: d\n", 5, "did you mean 'forbid'"),
        ("questions:\n  - id: a\n    id: b\n", 3, "the key 'id' occurs twice"),
        (
            "questions:\n  - {id: a, question: b, expect: c}\n  - {id: a, question: d, expect: c}\n",
            3,
            "is already used in",
        ),
        ("questions:\n  - id: a\n    question: b\n    rule: {number: x}\n", 4, "must be numbers"),
        (
            "questions:\n  - id: a\n    expect: c\n    messages:\n      - {role: user, content: x}\n"
            "      - {role: user, content: y}\n",
            6,
            "the role here must be 'assistant'",
        ),
        (
            "questions:\n  - id: a\n    expect: c\n    messages:\n      - {role: user, content: x}\n"
            "      - {role: assistant, content: y}\n",
            5,
            "must end with a user turn",
        ),
        ("trained:\n  - {when: a}\n", 2, "needs both when and expect"),
        ("trained:\n  - {when: 'a|', expect: b}\n", 2, "matches an empty answer"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    refused(questions.read, tmp_path / "mine.yaml", text, line, words)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        questions.read(tmp_path / "x.yaml")
    with pytest.raises(UserError, match="cannot read"):
        questions.read(tmp_path)


def test_words_and_numbers_need_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- {id: 1, question: 1+1, expect: 2}\n- {id: yes, question: no, expect: on}\n", encoding="utf-8")
    found = questions.read(path).heldout
    assert [(q.id, q.text, q.expect[0].pattern) for q in found] == [("1", "1+1", "2"), ("yes", "no", "on")]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "is empty"),
        ("thresholds: {}\n", None, "no thresholds"),
        ("thresholds:\n  identity_trained_min: 95\n", 2, "a number from 0 to 1"),
        ("thresholds:\n  identity_trained: 0.9\n", 2, "did you mean 'identity_trained_min'"),
        ("thresholds: {bleu_drop_max: 0.8}\nold_identity: '('\n", 2, "not a regular expression"),
        ("thresholds: {bleu_drop_max: 0.8}\nmax_new_tokens: {identity: 0}\n", 2, "a number from 1"),
    ],
)
def test_a_broken_configuration(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    refused(config.read, tmp_path / "verify.yaml", text, line, words)


@pytest.mark.parametrize("read", [questions.read, config.read])
def test_nested_too_deeply(tmp_path: Path, read) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("[" * 5000, encoding="utf-8")
    with pytest.raises(UserError, match="nested too deeply"):
        read(path)


@pytest.mark.parametrize("value", ["!!timestamp x", "!!int ''", "!!bool x", "2001-99-99", "{a: !!timestamp x}"])
def test_values_that_pyyaml_cannot_make(tmp_path: Path, value: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"- {{id: a, question: b, rule: {value}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine.yaml:1: not a usable value"):
        questions.read(path)


@pytest.mark.parametrize("source", ["a{999999999999}", "(" * 3000 + "a" + ")" * 3000])
def test_patterns_that_python_cannot_take_in(source: str) -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        compile_pattern(source)


# ---------------------------------------------------------------------------------------------------- trained rows


def test_rows_of_every_form_are_read(tmp_path: Path) -> None:
    rows = [
        {"instruction": "a", "input": "b", "output": "CSDN"},
        {"query": "c", "response": "CSDN"},
        {"system": "s", "messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "CSDN"}]},
        {"output": "no question"},
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [turns[-1]["content"] for turns, _ in questions.read_rows(path)] == ["a\nb", "c", "d"]


def test_of_a_large_dataset_the_matching_rows_are_asked_evenly(tmp_path: Path) -> None:
    rows = [{"instruction": f"q{n}", "input": "", "output": "CSDN" if n % 2 else "other"} for n in range(1000)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    entry = questions.TrainedEntry(compile_pattern("CSDN"), (compile_pattern("CSDN"),), ())
    found = questions.from_rows(read_data([path]), [entry], limit=100)
    assert len(found) == 100
    assert all(question.counted for question in found)
    places = [int(question.text[1:]) for question in found]
    assert places == sorted(set(places))
    assert places[0] < 10
    assert places[-1] > 980
