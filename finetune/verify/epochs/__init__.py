"""--num_train_epochs auto: which rows choose (here), what they are asked, and the rule; finetune/sft calls it."""

from __future__ import annotations

from finetune.verify.sets import held_out
from finetune.verify.sets.rows import digest
from finetune.verify.sets.survey import Sets, Survey

MOST = 64  # questions that choose; the noise of fewer is wider, and each is asked of a dozen adapters
FEWEST = 8  # with fewer, one answer more or less decides
TRIAL_SHARE = 0.2  # of the rows of a task are left out of the trial that chooses


def per_row(rows: int) -> int:
    """Rewordings of each of so many rows that choose."""
    return min(2, MOST // rows) if rows else 0


def in_other_words(found: Survey, chosen: Sets) -> list[int]:
    """Places of the rows whose questions choose in other words; none where rows that were not seen do (`unseen`)."""
    places = sorted(found.taught) if found.is_identity else chosen.reworded
    if len(places) <= MOST:
        return list(places)
    return sorted(sorted(places, key=lambda place: digest(found.rows[place].key))[:MOST])


def unseen(found: Survey, chosen: Sets) -> list[int]:
    """Places of the rows of a task that choose, left out of a trial: none that the verdict asks as unseen."""
    if not chosen.unseen or chosen.reworded or found.is_identity:
        return []
    count = min(MOST, int(TRIAL_SHARE * len(found.rows)))
    return held_out.apart(found.rows, found.judge.kinds, count, chosen.unseen)
