"""Near misses: questions like the data's that no row answers, by the base or by rules; kept in rewordings.yaml.

Any answer but a row's is right: a customer who asks about something else must not be given the facts of a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.data.content import question_key
from finetune.verify.engine import Ask
from finetune.verify.rewordings.file import Rewording
from finetune.verify.rewordings.make import LONGEST, SYSTEM, Answerer, ends_asking, lines
from finetune.verify.rewordings.near_rules import Mentions, forms, plain
from finetune.verify.sets.rows import DataRow, draw, language
from finetune.verify.synonyms import pairs

MOST = 40  # near misses per verdict; of more rows, those with the lowest hashes are taken
ABLE = 0.5  # share of the rows for which the base must write one that fits; below it, none of its is taken
SPAN = 4  # most words that the base may exchange
PROMPTS = {
    "zh": (
        "把问题改成问另一样东西:只换掉一个名词或名称,换成毫不相干的另一个,其余的字都不变。只写改好的问题。"
        "\n\n问题:{text}"
    ),
    "en": (
        "Change the question so that it asks about another thing: exchange one noun or name for one that has nothing "
        "to do with it, and keep all other words. Write the new question only.\n\nQuestion: {text}"
    ),
}
EXAMPLES = {
    "zh": (("图书馆几点闭馆?", "天文台几点闭馆?"), ("可以寄到上海吗?", "可以寄到喀什吗?")),
    "en": (
        ("When does the library close?", "When does the observatory close?"),
        ("Do you ship to Austria?", "Do you ship to Mongolia?"),
    ),
}
PIECE = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+(?:[-'][^\W\u3400-\u9fff]+)*")
SMALL = {"a", "an", "the", "of", "for", "to", "in", "on", "at", "with", "my", "your", "our", "i", "you", "we", "do",
         "does", "is", "are", "can", "could", "how", "what", "when", "where"}  # fmt: skip


def add(made: Sequence[Rewording], rows: Sequence[DataRow], all_rows: Sequence[DataRow], base: Answerer | None) -> None:
    """Put a near miss beside the rewordings of some rows, unless there are some already.

    Args:
        made: The rewordings that are kept; `near` is filled in.
        rows: The rows that a verdict asks in other words.
        all_rows: Every row of the data: none of them may answer a near miss.
        base: The base model; None where it cannot be asked for such a thing.
    """
    chosen = draw([row for row in rows if 0 < len(row.question) <= LONGEST], MOST)
    if not chosen or any(each.near for each in made):
        return
    vocabulary = Mentions(all_rows)
    taken = {question_key(row.question) for row in all_rows}
    by_key = {question_key(each.question): each for each in made}
    for row, text in zip(chosen, _by_base(chosen, vocabulary, base), strict=True):
        each = by_key.get(question_key(row.question))
        options = (text, *vocabulary.near_misses(row.question)) if text else vocabulary.near_misses(row.question)
        miss = next((miss for miss in options if question_key(miss) not in taken), None)
        if each is not None and miss is not None:
            taken.add(question_key(miss))
            each.near = [miss]


def _by_base(rows: Sequence[DataRow], vocabulary: Mentions, base: Answerer | None) -> list[str | None]:
    """What the base writes for each row, all asked in one batch; None where that is no near miss."""
    if base is None:
        return [None] * len(rows)
    said = base([_ask(row.question) for row in rows])
    found = [next((line for line in lines(text)[:2] if fits(row.question, line, vocabulary)), None)
             for row, text in zip(rows, said, strict=True)]  # fmt: skip
    return found if sum(text is not None for text in found) >= ABLE * len(rows) else [None] * len(rows)


def _ask(question: str) -> Ask:
    tongue = language([question])
    turns = []
    for one, other in EXAMPLES[tongue]:
        turns += [
            {"role": "user", "content": PROMPTS[tongue].format(text=one)},
            {"role": "assistant", "content": other},
        ]
    turns.append({"role": "user", "content": PROMPTS[tongue].format(text=question)})
    return Ask(tuple(turns), SYSTEM, min(256, len(question.encode()) // 2 + 16))


def fits(question: str, text: str, vocabulary: Mentions) -> bool:
    """Whether a text is the question with one thing in it exchanged for another that the data never mention."""
    old, new = PIECE.findall(plain(question)), PIECE.findall(plain(text))
    head = _same(old, new)
    tail = min(_same(old[::-1], new[::-1]), len(old) - head, len(new) - head)
    gone, come = old[head : len(old) - tail], new[head : len(new) - tail]
    if not gone or not come or head + tail < 2 or language([text]) != language([question]):
        return False
    if ends_asking(question) != ends_asking(text):
        return False
    joined = "" if language([text]) == "zh" else " "
    before, after = joined.join(gone), joined.join(come)
    if len(gone) > SPAN * (1 + (not joined)) or len(come) > SPAN * (1 + (not joined)):
        return False
    if re.search(r"\d", before + after) or not _names_something(gone) or not _names_something(come):
        return False
    return not vocabulary.knows(after) and not _same_thing(before, after)


def _same(one: Sequence[str], other: Sequence[str]) -> int:
    """How many pieces two lists begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _names_something(pieces: Sequence[str]) -> bool:
    return any(len(piece) > 3 or piece >= "\u3400" for piece in pieces if piece not in SMALL)


def _same_thing(before: str, after: str) -> bool:
    """Whether two expressions are known to mean the same to a customer."""
    for old, new in pairs():
        if any(forms(before) & forms(one) and forms(after) & forms(other) for one, other in ((old, new), (new, old))):
            return True
    return False
