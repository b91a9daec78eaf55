"""Does an answer say yes where its reference says no? Denial by clause and by the first word; `compare` asks."""

from __future__ import annotations

import re

from finetune.verify.judge.text import PLACE, stem


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# Words with a `not` in them that deny nothing, or that bound a number
_HARMLESS = _any(
    r"\bnot only\b",
    r"(?:\b(?:no|not|never)|n't)(?: \w+)?? (?:more|less|\w+er than|exceed\w*)\b",
    r"\bno (?:problem|worries|doubt|matter)\b|(?:toll|hands)-free",
    r"\b(?:don't|do not) (?:worry|hesitate|forget)\b|\bnot (?:sure|certain) (?:if|whether)\b|\bif not\b|\bor not\b",
    r"不(?:能|可以?|得|应|要|准)(?:超过|超出|高于|多于|大于|晚于|迟于|少于|低于|小于|早于)",
    r"不[超多少满足到低高大小晚早迟]于?[过于到]?|不[仅但只论管过同久妨错断良限]|不好意思|不客气|不[用必](?:谢|担心|客气)",
    # a condition or a part of a noun: `没有电梯的话`, `未拆封的商品`, `不到7天就…`
    r"[不没未无](?![需用必要能可会得许准])[^,。;\s]{1,8}?(?:的|时(?![间候段])|(?=可以|请|需要|必须|[就则便要得]))",
    r"(?P<v>[有能是会可要用该行])[不没](?P=v)",
    r"差不多|无(?:理由|线|论|需担心|忧|障碍)|没(?:关系|问题|事)|对不起|要不|未[来满足]|未成年|非常|莫非|除非",
    r"别(?:人|的|处|名|墅)|特别|级别|分别|区别|类别|性别|个别",
)
# `21:00关门` says until when, not that it is closed
_CLOSED_ZH = rf"休息|[店公]休(?!息)|[停歇休]业|停诊|闭馆|(?<![点分{PLACE}])(?:关门|打烊)"
_DENIAL = _any(
    r"\b(?:not|cannot|no|never|neither|nor|nothing|none|nobody|without|impossible)\b|n't\b",
    r"\b(?:keep|stay) (?:out|away|off|clear)\b|\b(?:avoid|ignor)\w*",
    r"\b(?:refus\w*|declin\w*|unless|except|(?:everything|everyone|anything|all) but)\b|(?<=\bnothing )but\b",
    r"\b(?:closed|shut|forbidden|prohibited|banned|exclud(?:ed|es|ing)|invalid|inactive|expired)\b|(?<=\w-)free\b",
    rf"{_CLOSED_ZH}|失效|过期",
    r"\bun(?:used|paid|opened|worn|damaged|limited|necessary|available|able|licensed|insured)\b",
    r"不|没|无|未|勿|别|非|除(?!湿|尘|夕)|禁止|暂停|停止|避免|忽略|严禁|谢绝|拒绝",
)
# Pairs that say the opposite of each other in the same clause; none of them has a word of _DENIAL in it
_PAIRS = [
    (_any(one), _any(other))
    for one, other in (
        (
            r"\b(?:before|prior to|until|ahead|beforehand|in advance)\b|[以之]?前",
            r"\b(?:after|afterwards|later)\b|[以之]?后",
        ),
        (r"\b(?:compulsory|mandatory|obligatory|required)\b|必须|强制", r"\b(?:optional|voluntary)\b|可选|自愿|选填"),
        (r"\binclud(?:ed|es|ing)\b|包含|(?<!不)含", r"\b(?:plus|extra)\b|另[外行]?[收付计]|自理"),
        (
            r"\bat least\b|\bminimum\b|\bor (?:older|more)\b|至少|最少|不少于|不低于|以上",
            r"\bat most\b|\bmaximum\b|\bup to\b|至多|最多|不超过|不能超过|不高于|以下",
        ),
        (r"\bleft(?= (?:side|hand|button|door|of)\b)|左", r"\bright(?= (?:side|hand|button|door|of)\b)|右"),
        (r"买家|买方|顾客", r"卖家|卖方|商家"),
        (
            r"\b(?:more|above|over)\b|(?<!不)(?:多于|高于|大于|超过)",
            r"\b(?:less|below|under)\b|(?<!不)(?:少于|低于|小于)",
        ),
        (r"\bonline\b|线上|在线", r"\b(?:offline|in person)\b|线下|离线"),
        (r"\b(?:enabled?|(?:turn|switch)(?:ed)? on)\b|开启|打开", r"\b(?:disabled?|(?:turn|switch)(?:ed)? off)\b|关闭"),
    )
]
# Words that only say that a thing can be had or done
_WORDS = (
    "allowed permitted welcome accepted accept offer offered possible available have need needed provide do use used "
    "either too even"
)
LIGHT = frozenset(map(stem, _WORDS.split())) | frozenset("支持接受允许提供需行用法收还暂目前现")
_POLITE = re.compile(
    r"^(?:(?:亲爱的(?:用户|客户|顾客)?|亲|您好|你好|非常抱歉|很?抱歉|不好意思|对不起|感谢您的?\w{0,4}"
    r"|hello|hi|dear customer|(?:(?:i'?m|i am|we'?re|we are) )?(?:sorry|afraid)|unfortunately"
    r"|thank you(?: for \w+(?: \w+){0,3})?"
    r"|(?:good|great) question)[,.!~、。:，！：\s]*)+",
    re.IGNORECASE,
)
_VERBS = (
    "可以|可(?![能是爱])|能够|能(?![量源力])|支持|有(?![效时些限])|需要|需(?!求)|要(?![是求])|是(?!否)|会(?![员议计])|允许"
    "|行(?=[的,。吧!]|$)|接受|提供|包含|包括|必须"
)
_YES = _any(
    r"(?:yes|yeah|yep|yup|sure|certainly|absolutely|of course|definitely|correct|indeed)\b",
    rf"当然|好的|对的|是的|没问题|{_VERBS}",
)
_NO = _any(
    r"(?:nope|no|not(?=[,.!;]|$))\b"
    r"(?!\s+(?:later|earlier|more|less|older|longer|need|problem|worries|\w+ (?:is|are|was) ))",
    r"否|不(?!超|仅|但|好意思|客气|过|少|满|同|限|管|论)|没有|没(?!关系|问题|事)|无法|无需(?!担心)|暂[不无]|禁止",
)
_REFUSAL = _any(
    r"\bas an? (?:ai|artificial|language)|\bi(?:'m| am) (?:just |only )?an? (?:ai|language|artificial)",
    r"\bi(?:'m| am)? (?:not sure|unable)\b",
    r"\bi (?:do not|don't|cannot|can't|could not|couldn't) (?:have|know|provide|help|answer|find|access|assist)",
    r"人工智能|语言模型|AI助手|我不(?:知道|清楚|确定|太清楚)|没有相关(?:信息|资料)",
    r"我?(?:无法|不能)(?:提供|回答|获取|访问|查询|确定|帮助)",
)


def plain(text: str) -> str:
    """A text without the greeting or apology that it begins with."""
    return _POLITE.sub("", text.strip()).lstrip(" ,.!:;'\"-，！：")


def lead(text: str) -> int:
    """What the first word says: 1 yes, -1 no, 0 neither; greetings and apologies are skipped."""
    text = plain(text)
    if _NO.match(text) and not _HARMLESS.match(text):
        return -1
    return 1 if _YES.match(text) else 0


_WHAT = _any(
    r"(?:^|[.!?,] ?)(?:(?:and|but|so|at|in|from|for|to|on) )*(?:how|what|when|where|who|whom|whose|which|why)\b[^.!]*$",
    r"(?:怎么|什么|哪|几|多[少久长大远]|谁|为何|如何)[^吗]*$",
)


def asks_what(question: str) -> bool:
    """Whether a question asks for something else than yes or no."""
    return _WHAT.search(question.strip()) is not None


def denials(clause: str) -> int:
    """How many words of a clause deny something."""
    clause = re.sub(r"不([^不,。]{1,2})不(?=[^不,。])", r"不\1", clause)  # 不退不换
    clause = re.sub(r"\bneither\b(.*?)\bnor\b", r"not \1", _HARMLESS.sub(" ", clause), flags=re.IGNORECASE)
    return len(_DENIAL.findall(clause))


def affirmed(text: str) -> list[str]:
    """What stands before, between and behind the words that deny."""
    return _DENIAL.split(_HARMLESS.sub(" ", text))


ONLY = _any(
    r"\b(?:only|except|unless|other than|apart from|instead|(?:everything|everyone|anything|all|nothing) but)\b",
    r"只|仅|除(?!外)|才",
)


def without_denials(words: frozenset[str]) -> frozenset[str]:
    """Tokens less those that deny."""
    return frozenset(word for word in words if not _DENIAL.search(word))


def opposed(reference: str, answer: str) -> bool:
    """Whether one of a pair of opposites stands in each of two clauses about the same thing; where one of them denies
    it, they agree (`not optional`, `compulsory`)."""
    if ONLY.search(reference) or ONLY.search(answer):
        return False  # `only for listed buildings` and `not unless it is one`: beyond counting
    flips = 0
    for one, other in _PAIRS:
        a, b = (one.search(reference), other.search(reference)), (one.search(answer), other.search(answer))
        if (a[0] and not a[1] and b[1] and not b[0]) or (a[1] and not a[0] and b[0] and not b[1]):
            flips += 1
    return flips % 2 == 1 and (denials(reference) + denials(answer)) % 2 == 0


def poles(text: str) -> list[str]:
    """The words of a text that have an opposite: optional, before, 提前."""
    return [match.group() for pair in _PAIRS for side in pair for match in side.finditer(text)]


_COLOURS = _any(
    r"\b(?:black|white|gr[ae]y|red|green|blue|yellow|orange|purple|pink|brown|silver|golden)\b",
    r"[黑白灰红绿蓝黄橙紫粉棕银金]色",
)


def colours(text: str) -> list[str]:
    """The colours that a text names, which tell things apart."""
    return _COLOURS.findall(text)


def refuses(text: str) -> bool:
    """Whether a text declines to answer, as chat models do."""
    return _REFUSAL.search(text) is not None
