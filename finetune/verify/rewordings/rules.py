"""Simple rewordings by rules, in Chinese and English, for where the base model makes none: other openings, other words.

They are nearer to the question than a customer's words would be, and the report says that rules made them.
"""

from __future__ import annotations

import re

from finetune.verify.sets.rows import language

# (what a question begins with, what it may begin with instead); `{}` is the rest of the question.
OPENINGS_EN = [
    (r"how (?:do|can|could|should) (?:i|we|you) (.+)", "What is the way to {}?", "I want to {}. What do I have to do?"),
    (r"how long (?:does|do|will|would) (.+)", "How much time does {}?", "I'd like to know how long {}."),
    (r"how much (?:does|do|is|are) (.+)", "I would like to know the price: {}?", "What would I pay, {}?"),
    (r"how many (.+)", "What is the number of {}?", "I need to know how many {}."),
    (r"(?:can|could|may|am i able to) (?:i|we) (.+)", "Is it possible to {}?", "Would I be allowed to {}?"),
    (r"(?:do|does) (?:you|your \w+) (.+)", "Is it true that you {}?", "I wonder whether you {}."),
    (r"(?:can|could|will|would) you (.+)", "Is it possible for you to {}?", "I'd like you to {}. Does that work?"),
    (r"(?:is|are) there (.+)", "Do you have {}?", "I am looking for {}. Does it exist?"),
    (r"(?:what's|what is|what are|what was) (.+)", "Could you tell me {}?", "I'd like to know {}."),
    (r"(?:where is|where are|where's) (.+)", "In which place would I find {}?", "I am trying to find {}."),
    (r"where (?:can|do|could|should) (?:i|we|you) (.+)", "In which place do I {}?", "Tell me the place to {}."),
    (r"when (?:is|are|does|do|will|can) (.+)", "At what time: {}?", "Tell me the time: {}?"),
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
# Words with another that says the same to a customer; whole words, the first that fits is exchanged.
WORDS_EN = [
    ("purchase", "buy"), ("buy", "purchase"), ("price", "cost"), ("cost", "price"), ("refund", "money back"),
    ("return", "send back"), ("delivery", "shipment"), ("deliver", "ship"), ("ship", "deliver"), ("cancel", "call off"),
    ("change", "modify"), ("opening hours", "business hours"), ("contact", "reach"), ("phone number", "telephone"),
    ("email address", "e-mail"), ("email", "e-mail"), ("pay", "settle the bill"), ("order", "purchase"),
    ("warranty", "guarantee"), ("guarantee", "warranty"), ("repair", "fix"), ("discount", "reduced price"),
    ("invoice", "bill"), ("password", "login password"), ("account", "user account"), ("start", "begin"),
    ("employees", "staff"), ("holiday", "vacation"), ("vacation", "holiday"), ("free", "at no charge"),
]  # fmt: skip
WORDS_ZH = [
    ("购买", "买"), ("价格", "价钱"), ("多少钱", "什么价"), ("退货", "把东西退回去"), ("退款", "退钱"),
    ("配送", "送货"), ("发货", "寄出"), ("快递", "物流"),
    ("取消", "撤销"), ("修改", "改"), ("营业时间", "开门时间"), ("联系", "找到"),
    ("电话", "电话号码"), ("邮箱", "电子邮件"), ("支付", "付款"), ("付款", "支付"), ("保修", "质保"), ("维修", "修理"),
    ("优惠", "折扣"), ("发票", "票据"), ("密码", "登录密码"), ("账号", "帐户"), ("开始", "启动"), ("员工", "职工"),
    ("假期", "休假"), ("免费", "不收钱"), ("地址", "位置"), ("需要", "得"),
]  # fmt: skip


def reword(question: str, count: int) -> list[str]:
    """Up to `count` other wordings of a question, the most different first."""
    text = question.strip()
    zh = language([text]) == "zh"
    bare = re.sub(r"[\s??.。!!]+$", "", text)
    swapped = _swap(bare, WORDS_ZH if zh else WORDS_EN)
    found: list[str] = []
    for pattern, *forms in OPENINGS_ZH if zh else OPENINGS_EN:
        for base in dict.fromkeys((swapped, bare)):
            matched = re.fullmatch(pattern, base, re.IGNORECASE)
            if matched:
                found += [form.format(matched[1].strip()) for form in forms]
        if found:
            break
    end = "?" if text[-1:] in "??" else ""
    if swapped != bare:
        found.append(swapped + end)
    found += [frame.format(text) for frame in (FRAMES_ZH if zh else FRAMES_EN)]
    return list(dict.fromkeys(found))[:count]


def _swap(text: str, words: list[tuple[str, str]]) -> str:
    for old, new in words:
        bound = "" if ord(old[0]) > 127 else r"\b"
        changed = re.sub(f"{bound}{old}{bound}", new, text, count=1, flags=re.IGNORECASE)
        if changed != text:
            return changed
    return text
