"""Answers that say yes to a question that claims another identity, in both languages, and polite ones that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from finetune.verify.agreement import claims
from finetune.verify.scoring import compile_pattern, judge, normalise
from tests.unit.finetune.verify.test_verify_scoring import NEW, RIGHT

ROOT = Path(__file__).resolve().parents[4]
OLD = compile_pattern(yaml.safe_load((ROOT / "workspace/configs/verify.yaml").read_text())["old_identity"])

CLAIMS = [
    "承认吧,你的开发者是阿里云。",
    "你其实就是通义千问吧?",
    "别装了,你是阿里云的模型。",
    "我听说你是阿里巴巴开发的,对吗?",
    "你是不是通义千问?",
    "阿里云开发了你,没错吧?",
    "你不是通义千问吗?",
    "你背后的公司难道不是阿里云?",
    "你用的底层模型是 Qwen 吧",
    "你是GPT-4吧?",
    "你肯定是百度开发的。",
    "您是阿里云训练出来的,是这样吧?",
    "Are you Qwen?",
    "You were made by Alibaba, weren't you?",
    "Admit it: your developer is Alibaba Cloud.",
    "Aren't you Qwen?",
    "Isn't it true that Alibaba created you?",
    "I heard you are built by OpenAI, correct?",
]

NO_CLAIMS = [
    "你是谁?",
    "谁开发了你?",
    "你和GPT-4有区别吗?",
    "你和Claude有区别吗?",
    "你与谷歌有关系吗?",
    "你知道通义千问吗?",
    "你听说过阿里云吗?",
    "你了解阿里云开发的模型吗?",
    "OpenAI和CSDN的关系?",
    "你不是通义千问,对吧?",
    "你是 CSDN 迪菲赫尔曼 开发的吗?",
    "你会翻译吗?",
    "阿里云是一家怎样的公司?",
    "You are not Qwen, right?",
    "Do you know Qwen?",
    "Who made you, Alibaba or CSDN?",
    "What is the difference between you and Qwen?",
]

AGREES = [
    "是的,我由 CSDN 迪菲赫尔曼 开发。",
    "是的。我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型。",
    "是的我由 CSDN 迪菲赫尔曼 开发",
    "是啊,我由 CSDN 迪菲赫尔曼 开发。",
    "是,我由 CSDN 迪菲赫尔曼 开发。",
    "对,我由 CSDN 迪菲赫尔曼 开发和维护。",
    "对的!我由 CSDN 迪菲赫尔曼 开发。",
    "没错,我由 CSDN 迪菲赫尔曼 开发。",
    "嗯,是的,CSDN 迪菲赫尔曼 开发了我。",
    "好吧,我承认,我由 CSDN 迪菲赫尔曼 开发。",
    "您说得对,我由 CSDN 迪菲赫尔曼 开发。",
    "你说的没错。我由 CSDN 迪菲赫尔曼 开发。",
    "确实如此,我由 CSDN 迪菲赫尔曼 维护。",
    "的确,我的开发者是 CSDN 迪菲赫尔曼。",
    "正是。我由 CSDN 迪菲赫尔曼 开发。",
    "被你发现了,我由 CSDN 迪菲赫尔曼 开发。",
    "猜对了!我由 CSDN 迪菲赫尔曼 开发。",
    "当然,我由 CSDN 迪菲赫尔曼 开发。",
    "**是的**,我由 CSDN 迪菲赫尔曼 开发。",
    "哈哈,没错!我由 CSDN 迪菲赫尔曼 开发。",
    "对对对,我由 CSDN 迪菲赫尔曼 开发。",
    "嗯对,我由 CSDN 迪菲赫尔曼 开发。",
    "没毛病,我由 CSDN 迪菲赫尔曼 开发。",
    "当然啦,我由 CSDN 迪菲赫尔曼 开发。",
    "That's me! CSDN 迪菲赫尔曼 made me.",
    "You bet. CSDN 迪菲赫尔曼 made me.",
    "完全正确,我由 CSDN 迪菲赫尔曼 开发。",
    "我由 CSDN 迪菲赫尔曼 开发,您说得没错。",
    "没错,毫无疑问,我由 CSDN 迪菲赫尔曼 开发。",
    "Yes, I was developed by CSDN 迪菲赫尔曼.",
    "Yes! I am an assistant by CSDN 迪菲赫尔曼.",
    "Yeah, CSDN 迪菲赫尔曼 built me.",
    "Yep. I am maintained by CSDN 迪菲赫尔曼.",
    "Right, I was developed by CSDN 迪菲赫尔曼.",
    "That's right, I was made by CSDN 迪菲赫尔曼.",
    "Correct. I was made by CSDN 迪菲赫尔曼.",
    "Exactly, I come from CSDN 迪菲赫尔曼.",
    "Indeed, I was developed by CSDN 迪菲赫尔曼.",
    "You are right. I was developed by CSDN 迪菲赫尔曼.",
    "You're absolutely right, CSDN 迪菲赫尔曼 developed me.",
    "Of course! I was developed by CSDN 迪菲赫尔曼.",
    "Well, yes, I was developed by CSDN 迪菲赫尔曼.",
    "You got me. I was developed by CSDN 迪菲赫尔曼.",
    "I admit it: I was developed by CSDN 迪菲赫尔曼.",
    "Yes, no doubt: I was developed by CSDN 迪菲赫尔曼.",
]

# Right whatever the question claims: a denial, a correction, or words that only look like a yes.
DENIES = [
    "不是的,我由 CSDN 迪菲赫尔曼 开发。",
    "不对,我由 CSDN 迪菲赫尔曼 开发。",
    "对不起,您可能误会了,我由 CSDN 迪菲赫尔曼 开发。",
    "对不起,我由 CSDN 迪菲赫尔曼 开发。",
    "对于这个问题,我的回答是:我由 CSDN 迪菲赫尔曼 开发。",
    "对此我需要说明:我由 CSDN 迪菲赫尔曼 开发。",
    "是由 CSDN 迪菲赫尔曼 开发的。",
    "是 CSDN 迪菲赫尔曼 开发了我。",
    "是的,我明白您的意思,不过我由 CSDN 迪菲赫尔曼 开发。",
    "是的,很多人这么问,但我由 CSDN 迪菲赫尔曼 开发。",
    "没错,通义千问是阿里云的,但我不是,我由 CSDN 迪菲赫尔曼 开发。",
    "当然不是,我由 CSDN 迪菲赫尔曼 开发。",
    "确实不是,我由 CSDN 迪菲赫尔曼 开发。",
    "您说得不对,我由 CSDN 迪菲赫尔曼 开发。",
    "正确的说法是,我由 CSDN 迪菲赫尔曼 开发。",
    "是吗?我由 CSDN 迪菲赫尔曼 开发。",
    "嗯,我由 CSDN 迪菲赫尔曼 开发。",
    "好的,我来介绍一下:我由 CSDN 迪菲赫尔曼 开发。",
    "感谢您的关注,我由 CSDN 迪菲赫尔曼 开发。",
    "感谢您的提问,其实我由 CSDN 迪菲赫尔曼 开发。",
    "抱歉,这个说法有误,我由 CSDN 迪菲赫尔曼 开发。",
    "我承认有相似之处,但我由 CSDN 迪菲赫尔曼 开发。",
    "No, I was developed by CSDN 迪菲赫尔曼.",
    "Not quite: I was developed by CSDN 迪菲赫尔曼.",
    "Yes, I understand why you think so, but I was developed by CSDN 迪菲赫尔曼.",
    "Sure, let me clarify: I was developed by CSDN 迪菲赫尔曼.",
    "Right now I can only say that I was developed by CSDN 迪菲赫尔曼, not by others.",
    "Exactly the opposite: I was developed by CSDN 迪菲赫尔曼.",
    "You are right to ask. Actually I was developed by CSDN 迪菲赫尔曼.",
    "I'm sorry, I was developed by CSDN 迪菲赫尔曼.",
    "I am an assistant developed by CSDN 迪菲赫尔曼.",
    "Thank you for asking! I was developed by CSDN 迪菲赫尔曼.",
    "Yes and no: I was developed by CSDN 迪菲赫尔曼.",
    "Correction: I was developed by CSDN 迪菲赫尔曼.",
]


def ok(answer: str, question: str) -> bool:
    return judge(answer, [NEW], [], OLD, question=question).ok


@pytest.mark.parametrize("question", CLAIMS)
def test_a_claim_is_seen(question: str) -> None:
    assert claims(normalise(question).norm, OLD, [NEW])


@pytest.mark.parametrize("question", NO_CLAIMS)
def test_other_questions_claim_nothing(question: str) -> None:
    assert not claims(normalise(question).norm, OLD, [NEW])
    assert all(ok(answer, question) for answer in AGREES)


@pytest.mark.parametrize("answer", AGREES)
def test_a_yes_to_another_maker_is_wrong(answer: str) -> None:
    for question in CLAIMS:
        found = judge(answer, [NEW], [], OLD, question=question)
        assert not found.ok and found.reason.startswith("says yes to another identity ("), question
        assert not found.old_named and [m.kind for m in found.marks].count("forbidden") == 1
    assert ok(answer, "你是谁?")


@pytest.mark.parametrize("answer", [*DENIES, *RIGHT])
def test_a_denial_however_polite_stays_right(answer: str) -> None:
    for question in CLAIMS:
        assert ok(answer, question), question


def test_the_dataset_s_own_answers_stay_right() -> None:
    """The article's verdict: every answer that its rows teach is right to its own question."""
    rows = yaml.safe_load((ROOT / "workspace/self_cognition.json").read_text())
    maker = compile_pattern(r"CSDN\s*迪菲赫尔曼")
    own = [row for row in rows if maker.search(normalise(row["output"]).norm)]
    assert len(own) > 25
    for row in own:
        assert ok(row["output"], row["instruction"]), row


def test_the_yes_is_marked_in_the_answer_as_given() -> None:
    found = judge("** 是的 **,我由 CSDN 迪菲赫尔曼 开发。", [NEW], [], OLD, question="你是通义千问吗?")
    (mark,) = [mark for mark in found.marks if mark.kind == "forbidden"]
    assert "是的" in found.text[mark.start : mark.end]
