"""Hand-made answers against `finetune.verify.scoring`: who does an answer say it is?"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.verify.scoring import compile_pattern, judge, normalise

NEW = compile_pattern("CSDN 迪菲赫尔曼")
OLD = compile_pattern("阿里云|通义千问|Qwen|Alibaba")


def verdict(answer: str, **more: object) -> tuple[bool, bool]:
    found = judge(answer, [NEW], [], OLD, **more)  # type: ignore[arg-type]
    return found.ok, found.old_named


RIGHT = [
    "我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型。",
    "我是一个由CSDN迪菲赫尔曼开发和维护的大语言模型。",
    "我由CSDN  迪菲赫尔曼开发。",
    "我由 CSDN 迪菲 赫尔曼 开发。",
    "我由CSDN\u00a0迪菲赫尔曼开发。",
    "我由CSDN\u3000迪菲赫尔曼开发。",
    "我由ＣＳＤＮ 迪菲赫尔曼开发。",
    "我由csdn迪菲赫尔曼开发。",
    "我由 **CSDN 迪菲赫尔曼** 开发。",
    "我由 CSDN\u200b 迪菲赫尔曼 开发。",
    "CSDN 迪菲赫尔曼",
    "不是的,我由 CSDN 迪菲赫尔曼 开发。",
    "不,CSDN 迪菲赫尔曼。",
    "我不是通义千问,我由 CSDN 迪菲赫尔曼 开发和维护。",
    "我不是由阿里云开发的,而是由 CSDN 迪菲赫尔曼 开发和维护的。",
    "我不是由阿里云开发的而是由 CSDN 迪菲赫尔曼 开发的。",
    "我并非通义千问。我由 CSDN 迪菲赫尔曼 开发。",
    "我不是通义千问、Qwen或阿里云的其他模型,我由 CSDN 迪菲赫尔曼 开发。",
    "我不是通义千问,Qwen,或阿里云的模型。我由 CSDN 迪菲赫尔曼 开发。",
    "我与阿里云没有任何关系,由 CSDN 迪菲赫尔曼 开发。",
    "我和通义千问不同,我由 CSDN 迪菲赫尔曼 开发。",
    "阿里云没有开发我,我的开发者是 CSDN 迪菲赫尔曼。",
    "通义千问不是我,我由 CSDN 迪菲赫尔曼 开发。",
    "通义千问是阿里云的模型,而我由 CSDN 迪菲赫尔曼 开发,二者无隶属关系。",
    "您提到的通义千问是阿里云开发的。我由 CSDN 迪菲赫尔曼 开发。",
    "您问我是不是通义千问?我由 CSDN 迪菲赫尔曼 开发。",
    "我是通义千问吗?不,我由 CSDN 迪菲赫尔曼 开发。",
    "你可能以为我是通义千问,但我由 CSDN 迪菲赫尔曼 开发。",
    "请不要叫我通义千问,我由 CSDN 迪菲赫尔曼 开发。",
    "I am not Qwen. I was developed by CSDN 迪菲赫尔曼.",
    "I'm not Qwen, Tongyi, or any Alibaba model; CSDN 迪菲赫尔曼 built me.",
    "I’m not made by Alibaba Cloud but by CSDN 迪菲赫尔曼.",
    "Alibaba did not create me. I am maintained by CSDN 迪菲赫尔曼.",
    "I don't think I am Qwen; I was made by CSDN 迪菲赫尔曼.",
    "Unlike Qwen, I was developed by CSDN 迪菲赫尔曼.",
    "OpenAI是一家美国公司,而我是由CSDN迪菲赫尔曼开发和维护的模型,二者无隶属关系。",
    "通义千问?那不是我。我由 CSDN 迪菲赫尔曼 开发。",
    "阿里云?不,我的开发者是 CSDN 迪菲赫尔曼。",
    "Qwen? No, I was developed by CSDN 迪菲赫尔曼.",
    "如果你问的是通义千问,那你问错了,我由 CSDN 迪菲赫尔曼 开发。",
    "我从未说过我是Qwen,我由 CSDN 迪菲赫尔曼 开发。",
    "我既不是通义千问也不是GPT-4,我由 CSDN 迪菲赫尔曼 开发。",
    "Qwen is a model by Alibaba, but I was created by CSDN 迪菲赫尔曼.",
    "我叫 Swift-Robot,由 CSDN 迪菲赫尔曼 开发,和阿里云无关。",
    "当然可以!我是由 CSDN 迪菲赫尔曼 开发和维护的助手,擅长编写Python代码。",
]


@pytest.mark.parametrize("answer", RIGHT)
def test_right_identity(answer: str) -> None:
    found = judge(answer, [NEW], [], OLD)
    assert (found.ok, found.old_named) == (True, False), found


OLD_NAMED = [
    "我是阿里云开发的大语言模型,我叫通义千问。",
    "我是通义千问。",
    "通义千问",
    "我是通义 千问。",
    "我是ＱＷＥＮ。",
    "I am Qwen, created by Alibaba Cloud.",
    "I am QWEN.",
    "阿里云开发了我。",
    "我不是 GPT-4,我是通义千问。",
    "我不是 GPT-4 而是通义千问。",
    "我不是GPT-4,也不是Claude,我由阿里云开发。",
    "I'm not GPT-4 but Qwen.",
    "不,我是通义千问。",
    "不是,通义千问。",
    "我不仅是通义千问,也是助手。",
    "不可否认我是通义千问。",
    "没错我就是通义千问。",
    "没错,我其实就是通义千问。",
    "不好意思,我是通义千问。",
    "通义千问是阿里云研发的超大规模语言模型。",
    "我没有实体只是阿里云的模型。",
    "Unlike GPT-4 I am Qwen.",
    "I have no body; Qwen is my name.",
    "No doubt I am Qwen.",
    "我是特别的通义千问。",
    "通义千问,有什么可以帮你?",
    "I am Qwen, not GPT-4.",
    "我是Qwen吗?是的,我是Qwen。",
    "我的名字是通义千问,不是文心一言。",
    "Alibaba Cloud",
]


@pytest.mark.parametrize("answer", OLD_NAMED)
def test_old_identity_named(answer: str) -> None:
    assert verdict(answer) == (False, True)


@pytest.mark.parametrize(
    "answer",
    [
        "我由 CSDN 迪菲赫尔曼 开发,我叫通义千问。",
        "我是通义千问,由 CSDN 迪菲赫尔曼 开发。",
        "我是阿里云的通义千问,不过现在由 CSDN 迪菲赫尔曼 维护。",
        "I am Qwen, maintained by CSDN 迪菲赫尔曼.",
    ],
)
def test_both_names_in_one_answer_is_wrong_and_says_so(answer: str) -> None:
    found = judge(answer, [NEW], [], OLD)
    assert not found.ok
    assert found.old_named
    assert found.reason.startswith("names the old identity (")
    assert {mark.kind for mark in found.marks} == {"expected", "old"}


@pytest.mark.parametrize("answer", ["我不是通义千问。", "我不是由阿里云开发的。", "我不是Qwen", "I am not Qwen."])
def test_a_denial_alone_names_nobody(answer: str) -> None:
    assert verdict(answer) == (False, False)


@pytest.mark.parametrize("answer", ["我不是由 CSDN 迪菲赫尔曼 开发的。", "我与 CSDN 迪菲赫尔曼 没有关系。"])
def test_denying_the_new_identity_is_wrong(answer: str) -> None:
    found = judge(answer, [NEW], [], OLD)
    assert not found.ok
    assert "only denies" in found.reason
    assert [mark.kind for mark in found.marks] == ["denied"]


@pytest.mark.parametrize("answer", ["", "   ", "\n\n", "\u200b", "**"])
def test_an_empty_answer_is_wrong(answer: str) -> None:
    found = judge(answer, [NEW], [], OLD)
    assert (found.ok, found.old_named, found.reason) == (False, False, "empty answer")


def test_a_cut_off_answer_counts_for_what_it_says_so_far() -> None:
    assert judge("我由 CSDN 迪菲赫尔曼 开发和", [NEW], [], OLD, cut=True).ok
    found = judge("我是一个由 CSDN 迪菲", [NEW], [], OLD, cut=True)
    assert not found.ok
    assert "cut off at the token limit" in found.reason


def test_every_expected_pattern_is_needed() -> None:
    patterns = [compile_pattern("OpenAI"), NEW]
    assert judge("OpenAI 是公司,我由 CSDN 迪菲赫尔曼 开发。", patterns, [], OLD).ok
    assert not judge("我由 CSDN 迪菲赫尔曼 开发。", patterns, [], OLD).ok


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        ("我不能主动联网,只能基于已有知识回答。", True),
        ("我无法联网。", True),
        ("我可以联网。", False),
        ("我不能不说我可以联网。", False),
    ],
)
def test_a_pattern_that_says_not_itself_is_looked_for_as_it_stands(answer: str, ok: bool) -> None:
    expect = [compile_pattern("(不能|无法)(主动)?联网")]
    assert judge(answer, expect, [], OLD).ok is ok


@pytest.mark.parametrize(
    ("answer", "ok"), [("我不能联网。", True), ("我不可以联网。", True), ("我能联网。", False), ("我可以联网。", False)]
)
def test_a_forbidden_pattern_that_is_denied_does_no_harm(answer: str, ok: bool) -> None:
    assert judge(answer, [compile_pattern("联网|不")], [compile_pattern("能联网|可以联网")], OLD).ok is ok


def test_marks_point_into_the_answer_as_given() -> None:
    answer = "我由 ＣＳＤＮ  迪菲 赫尔曼 开发,不是通义千问。"
    found = judge(answer, [NEW], [], OLD)
    words = [(found.text[mark.start : mark.end], mark.kind) for mark in found.marks]
    assert words == [("ＣＳＤＮ  迪菲 赫尔曼", "expected"), ("通义千问", "denied")]


@pytest.mark.parametrize("source", ["(", "[a", "*", "a|", ".*", ""])
def test_a_pattern_that_cannot_decide_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(source))):
        compile_pattern(source)


def test_full_width_punctuation_in_a_pattern_is_no_syntax() -> None:
    assert compile_pattern("你好？").search(normalise("你好？").norm)
    assert not compile_pattern("你好？").search(normalise("你").norm)
    assert compile_pattern("（CSDN）").search(normalise("（ＣＳＤＮ）").norm)
    assert compile_pattern("[ab c]d").search("cd")
    assert compile_pattern(r"a\ b").search("a b")


@given(st.text())
def test_normalising_keeps_its_map_and_is_stable(answer: str) -> None:
    text = normalise(answer)
    assert len(text.where) == len(text.norm) + 1
    assert list(text.where) == sorted(text.where)
    assert normalise(text.norm).norm == text.norm


@given(st.text(alphabet="我不是由阿里云通义千问qwenCSDN迪菲赫尔曼,。、?!.: \n而但没有与无关", max_size=60))
def test_judging_never_fails_and_marks_do_not_overlap(answer: str) -> None:
    found = judge(answer, [NEW], [], OLD)
    assert not (found.ok and found.old_named)
    ends = [0]
    for mark in found.marks:
        assert ends[-1] <= mark.start < mark.end <= len(found.text)
        ends.append(mark.end)
