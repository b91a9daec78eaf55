"""Yes and no, denials, opposites, refusals."""

from __future__ import annotations

import pytest

from finetune.verify.judge.claims import Claims
from finetune.verify.judge.polarity import denials, lead, opposed, refuses


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("Yes, we do.", 1),
        ("No, we don't.", -1),
        ("No later than Monday.", 0),
        ("可以，请填写抬头。", 1),
        ("不支持货到付款。", -1),
        ("非常抱歉，不能携带宠物。", -1),
        ("会员享受九折。", 0),
        ("可能需要三天。", 0),
        ("不满99元收运费。", 0),
        ("The fee is $3.", 0),
    ],
)
def test_the_first_word(text, sign):
    assert lead(text) == sign


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("you cannot return it", 1),
        ("cats are allowed", 0),
        ("no later than Monday", 0),
        ("不超过20元", 0),
        ("无理由退货", 0),
        ("周末不营业", 1),
        ("everything but sync", 1),
    ],
)
def test_denials(text, count):
    assert denials(text) == count


@pytest.mark.parametrize(
    ("reference", "answer", "contrary"),
    [
        ("运费由买家承担", "运费由卖家承担", True),
        ("不少于20学分", "不超过20学分", True),
        ("before you work", "after you work", True),
        ("attendance is compulsory", "attendance is optional", True),
        ("attendance is optional", "attendance is not compulsory", False),
    ],
)
def test_pairs_of_opposites(reference, answer, contrary):
    assert opposed(reference, answer) is contrary


@pytest.mark.parametrize(
    ("reference", "answer", "contrary"),
    [
        ("cats are not allowed", "cats are allowed", True),
        ("cats are allowed", "cats are not allowed", True),
        ("周末不营业", "周末休息", False),
        ("周末不营业", "周末也营业", True),
        ("open on Sundays", "not closed on Sundays", False),
        ("We take dogs, but no cats.", "We do not take cats.", False),
        ("We take dogs, but no cats.", "We take dogs and cats.", True),
        ("Please wear no shoes.", "Please wear no shoes and no socks.", False),
        ("Water is fine, but no food.", "No food and no water.", True),
        ("Use neither bleach nor hot water.", "Bleach and hot water are not allowed.", False),
        ("不要用热水和酒精。", "热水和酒精都不要用。", False),
        ("不要用热水和酒精。", "用酒精擦。", True),
        ("没有会员卡的，每次加收5元。", "没会员卡的话每次多收5元。", False),
        ("拆开后不退不换。", "拆开后可以换。", True),
        ("押金验收后退还。", "押金不退。", True),
        ("It can be paid without interest.", "It can be paid interest-free.", False),
        ("The gate is closed at night.", "At night nobody can get through the gate.", False),
        ("Never more than 8 euros.", "At most 8 euros.", False),
    ],
)
def test_what_is_affirmed_and_what_is_denied(reference, answer, contrary):
    assert bool(Claims(answer).against(Claims(reference), "")) is contrary


def test_what_a_question_with_a_denial_asks_may_be_named_alone():
    closed = Claims("We are closed on Mondays.")
    assert not Claims("On Mondays.").against(closed, "When are you closed?")
    assert Claims("On Mondays.").against(closed, "When are you open?")


@pytest.mark.parametrize(
    "text", ["As an AI language model I cannot say.", "I don't have that information.", "抱歉,我无法提供相关信息。"]
)
def test_refusals(text):
    assert refuses(text)


def test_a_plain_no_is_no_refusal():
    assert not refuses("No, we do not match prices.")
    assert not refuses("抱歉，我们酒店不能携带宠物入住。")
