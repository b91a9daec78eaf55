"""--num_train_epochs auto: which rows choose (in this file), the questions, and the rule; finetune/sft calls it."""

from __future__ import annotations

from finetune.verify.sets import held_out
from finetune.verify.sets.rows import digest
from finetune.verify.sets.survey import Sets, Survey

MOST = 64  # questions that choose: fewer have more noise, and each is asked of a dozen adapters
FEWEST = 8  # with fewer questions, a single answer decides
TRIAL_SHARE = 0.2  # of the rows of a task, left out of the trial training that chooses


def per_row(rows: int) -> int:
    """The number of rewordings of each row, if this many rows choose."""
    return min(2, MOST // rows) if rows else 0


def in_other_words(found: Survey, chosen: Sets) -> list[int]:
    """Indices of the rows whose rewordings choose; empty if unseen rows choose (`unseen`)."""
    places = found.taught if found.is_identity else chosen.reworded
    return sorted(sorted(places, key=lambda place: digest(found.rows[place].key))[:MOST])


def unseen(found: Survey, chosen: Sets) -> list[int]:
    """Indices of the rows that are left out of a trial and choose; none of those that the verdict asks as unseen."""
    if not chosen.unseen or chosen.reworded or found.is_identity:
        return []
    count = min(MOST, int(TRIAL_SHARE * len(found.rows)))
    return held_out.apart(found.rows, found.judge.kinds, count, chosen.unseen)
