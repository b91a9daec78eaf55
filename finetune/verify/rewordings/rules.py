"""Rewords questions by rules where the base model writes none: takes them apart, and rebuilds them as other sentences.

They keep more of the question than a customer would, so that a model answers them more easily; the report says so.
"""

from __future__ import annotations

import re
from functools import cache

from finetune.verify.rewordings import chinese, english
from finetune.verify.sets.rows import language
from finetune.verify.synonyms import tables

# What people say before a question: the last resort, since the question stays as it is
FRAMES_EN = (
    "It may be a silly question, but I found nothing about it. {}",
    "A friend asked me this, and I had no idea: {}",
    "Sorry to bother you, I'm new here. {}",
    "Before I decide, one thing first: {}",
)
FRAMES_ZH = (
    "不好意思打扰了，找了半天没找到答案：{}",
    "朋友问起这个，我答不上来：{}",
    "我是新来的，还不太熟悉，{}",
    "决定之前先弄清一件事，{}",
)
END = r"[\s?？.。!！]+$"
BEFORE_VERB = (
    *("i", "you", "we", "they", "to", "can", "could", "may", "must", "should", "will", "would", "please"),
    *("not", "cannot", "can't", "don't"),
)
# Behind a noun that ends its noun phrase: `the bike for`, `the bike stolen`; not `bike rental`.
BEHIND_NOUN = (
    r"(?=\s*$|\s*[,.;:?!]|\s+(?:\w+(?:ed|en|ly)|of|for|to|in|on|at|by|with|without|from|into|during|after|before|until|till"
    r"|per|and|or|is|are|was|were|be|do|does|did|can|could|may|must|should|will|would|i|you|we|they|it|that|which|if|when"
    r"|as|than|an?|the|my|your|our|this|costs?|take|last|back|late|early|online|now|today|tomorrow|here|there|free|open"
    r"|again|too|work|arrive|come|not|near|about|outside|inside|over|under|through|have|has|need|expire|end|start)\b)"
)
PARTICLE = r"(?!\s+(?:back|up|in|out|off|on|down|over|away|along)\b)"  # `bring back` is another verb than `bring`


def reword(question: str) -> list[str]:
    """A question in other sentences."""
    bare, swapped = _bare(question)
    rebuilt = (chinese if language([question]) == "zh" else english).rebuilt
    return list(
        dict.fromkeys(articles(wording) for base in dict.fromkeys((swapped, bare)) for wording in rebuilt(base))
    )


def framed(question: str) -> list[str]:
    """A question in its own sentence, with other words in it where there are some, behind what people say before it."""
    bare, swapped = _bare(question)
    mark = question.strip()[len(bare) :][-1:]
    frames = FRAMES_ZH if language([question]) == "zh" else FRAMES_EN
    found = [frame.format(text + mark) for text in dict.fromkeys((swapped, bare)) for frame in frames]
    return list(map(articles, [swapped + mark, *found] if swapped != bare else found))


def _bare(question: str) -> tuple[str, str]:
    """A question without the marks at its end, and the same with its words exchanged, each once."""
    bare = re.sub(END, "", question.strip())
    words = _words_zh() if language([question]) == "zh" else _words_en()
    return bare, words.sub(lambda found: tables()[str(found.lastgroup)][found[0].lower()], bare)


def articles(text: str) -> str:
    """`a` and `an` as the word behind them wants it, which may have been exchanged."""
    text = re.sub(r"\b([Aa])n (?=[bcdfgjklmnpqrstvwz]|h(?!our|on[eo]))", r"\1 ", text)
    return re.sub(r"\b([Aa]) (?=[aei]|o(?!n[ec])|un(?!i))", r"\1n ", text)


@cache
def _words_en() -> re.Pattern[str]:
    """The words that are exchanged where their part of speech stands; each group has the name of its table."""
    others, verbs, nouns = (_any(kind) for kind in ("others", "verbs", "nouns"))
    behind = "|".join(rf"(?<=\b{word} )" for word in BEFORE_VERB)
    return re.compile(
        rf"\b{others}\b(?!['’-])|(?:{behind}){verbs}\b(?!['’]){PARTICLE}"
        rf"|(?<![-\w])(?!(?:{behind})){nouns}\b(?!['’-]){BEHIND_NOUN}",
        re.IGNORECASE,
    )


@cache
def _words_zh() -> re.Pattern[str]:
    return re.compile(_any("zh"))


def _any(kind: str) -> str:
    """A group of all words of a table, the longest first."""
    return f"(?P<{kind}>{'|'.join(map(re.escape, sorted(tables()[kind], key=len, reverse=True)))})"
