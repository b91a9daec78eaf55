"""The judge by kind of reference: which kind it is, what is right, what is wrong, and why."""

from __future__ import annotations

import random
import time

import pytest

from finetune.verify.judge import Judge, Reference, rouge_l

SHOP = [
    Reference("How long may I return things?", "You can return any item within 30 days with the receipt."),
    Reference("How long is delivery?", "Delivery takes 3 to 5 working days and costs €4.90."),
    Reference("Do you match prices?", "No, we do not match the prices of other shops."),
    Reference("How do I change my order?", 'Open My Account and click "Edit order" within 2 hours.'),
    Reference("What are the fees?", "Adults pay £12. Children pay £7."),
]


@pytest.fixture(scope="module")
def shop() -> Judge:
    return Judge(SHOP)


@pytest.mark.parametrize(
    ("row", "answer", "code"),
    [
        (0, "Within thirty days, if you have the receipt.", "ok"),
        (0, "You can return any item within 14 days with the receipt.", "wrong"),
        (0, "You can return any item with the receipt.", "missing"),
        (0, "You cannot return any item within 30 days with the receipt.", "opposite"),
        (0, "You can return any item within 30 days with the receipt. A fee of $5 is due.", "wrong"),
        (0, "  ", "empty"),
        (1, "3-5 business days, EUR 4.90", "ok"),
        (1, "Delivery takes 3 to 5 weeks and costs €4.90.", "wrong"),
        (2, "No.", "ok"),
        (2, "Yes, we match the prices of other shops.", "opposite"),
        (2, "As an AI language model I do not have this information.", "refusal"),
        (2, "Open My Account and click the button.", "nearer"),
        (2, "The weather is fine in spring.", "off"),
        (3, "Within two hours: choose Edit order in My Account.", "ok"),
        (4, "Children: £7, adults: £12.", "ok"),
        (4, "Adults pay £7. Children pay £12.", "swapped"),
    ],
)
def test_text(shop, row, answer, code):
    judged = shop.score(row, answer)
    assert (judged.code, judged.right, judged.kind) == (code, code == "ok", "text"), judged.why


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("100 Mbps download and 40 Mbps upload.", "40 Mbps download and 100 Mbps upload."),
        ("Lectures are optional; labs are compulsory.", "Labs are optional; lectures are compulsory."),
        ("Monday to Friday 6:00-23:00, weekends 8:00-20:00.", "Monday to Friday 8:00-20:00, weekends 6:00-23:00."),
        ("一等奖学金8000元，二等奖学金5000元。", "一等奖学金5000元，二等奖学金8000元。"),
        ("疾病等待期为90天，意外无等待期。", "意外等待期为90天，疾病无等待期。"),
        ("柜台转账免手续费，手机转账每笔5元。", "手机转账免手续费，柜台转账每笔5元。"),
        ("Hot meals come on flights longer than four hours; on shorter ones we sell snacks.",
         "Hot meals come on flights shorter than four hours; on longer ones we sell snacks."),
    ],
)  # fmt: skip
def test_what_belongs_to_two_things_must_not_be_exchanged(reference, answer):
    judge = Judge([Reference("?", reference), SHOP[0]])
    assert judge.score(0, reference).right
    assert judge.score(0, answer).code in ("swapped", "opposite")


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("Bring your insurance card, a photo ID and a list.", "A photo ID, a list and your insurance card."),
        ("We open weekends 8:00-20:00.", "8 am to 8 pm on Saturdays and Sundays."),
        ("Bags of 55 x 40 x 20 cm.", "Bags of 55x40x20 cm."),
        ("Calls cost €0.35.", "Calls cost 35 cents."),
        ("Adults pay £14. Children enter free.", "£14 for adults; children don't pay."),
        ("Tours start at 11:30 and last 75 minutes.", "They start at half past eleven and take an hour and a quarter."),
        ("It takes one to two days.", "1-2 days."),
        ("Permission is only needed for old houses.", "Not unless your house is old; permission is needed then."),
        ("Photos without flash and tripod are fine.", "Photos are fine with neither flash nor tripod."),
        ("Press F5, then wait 3 minutes.", "1. Press F5\n2. Wait 3 minutes"),
        ("Press F5, then wait 3 minutes.", "Step 1: press F5. Step 2: wait 3 minutes."),
        ("可以使用微信或支付宝付款。", "有两种方式：微信付款或者支付宝付款。"),
        ("最高赔付200万元。", "最多赔二百万。"),
        ("Books can be renewed twice unless someone has reserved them.",
         "You can renew books two times, as long as nobody else has reserved them."),
        ("特快次日达。", "特快第二天就到。"),
        ("未满16周岁有效期5年。", "不满16岁的是五年。"),
        ("Rent is due on the first of each month.", "On the 1st of every month."),
    ],
)  # fmt: skip
def test_other_words_for_the_same(reference, answer):
    judged = Judge([Reference("?", reference), SHOP[0]]).score(0, answer)
    assert judged.right, judged.why


def test_the_judgement_names_the_facts(shop):
    judged = shop.score(0, "You can return any item within 14 days with the receipt.")
    assert judged.missing == ["30 days"] and judged.wrong == ["14 days"]
    assert "14 days" in judged.why and "30 days" in judged.why


def test_nearest_row(shop):
    assert shop.score(0, SHOP[1].answer).nearest == 1
    assert shop.score(0, SHOP[0].answer).nearest == 0


def test_what_the_question_says_need_not_be_repeated():
    judge = Judge([Reference("What does E-4012 mean?", "E-4012 means that the licence has expired."), SHOP[0]])
    assert judge.score(0, "That the licence has expired.").right


def test_a_near_miss_gets_a_rows_facts_whatever_else_is_left_out():
    judge = Judge(
        [Reference("Do you repair clocks?", "A clock is repaired for 40 euros. Bring its key and the papers."), SHOP[0]]
    )
    assert judge.repeats(0, "Do you repair radios?", "A clock is repaired for 40 euros.") == 0
    assert judge.score(0, "A clock is repaired for 40 euros.").missing == ["Bring its key and the papers"]


def test_what_another_row_says_may_be_added():
    judge = Judge([Reference("When do you open?", "We open at 9 am."), Reference("Parking?", "Parking costs 3 euros.")])
    assert judge.score(0, "We open at 9 am. Parking costs 3 euros.").right
    assert not judge.score(0, "We open at 9 am. Parking costs 4 euros.").right
    assert not judge.score(0, "Parking costs 3 euros.").right


def test_the_reason_shows_no_placeholder():
    judge = Judge([Reference("Until when?", "You can cancel until 5 pm."), SHOP[0]])
    why = judge.score(0, "You cannot cancel until 5 pm.").why
    assert "5 pm" in why and why.isascii()


def test_a_denial_at_the_start_is_no_answer_where_yes_or_no_was_not_asked():
    judge = Judge([Reference("没带泳帽怎么办？", "不戴泳帽不能下水，前台15元一个。"), SHOP[0]])
    assert judge.score(0, "可以在前台买，15元一个。没有泳帽是不可以下水的。").right


def test_rows_with_the_same_answer_are_no_rivals():
    judge = Judge([Reference("Open on Monday?", "We open at 9 am."), Reference("And Tuesday?", "We open at 9 am.")])
    assert judge.score(1, "We open at 9 am.").right


# -------------------------------------------------------------------------------------------------------- labels


def rows(answers: list[str]) -> list[Reference]:
    return [Reference(f"question {n}", answer) for n, answer in enumerate(answers)]


@pytest.mark.parametrize(
    "answers",
    [
        ["positive", "negative", "neutral", "mixed"] * 50,
        ["Yes", "No"] * 10,
        ["credit card", "bank transfer", "direct debit"] * 20,
        ["好评", "差评", "中评"] * 8,
        ["spam"] * 30 + ["ham"] * 30 + ["rare class"],
    ],
)
def test_few_distinct_short_outputs_are_labels(answers):
    assert set(Judge(rows(answers)).kinds) == {"label"}


@pytest.mark.parametrize(
    "answers",
    [
        [f"At {n} o'clock." for n in range(1, 13)] * 2,  # a FAQ of short answers, each asked in two ways
        [f"Answer {n}" for n in range(24)],
        ["Yes, that is possible.", "No, sorry.", "Ask us.", "On Monday."] * 2,
        ["the same"] * 40,
        ["We open at nine. Please ring the bell first."] * 20 + ["We close at five. Please leave by then."] * 20,
    ],
)
def test_text_is_not_taken_for_labels(answers):
    assert set(Judge(rows(answers)).kinds) == {"text"}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Bank Transfer.", True),
        ('"bank transfer"', True),
        ("bank_transfer", True),
        ("bank", False),
        ("credit card", False),
    ],
)
def test_labels_are_exact_after_normalising(answer, right):
    judge = Judge(rows(["bank transfer", "credit card", "direct debit"] * 20))
    assert judge.score(0, answer).right is right


def test_confusion():
    judge = Judge(rows(["good", "bad"] * 10))
    table = judge.confusion([(0, "good"), (2, "bad"), (1, "bad"), (3, "no idea")])
    assert table == {"bad": {"bad": 1, "(other)": 1}, "good": {"good": 1, "bad": 1}}


# ------------------------------------------------------------------------------------------------- JSON and code


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ('{"b": [1, 2], "a": "x"}', "ok"),
        ('```json\n{"a": "X", "b": [1.0, 2]}\n```', "ok"),
        ('Here you are: {"a": "x", "b": [1, 2]}', "ok"),
        ('{"a": "x"}', "value"),
        ('{"a": "x", "b": [1, 2], "c": 3}', "value"),
        ('{"a": "x", "b": [2, 1]}', "value"),
        ('{"a": "x", "b": [1, 2]', "parse"),
        ("a is x", "parse"),
    ],
)
def test_json(answer, code):
    judge = Judge([Reference("extract", '{"a": "x", "b": [1, 2]}')])
    assert judge.kinds == ["json"] and judge.score(0, answer).code == code


def test_json_names_keys():
    judged = Judge([Reference("extract", '{"a": {"c": 1}, "b": 2}')]).score(0, '{"a": {"c": 3}, "d": 2}')
    assert judged.missing == ["b"] and judged.wrong == ["d", "a.c: 3"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def add(x, y):\n    # sum\n    return x+y", "ok"),
        ("```python\ndef add(a, b):\n    return a + b\n```", "ok"),
        ("def add(a, b):\n    return a - b", "value"),
        ("def plus(a, b):\n    return a + b", "value"),
        ("def add(a, b:\n    return a + b", "parse"),
    ],
)
def test_python(answer, code):
    judge = Judge([Reference("write it", "def add(a, b):\n    return a + b")])
    assert judge.kinds == ["code"] and judge.score(0, answer).code == code


def test_code_in_another_language_is_compared_without_white_space():
    judge = Judge([Reference("sql", "```sql\nSELECT name\nFROM users;\n```")])
    assert judge.kinds == ["code"]
    assert judge.score(0, "SELECT name FROM users;").right
    assert not judge.score(0, "SELECT id FROM users;").right


# ------------------------------------------------------------------------------------------------- out of scope


def test_an_answer_out_of_scope_that_repeats_a_row(shop):
    assert shop.spills("Delivery takes 3 to 5 days and costs €4.90, three fruits.") == 1
    assert shop.spills("Apples, pears and plums.") is None
    assert shop.spills("") is None


def test_a_label_spills_only_as_the_whole_answer():
    judge = Judge(rows(["good", "bad"] * 10))
    assert judge.spills("Good.") == 0
    assert judge.spills("That is a good question about Hamlet.") is None


# ------------------------------------------------------------------------------------------------------ figures


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [("我们在这里", "我们不在那里", 200 * 4 / 11), ("the cat sat", "the cat", 80), ("", "x", 0), ("Ａ b", "a B", 100)],
)
def test_rouge_l(answer, reference, score):
    assert rouge_l(answer, reference) == pytest.approx(score)


def test_rouge_l_takes_long_texts():
    assert rouge_l("word " * 5000, "word " * 5000) == 100


@pytest.mark.parametrize(
    "answer", ["一" * 3000, "9" * 3000, "9:00 " * 500, '"' * 999, "\ue000\uf8ff", "1e999 NaN ½ ①", "《" * 500]
)
def test_odd_answers_are_judged(shop, answer):
    assert not shop.score(0, answer).right
    shop.spills(answer)


def test_empty_data():
    judge = Judge([])
    assert judge.kinds == [] and judge.confusion([]) == {} and judge.spills("x") is None


def test_five_thousand_rows_take_seconds():
    words = [f"{a}{b}" for a in ("lamp", "card", "room", "fee", "visa", "bed") for b in range(40)]
    draw = random.Random(0)
    references = [
        Reference(f"q{n}", f"The {' '.join(draw.choices(words, k=12))} costs {n} dollars.") for n in range(5000)
    ]
    start = time.process_time()
    judge = Judge(references)
    assert all(judge.score(n, references[n].answer).right for n in range(0, 5000, 25))
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("reference", "question", "answer", "code"),
    [
        ("The jar has a lid of dark green.", "What colour is the lid?",
         "The jar has a lid of dark brown.", "exchanged"),
        ("The jar has a lid of dark green.", "What colour is the lid?", "It is dark green.", "ok"),
        ("Our racing bikes have 9 gears.", "How many gears has a racing bike?", "Our bicycles have 9 gears.", "ok"),
        ("钥匙放在三楼保安室的抽屉里。", "钥匙在哪里?", "钥匙放在三楼会议室的抽屉里。", "exchanged"),
        ("请把表交到二楼财务室。", "表交到哪里?", "表交二楼的财务室就行。", "ok"),
        ("Bring the tent, a stove and your own cup.", "What do I bring?", "Bring the tent and a stove.", "missing"),
        ("Bring the tent, a stove and your own cup.", "What do I bring?", "- your cup\n- a stove\n- the tent", "ok"),
        ("店里有绿茶、红茶和花茶。", "有什么茶?", "店里有绿茶和花茶。", "missing"),
        ("带学生证和借书证来。", "要带什么?", "带借书证来。", "missing"),
        ("The rope is 33 feet long.", "How long is the rope?", "About 10 metres.", "ok"),
        ("The rope is 33 feet long.", "How long is the rope?", "About 12 metres.", "wrong"),
        ("A session takes 60 minutes.", "How long?", "A session takes 61 minutes.", "wrong"),
        ("It costs 30 Swiss francs.", "What does it cost?", "It costs 30 euros.", "wrong"),
        ("每次两块五。", "多少钱?", "2.5元一次。", "ok"),
        ("要等三刻钟。", "等多久?", "45分钟。", "ok"),
        ("The bar is closed on Mondays.", "When is the bar open?", "The bar is open on Mondays.", "opposite"),
        ("The bar is closed on Mondays.", "When is the bar closed?", "Every Monday.", "ok"),
        ("Ann waters the roses, Ben feeds the hens.", "Who does what?",
         "Ben waters the roses, Ann feeds the hens.", "swapped"),
        ("Ann waters the roses, Ben feeds the hens.", "Who does what?",
         "Ben feeds the hens, Ann waters the roses.", "ok"),
        ("可以换一次,提前3天申请。", "能换吗?", "可以换三次,提前3天申请。", "wrong"),
        ("The guard opens the box. We call you at once.", "What then?",
         "The guard opens the box. It goes to the shelf.", "missing"),
        ("先关总阀，再拆软管，最后装新的。", "怎么换？", "先关总阀，最后装新的。", "missing"),
        ("Rent is 200 euros a month, a bike 5 euros a day.", "Prices?",
         "Rent is 200 euros a month, a bike 5 euros a month.", "wrong"),
        ("The fee is 2 euros per person and day.", "Fee?", "The fee is 2 euros per person and week.", "wrong"),
        ("In spring it is 30 euros, otherwise 20.", "Price?", "In spring it is 20 euros, otherwise 30.", "swapped"),
        ("米和水的比例是1:2。", "比例?", "米和水1比2。", "ok"),
        ("米和水的比例是1:2。", "比例?", "米和水的比例是2:1。", "wrong"),
        ("身高1.4米以下免票。", "谁免票?", "一米四以下不用付钱。", "ok"),
        ("We keep half of the price.", "What do you keep?", "We keep 50% of the price.", "ok"),
        ("You get 50% back.", "What do I get back?", "You get 30% back.", "wrong"),
        ("It is on the ground floor.", "Where?", "It is on the first floor.", "wrong"),
        ("Book it up to 7 days ahead.", "When?", "Book it up to a week ahead.", "ok"),
        ("A ride takes an hour.", "How long?", "A ride takes 60 minutes.", "ok"),
        ("Change the filter of the pump once per quarter.", "How often?",
         "Change the filter every three months.", "ok"),
        ("Entry is free.", "What is entry?", "You don't pay for entry.", "ok"),
        ("Dogs on a lead are welcome.", "Are dogs welcome?", "Yes, dogs are welcome on a lead.", "ok"),
        ("No, we do not fix phones.", "Do you fix phones?", "I'm afraid not.", "ok"),
        ("分为厨余垃圾、有害垃圾和其他垃圾。", "怎么分?", "分为厨余垃圾和其他垃圾。", "missing"),
        ("Change it every 90 days; it has 14 characters.", "How?",
         "Change it every 14 days; it has 90 characters.", "wrong"),
    ],
)  # fmt: skip
def test_what_a_customer_would_call_wrong_is_found_by_its_kind(
    reference: str, question: str, answer: str, code: str
) -> None:
    judge = Judge([Reference(question, reference), Reference("Who wrote it?", "A neighbour from the village did.")])
    assert judge.score(0, answer).code == code
