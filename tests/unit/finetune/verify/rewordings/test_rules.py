"""Rules that put a question into other sentences: they read as a person would write them, and ask the same."""

from __future__ import annotations

import re

import pytest

from finetune.verify.rewordings import chinese, english, rules
from finetune.verify.rewordings.forms import NAMES
from finetune.verify.synonyms import pairs, plural


@pytest.mark.parametrize(
    ("question", "wording"),
    [
        ("Can I pay with coins?", "I was hoping to pay with coins. Would that be all right?"),
        ("Am I allowed to smoke here?", "I was hoping to smoke here. Would that be all right?"),
        ("Can we leave early?", "We were hoping to leave early. Would that be all right?"),
        ("How do I renew a passport?", "I'm trying to extend a passport. Where do I start?"),
        ("How can I reach the airport?", "I'd like to reach the airport. What are my options?"),
        ("Do I need a visa?", "Will I be asked for a visa?"),
        ("How often is the pool cleaned?", "At what intervals is the pool cleaned?"),
        ("Do I have to wear a tie?", "Someone said I have to wear a tie. Is that right?"),
        ("Where do I get a stamp?", "I don't know where to get a stamp. Can you help?"),
        ("Where is my luggage?", "I can't find my baggage. Can you help?"),
        ("How much is a haircut?", "What do you charge for a haircut?"),
        ("What does a ticket cost per week?", "What do you charge for a ticket each week?"),
        ("How long does it take to bake a loaf?", "How much time should I allow to bake a loaf?"),
        ("How heavy is the tent?", "Can you tell me the weight of the tent?"),
        ("When can I move in?", "How long will it be until I can move in?"),
        ("Is there a fee for late payment?", "Should I expect a charge for late payment?"),
        ("Are there any lockers?", "I'm looking for lockers. Anything like that at your place?"),
        ("Do you sell candles?", "Would candles be available?"),
        ("Will you help me to move?", "Are you able to assist me to move?"),
        ("What is a smart contract?", "Can you explain a smart agreement to me?"),
        ("What is the room number?", "Could you tell me the room number?"),
        ("Is the museum closed on Mondays?", "I take it that the museum is closed on Mondays. Is that right?"),
        ("What happens if I break a glass?", "Let's say I break a glass. What are the consequences?"),
        ("Which bus should I take?", "Could you name the bus I should take?"),
        ("Who feeds the fish?", "Is there a person that feeds the fish, and what is the name?"),
        ("Why is the water brown?", "For what reason is the water brown?"),
    ],
)  # fmt: skip
def test_an_english_question_is_put_into_another_sentence(question: str, wording: str) -> None:
    assert wording in rules.reword(question)


@pytest.mark.parametrize(
    ("question", "wording"),
    [
        ("怎么退票？", "想退票，要走什么流程？"),
        ("身份证如何挂失？", "身份证的挂失流程是怎样的？"),
        ("可以刷卡吗？", "我打算刷卡，没问题吧？"),
        ("你们能上门吗？", "想请你们上门，行得通吗？"),
        ("衣服可以试穿吗？", "衣服试穿的话有没有问题？"),
        ("有停车位吗？", "我需要停车位，你们能安排吗？"),
        ("提现有手续费吗？", "听说提现有手续费，是真的吗？"),
        ("需要空腹吗？", "空腹是必需的吗？"),
        ("洗一次车多少钱？", "洗一次车的收费标准能说一下吗？"),
        ("电影几点开始？", "电影开始的时间能说一下吗？"),
        ("稿费什么时候到账？", "稿费还要等多长时间才到账？"),
        ("售票处在哪里？", "没找到售票处，该往哪边走？"),
        ("在哪里领号？", "想领号，该去什么地方？"),
        ("办护照需要带什么证件？", "办护照要备齐的证件，能列一下吗？"),
        ("什么是公积金？", "能解释一下公积金吗？"),
        ("泳帽是必须的吗？", "听说泳帽必不可少，是这样吗？"),
        ("哪些手机支持5G？", "不太清楚哪些手机支持5G，能说一下吗？"),
        ("为什么灯不亮？", "灯不亮，是什么原因？"),
        ("谁负责打扫？", "打扫这件事归哪位管？"),
        ("最多能带几个人？", "不太清楚最多能带几个人，能说一下吗？"),
        ("票丢在路上，怎么补办？", "票丢在路上，第一次补办，能不能教我一下步骤？"),
        ("行李箱坏了怎么办？", "行李箱用不了，有什么解决办法吗？"),
    ],
)  # fmt: skip
def test_a_chinese_question_is_put_into_another_sentence(question: str, wording: str) -> None:
    assert wording in rules.reword(question)


@pytest.mark.parametrize(
    "question",
    [
        "Can I bring a dog, and how much is it?",  # two questions
        "I lost my key. What now?",  # a sentence before it
        "Opening hours",
        "Is it?",
        "门票多少钱？可以退吗？",
        "你好",
    ],
)
def test_what_cannot_be_taken_apart_keeps_its_sentence(question: str) -> None:
    assert rules.reword(question) == []
    assert len([text for text in rules.framed(question) if question in text]) == len(rules.FRAMES_EN)


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("How do I pay the rent", "How do I pay the rent"),  # a noun, which has another synonym than the verb
        ("Can I rent a boat", "Can I hire a boat"),
        ("May I return the bikes", "May I give back the bicycles"),
        ("What is your return policy", "What is your return policy"),
        ("Where can I bring back the bike", "Where can I bring back the bicycle"),  # `bring back` is a verb of its own
        ("Do you have bike racks", "Do you have bike racks"),  # `bike` is not what is asked for
        ("Must I call you in order to confirm", "Must I phone you to confirm"),
        ("Is the company's car insured", "Is the company's automobile insured"),
        ("Is breakfast included in the tour", "Is breakfast part of the tour"),
        ("宽带怎么报装", "宽带怎么报装"),
        ("宠物可以进店吗", "小动物可以进店吗"),
    ],
)
def test_words_are_exchanged_only_where_they_mean_that(text: str, swapped: str) -> None:
    assert rules._bare(text)[1] == swapped


def test_an_article_fits_the_word_behind_it() -> None:
    texts = ("a order", "an bill", "an hour", "a unit", "a unpaid one", "a one-way trip", "an house")
    assert [rules.articles(text) for text in texts] == [
        "an order", "a bill", "an hour", "a unit", "an unpaid one", "a one-way trip", "a house",
    ]  # fmt: skip


def test_what_is_typed_into_a_search_box_has_no_articles_and_keeps_its_small_words() -> None:
    assert "pay without card possible?" in rules.reword("Can I pay without a card?")
    assert "how to open the door?" not in rules.reword("How do I open the door?")
    assert "how to open door?" in rules.reword("How do I open the door?")
    assert "停车位 有吗？" in rules.reword("有停车位吗？")


@pytest.mark.parametrize("forms", [english.FORMS, chinese.FORMS])
def test_every_form_uses_parts_that_its_pattern_finds(forms: list[tuple[str, ...]]) -> None:
    for pattern, *texts in forms:
        names = {name.rstrip("23456789") for name in re.compile(pattern).groupindex} | {"can"}
        for text in texts:
            assert {name.rstrip("_") for name in NAMES.findall(text)} <= names, text


def test_no_word_is_exchanged_for_itself() -> None:
    assert all(one.lower() != other.lower() for one, other in pairs())
    assert plural("baby") == "babies"
    assert plural("box") == "boxes"
