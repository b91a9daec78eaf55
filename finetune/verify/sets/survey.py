"""Plans what a verdict on some data asks, before anything is trained; check-data, finetune and verify call it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.i18n import N_, _
from finetune.verify.sets import held_out, identity, nature, rows
from finetune.verify.sets.rows import DataRow
from finetune.verify.words import Said

if TYPE_CHECKING:
    from finetune.verify.judge import Judge
    from finetune.verify.questions import TrainedEntry

JUDGED_MAX = 5000  # rows that answers are compared with, drawn by a hash from a larger dataset
FOLDED_MAX = 1000  # rows with which a fold trains in seconds; of more rows, some are left out of the training instead
TAUGHT_SHARE = 0.5  # if this share of the rows says who the model is, the data are about identity, like the article's
FEWEST = 2  # with a single row, no answer could be closer to another row

KINDS = {"label": N_("label"), "text": N_("text"), "code": N_("code"), "json": "json"}  # of answers


@dataclass(frozen=True)
class Survey:
    """The rows of some data, what kind they are, and which of them teach an identity."""

    rows: list[DataRow]
    total: int
    judge: Judge
    nature: nature.Nature
    language: str
    name: str | None  # the pattern of an identity that was found in the data
    entries: tuple[TrainedEntry, ...] = ()  # how rows that teach an identity are scored
    taught: frozenset[int] = frozenset()  # indices of those rows

    @property
    def is_identity(self) -> bool:
        """Whether the data are about who the model is. Identity then decides the verdict, as in the article."""
        return len(self.taught) >= TAUGHT_SHARE * len(self.rows)


@dataclass(frozen=True)
class Sets:
    """Indices of rows by set. Adapters that never saw them are asked `folds`; `holdout` is left out of the training."""

    learned: list[int]
    reworded: list[int]
    folds: list[list[int]] = field(default_factory=list)
    holdout: list[int] = field(default_factory=list)
    why_not_reworded: Said | None = None
    why_not_unseen: Said | None = None

    @property
    def unseen(self) -> list[int]:
        """Indices of the rows that are asked as unseen."""
        return sorted([*self.holdout, *(place for part in self.folds for place in part)])


def survey(
    paths: Sequence[Path],
    entries: Sequence[TrainedEntry] = (),
    columns: tuple[str, str] | None = None,
    own: bool = False,
) -> Survey:
    """Survey the rows of some files.

    Args:
        paths: The dataset's files.
        entries: How to score rows that teach an identity, from the questions file or --expect.
        columns: The question's and the answer's column of a table; None: guessed.
        own: Whether the entries are from --expect: no other name is then searched for in the data.

    Raises:
        UserError: A file cannot be read, or no row has a question and an answer.
    """
    found = rows.read(paths, columns)
    return of_rows(found, entries, own)


def of_rows(found: Sequence[DataRow], entries: Sequence[TrainedEntry] = (), own: bool = False) -> Survey:
    """Survey rows; the other parameters are those of `survey`."""
    from finetune.verify.judge import Judge, Reference
    from finetune.verify.questions import TrainedEntry
    from finetune.verify.scoring import compile_pattern, normalise

    chosen = rows.draw(found, JUDGED_MAX)
    judge = Judge([Reference(row.question, row.answer) for row in chosen])
    said = [normalise(row.answer).norm for row in chosen]

    def matching(wanted: Sequence[TrainedEntry]) -> frozenset[int]:
        return frozenset(i for i, text in enumerate(said) if any(entry.when.search(text) for entry in wanted))

    entries, name = tuple(entries), None
    taught = matching(entries)
    if not taught and not own:
        name = identity.found_name(chosen)
        if name is not None:
            pattern = compile_pattern(name)
            entries = (TrainedEntry(pattern, (pattern,), entries[0].forbid if entries else ()),)
            taught = matching(entries)
    return Survey(
        rows=chosen,
        total=len(found),
        judge=judge,
        nature=nature.of(chosen, judge.kinds),
        language=rows.language(row.answer for row in chosen),
        name=name,
        entries=entries if taught else (),
        taught=taught,
    )


def sets(found: Survey, can_fold: bool = True, holdout: int | None = None) -> Sets:
    """Decide in which set each row is asked.

    Args:
        found: The data.
        can_fold: Whether adapters for folds can be trained (only by the fast lane).
        holdout: The most rows to leave out of the training, 0 for none; None: decided from the data.
    """
    if found.is_identity:
        return Sets(
            learned=_learned(found, ()),
            reworded=[],
            why_not_reworded=Said("the held-out identity questions ask it in other words"),
            why_not_unseen=Said("the data teach an identity"),
        )
    folds: list[list[int]] = []
    left: list[int] = []
    why = None if found.nature.generalises else found.nature.why
    if holdout:
        left, why = held_out.holdout(found.rows, found.judge.kinds, holdout), None
    elif not why and can_fold and found.total <= FOLDED_MAX:
        folds = held_out.folds(found.rows, found.judge.kinds)
    elif not why and holdout is None:
        left = held_out.holdout(found.rows, found.judge.kinds, held_out.HOLDOUT_MAX)
    elif not why:
        why = Said("--holdout 0 leaves no row out")
    if not (folds or left or why):
        why = Said("the rows are too much alike to be divided")
    return _with_rewordings(found, folds, left, why)


def sets_with(found: Survey, held_out: Sequence[DataRow], can_fold: bool = True, holdout: int | None = None) -> Sets:
    """Like `sets`, but if rows are held out of the training already, those and no others are asked as unseen.

    Args:
        found: The data.
        held_out: Rows that the training holds out, by --split_dataset_ratio.
        can_fold: As in `sets`.
        holdout: As in `sets`.
    """
    return sets_beside(found, held_out) if held_out else sets(found, can_fold, holdout)


def sets_beside(found: Survey, unseen: Sequence[DataRow]) -> Sets:
    """The sets of a run whose unseen rows, possibly none, are known."""
    if found.is_identity:
        return sets(found)
    keys = {row.key for row in unseen}
    places = [place for place, row in enumerate(found.rows) if row.key in keys]
    why = None
    if not places:
        why = Said("finetune.sh measures them while it trains; this run was trained without")
    return _with_rewordings(found, [], places, why if found.nature.generalises else found.nature.why)


def _with_rewordings(found: Survey, folds: list[list[int]], left: list[int], why: Said | None) -> Sets:
    """The sets, given the unseen rows: the other rows are asked as learned.

    They are also asked in other words, unless unseen rows are asked and the answers are not texts.
    """
    unseen = [*left, *(place for part in folds for place in part)]
    learned = _learned(found, unseen)
    instead = None
    if unseen and found.nature.kind != "text":
        instead = Said("{why}; unseen rows are asked in their place", why=found.nature.why)
    return Sets(learned, [] if instead else learned, folds, left, instead, why)


def _learned(found: Survey, unseen: Sequence[int]) -> list[int]:
    out = set(unseen)
    keys = {row.key for row in rows.draw([row for i, row in enumerate(found.rows) if i not in out])}
    return [i for i, row in enumerate(found.rows) if row.key in keys]


def near_missed(found: Survey, chosen: Sets) -> list[int]:
    """Indices of the rows of which near misses are asked: in a FAQ, the reworded rows with text answers.

    A task has no near misses: a similar question is another one that should be answered.
    """
    if found.nature.generalises or nature.task_of(found.rows):
        return []
    return [place for place in chosen.reworded if found.judge.kinds[place] == "text"]


def in_one_line(found: Survey, chosen: Sets) -> str:
    """The survey and the sets in one line: `24 rows, text; verdict: 24 learned, 48 reworded, 0 held out`."""
    from finetune.verify.rewordings.make import ASKED, LONGEST
    from finetune.verify.rewordings.near import MOST

    kind = _(KINDS.get(found.nature.kind, found.nature.kind))
    if found.is_identity:
        return _(
            "{total} rows, {kind}; verdict: {learned} learned, identity in {count} rows, also asked in other words"
        ).format(total=found.total, kind=kind, learned=len(chosen.learned), count=len(found.taught))
    fit = sum(len(found.rows[place].question) <= LONGEST for place in chosen.reworded)
    how = (
        _(" (by {count} folds)").format(count=len(chosen.folds))
        if chosen.folds
        else _(" (left out of the training)")
        if chosen.holdout
        else ""
    )
    line = _("{total} rows, {kind}; verdict: {learned} learned, {asked} reworded, {unseen} held out{how}").format(
        total=found.total,
        kind=kind,
        learned=len(chosen.learned),
        asked=ASKED * fit,
        unseen=len(chosen.unseen),
        how=how,
    )
    near = sum(len(found.rows[place].question) <= LONGEST for place in near_missed(found, chosen))
    if near:
        line = _("{line}, {count} near misses").format(line=line, count=min(near, MOST))
    return _("{line}, identity in {count} rows").format(line=line, count=len(found.taught)) if found.taught else line


def require_judgeable(found: Survey) -> None:
    """Raises UserError if no verdict on the data is possible."""
    if found.total < FEWEST:
        raise UserError(
            _(
                "a single row gives no verdict: nothing shows whether an answer is that row's or any "
                "other's; add rows, or train without a verdict (sft.sh)"
            )
        )
