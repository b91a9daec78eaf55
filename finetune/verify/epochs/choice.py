"""The rule that chooses an epoch from the answers of each epoch's adapter; a pure function.

Two epochs are compared by the questions that only one of them answers right. If one loses a questions and gains b, the
difference is within the noise if a - b <= sqrt(a + b): one standard deviation of the sign test for equal adapters.

Among the epochs that lose no general tasks beyond the noise, the earliest one within the noise of the best of them is
chosen. If there is no such epoch, or if the best of them is worse than the best of all by more than GIVE_UP, the best
answers decide, and the reason says so. If hardly any question is answered right at any epoch, the likelihood of the
right answers is compared instead of their number; the noise is then one standard error of the paired difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.verify.words import Said

GIVE_UP = 0.10  # share of questions that may be answered worse in order to lose no general task
TELLING = 0.10  # share of questions that some epoch must answer right; with fewer, answers do not tell epochs apart


@dataclass(frozen=True)
class Point:
    """An epoch: its last step, and for each question whether its adapter answered right."""

    epoch: int
    step: int
    right: tuple[bool, ...]  # reworded questions, or unseen rows
    general: tuple[bool, ...] = ()  # general tasks
    nll: tuple[float, ...] = ()  # of the right answers, in nats per token; empty unless says_too_little

    @property
    def mean_nll(self) -> float | None:
        """The mean over the questions."""
        return sum(self.nll) / len(self.nll) if self.nll else None


@dataclass(frozen=True)
class ChosenEpoch:
    """The chosen epoch, the best epoch it was compared with, and whether it keeps the general tasks."""

    point: Point
    best: Point
    keeps: bool


def says_too_little(points: Sequence[Point]) -> bool:
    """Whether too few questions are answered right at any epoch to tell epochs apart by their number."""
    return max(sum(point.right) for point in points) < TELLING * len(points[0].right)


def within_noise(before: Sequence[bool], after: Sequence[bool]) -> bool:
    """Whether `after` is no worse than `before`, within the noise of this many questions."""
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    return lost - gained <= math.sqrt(lost + gained)


def choose(points: Sequence[Point], general_before: Sequence[bool]) -> ChosenEpoch:
    """The epoch to keep.

    Args:
        points: The epochs, the earliest first; with `nll` if says_too_little.
        general_before: For each general task, whether the base does it.
    """
    best = _best(points)
    keeping = [point for point in points if within_noise(general_before, point.general)]
    if keeping and _gap(best, _best(keeping)) <= GIVE_UP:
        ahead = _best(keeping)
        return ChosenEpoch(next(point for point in keeping if _is_near(ahead, point)), ahead, True)
    near = [point for point in points if _is_near(best, point)]
    return ChosenEpoch(min(near, key=lambda point: (_lost(general_before, point), point.epoch)), best, False)


def _best(points: Sequence[Point]) -> Point:
    return max(points, key=lambda point: (-(point.mean_nll or 0.0), sum(point.right), -point.epoch))


def _gap(best: Point, other: Point) -> float:
    """How much worse another epoch is: as a share of the questions, or relative to the best likelihood."""
    if best.mean_nll is not None and other.mean_nll is not None:
        return other.mean_nll / max(best.mean_nll, 1e-9) - 1
    return (sum(best.right) - sum(other.right)) / len(best.right)


def _is_near(best: Point, point: Point) -> bool:
    """Whether an epoch is within the noise of the best: for likelihoods, one standard error of the difference."""
    if not best.nll:
        return within_noise(best.right, point.right)
    worse = [after - before for before, after in zip(best.nll, point.nll, strict=True)]
    mean = sum(worse) / len(worse)
    return mean <= math.sqrt(sum((each - mean) ** 2 for each in worse)) / len(worse)


def _lost(before: Sequence[bool], point: Point) -> int:
    return sum(before) - sum(point.general)


def record(choice: ChosenEpoch, points: Sequence[Point], general_before: Sequence[bool], by: str) -> dict[str, Any]:
    """The choice for run.json and the reports.

    Args:
        choice: The choice.
        points: All epochs that were asked.
        general_before: For each general task, whether the base does it.
        by: What chose: "reworded" questions or "unseen" rows.
    """
    found = {
        "asked_for": "auto",
        "chosen": choice.point.epoch,
        "best": choice.best.epoch,
        "tried": points[-1].epoch,
        "keeps_general": choice.keeps,
        "by": by,
        "measure": "nll" if choice.point.nll else "right",
        "questions": len(choice.point.right),
        "general": len(general_before),
        "general_before": sum(general_before),
        "curve": [
            {"epoch": each.epoch, "step": each.step, "right": sum(each.right), "general": sum(each.general)}
            | ({"nll": round(each.mean_nll, 4)} if each.mean_nll is not None else {})
            for each in points
        ],
    }
    return found | {"why": str(sentence(found))}


def sentence(chosen: Mapping[str, Any]) -> Said:
    """The reason for a choice in words, from its `record`."""
    at = {point["epoch"]: point for point in chosen["curve"]}
    point = at[chosen["chosen"]]
    general: Said
    if not chosen["general"]:
        general = Said("nothing general was asked")
    elif chosen["keeps_general"]:
        general = Said("nothing general is lost there")
    else:
        lost = chosen["general_before"] - point["general"]
        general = Said(
            "{lost} of {all} general tasks are lost there, and no epoch as good loses fewer",
            lost=lost,
            all=chosen["general"],
        )
    values = {name: chosen[name] for name in ("tried", "questions")} | {"epoch": chosen["chosen"], "general": general}
    values["what"] = (
        Said("questions in other words") if chosen["by"] == "reworded" else Said("rows left out of a trial")
    )
    if chosen["measure"] == "nll":
        pattern = (
            "epoch {epoch} of {tried} was chosen: of {questions} {what} at most {right} are answered right at any, so "
            "that the likelihood of the right answers decided ({nll:.2f} nats a token there, {best:.2f} at best), and "
            "{general}"
        )
        most = max(each["right"] for each in chosen["curve"])
        return Said(pattern, right=most, nll=point["nll"], best=at[chosen["best"]]["nll"], **values)
    if chosen["best"] == chosen["chosen"]:
        pattern = (
            "epoch {epoch} of {tried} was chosen: {right} of {questions} {what} are answered right, the most, and "
            "{general}"
        )
        return Said(pattern, right=point["right"], **values)
    pattern = (
        "epoch {epoch} of {tried} was chosen: {right} of {questions} {what} are answered right, within the noise of "
        "the best ({best}, epoch {at}), and {general}"
    )
    return Said(pattern, right=point["right"], best=at[chosen["best"]]["right"], at=chosen["best"], **values)
