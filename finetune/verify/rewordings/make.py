"""Make rewordings of questions: the base model writes some, a filter drops those that are not, rules fill the gaps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from finetune.data.content import question_key
from finetune.verify.engine import Ask
from finetune.verify.judge.text import content
from finetune.verify.nearness import Nearness
from finetune.verify.rewordings import rules
from finetune.verify.rewordings.file import BASE, RULES, Rewording
from finetune.verify.sets.rows import DataRow, language

ASKED = 2  # a row, for verify
SPARE = 3  # lines that the base writes beyond those wanted, since some are dropped
# Shares of the rewordings wanted that the base must find, and find far from their questions; below either, none of its
# are taken. A small model's mostly keep the question but for a word, and the few others mostly ask something else.
ABLE, ABLE_FAR = 0.7, 0.5
NEAR = 0.5  # likeness to its question from which a rewording tells little: whoever knows the one knows the other
ALMOST = 0.8  # likeness from which a rewording is the question but for a word
ECHO = 0.6  # share of the words that a line adds to its question; so many from one example are that example again
# Words, or Chinese characters, of an example in a row that no line shares by chance; `is it possible to` is usual
RUN = {"en": 5, "zh": 8}
LONGEST = 400  # characters of a question that is reworded
SHORTEST, WIDEST = 0.35, 3.0  # length of a rewording, in lengths of its question
SENTENCE = 100  # characters that any question may be put in
# What the base is asked, twice a question, each after an example that shows how far other words may go: without one, a
# small model answers the question, and a large one changes a word.
PROMPTS = {
    "zh": (
        "把问题换成{count}种不同的说法。意思不变,数字和名称保留,不要回答问题,每行写一种说法,不要编号。\n\n问题:{text}",
        "顾客会怎样用自己的话问同一个问题?写出{count}种,口语一些,数字和名称保留,不要回答,每行一种。\n\n问题:{text}",
    ),
    "en": (
        "Rewrite the question in {count} different ways. Keep its meaning, its numbers and its names. "
        "Do not answer it. Write one question per line.\n\nQuestion: {text}",
        "How would {count} customers ask this in their own words? Keep numbers and names. "
        "Do not answer. Write one question per line.\n\nQuestion: {text}",
    ),
}
EXAMPLES = {
    "zh": (
        ("图书馆几点闭馆?", "图书馆晚上开到什么时候?", "最晚几点必须离开阅览室?", "图书馆的闭馆时间是?"),
        (
            "怎么更换登录手机号?",
            "我换了新号码,账号里怎么改?",
            "原来的手机不用了,登录要怎么换?",
            "能不能换个手机号登录?",
        ),
    ),
    "en": (
        (
            "When does the library close?",
            "Until what time can I stay in the library?",
            "At which hour do you shut the reading room?",
            "How late is the library open?",
        ),
        (
            "How do I change my phone number?",
            "I have a new mobile. Where do I enter its number?",
            "My old number is gone, what can I do about it?",
            "Is it possible to use a different phone number?",
        ),
    ),
}
SYSTEM = "You are a helpful assistant."
LINE_HEAD = re.compile(
    r"^\s*(?:[-*•·]|[(（]?\d{1,2}[.)．）、:：](?!\d)|[①-⑩]|(?:说法|问题|question|version)\s*\d*\s*[:：])\s*", re.I
)
QUOTES = "\"'“”‘’「」『』`* "
KEPT = re.compile(r"\d+(?:[.,:]\d+)*|[A-Z][A-Za-z]*\d[\w-]*")  # numbers and codes, which a rewording must keep
ASKS = re.compile(r"[?？吗呢]|什么|怎|如何|哪|谁|多少|几|是否|能不能|可以|告诉|想|请"
                  r"|\b(?:what|how|when|where|who|whom|whose|which|why|can|could|may|do|does|did|is|are|was|will|would|"
                  r"should|tell|know|wonder|want|need|like|explain|give|looking|help)\b", re.I)  # fmt: skip

Answerer = Callable[[Sequence[Ask]], Sequence[str]]  # the base model: asks in, texts out, all at once


def make(
    rows: Sequence[DataRow],
    all_rows: Sequence[DataRow],
    answer: Answerer | None,
    train: int = 0,
    choose: int = 0,
    asked: int = ASKED,
) -> list[Rewording]:
    """`asked` rewordings of each row for verify, `train` more for the training, `choose` more to choose an epoch by.

    Args:
        rows: The rows to reword.
        all_rows: Every row of the data: a rewording that is nearer to another of them is dropped.
        answer: The base model; None where it cannot be asked for such a thing (the stand-in).
        train: Rewordings of each row that go into the training and are never asked.
        choose: Rewordings of each row that the number of epochs is chosen by; neither trained on nor asked by verify.
        asked: Rewordings of each row for verify.
    """
    wanted = asked + train + choose
    fit = [row for row in rows if 0 < len(row.question) <= LONGEST]
    written = _written(fit, wanted + SPARE, answer) if answer else [[] for _ in fit]
    sieve = Sieve(all_rows)
    kept = [sieve.keep(row, texts) for row, texts in zip(fit, written, strict=True)]
    far = [[text for text in texts if not sieve.nearness(row, text)] for row, texts in zip(fit, kept, strict=True)]
    found_all, found_far = (sum(len(texts[:wanted]) for texts in each) for each in (kept, far))
    if found_all < ABLE * wanted * len(fit) or found_far < ABLE_FAR * wanted * len(fit):
        kept = [[] for _ in fit]  # a base that rarely finds a rewording mostly writes other questions
    found = []
    for row, base in zip(fit, kept, strict=True):
        ruled, framed = [], []
        if sum(not sieve.nearness(row, text) for text in base) < wanted:
            ruled = sieve.keep(row, rules.reword(row.question), base, by_rules=True)
            framed = sieve.keep(row, rules.framed(row.question), (*base, *ruled), by_rules=True)
        chosen = sieve.different(row, [base, ruled, framed], wanted)
        ask, rest = chosen[:asked], chosen[asked:]  # the same are asked whether or not others are trained on
        made = [BASE if text in base else RULES for text in ask]
        found.append(Rewording(row.question, ask, rest[choose:], made, rest[:choose]))
    return found


def _written(rows: Sequence[DataRow], count: int, answer: Answerer) -> list[list[str]]:
    """The lines that the base writes for each row, all asked in one batch."""
    each = -(-count // 2) + 1
    asks = [_ask(row.question, each, kind) for row in rows for kind in range(2)]
    said = answer(asks)
    found = [[*lines(said[2 * place]), *lines(said[2 * place + 1])] for place in range(len(rows))]
    return [[text for text in texts if not echoes(row.question, text)] for row, texts in zip(rows, found, strict=True)]


def _ask(question: str, count: int, kind: int) -> Ask:
    tongue = language([question])
    prompt, (example, *others) = PROMPTS[tongue][kind], EXAMPLES[tongue][kind]
    turns = (
        {"role": "user", "content": prompt.format(count=len(others), text=example)},
        {"role": "assistant", "content": "\n".join(others)},
        {"role": "user", "content": prompt.format(count=count, text=question)},
    )
    return Ask(turns, SYSTEM, min(512, count * (len(question.encode()) // 2 + 16)))


def lines(text: str) -> list[str]:
    """The rewordings in what the base wrote: a line each, without numbers and quotation marks."""
    return [bare for line in text.splitlines() if (bare := LINE_HEAD.sub("", line).strip(QUOTES))]


def ends_asking(text: str) -> bool:
    """Whether a text ends with a question mark, of either width."""
    return text.rstrip().endswith(("?", "？"))


def echoes(question: str, text: str) -> bool:
    """Whether a line is one of the prompt's examples with the question's noun put in, as small models write it."""
    new = content(text) - content(question)
    runs = _runs(text) - _runs(question)
    for example in (line for pairs in EXAMPLES.values() for texts in pairs for line in texts):
        shared = new & content(example)
        if question_key(text) == question_key(example) or (len(shared) >= 2 and len(shared) >= ECHO * len(new)):
            return True
        if runs & _runs(example):
            return True
    return False


def _runs(text: str) -> set[tuple[str, ...]]:
    """All runs of RUN words, or Chinese characters, of a text."""
    size = RUN[language([text])]
    pieces = re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", text.lower())
    return {tuple(pieces[start : start + size]) for start in range(len(pieces) - size + 1)}


class Sieve:
    """Drops what is not a rewording of its row: equal, empty, another row's question, an answer, a number lost."""

    def __init__(self, rows: Sequence[DataRow]) -> None:
        self.place = {row.key: place for place, row in enumerate(rows)}
        self.keys = {question_key(row.question) for row in rows}
        self.questions = Nearness([row.question for row in rows])
        self.answers = Nearness([row.answer for row in rows])
        self.same = [question_key(row.answer) for row in rows]

    def keep(self, row: DataRow, texts: Sequence[str], beside: Sequence[str] = (), by_rules: bool = False) -> list[str]:
        """Those of `texts` that are rewordings of the row, each once, and none that is in `beside`.

        What rules wrote asks the same by construction: it may be like another row's question, as a customer's may.
        """
        seen = {question_key(text) for text in beside}
        kept = []
        for text in texts:
            key = question_key(text)
            if key not in seen and (self.is_question(row, text) if by_rules else self.fits(row, text)):
                seen.add(key)
                kept.append(text)
        return kept

    def is_question(self, row: DataRow, text: str) -> bool:
        """Whether a text can be a rewording by its form: a question of like length, no row's own, no number lost."""
        if not question_key(text) or question_key(text) in self.keys or "\n" in text:
            return False
        size = len(text) / max(len(row.question), 1)
        if not SHORTEST <= size <= max(WIDEST, SENTENCE / max(len(row.question), 1)) or not ASKS.search(text):
            return False
        if set(KEPT.findall(row.question)) - set(KEPT.findall(text)):
            return False
        return language([text]) == language([row.question])

    def fits(self, row: DataRow, text: str) -> bool:
        """Whether a text asks what the row asks, in other words, as far as words can tell."""
        if not self.is_question(row, text) or set(KEPT.findall(text)) - set(KEPT.findall(row.question)):
            return False
        if ends_asking(row.question) and not ends_asking(text):
            return False  # a statement about the same thing
        own = self.place[row.key]
        found = self.questions.scores(text)
        best = int(found.argmax())
        if found[best] > found[own] and self.same[best] != self.same[own]:
            return False
        return bool(found[own] > 0) and float(self.answers.scores(text).max()) < max(float(found[own]), 0.3)

    def nearness(self, row: DataRow, text: str) -> int:
        """How little a rewording tells: 2 if it is or holds almost the question, 1 if it holds much of it, else 0."""
        likeness = self.likeness(row, text)
        if likeness > ALMOST or question_key(row.question) in question_key(text):
            return 2
        return int(likeness > NEAR)

    def different(self, row: DataRow, options: Sequence[Sequence[str]], count: int) -> list[str]:
        """The `count` that differ most from the question and from each other: the hardest that are fair.

        Args:
            row: The row that was reworded.
            options: Rewordings, the best kind first. The last kind, and what is almost the question, fills gaps.
            count: How many are wanted; fewer where there are fewer options.
        """
        near = {text: self.nearness(row, text) for texts in options for text in texts}
        last = set(options[-1]) | {text for text in near if near[text] > 1}
        left = [
            (near[text], kind, self.likeness(row, text), text) for kind, texts in enumerate(options) for text in texts
        ]
        chosen: list[str] = []
        while left and len(chosen) < count:
            best = min(left, key=lambda each: (each[3] in last, each[0], self._is_like(each[3], chosen), *each[1:]))
            left.remove(best)
            chosen.append(best[3])
        return chosen

    def _is_like(self, text: str, others: Sequence[str]) -> bool:
        return any(self.questions.between(text, other) > NEAR for other in others)

    def likeness(self, row: DataRow, text: str) -> float:
        """How like its question a rewording is, from 0 to 1."""
        return self.questions.between(text, row.question)


def for_rows(rewordings: Sequence[Rewording], rows: Sequence[DataRow]) -> tuple[dict[str, Rewording], list[str]]:
    """(rewordings by the key of their row's question, questions that no row asks)."""
    known = {question_key(row.question) for row in rows}
    found, strange = {}, []
    for each in rewordings:
        key = question_key(each.question)
        if key in known:
            found[key] = each
        else:
            strange.append(each.question)
    return found, strange


def training_rows(rewordings: Sequence[Rewording], rows: Sequence[DataRow]) -> list[dict[str, Any]]:
    """The rows that the training gets in addition to the dataset's own: each answer after its reworded question."""
    by_key, _ = for_rows(rewordings, rows)
    added = []
    for row in rows:
        each = by_key.get(question_key(row.question))
        for text in each.train if each else ():
            head = [{"role": "system", "content": row.system}] if row.system is not None else []
            messages = [*head, *row.reworded(text), {"role": "assistant", "content": row.answer}]
            added.append({"messages": messages} | ({"tools": row.tools} if row.tools else {}))
    return added
