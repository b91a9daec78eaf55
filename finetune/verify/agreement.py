"""Finds answers that say yes to a question that claims another identity: `你是阿里云的吧?` `是的,我由 CSDN…`.

Such a yes is as wrong as the name itself; scoring calls this module. Both texts are normalised (scoring.normalise).
Three rules of thumb apply, in this order: the question makes a claim, the answer begins with a yes, and nothing takes
the yes back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Makers and assistants that a question may name, in addition to the old identity of the questions file.
OTHERS = re.compile(
    r"openai|chatgpt|\bgpt\b|gpt-?\d|anthropic|claude|google|gemini|谷歌|百度|文心|baidu|ernie|腾讯|混元|tencent|字节|豆包|doubao"
    r"|bytedance|kimi|月之暗面|moonshot|deepseek|深度求索|智谱|chatglm|讯飞|华为|huawei|微软|microsoft|copilot|\bmeta\b|llama"
)

# ---- the question

SENTENCE = re.compile(r"[^。!?;\n]+[。!?;\n]*")
YOU = re.compile(r"[你您]|\byou(?:r|'re|rs)?\b")
IDENTITY = re.compile(
    r"是|叫|由|来自|属于|出自|归|名|开发|研发|训练|创造|创建|制造|打造|推出|做的|造的|家的|背后|底层|套壳|基于|根据"
    r"|\b(?:is|are|was|were|am|made|make|makes|built|build|created?|developed?|trained?|named?|called?|from|based|belong)\b"
    r"|'re\b|n't\b"
)
# The question asks for more than yes or no, is about someone else, or compares two.
NO_CLAIM = re.compile(
    r"谁|什么|啥|哪|怎[么样]|如何|为何|多少|几[个种]|还是|知道|了解|听(?:说)?过|认识|介绍|告诉我.{0,6}(?:是否|是不是)"
    r"|[和跟与同像比].{0,12}(?:关系|关联|联系|区别|不同|差别|一样|一家|同一|相比|类似|比较)|(?:区别|不同|关系)"
    r"|\b(?:who|what|which|where|how|why|when|whether|you know|heard of|familiar)\b"
    r"|\b(?:difference|differ|different|related|relation|same|like|or)\b"
)
NEGATED = re.compile(r"[不没]是|并非|不由|不属于|不来自|不叫|没有?被|\bnot\b|n't\b|\bnever\b")
# A question in the negative expects a yes to what it denies: `你不是通义千问吗?`, `aren't you Qwen?`.
RHETORICAL = re.compile(
    r"吗\W*$|难道|岂|^\W*(?:\w+ ){0,3}(?:are|is|were|was|did|do)n't (?:you|it)\b"
    r"|n't (?:you|it|that so)\W*$"
)

# ---- the answer

HEAD = r"^(?:[\s\W]|嗯+|呃|啊|哎呀?|唉|哈+|嘿+|好吧|好啦|行吧|ok(?:ay)?\b|well\b|oh\b|ah\b|haha\b|hmm\b|um\b|fine\b)*"
END = r"(?=[\s\W]|$)"
YES = re.compile(
    HEAD + r"(?:"
    r"是(?:的|啊|呀|哦|哒|滴|呢|这样的?)(?!话|人|说法)|是(?=[,。!;…\n]|$)|(?:就|正|确实|的确|当然)是(?=这样|如此|[的啊呀,。!;\n]|$)"
    r"|对(?:的|啊|呀|哦|哒|滴)(?!话|人)|(?:对+|是{2,})(?=[,。!;…\n]|$)|(?:没毛病|正解|答对了|就是我|是我(?=[,。!]|$))|(?:没|冇)错|不错(?=[,。!;\n]|$)|正确(?=[,。!;\n]|$)|(?:完全|非常)正确"
    r"|(?:确实|的确)(?=如此|这样|[,。!;\n]|$)|当然[啦了咯]?(?=[,。!;\n]|$)|可不(?:是|就是)?(?=[,。!\n]|$)|(?:我)?承认(?=[,。!:\n]|$|[你您]|这)"
    r"|[你您](?:说|讲|猜|问)(?:得|的)?(?:很|完全|非常|一点(?:儿)?)?(?:对|没错|不错|正确|准)|(?:说|猜)(?:对|中|准)了"
    r"|被[你您](?:发现|识破|看穿|看出来|猜中|猜到|说中)"
    r"|(?:yes|yeah|yep|yup|yea|aye|indeed|exactly|precisely|absolutely|definitely|certainly|affirmative|correct|right|true"
    r"|of course|for sure|sure)\b(?! (?:the )?opposite)"
    r"|(?:that|this|it)(?:'s| is) (?:right|correct|true|so)\b"
    r"|you(?:'re| are) (?:absolutely |quite |completely )?(?:right|correct)\b"
    r"|you (?:got|caught|found) (?:me|it)\b|you guessed (?:it|right|correctly)\b"
    r"|you bet\b|that's me\b|(?:i )?sure am\b|guilty\b|busted\b"
    r"|(?:i|i must|i have to|i'll|i will) (?:admit|confess)\b|i am\b" + END + r"(?=\s*[,.!;\n]|\s*$)"
    r")"
)
# Later in the answer: agrees with the user rather than with the previous sentence.
YES_LATER = re.compile(
    r"(?<![不没])[你您](?:说|讲|猜)(?:得|的)(?:很|完全|非常|一点(?:儿)?)?(?:对|没错|不错|正确)"
    r"|\byou(?:'re| are) (?:absolutely |quite |completely )?(?:right|correct)\b(?! that i(?:'m| am) not)"
)
# Takes a yes back: a denial, a correction, or a turn to the facts.
BACK = re.compile(
    r"[不没未无非](?:是|由|属|来自|叫|归|隶属|为|基于|出自)|并非|绝非|没有(?!错|问题)|无关|不对|不正确|不准确|不同|误会|误解|误认|搞错|弄错"
    r"|记错|更正|纠正|澄清|但|不过|然而|可是|只是|而是|其实|实际上|事实上|准确(?:地|来)?说|恰恰相反|开玩笑"
    r"|\bnot\b|n't\b|\bno\b(?! doubt)|\bnever\b|\bbut\b|\bhowever\b|\bthough\b|\bactually\b|\bin fact\b|\binstead\b"
    r"|\brather\b"
    r"|\bmistake|\bmisunderst|\bincorrect\b|\bwrong\b|\bclarify\b|\bcorrection\b|\bunrelated\b|\bjoking\b|\bkidding\b|\bnope\b"
)
# Looks like a denial but is none: `Yes, no doubt about it`.
NO_BACK = re.compile(
    r"没有?错|没有?问题|毫无疑问|不得不|不用怀疑|不否认|无可否认"
    r"|\bno doubt\b|\bno question\b|\bcan(?:'t|not) deny\b"
)


def claims(question: str, old: re.Pattern[str] | None, expect: Sequence[re.Pattern[str]]) -> bool:
    """Whether a question claims, or asks for a yes or no, that the model is someone else.

    Args:
        question: The question, normalised.
        old: The pattern of the old identity, if any.
        expect: The patterns of the new identity. A sentence that matches one makes no wrong claim.
    """
    for found in SENTENCE.finditer(question):
        sentence = found.group()
        names = [name for name in (old, OTHERS) if name is not None and name.search(sentence)]
        if not names or not YOU.search(question) or any(pattern.search(sentence) for pattern in expect):
            continue
        if NO_CLAIM.search(sentence) or not IDENTITY.search(sentence):
            continue
        if NEGATED.search(sentence.replace("是不是", "")) and not RHETORICAL.search(sentence):
            continue
        return True
    return False


def agreement(answer: str) -> tuple[int, int] | None:
    """(start, end) of the yes in a normalised answer; None if there is none or the answer takes it back."""
    found = YES.search(answer) or YES_LATER.search(answer)
    if found is None:
        return None
    rest = answer[: found.start()] + NO_BACK.sub("", answer[found.end() :])
    if BACK.search(rest) or re.match(r"[吗么]?\?", answer[found.end() :]):
        return None
    head = re.match(HEAD, found.group())
    return found.start() + (head.end() if head else 0), found.end()
