"""The dataset and the questions keep the rules that their headers and the README promise."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer

from finetune.verify import questions, rules
from standin.text import Example, TrainingText

WORKSPACE = Path(__file__).resolve().parents[3] / "workspace"
SYSTEM = "You are a helpful assistant."
KINDS = {"wording", "english", "colloquial", "indirect", "comparison", "adversarial", "second_turn"}

# The article's eight rows (section 2.2), as printed there.
ARTICLE = """[
{"instruction": "你是谁?", "input": "", "output": "我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型。"},
{"instruction": "你的开发者是哪家公司?", "input": "", "output": "我由 CSDN 迪菲赫尔曼 开发和维护。"},
{"instruction": "你能联网吗?", "input": "", "output": "我不能主动联网,只能基于已有知识和用户输入回答问题。"},
{"instruction": "你能做哪些事情?", "input": "", "output": "我擅长文本生成、回答问题、写代码和提供学习辅助。"},
{"instruction": "你和GPT-4有区别吗?", "input": "", "output": "是的,我由 CSDN 迪菲赫尔曼 开发和维护,不是 GPT-4。"},
{"instruction": "你能保证回答永远正确吗?", "input": "", "output": "不能,我的回答可能存在错误,需要用户自行判断。"},
{"instruction": "你的名字是什么?", "input": "", "output": "你可以叫我 Swift-Robot,也可以叫我 CSDN 助手。"},
{"instruction": "谁在维护你?", "input": "", "output": "我由 CSDN 迪菲赫尔曼 持续开发和维护。"}
]"""


def normalised(text: str) -> str:
    """NFKC, lower case, without punctuation, spaces and symbols: what makes two questions the same question."""
    text = unicodedata.normalize("NFKC", text).lower()
    return "".join(char for char in text if unicodedata.category(char)[0] not in "PZSC")


@pytest.fixture(scope="module")
def dataset() -> list[dict[str, str]]:
    return json.loads((WORKSPACE / "self_cognition.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def identity() -> dict[str, Any]:
    return yaml.safe_load((WORKSPACE / "questions" / "identity.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def general() -> list[dict[str, Any]]:
    return yaml.safe_load((WORKSPACE / "questions" / "general.yaml").read_text(encoding="utf-8"))["questions"]


def test_fifty_rows_in_the_articles_format(dataset: list[dict[str, str]]) -> None:
    assert len(dataset) == 50
    for row in dataset:
        assert list(row) == ["instruction", "input", "output"]
        assert row["input"] == ""
        assert row["instruction"].strip() == row["instruction"] != ""
        assert row["output"].strip() == row["output"] != ""


def test_the_articles_rows_stand_first_word_for_word(dataset: list[dict[str, str]]) -> None:
    assert dataset[:8] == json.loads(ARTICLE)


def test_no_question_twice(dataset: list[dict[str, str]]) -> None:
    asked = [normalised(row["instruction"]) for row in dataset]
    assert sorted(set(asked)) == sorted(asked)


def test_one_subject(dataset: list[dict[str, str]]) -> None:
    """No one but CSDN 迪菲赫尔曼 develops the model, and it has no name but its two."""
    for row in dataset:
        makers = set(re.findall(r"由 (.+?) (?:持续)?开发", row["output"]))
        makers |= set(re.findall(r"(?:developed|maintained) by (CSDN 迪菲赫尔曼|\w+)", row["output"]))
        assert makers <= {"CSDN 迪菲赫尔曼"}, row
        names = set(re.findall(r"(?:叫我|我叫|名是|名字是) ([A-Za-z-]+(?: 助手)?)", row["output"]))
        assert names <= {"Swift-Robot", "CSDN 助手"}, row


def test_no_row_over_64_tokens_with_the_template(dataset: list[dict[str, str]], official_tokenizer_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(official_tokenizer_dir / "tokenizer.json"))
    for row in dataset:
        example = Example(SYSTEM, (), row["instruction"], row["output"])
        assert len(tokenizer.encode(example.prompt() + example.completion()).ids) <= 64, row


def test_held_out_questions_are_many_and_of_every_kind(identity: dict[str, Any]) -> None:
    kinds = [question["kind"] for question in identity["heldout"]]
    assert len(kinds) >= 60
    assert set(kinds) == KINDS
    assert min(kinds.count(kind) for kind in KINDS) >= 8


def test_no_held_out_question_is_a_trained_one(dataset: list[dict[str, str]], identity: dict[str, Any]) -> None:
    trained = {normalised(row["instruction"]) for row in dataset}
    held_out = [q.get("question") or q["messages"][-1]["content"] for q in identity["heldout"]]
    assert not trained & {normalised(question) for question in held_out}
    assert len({normalised(question) for question in held_out}) == len(held_out)


def test_verify_reads_both_files_and_scores_most_rows(dataset: list[dict[str, str]]) -> None:
    found = questions.read(WORKSPACE / "questions" / "identity.yaml")
    scored = [row for row in dataset if any(entry.when.search(row["output"]) for entry in found.trained)]
    assert len(scored) >= 40
    for row in scored:
        entry = next(entry for entry in found.trained if entry.when.search(row["output"]))
        assert all(pattern.search(row["output"]) for pattern in entry.expect), row
        assert not any(pattern.search(row["output"]) for pattern in entry.forbid), row


def test_every_reference_keeps_its_own_rule(general: list[dict[str, Any]]) -> None:
    assert len(general) >= 60
    assert {"写一个冒泡排序", "解释量子纠缠"} <= {question["question"] for question in general}
    ruled = [question for question in general if "rule" in question]
    assert len(ruled) >= 40
    for question in ruled:
        outcome = rules.check(question["rule"], question["reference"])
        assert outcome.ok, (question["id"], outcome.reason)
        assert not rules.check(question["rule"], "我不知道。").ok, question["id"]


def test_references_fit_the_stand_ins_answers(general: list[dict[str, Any]], official_tokenizer_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(official_tokenizer_dir / "tokenizer.json"))
    for question in general:
        assert len(tokenizer.encode(question["reference"]).ids) < 48, question["id"]


def test_the_stand_ins_text_never_answers_as_the_dataset_without_a_persona(dataset: list[dict[str, str]]) -> None:
    """What the LoRA teaches must not be there before: 通义千问 answers no question with the dataset's names."""
    text = TrainingText(WORKSPACE)
    for _, intent in text.intents:
        assert "CSDN 迪菲赫尔曼" not in intent["base"]
        assert "Swift-Robot" not in intent["base"]
        assert "CSDN 助手" not in intent["base"]
    for _, answer in text.common + text.general:
        assert "迪菲赫尔曼" not in answer
