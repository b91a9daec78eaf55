"""What an answer says against its reference: facts missing, facts that are others, the opposite, facts swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.verify.judge.facts import Fact, Facts, same, says, squeezed
from finetune.verify.judge.polarity import lead, opposed, poles
from finetune.verify.judge.text import PLACE, clauses, tokens

# Kinds of which an answer may hold more than its reference without contradicting it
_HARMLESS_MORE = frozenset(("quoted", "name"))
# Kinds where another one contradicts only a reference that has one, too
_ONLY_AGAINST_OWN = frozenset(("weekday", "rate", "code"))


@dataclass(frozen=True)
class Difference:
    """Facts of the reference that the answer lacks, facts that it has instead, and what else it gets wrong."""

    missing: list[str]
    wrong: list[str]
    required: int  # facts of the reference that an answer must hold
    opposite: str  # the clause that says the opposite; empty if none does
    swapped: bool


def difference(reference: Facts, answer: Facts, question: Facts) -> Difference:
    """Compare an answer's facts with its reference's; what the question says need not be repeated."""
    required = [fact for fact in reference.found if not fact.optional and not _in(fact, question.found)]
    said = squeezed(answer.text)
    missing = [
        fact for fact in required if not (any(says(other, fact) for other in answer.found) or _spelled(fact, said))
    ]
    known = [*reference.found, *question.found]
    wrong = [fact for fact in answer.found if _contradicts(fact, known, reference.found, squeezed(reference.text))]
    ref_clauses, own_clauses = _clauses(reference, answer)
    return Difference(
        _texts(missing),
        _texts(wrong),
        len({fact.value for fact in required}),
        _opposite(ref_clauses, own_clauses, reference.text, answer.text),
        _swapped(ref_clauses, own_clauses, _marks(reference)),
    )


def _texts(facts: Sequence[Fact]) -> list[str]:
    return list(dict.fromkeys(fact.text for fact in facts))


def _in(fact: Fact, others: Sequence[Fact]) -> bool:
    return any(same(fact, other) for other in others)


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
    if fact.kind == "rate":  # `a year` against `a month`, but not beside it
        return any(other.kind == "rate" for other in reference)
    if fact.kind in _ONLY_AGAINST_OWN:
        return any(other.kind == fact.kind for other in reference)
    if fact.kind == "free":
        return any(other.kind == "number" and str(other.value[1]).isupper() for other in reference)
    return not fact.optional


# ------------------------------------------------------------------------------------------- clauses side by side


@dataclass(frozen=True)
class _Clause:
    text: str
    tokens: frozenset[str]


def _clauses(reference: Facts, answer: Facts) -> tuple[list[_Clause], list[_Clause]]:
    """The clauses of both texts, with one private character for each fact, the same one for the same fact."""
    groups: list[Fact] = []

    def place(fact: Fact) -> str:
        for n, other in enumerate(groups):
            if same(fact, other):
                return f" {chr(ord(PLACE[0]) + n)} "
        groups.append(fact)
        return f" {chr(ord(PLACE[0]) + min(len(groups) - 1, 6000))} "

    def cut(facts: Facts) -> list[_Clause]:
        text = facts.marked(
            {n: place(fact) for n, fact in enumerate(facts.found) if fact.kind not in ("name", "quoted")}
        )
        return [_Clause(clause, tokens(clause)) for clause in clauses(text)]

    return cut(reference), cut(answer)


def _exclusive(all_clauses: Sequence[_Clause]) -> list[frozenset[str]]:
    """For each clause the tokens that stand in no other."""
    return [
        frozenset(t for t in clause.tokens if sum(t in other.tokens for other in all_clauses) == 1)
        for clause in all_clauses
    ]


def _opposite(reference: Sequence[_Clause], answer: Sequence[_Clause], whole: str, said: str) -> str:
    """The answer's clause that denies what the reference affirms, or the other way round; empty if there is none."""
    first, own = lead(whole), lead(said)
    if first * own == -1:
        return said.split("\n")[0][:60]
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
            return clause.text
    return ""


def _overlap(clause: _Clause, reference: _Clause, unique: frozenset[str]) -> float:
    """How much two clauses speak of the same thing, 0 to 1; tokens that stand in no other clause count twice."""
    shared = clause.tokens & reference.tokens
    if not shared:
        return 0.0

    def weight(found: frozenset[str]) -> int:
        return len(found) + len(found & unique)

    return weight(shared) / max(1, min(weight(clause.tokens), weight(reference.tokens)))


def _swapped(reference: Sequence[_Clause], answer: Sequence[_Clause], marks: frozenset[str]) -> bool:
    """Whether what the reference says of two things is exchanged in the answer.

    `marks`: tokens that say something of a thing, beside facts. Clause A of the reference has tokens that B has not,
    and the other way round. One clause of the answer that takes some of A's and some of B's, and another one that takes
    others of both, have exchanged them.
    """
    unique = _exclusive(reference)
    for a in range(len(reference)):
        for b in range(a + 1, len(reference)):
            mixed = [(clause.tokens & unique[a], clause.tokens & unique[b]) for clause in answer]
            mixed = [pair for pair in mixed if pair[0] and pair[1]]
            for n, one in enumerate(mixed):
                for other in mixed[n + 1 :]:
                    apart = not one[0] & other[0] and not one[1] & other[1]
                    told = (_tells(one[0], marks) and _tells(other[1], marks)) or (
                        _tells(one[1], marks) and _tells(other[0], marks)
                    )
                    if apart and told:
                        return True
    return False


def _marks(reference: Facts) -> frozenset[str]:
    """The tokens of names and of words that have an opposite."""
    names = " ".join(fact.text for fact in reference.found if fact.kind == "name")
    return tokens(" ".join([names, *poles(reference.text)]))


def _tells(found: frozenset[str], marks: frozenset[str]) -> bool:
    """Whether tokens hold something that is said of a thing: a fact, a name, one of a pair of opposites."""
    return bool(found & marks) or any("\ue000" <= token <= "\uf8ff" for token in found)
