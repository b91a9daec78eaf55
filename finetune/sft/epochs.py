"""--num_train_epochs auto: one long training run; keeps the adapters of its epochs, tests them and saves the best.

Called by start.py; finetune/verify/epochs has the questions and the rule. A task is tested on unseen rows, which takes
a trial without them first. The training on all rows then uses the number of epochs that the trial chose.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from common import i18n
from common.errors import UserError
from common.i18n import _
from finetune.engines.fast.loaded_model import Lane
from finetune.engines.fast.train import Ended
from finetune.sft.description import SftRun, listed
from finetune.verify import base_cache, epochs, words
from finetune.verify.engine import Qwen2Engine
from finetune.verify.epochs.choice import Point, choose, record, says_too_little, sentence
from finetune.verify.rewordings.file import Rewording
from finetune.verify.sets.survey import Sets, Survey

if TYPE_CHECKING:  # imports the judge, which a run with a fixed number of epochs does without
    from finetune.verify.epochs.questions import Questions, VerdictOptions

AUTO = "auto"
LADDER = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40)  # epochs whose adapters are kept and tested
STEPS, STEPS_CPU = 2400, 400  # of the longest run that is tried, as far as SHORTEST allows
SHORTEST = 3  # epochs that are tried, however many steps they take


@dataclass(frozen=True)
class Data:
    """The data on which a number of epochs is chosen, and the verdict's questions on them."""

    found: Survey
    chosen: Sets
    options: VerdictOptions

    @property
    def words(self) -> list[int]:
        """Indices of rows that are asked in other words; empty if unseen rows decide."""
        return [] if self.unseen else epochs.in_other_words(self.found, self.chosen)

    @property
    def unseen(self) -> list[int]:
        """Indices of rows that a trial leaves out and asks."""
        return epochs.unseen(self.found, self.chosen)


def take(run: SftRun) -> SftRun:
    """The run with `--num_train_epochs auto` parsed; a number takes its place until the rows are known.

    Raises UserError if other options set the length of training as well.
    """
    if [value.lower() for value in listed(run.args.get("num_train_epochs"))] != [AUTO]:
        return run
    for name in ("max_steps", "load_best_model_at_end", "early_stop_interval"):
        if run.value(name) not in (None, False, -1, ["-1"], ["false"]):
            raise UserError(
                _("--num_train_epochs auto: --{name} decides the length, too; leave one of the two out").format(
                    name=name
                )
            )
    return replace(run, auto=True).with_option("num_train_epochs", str(LADDER[-1]))


def require_fast(run: SftRun) -> None:
    """Raises UserError if an engine other than the fast lane would have to keep the adapters."""
    if run.auto and not run.choice.is_fast:
        raise UserError(
            _(
                "--num_train_epochs auto: only the fast lane keeps the adapters of the epochs, and ms-swift trains "
                "here, {why}; leave that out, or give a number of epochs"
            ).format(why=run.choice.why)
        )


def settle(run: SftRun, rows: int) -> SftRun:
    """The run with the largest number of epochs that is tried for that many rows."""
    steps = STEPS_CPU if run.settings.wants_cpu else STEPS
    most = max(SHORTEST, steps // -(-rows // int(run.choice.train["batch_size"])))
    return with_epochs(run, max(epoch for epoch in LADDER if epoch <= most))


def with_epochs(run: SftRun, count: int) -> SftRun:
    """The run with that many epochs."""
    train = run.choice.train | {"num_train_epochs": float(count)}
    return replace(run.with_option("num_train_epochs", str(count)), choice=replace(run.choice, train=train))


def steps_of(run: SftRun, rows: int) -> dict[int, int]:
    """{last step of each epoch that is tested: the epoch}."""
    most = int(run.choice.train["num_train_epochs"])
    each = -(-rows // int(run.choice.train["batch_size"]))
    return {each * epoch: epoch for epoch in LADDER if epoch <= most}


def questions(run: SftRun, data: Data, known: Sequence[Rewording]) -> Questions | None:
    """What the choice is based on; None, with a line on stderr, if there is too little of it."""
    from finetune.verify.epochs.questions import gather

    found = gather(data.found, known, data.words, data.unseen, data.options, run.model_kind.name)
    if len(found.own) >= epochs.FEWEST:
        return found
    print(
        _(
            "note: --num_train_epochs auto: {count} questions are too few to choose by (at least {fewest}); trained "
            "for {epochs} epochs, as without it"
        ).format(count=len(found.own), fewest=epochs.FEWEST, epochs=default_epochs(run)),
        file=sys.stderr,
    )
    return None


def default_epochs(run: SftRun) -> int:
    """The number of epochs in the config file, or the test model's own."""
    return int(float(run.own.get("num_train_epochs", run.config.get("num_train_epochs", 3))))


def ask(
    run: SftRun, lane: Lane, asked: Questions, ended: Ended, at: Mapping[int, int], stopped: Callable[[], bool]
) -> dict[str, Any] | None:
    """Test the adapters of a run; returns run.json's record of the choice. `ended.adapter` then has the chosen epoch.

    Returns None if `stopped` becomes true meanwhile.

    Args:
        run: The run that trained them.
        lane: The model.
        asked: The questions.
        ended: The finished training, with the adapter's values after some steps.
        at: Those steps -> their epochs.
        stopped: Whether a stop signal has arrived.
    """
    from qwen2.room import ROOMY

    if lane.device == "cuda":
        lane.torch().cuda.empty_cache()
    bare = Qwen2Engine(lane.model_dir, lane.device, lane=lane, room=ROOMY)
    engine = base_cache.over(bare, lane.model_dir, run.settings.output_dir)
    system = run.choice.system or asked.cfg.system
    print(
        _("epochs: {adapters} adapters are asked {own} questions of the data and {general} general tasks ...").format(
            adapters=len(at), own=len(asked.own), general=len(asked.general)
        ),
        file=sys.stderr,
    )
    before = tuple(asked.ask(engine, None, system, only_general=True))
    points = []
    for step, epoch in sorted(at.items()):
        if stopped():
            return None
        _put(ended.adapter, ended.kept[step])
        right = asked.ask(engine, ended.adapter, system)
        points.append(Point(epoch, step, tuple(right[: len(asked.own)]), tuple(right[len(asked.own) :])))
    if says_too_little(points):
        for place, point in enumerate(points):
            _put(ended.adapter, ended.kept[point.step])
            points[place] = replace(point, nll=tuple(asked.weigh(engine, ended.adapter, system)))
    choice = choose(points, before)
    _put(ended.adapter, ended.kept[choice.point.step])
    found = record(choice, points, before, "unseen" if asked.own[0].part == "unseen" else "reworded")
    print(_("epochs: {why}").format(why=words.speaker(i18n.language())(sentence(found))), file=sys.stderr)
    return found


def _put(adapter: Any, numbers: Any) -> None:
    adapter.flat.copy_(numbers)
    adapter.touch()
