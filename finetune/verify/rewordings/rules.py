"""Simple rewordings by rules, in Chinese and English, for where the base model makes none: other openings, other words.

They are nearer to the question than a customer's words would be, and the report says that rules made them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.verify.sets.rows import language

# (what a question begins with, what it may begin with instead); `{}` is the rest of the question.
OPENINGS_EN = [
    (r"how (?:do|can|could|should) (?:i|we|you) (.+)", "What is the way to {}?", "I want to {}. What do I have to do?"),
    (r"how long (?:does|do|will|would) (.+)", "How much time does {}?", "I'd like to know how long {}."),
    (r"how much (?:does|do) it cost to (.+)", "What is the price if I want to {}?", "What would I pay to {}?"),
    (r"how much (?:does|do) (.+?) cost", "What is the price of {}?", "What would I pay for {}?"),
    (r"how much (?:is|are) (.+)", "What would I pay for {}?", "I would like to know the price of {}."),
    (r"how many (.+)", "What is the number of {}?", "I need to know how many {}."),
    (r"(?:can|could|may|am i able to) (?:i|we) (.+)", "Is it possible to {}?", "Would I be allowed to {}?"),
    (r"(?:do|does) (?:you|your \w+) (.+)", "Is it true that you {}?", "I wonder whether you {}."),
    (r"(?:can|could|will|would) you (.+)", "Is it possible for you to {}?", "I'd like you to {}. Does that work?"),
    (r"(?:is|are) there (.+)", "Do you have {}?", "I am looking for {}. Does it exist?"),
    (r"(?:what's|what is|what are|what was) (.+)", "Could you tell me {}?", "I'd like to know {}."),
    (r"(?:where is|where are|where's) (.+)", "In which place would I find {}?", "I am trying to find {}."),
    (r"where (?:can|do|could|should) (?:i|we|you) (.+)", "In which place do I {}?", "Tell me the place to {}."),
    (r"when (?:do|can|will) (i|we|you)(.+)", "I'd like to know when {}.", "At what time would that be, when {}?"),
    (r"when (?:is|are) (.+)", "What is the time of {}?", "Tell me the time of {}."),
    (r"who (?:is|are) (.+)", "Could you tell me the name of {}?", "I need to know who {} is."),
    (r"who (.+)", "Which person {}?", "Tell me the name of the one who {}."),
    (r"which (.+)", "Tell me which {}.", "I need to know: which {}?"),
    (r"why (.+)", "For what reason {}?", "Explain to me why {}."),
]  # fmt: skip
OPENINGS_ZH = [
    (r"(?:请问)?(?:如何|怎样|怎么|怎么样)(.+)", "想{}该怎么做?", "{}的方法是什么?"),
    (r"(?:请问)?(.+?)(?:是什么|是啥)", "什么是{}?", "能说说{}吗?"),
    (r"(?:请问)?(.+?)(?:在哪里|在哪儿|在哪)", "{}位于什么地方?", "去哪儿能找到{}?"),
    (r"(?:请问)?(.+?)(?:是多少|多少钱|要多少钱)", "{}具体是多少呢?", "告诉我{}的数目。"),
    (r"(?:请问)?(?:是否可以|可以|可不可以|能不能|能否|能)(.+?)吗?", "{}行不行?", "我想{},可以做到吗?"),
    (r"(?:请问)?(.+?)(?:吗|么)", "是不是{}?", "我想确认一下:{},对吗?"),
    (r"(?:请问)?(?:什么时候|何时|几点)(.+)", "{}是在什么时间?", "{}的时间是?"),
    (r"(?:请问)?(?:为什么|为何)(.+)", "{},原因是什么?", "{}是怎么回事?"),
    (r"(?:请问)?(?:谁|哪位)(.+)", "{}的人是谁?", "是哪一位{}?"),
]
FRAMES_EN = ("Hi, quick question: {}", "I have a question. {}", "Can you help me with this? {}", "Please tell me: {}")
FRAMES_ZH = ("你好,想问一下,{}", "麻烦问下:{}", "我有个问题,{}", "请告诉我,{}")
# Words with another that says much the same to a customer: whole words, all that stand in a question are exchanged.
WORDS_EN = [
    ("opening hours", "business hours"), ("phone number", "telephone"), ("email address", "e-mail"),
    ("sign up", "register"),
    ("customer service", "support team"), ("flat tyre", "puncture"), ("gift card", "voucher"),
    ("credit card", "bank card"),
    ("log in", "sign in"), ("too late", "after the deadline"), ("bring back", "return"), ("return", "bring back"),
    ("purchase", "buy"), ("buy", "purchase"), ("price", "cost"), ("refund", "money back"),
    ("delivery", "shipment"), ("deliver", "ship"), ("ship", "deliver"), ("cancel", "call off"), ("change", "modify"),
    ("contact", "reach"), ("email", "e-mail"),
    ("order", "purchase"), ("warranty", "guarantee"), ("guarantee", "warranty"), ("repair", "fix"), ("fix", "repair"),
    ("discount", "reduced price"), ("discounts", "reduced prices"), ("invoice", "bill"), ("account", "profile"),
    ("start", "begin"), ("begin", "start"), ("end", "finish"), ("employees", "staff"), ("staff", "employees"),
    ("holiday", "vacation"), ("vacation", "holiday"), ("free", "at no charge"), ("booking", "reservation"),
    ("reservation", "booking"), ("book", "reserve"), ("rent", "hire"), ("bike", "bicycle"), ("car", "vehicle"),
    ("deposit", "security payment"), ("documents", "papers"), ("stolen", "taken by a thief"), ("insured", "covered"),
    ("late", "behind time"), ("children", "kids"), ("child", "kid"), ("students", "people at university"),
    ("offer", "have"), ("help", "assist"), ("problem", "trouble"), ("broken", "defective"), ("send", "mail"),
    ("receive", "get"), ("shop", "store"), ("store", "shop"), ("address", "postal address"), ("meeting", "appointment"),
    ("appointment", "date"), ("salary", "wages"), ("doctor", "physician"), ("train", "railway"), ("big", "large"),
    ("happens", "are the consequences"), ("need", "require"), ("allowed", "permitted"), ("min", "minute"),
]  # fmt: skip
# A question as people type it into a search box: its first words stand behind it as one word, the small words go.
ASKED_EN = [
    (r"how much (?:does|do|is|are|would)", "price"), (r"how long (?:does|do|will|is|can)", "duration"),
    (r"how many", "number"), (r"how old", "age"), (r"how often", "how often"), (r"how", "way"), (r"when", "time"),
    (r"until when", "latest time"), (r"where", "place"), (r"who", "name"), (r"why", "reason"),
    (r"(?:can|could|may|is it possible|am i allowed|are we allowed)", "possible"),
    (r"(?:do|does|is|are|will)", "yes or no"), (r"(?:what's|what|which)", "info"),
]  # fmt: skip
SMALL_EN = re.compile(
    r"\b(?:a|an|the|do|does|did|is|are|was|were|be|will|would|can|could|should|i|you|we|my|your|our|me|us|it|there|to|of|"
    r"for|have|has|if|what|which|should)\b\s*",
    re.IGNORECASE,
)
WORDS_ZH = [
    ("购买", "买"), ("价格", "价钱"), ("多少钱", "什么价"), ("退货", "把东西退回去"), ("退款", "退钱"),
    ("配送", "送货"), ("发货", "寄出"), ("快递", "物流"),
    ("取消", "撤销"), ("修改", "改"), ("营业时间", "开门时间"), ("联系", "找到"),
    ("电话", "电话号码"), ("邮箱", "电子邮件"), ("支付", "付款"), ("付款", "支付"), ("保修", "质保"), ("维修", "修理"),
    ("优惠", "折扣"), ("发票", "票据"), ("密码", "登录密码"), ("账号", "帐户"), ("开始", "启动"), ("员工", "职工"),
    ("假期", "休假"), ("免费", "不收钱"), ("地址", "位置"), ("需要", "得"),
]  # fmt: skip


def reword(question: str) -> list[str]:
    """Other wordings of a question."""
    text = question.strip()
    zh = language([text]) == "zh"
    bare = re.sub(r"[\s?？.。!！]+$", "", text)
    swapped = _swap(bare, WORDS_ZH if zh else WORDS_EN)
    found = _opened(swapped, bare, OPENINGS_ZH if zh else OPENINGS_EN)
    if not zh:
        found[1:1] = _typed(swapped)
    asked = swapped + (text[-1:] if text[-1:] in "?？" else "")
    if swapped != bare:
        found.append(asked)
    found += [frame.format(words) for words in (asked, text) for frame in (FRAMES_ZH if zh else FRAMES_EN)]
    return list(dict.fromkeys(map(_articles, found)))


def _articles(text: str) -> str:
    """`a` and `an` as the word behind them wants it, which may have been exchanged."""
    text = re.sub(r"\b([Aa])n (?=[bcdfghjklmnpqrstvwxz])", r"\1 ", text)
    return re.sub(r"\b([Aa]) (?=[aei])", r"\1n ", text)


def _opened(swapped: str, bare: str, openings: Sequence[tuple[str, ...]]) -> list[str]:
    """The question behind other first words, first with its other words exchanged as well."""
    for pattern, *forms in openings:
        found = []
        for base in dict.fromkeys((swapped, bare)):
            matched = re.fullmatch(pattern, base, re.IGNORECASE)
            if matched:
                found += [form.format("".join(matched.groups()).strip()) for form in forms]
        if found:
            return found
    return []


def _typed(text: str) -> list[str]:
    """An English question as it is typed into a search box; none where too little of it would be left."""
    for pattern, word in ASKED_EN:
        matched = re.match(rf"{pattern}\b\s*", text, re.IGNORECASE)
        if matched:
            rest = SMALL_EN.sub("", text[matched.end() :]).strip()
            return [f"{rest}, {word}?"] if len(rest.split()) >= 2 else []
    return []


def _swap(text: str, words: Sequence[tuple[str, str]]) -> str:
    """All words of the table exchanged, each once and none of those that were put in."""
    table = {old.lower(): new for old, new in words}
    start, end = ("", "") if ord(words[0][0][0]) > 127 else (r"\b", r"\b(?!['’])")  # not in `children's`
    longest_first = sorted(table, key=len, reverse=True)
    pattern = re.compile(f"{start}(?:{'|'.join(map(re.escape, longest_first))}){end}", re.IGNORECASE)
    return pattern.sub(lambda found: table[found[0].lower()], text)
