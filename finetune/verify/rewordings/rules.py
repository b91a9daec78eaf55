"""Simple rewordings by rules, in Chinese and English, where the base model writes none: other openings, other words.

They are nearer to the question than a customer's words would be, and the report says that rules made them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.verify.sets.rows import language

# (what a question begins with, what it may begin with instead); {0} is the rest of the question, {1} and {2} its parts.
OPENINGS_EN = [
    (r"how old (?:must|do|should) (?:i|we|you|one) (?:have to )?be to (.+)", "From what age can one {0}?",
     "My daughter wants to {0}. Is she old enough?"),
    (r"how old (?:is|are) (.+)", "What is the age of {0}?", "From which year is {0}?"),
    (r"how (?:fast|quick) (?:is|are) (.+)", "What speed has {0}?", "Is {0} slow?"),
    (r"how many (.+?) (?:does|do) (.+?) have", "What number of {1} is there on {2}?", "{2}, with how many {1}?"),
    (r"how long does (.+?) (?:last|take)", "What is the duration of {0}?",
     "How many hours do I have to reckon with for {0}?"),
    (r"what happens (?:if|when|once) (.+)", "Suppose {0}. What are the consequences?",
     "I am afraid that {0}. What then?"),
    (r"what (?:should|can|do|must) i do (?:if|when) (.+)", "Suppose {0}. Who helps me?", "Help, {0}! What now?"),
    (r"do i (?:have|need) to (.+)", "Must I {0}?", "Is it necessary for me to {0}?"),
    (r"do you (?:offer|have|sell|provide|rent|rent out) (.+)", "I am looking for {0}. Can I get that from you?",
     "Would {0} be available?"),
    (r"(?:is|are) ((?:the|a|an|my|your) \w+) (\w+)", "I wonder about {1}: {2} or not?",
     "Can I count on {1} being {2}?"),
    (r"(?:is|are) (?!there\b)(\w+) (\w+)", "I wonder about {1}: {2} or not?", "Can I count on {1} being {2}?"),
    (r"how (?:do|can|could|should) (?:i|we|you) (.+)", "What is the way to {0}?", "I want to {0}. What are the steps?"),
    (r"how long (?:does|do|will|would) (.+)", "How much time does {0}?", "I'd like to know how long {0}."),
    (r"how much (?:does|do) it cost to (.+)", "What is the price if I want to {0}?", "What would I pay to {0}?"),
    (r"how much (?:does|do) (.+?) cost", "What is the price of {0}?", "What would I pay for {0}?"),
    (r"how much (?:is|are) (.+)", "What would I pay for {0}?", "I would like to know the price of {0}."),
    (r"how many (.+)", "What is the number of {0}?", "I need to know how many {0}."),
    (r"(?:can|could|may|am i able to) (?:i|we) (.+)", "Is it possible to {0}?", "Would I be allowed to {0}?"),
    (r"(?:do|does) (?:you|your \w+) (.+)", "Is it true that you {0}?", "I wonder whether you {0}."),
    (r"(?:can|could|will|would) you (.+)", "Is it possible for you to {0}?", "I'd like you to {0}. Does that work?"),
    (r"(?:is|are) there (.+)", "Do you have {0}?", "I am looking for {0}. Does it exist?"),
    (r"(?:what's|what is|what are|what was) (.+)", "Could you tell me {0}?", "I'd like to know {0}."),
    (r"(?:where is|where are|where's) (.+)", "In which place would I find {0}?", "I am trying to find {0}."),
    (r"where (?:can|do|could|should) (?:i|we|you) (.+)", "In which place do I {0}?", "Tell me the place to {0}."),
    (r"when (?:do|can|will) (i|we|you)(.+)", "I'd like to know when {0}.", "At what time would that be, when {0}?"),
    (r"when (?:is|are) (.+)", "What is the time of {0}?", "Tell me the time of {0}."),
    (r"who (?:is|are) (.+)", "Could you tell me the name of {0}?", "I need to know who {0} is."),
    (r"who (.+)", "Which person {0}?", "Tell me the name of the one who {0}."),
    (r"which (.+)", "Tell me which {0}.", "I need to know: which {0}?"),
    (r"why (.+)", "For what reason {0}?", "Explain to me why {0}."),
]  # fmt: skip
OPENINGS_ZH = [
    (
        r"(?:请问)?(.+?)(?:怎么|如何|怎样)(办|开|交|退|领|取|用|换|改|查|付|寄|报|修|退款|办理|申请|取消|使用|预约)",
        "{2}{1}需要什么步骤?",
        "想{2}{1},该找哪里?",
    ),
    (r"(?:请问)?(.+?)几点(.+)", "{1}{2}的时间是?", "最早什么时候{1}会{2}?"),
    (r"(?:请问)?(.+?)(?:什么时候|何时)(.+)", "还要等多久{1}才{2}?", "{1}{2}是哪天?"),
    (r"(?:请问)?(.+?)要?多少钱(.+)", "{1}{2}什么价?", "办{1},{2}得花多少?"),
    (r"(?:请问)?(.+?)(?:要|需要)?多久(.*)", "{1}{2}得等多长时间?", "{1}{2}快不快,要几天?"),
    (r"(?:请问)?(.+?)有(.+?)吗", "{1}能享受到{2}吗?", "听说{1}有{2},是真的吗?"),
    (r"(?:请问)?(?:如何|怎样|怎么|怎么样)(.+)", "想{0}该怎么做?", "{0}的方法是什么?"),
    (r"(?:请问)?(.+?)(?:是什么|是啥)", "什么是{0}?", "能说说{0}吗?"),
    (r"(?:请问)?(.+?)(?:在哪里|在哪儿|在哪)", "{0}位于什么地方?", "去哪儿能找到{0}?"),
    (r"(?:请问)?(.+?)(?:是多少|多少钱|要多少钱)", "{0}具体是多少呢?", "麻烦告诉我{0}。"),
    (r"(?:请问)?(?:是否可以|可以|可不可以|能不能|能否|能)(.+?)吗?", "{0}行不行?", "我想{0},可以做到吗?"),
    (r"(?:请问)?(.+?)(?:吗|么)", "是不是{0}?", "我想确认一下:{0},对吗?"),
    (r"(?:请问)?(?:什么时候|何时|几点)(.+)", "{0}是在什么时间?", "{0}的时间是?"),
    (r"(?:请问)?(?:为什么|为何)(.+)", "{0},原因是什么?", "{0}是怎么回事?"),
    (r"(?:请问)?(?:谁|哪位)(.+)", "{0}的人是谁?", "是哪一位{0}?"),
]
FRAMES_EN = ("Hi, quick question: {}", "I have a question. {}", "Can you help me with this? {}", "Please tell me: {}")
FRAMES_ZH = ("你好,想问一下,{}", "麻烦问下:{}", "我有个问题,{}", "请告诉我,{}")
# Words and what means much the same to a customer: whole words; all that occur in a question are exchanged.
WORDS_EN = [
    ("opening hours", "business hours"), ("phone number", "telephone"), ("email address", "e-mail"),
    ("sign up", "register"), ("customer service", "support team"), ("flat tyre", "puncture"),
    ("gift card", "voucher"), ("credit card", "bank card"), ("log in", "sign in"), ("too late", "after the deadline"),
    ("bring back", "return"), ("return", "bring back"), ("purchase", "buy"), ("buy", "purchase"), ("price", "cost"),
    ("refund", "money back"), ("delivery", "shipment"), ("deliver", "ship"), ("ship", "deliver"),
    ("cancel", "call off"), ("change", "modify"), ("contact", "reach"), ("email", "e-mail"), ("order", "purchase"),
    ("warranty", "guarantee"), ("guarantee", "warranty"), ("repair", "fix"), ("fix", "repair"),
    ("discount", "reduced price"), ("discounts", "reduced prices"), ("invoice", "bill"), ("account", "profile"),
    ("start", "begin"), ("begin", "start"), ("end", "finish"), ("employees", "staff"), ("staff", "employees"),
    ("holiday", "vacation"), ("vacation", "holiday"), ("free", "at no charge"), ("booking", "reservation"),
    ("reservation", "booking"), ("book", "reserve"), ("rent", "hire"), ("bike", "bicycle"), ("car", "vehicle"),
    ("deposit", "security payment"), ("documents", "papers"), ("stolen", "taken by a thief"), ("insured", "covered"),
    ("late", "behind time"), ("children", "kids"), ("child", "kid"), ("students", "people at university"),
    ("offer", "have"), ("help", "assist"), ("problem", "trouble"), ("broken", "defective"), ("send", "mail"),
    ("receive", "get"), ("shop", "store"), ("store", "shop"), ("address", "postal address"),
    ("meeting", "appointment"), ("appointment", "date"), ("salary", "wages"), ("doctor", "physician"),
    ("train", "railway"), ("big", "large"), ("included", "part of the price"), ("per day", "daily"),
    ("per month", "monthly"), ("battery", "accumulator"), ("password", "access code"),
    ("meeting room", "conference room"), ("guided tour", "tour with a guide"), ("guided tours", "tours with a guide"),
    ("event", "activity"), ("forgot", "cannot remember"), ("lost", "mislaid"), ("lose", "mislay"), ("closed", "shut"),
    ("membership", "subscription"), ("guest", "visitor"), ("guests", "visitors"), ("wi-fi", "wireless network"),
    ("internet", "connection"), ("document", "file"), ("building", "house"), ("groups", "several people"),
    ("car park", "place for my car"), ("desk", "place to work"), ("size", "dimensions"), ("form", "sheet"),
    ("apply", "put in a request"), ("application", "request"), ("update", "bring up to date"), ("install", "set up"),
    ("download", "get onto my computer"), ("delete", "remove"), ("remove", "take away"), ("add", "put in"),
    ("ticket", "entry card"), ("tickets", "entry cards"), ("fee", "charge"), ("fees", "charges"), ("company", "firm"),
    ("manager", "boss"), ("exchange", "swap"), ("package", "parcel"), ("parcel", "package"), ("arrive", "get here"),
    ("track", "follow"), ("damaged", "broken"), ("missing", "not there"), ("accept", "take"), ("speak to", "talk to"),
    ("lesson", "class"), ("course", "class"), ("exam", "test"), ("early", "ahead of time"),
    ("menu", "list of dishes"), ("safe", "secure"), ("fast", "quick"), ("cheap", "low in price"),
    ("expensive", "high in price"), ("available", "to be had"), ("happens", "are the consequences"),
    ("need", "require"), ("allowed", "permitted"), ("min", "minute"),
]  # fmt: skip
# A question as people type it into a search box: its first words become one word at the end, the small words go.
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
    ("配送", "送货"), ("发货", "寄出"), ("快递", "物流"), ("取消", "撤销"), ("修改", "改"), ("营业时间", "开门时间"),
    ("联系", "找到"), ("电话", "电话号码"), ("邮箱", "电子邮件"), ("支付", "付款"), ("付款", "支付"),
    ("保修", "质保"), ("维修", "修理"), ("优惠", "折扣"), ("发票", "票据"), ("密码", "登录密码"), ("账号", "帐户"),
    ("开始", "启动"), ("员工", "职工"), ("假期", "休假"), ("免费", "不收钱"), ("地址", "位置"), ("需要", "得"),
    ("开门", "开始营业"), ("关门", "打烊"), ("会员卡", "会员"), ("停车场", "停车的地方"), ("宠物", "小动物"),
    ("预约", "约好的时间"), ("运费", "邮费"), ("客服", "工作人员"), ("忘记", "想不起来"), ("丢了", "找不到了"),
    ("丢失", "弄丢"), ("办理", "弄"), ("申请", "提交"), ("报名", "登记参加"), ("报销", "把钱报回来"),
    ("学费", "上课的费用"), ("费用", "花销"), ("押金", "保证金"), ("安装", "装上"), ("下载", "弄到电脑里"),
    ("升级", "换到新版本"), ("删除", "去掉"), ("坏了", "用不了"), ("换货", "换一个"), ("儿童", "小朋友"),
    ("孩子", "小朋友"), ("老人", "上了年纪的人"), ("学生", "还在念书的人"), ("早餐", "早上的饭"), ("房间", "屋子"),
    ("入住", "住进去"), ("退房", "离店"), ("课程", "课"), ("老师", "任课的人"),
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
    return list(dict.fromkeys(map(articles, found)))


def articles(text: str) -> str:
    """`a` and `an` as the word behind them wants it, which may have been exchanged."""
    text = re.sub(r"\b([Aa])n (?=[bcdfghjklmnpqrstvwxz])", r"\1 ", text)
    return re.sub(r"\b([Aa]) (?=[aei])", r"\1n ", text)


def _opened(swapped: str, bare: str, openings: Sequence[tuple[str, ...]]) -> list[str]:
    """The question with other first words, first with its other words exchanged as well."""
    for pattern, *forms in openings:
        found = []
        for base in dict.fromkeys((swapped, bare)):
            matched = re.fullmatch(pattern, base, re.IGNORECASE)
            if matched:
                parts = [part.strip() for part in matched.groups()]
                found += [_capital(form.format("".join(matched.groups()).strip(), *parts)) for form in forms]
        if found:
            return found
    return []


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


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
