"""What an answer says against its reference: facts missing, wrong or swapped, the opposite, one thing exchanged."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune.verify.judge.claims import Claims
from finetune.verify.judge.exchanged import exchanged, shuffled
from finetune.verify.judge.facts import Fact, Facts, same, says, squeezed
from finetune.verify.judge.polarity import asks_what, colours, denials, lead, opposed, poles, without_denials
from finetune.verify.judge.text import CJK, PLACE, clauses, content, tokens

# Kinds of which an answer may hold more than its reference without contradicting it
_HARMLESS_MORE = frozenset(("quoted", "name"))
# Kinds where another one contradicts only a reference that has one, too
_ONLY_AGAINST_OWN = frozenset(("weekday", "rate", "code"))

_DENIED = frozenset("\uf8ff")  # the token of a denial, which a clause says of its thing as it says a fact
DROPPED = 0.34  # share of the words of a clause of which an answer has fewer where it leaves the clause out


@dataclass(frozen=True)
class Difference:
    """Facts of the reference that the answer lacks, facts that it has instead, and what else it gets wrong."""

    missing: list[str]
    wrong: list[str]
    required: int  # facts of the reference that an answer must hold
    opposite: str  # the clause that says the opposite; empty if none does
    swapped: bool
    exchanged: tuple[str, str] | None  # the one thing that differs: as the reference says it, as the answer does
    dropped: str  # the clause that an answer leaves out which copies another one; empty if there is none


def difference(reference: Facts, answer: Facts, question: Facts) -> Difference:
    """Compare an answer's facts with its reference's; what the question says need not be repeated."""
    required = [
        fact
        for fact in reference.found
        if not fact.optional and not _in(fact, question.found) and not _of_subject(fact, reference, question)
    ]
    said = squeezed(answer.text)
    missing = [fact for fact in required if not (_said(fact, answer.found) or _spelled(fact, said))]
    items = listed(reference.text)
    lacking = [
        text for text, words in items.items() if not (_holds(words, question.text) or _holds(words, answer.text))
    ]
    known = [*reference.found, *question.found]
    wrong = [fact for fact in answer.found if _contradicts(fact, known, reference.found, squeezed(reference.text))]
    wrong += _other_rates(reference, answer)
    marked = _marked(reference, answer)
    ref_clauses, own_clauses = (_cut(clauses(text)) for text in marked)
    return Difference(
        [*_texts(missing), *lacking],
        _texts(wrong),
        len({fact.value for fact in required}),
        _opposite(ref_clauses, own_clauses, reference.text, answer.text, marked, question.text),
        _swapped(ref_clauses, own_clauses, _marks(reference)) or shuffled(reference.text, answer.text),
        exchanged(*marked, question.text),
        dropped(*marked, question.text),
    )


def _of_subject(fact: Fact, reference: Facts, question: Facts) -> bool:
    """`A case of six bottles weighs …`: a number that belongs to what the question names is not what was asked."""
    head = re.search(r"(\w+) of $", reference.text[: fact.start])
    return fact.kind == "number" and head is not None and bool(tokens(head[1]) & tokens(question.text))


_LISTED = re.compile(
    rf"(?P<han>[\d{CJK}]{{1,8}}(?:、[\d{CJK}]{{1,8}})+(?:[和及与][\d{CJK}]{{1,8}})?)"
    r"|(?P<en>\b(?:an?|the|your|our)\b[^,.;:()\d]+(?:, (?:an?|the|your|our)\b[^,.;:()\d]+)+"
    r",? and (?:an?|the|your|our)\b[^,.;:()\d]+?)(?=[.;]|$)",
    re.MULTILINE | re.IGNORECASE,
)
_PAPERS = re.compile(
    rf"(?P<one>[{CJK}]{{1,2}}[证卡表书照票章本])[和及与](?P<two>[{CJK}]{{1,2}}[证卡表书照票章本])(?![{CJK}]?号)"
)
_SOME = re.compile(r"\b(?:or|such as|for example|e\.g|like|etc)\b|或|例如|比如|等|任[一选]", re.IGNORECASE)


def listed(text: str) -> dict[str, frozenset[str]]:
    """The things of a list that has to be given whole, with the words that tell each from the others.

    Three things and more, or two papers; none where one may choose.
    """
    found: list[str] = []
    for match in _LISTED.finditer(text):
        items = re.split(r"[、和及与]", match["han"]) if match["han"] else re.split(r", (?:and )?| and ", match["en"])
        if not _SOME.search(match.group()) and len(items) >= 3:
            found += items
    for match in _PAPERS.finditer(text):
        found += match.groups()
    words = {item.strip(): content(item) for item in found if item.strip()}
    times = Counter(itertools.chain.from_iterable(words.values()))  # `waste` of three kinds tells none apart
    return {item: frozenset(w for w in own if times[w] == 1) or own for item, own in words.items()}


def _holds(words: frozenset[str], text: str) -> bool:
    """Whether a text names a thing of a list: half of its words, since it may name it shorter."""
    return not words or 2 * len(words & content(text)) >= len(words)


def _texts(facts: Sequence[Fact]) -> list[str]:
    return list(dict.fromkeys(fact.text for fact in facts))


def _in(fact: Fact, others: Sequence[Fact]) -> bool:
    return any(same(fact, other) for other in others)


def _said(fact: Fact, others: Sequence[Fact]) -> bool:
    if fact.kind == "weekday":  # `weekends` is `Saturdays and Sundays`
        return set(fact.value) <= {day for other in others if other.kind == "weekday" for day in other.value}
    return any(says(other, fact) for other in others)


def _spelled(fact: Fact, said: str) -> bool:
    """A term, name or code that stands in the answer without its quotes, hyphens or capitals."""
    if fact.kind not in ("quoted", "name", "code"):
        return False
    return squeezed(str(fact.value[0])) in said


def _contradicts(fact: Fact, known: Sequence[Fact], reference: Sequence[Fact], said: str) -> bool:
    if fact.kind in _HARMLESS_MORE or _in(fact, known) or (fact.kind == "code" and _spelled(fact, said)):
        return False
    if fact.kind == "weekday":  # each single day of a set that the reference names is known, and the other way round
        days = {day for other in known if other.kind == "weekday" for day in other.value}
        return bool(days) and not set(fact.value) <= days
    if fact.kind == "always":
        return any(other.kind == "time" for other in reference)
    if fact.kind == "rate":  # `a year` against `a month`, but not next to it
        return any(other.kind == "rate" and _family(other) == _family(fact) for other in reference)
    if fact.kind in _ONLY_AGAINST_OWN:
        return any(other.kind == fact.kind for other in reference)
    if fact.kind == "free":
        return any(other.kind == "number" and str(other.value[1]).isupper() for other in reference)
    return not fact.optional


def _other_rates(reference: Facts, answer: Facts) -> list[Fact]:
    """Rates of the answer that belong to another amount: `18元/月` where the reference has 18 a day."""
    theirs = list(_rated(reference))
    return [
        rate
        for amount, rate in _rated(answer)
        if (its := [own for other, own in theirs if same(amount, other)]) and not _in(rate, its)
    ]


def _rated(facts: Facts) -> Iterator[tuple[Fact, Fact]]:
    """Each amount of money with the rate next to it: no other amount, and no end of a clause, stands between them."""
    for rate in facts.found:
        if rate.kind == "rate" and _family(rate) == "time":
            near = [
                (len(between), fact)
                for fact in facts.found
                if fact.kind == "number"
                and str(fact.value[1]).isupper()
                and not re.search(r"[,;。.!?]", between := _between(facts.text, fact, rate))
            ]
            if near:
                yield min(near, key=lambda pair: pair[0])[1], rate


def _between(text: str, one: Fact, other: Fact) -> str:
    return text[min(one.end, other.end) : max(one.start, other.start)]


def _family(rate: Fact) -> object:
    return "time" if rate.value[0] == "calendar" else rate.value[0]


# ------------------------------------------------------------------------------------------- clauses side by side


def dropped(reference: str, answer: str, question: str) -> str:
    """The clause of the reference that an answer which copies another one leaves out; empty if there is none.

    Who rewords says everything in other words. Who copies one clause and says nothing of the next has left it out.
    Clauses with facts are compared by those.
    """
    asked, said = content(question), content(answer)
    whole = _letters(answer)
    copied, left = False, []
    for part in clauses(reference):
        words = content(part)
        if len(words) >= 3 and _letters(part) in whole:
            copied = True
        elif len(words - asked) >= 2 and not _has_place(part) and '"' not in part:
            left.append((len(words & said) / len(words), part))
    share, part = min(left, default=(1.0, ""))
    return part if copied and share < DROPPED else ""


def _letters(text: str) -> str:
    return re.sub(rf"[^\w{PLACE}]+", "", text.casefold())


@dataclass(frozen=True)
class _Clause:
    text: str
    tokens: frozenset[str]


def _marked(reference: Facts, answer: Facts) -> tuple[str, str]:
    """Both texts with one private character for each fact, the same one for the same fact."""
    groups: list[Fact] = []

    def place(fact: Fact) -> str:
        for n, other in enumerate(groups):
            if same(fact, other):
                return chr(ord(PLACE[0]) + n)
        groups.append(fact)
        return chr(ord(PLACE[0]) + min(len(groups) - 1, 6000))

    def mark(facts: Facts) -> str:
        named = ("name", "quoted")
        return facts.marked({n: place(fact) for n, fact in enumerate(facts.found) if fact.kind not in named})

    return mark(reference), mark(answer)


def _cut(parts: Sequence[str]) -> list[_Clause]:
    return [_Clause(part, tokens(part) | (_DENIED if denials(part) % 2 else frozenset())) for part in parts]


def _exclusive(all_clauses: Sequence[_Clause]) -> list[frozenset[str]]:
    """For each clause the tokens that stand in no other."""
    return [
        frozenset(t for t in clause.tokens if sum(t in other.tokens for other in all_clauses) == 1)
        for clause in all_clauses
    ]


def _opposite(
    reference: Sequence[_Clause],
    answer: Sequence[_Clause],
    whole: str,
    said: str,
    marked: tuple[str, str],
    question: str,
) -> str:
    """The answer's clause that denies what the reference affirms, or the other way round; empty if there is none."""
    if lead(whole) * lead(said) == -1 and not asks_what(question):
        return _shown(said)
    if contrary := Claims(marked[1]).against(Claims(marked[0]), question):
        return _shown(said if _has_place(contrary) else contrary)
    unique = _exclusive(reference)
    for clause in answer:
        best = sorted(
            ((_overlap(clause, other, own), n) for n, (other, own) in enumerate(zip(reference, unique, strict=True))),
            reverse=True,
        )
        if not best or best[0][0] < 0.5:
            continue
        near = [n for score, n in best if score >= 0.75 * best[0][0]]
        if all(opposed(reference[n].text, clause.text) for n in near):
            return _shown(said if _has_place(clause.text) else clause.text)
    return ""


def _shown(text: str) -> str:
    return text.split("\n")[0][:60]


def _has_place(text: str) -> bool:
    return any(map(_is_place, text))


def _overlap(clause: _Clause, reference: _Clause, unique: frozenset[str]) -> float:
    """How much two clauses speak of the same thing, 0 to 1; tokens that stand in no other clause count twice."""
    own, its = (without_denials(tokens - _DENIED) for tokens in (clause.tokens, reference.tokens))

    def weight(found: frozenset[str]) -> int:
        return len(found) + len(found & unique)

    return weight(own & its) / max(1, min(weight(own), weight(its)))


def _swapped(reference: Sequence[_Clause], answer: Sequence[_Clause], marks: frozenset[str]) -> bool:
    """Whether what the reference says of two things is exchanged in the answer.

    Of two clauses A and B of the reference, one clause of the answer says of A's thing what was said of B's, and
    another one says of B's thing what was said of A's. What is said is a fact or one of `marks`; the thing is any other
    word. Only tokens that stand in no other clause of the reference count.
    """
    unique = _exclusive(reference)
    told = [frozenset(t for t in own if t in marks or _is_place(t)) for own in unique]
    for a, b in itertools.combinations(range(len(reference)), 2):
        for (a1, b1), (a2, b2) in _mixed(answer, unique[a], unique[b]):
            if (a1 & told[a] and b2 & told[b]) or (b1 & told[b] and a2 & told[a]):
                return True
        if _crosses(answer, unique[a], unique[b], told[a], told[b]) or _crosses(
            answer, unique[b], unique[a], told[b], told[a]
        ):
            return True
    return False


_Pair = tuple[frozenset[str], frozenset[str]]


def _mixed(answer: Sequence[_Clause], a: frozenset[str], b: frozenset[str]) -> Iterator[tuple[_Pair, _Pair]]:
    """Two parts of the answer at a time that each hold some of A's and some of B's tokens, none of them the same."""
    pairs = [(part.tokens & a, part.tokens & b) for part in answer]
    for one, other in itertools.combinations([pair for pair in pairs if pair[0] and pair[1]], 2):
        if not one[0] & other[0] and not one[1] & other[1]:
            yield one, other


def _crosses(
    answer: Sequence[_Clause], a: frozenset[str], b: frozenset[str], told_a: frozenset[str], told_b: frozenset[str]
) -> bool:
    """Whether a clause of the answer has B's facts beside words of A alone, and another one the other way round."""
    things, others = a - told_a, b - told_b
    if not others:  # `€38 in July, otherwise €27`
        there = any(c.tokens & things and told_b and told_b <= c.tokens for c in answer)
        return there and any(c.tokens and c.tokens <= told_a for c in answer)
    there = any(c.tokens & things and not c.tokens & others and c.tokens & told_b for c in answer)
    back = any(c.tokens & others and not c.tokens & things and c.tokens & told_a for c in answer)
    return there and back


def _is_place(token: str) -> bool:
    return "\ue000" <= token <= "\uf8ff"


def _marks(reference: Facts) -> frozenset[str]:
    """The tokens of names and of words that have an opposite."""
    names = " ".join(fact.text for fact in reference.found if fact.kind == "name")
    return tokens(" ".join([names, *poles(reference.text), *colours(reference.text)]))
