"""Makes the questions of each set: rows as they are and in other words, unseen rows, and what no row answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from finetune.data.content import question_key
from finetune.verify.nearness import Nearness
from finetune.verify.questions import Question
from finetune.verify.rewordings.file import RULES, Rewording
from finetune.verify.scoring import normalise
from finetune.verify.sets.rows import HAN, DataRow
from finetune.verify.sets.survey import Sets, Survey, near_missed

IN_SCOPE = 0.5  # a question with this similarity to a row's question is not out of scope
# Of rewordings that rules wrote, those count that are as far from their question as people's own words: 93 % of 150
# by hand (bench/verdict) are below this likeness, where about as many of either are answered right (docs/verify.md).
FAR, FEWEST = 0.3, 12  # at least so many count: the least like


def learned(found: Survey, chosen: Sets) -> list[Question]:
    """The rows' own questions. A row that teaches an identity is also judged for it (part `trained`)."""
    return [_own(found, place) for place in chosen.learned]


def _own(found: Survey, place: int) -> Question:
    row = found.rows[place]
    question = of_row(row, place, "learned", f"learned-{place + 1:03d}", found.judge.kinds[place])
    if place not in found.taught:
        return question
    text = normalise(row.answer).norm
    entry = next(entry for entry in found.entries if entry.when.search(text))
    return replace(question, part="trained", kind="trained", expect=entry.expect, forbid=entry.forbid)


def of_row(row: DataRow, place: int, part: str, name: str, kind: str) -> Question:
    """A row as a question whose reference is the row's answer.

    Args:
        row: The row.
        place: Its index in Survey.rows.
        part: The question's part, one of questions.PARTS.
        name: The question's id.
        kind: The question's kind.
    """
    return Question(
        id=name,
        part=part,
        kind=kind,
        messages=row.messages,
        where=row.where,
        reference=row.answer,
        row=place,
        system=row.system,
        tools=row.tools,
    )


def reworded(found: Survey, chosen: Sets, rewordings: Mapping[str, Rewording]) -> list[Question]:
    """The rows' questions in other words.

    Args:
        found: The data.
        chosen: Which rows are asked.
        rewordings: By question_key of the row's own question.
    """
    questions: list[Question] = []
    ruled: dict[str, str] = {}
    for place, number, text in _new_words(found, chosen.reworded, rewordings, "ask"):
        row, name = found.rows[place], f"reworded-{place + 1:03d}-{number}"
        own = of_row(row, place, "reworded", name, found.judge.kinds[place])
        questions.append(replace(own, messages=row.reworded(text)))
        if rewordings[question_key(row.question)].makers()[number - 1] == RULES:
            ruled[name] = row.question
    return _as_far_as_people(questions, ruled, found) if ruled else questions


def _as_far_as_people(questions: Sequence[Question], ruled: Mapping[str, str], found: Survey) -> list[Question]:
    """The questions, of which those that rules wrote too near to their row's (`ruled`: by id) do not count."""
    near = Nearness([row.question for row in found.rows])
    likeness = {q.id: near.between(q.text, ruled[q.id]) if q.id in ruled else 0.0 for q in questions}
    first = sorted(likeness, key=lambda name: likeness[name])[:FEWEST]
    return [replace(q, counted=likeness[q.id] <= FAR or q.id in first) for q in questions]


def _new_words(
    found: Survey,
    places: Sequence[int],
    rewordings: Mapping[str, Rewording],
    kind: str,
    taken: Iterable[str] = (),
) -> Iterator[tuple[int, int, str]]:
    """Texts that replace the questions of rows: none that a row asks, none twice.

    Args:
        found: The data.
        places: Indices of the rows.
        rewordings: By question_key of the row's own question.
        kind: The list of a Rewording that the texts are in: ask, near or choose.
        taken: Keys (question_key) of further texts to leave out.

    Yields:
        The row's index, the text's number in the row's list, from 1, and the text.
    """
    seen = {*taken, *(question_key(row.question) for row in found.rows)}
    for place in places:
        known = rewordings.get(question_key(found.rows[place].question))
        for number, text in enumerate(getattr(known, kind) if known else (), 1):
            if question_key(text) not in seen:
                seen.add(question_key(text))
                yield place, number, text


def near_misses(found: Survey, chosen: Sets, rewordings: Mapping[str, Rewording]) -> list[Question]:
    """Questions that resemble a row's but that no row answers; the parameters are those of `reworded`.

    `row` of each is the row that it was made from.
    """
    questions = []
    for place, number, text in _new_words(found, near_missed(found, chosen), rewordings, "near"):
        row = found.rows[place]
        own = of_row(row, place, "near_miss", f"near-{place + 1:03d}-{number}", "near_miss")
        questions.append(replace(own, messages=row.reworded(text), reference=None))
    return questions


def choosing(
    found: Survey, places: Sequence[int], rewordings: Mapping[str, Rewording], taken: Collection[str]
) -> list[Question]:
    """The questions that choose the number of epochs: rewordings that are neither trained on nor asked by verify.

    A row that teaches an identity is judged for it.

    Args:
        found: The data.
        places: Indices of the rows.
        rewordings: By question_key of the row's own question.
        taken: Keys (question_key) of the questions that verify asks.
    """
    used = {question_key(text) for each in rewordings.values() for text in (*each.ask, *each.train)}
    questions = []
    for place, number, text in _new_words(found, places, rewordings, "choose", used.union(taken)):
        own, name = _own(found, place), f"choose-{place + 1:03d}-{number}"
        part = "reworded" if own.part == "learned" else own.part
        questions.append(replace(own, id=name, part=part, messages=found.rows[place].reworded(text)))
    return questions


def unseen(found: Survey, places: Sequence[int]) -> list[Question]:
    """The questions of rows that were not trained on; `places` are indices into `found.rows`."""
    return [of_row(found.rows[i], i, "unseen", f"unseen-{i + 1:03d}", found.judge.kinds[i]) for i in places]


def out_of_scope(candidates: Sequence[Question], found: Survey) -> tuple[list[Question], list[str]]:
    """(the candidates that no row answers, the ids of those that some row asks in the same or similar words)."""
    near = Nearness([row.question for row in found.rows])
    kept, dropped = [], []
    for question in candidates:
        if near.nearest(question.text)[1] >= IN_SCOPE:
            dropped.append(question.id)
        else:
            kept.append(question)
    return kept, dropped


def in_language(questions: Sequence[Question], language: str) -> list[Question]:
    """The questions for data in a language ("zh" or "en"): for English data, those without Chinese."""
    if language != "en":
        return list(questions)
    return [q for q in questions if not any(HAN.search(message["content"]) for message in q.messages)]


def attach_rows(questions: Sequence[Question], found: Survey) -> list[Question]:
    """Add the index of its row to each trained question: its answer is then compared with those of all rows."""
    places = {_turns(row.messages): place for place, row in enumerate(found.rows)}
    return [replace(q, row=places.get(_turns(q.messages))) if q.part == "trained" else q for q in questions]


def _turns(messages: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    return tuple(question_key(str(message["content"])) for message in messages)
