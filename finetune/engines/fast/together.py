"""Training with several processes, for the one that the user started: start, take part, end; for train.py."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from common.errors import DONE, FAILED, UserError
from common.i18n import _
from finetune.engines.fast.crew import TRAIN, pack
from finetune.engines.fast.loaded_model import Lane
from finetune.runs.gpu_lock import Job, job
from finetune.runs.progress_bar import Bar
from finetune.runs.stop_signals import Stop

if TYPE_CHECKING:
    from finetune.engines.fast.train import Drawing, TrainRequest


@contextlib.contextmanager
def ending(lane: Lane) -> Iterator[None]:
    """End this node's other processes with the training, unless they stay; a lost process becomes a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise UserError(_("the training was not begun: {why}").format(why=error), FAILED) from None
    finally:
        if lane.crew is not None and not lane.crew.stays:
            lane.dismiss()


def is_lost(error: RuntimeError) -> bool:
    from qwen2.training.team import LostError

    return isinstance(error, LostError)


def begin(lane: Lane, model: Any, settings: Any, request: TrainRequest, held: Job, drawing: Drawing) -> Any:
    """The team, with its job, ready for the first step."""
    crew = lane.crew
    assert crew is not None
    team = crew.team()

    def lost(why: str) -> None:
        held.forget()
        drawing.give_up()
        crew.end(1.0)
        if request.lost:
            request.lost(why)

    team.on_lost = lost
    team.share_json({"do": TRAIN, "stay": stays(lane)})
    team.share(pack(settings, request.rows.rows))
    team.join(model.device)
    return team


def stays(lane: Lane) -> bool:
    """Whether the other processes answer questions after training; those of other nodes never do."""
    return lane.asks_later and lane.crew is not None and lane.crew.workers.nodes == 1


def trained(lane: Lane, team: Any) -> None:
    """The last step is done: the others leave, or stay for questions."""
    if not stays(lane):
        team.leave()
        return
    assert lane.crew is not None
    team.disband()
    lane.crew.stays = True


@contextlib.contextmanager
def not_waiting(lane: Lane) -> Iterator[None]:
    """If this process fails or is stopped, abort a thread that waits for the others."""
    try:
        yield
    except BaseException:
        if lane.crew is not None:
            lane.crew.give_up()
        raise


def tell(lane: Lane, error: BaseException) -> None:
    """End the other processes, too, if this one fails before the first step."""
    if lane.crew is None:
        return
    team = lane.crew.met()
    if team is None:
        return
    why = " ".join(str(error).split())[:200] or type(error).__name__
    with contextlib.suppress(UserError, RuntimeError):
        team.settle()
        team.lose(_("it was stopped") if isinstance(error, SystemExit) else why)


def take_part(lane: Lane, request: TrainRequest, stop: Stop) -> tuple[int, str]:
    """Train as a node above 0 with node 0's settings, rows and adapter; only node 0 writes. (exit code, reason)."""
    from rich.console import Console

    from finetune.engines.fast import worker

    with (
        ending(lane),
        job(request.name, wait=request.wait or None) as held,
        Bar(Console(stderr=True), 0, None, "steps") as bar,
    ):
        bar.listener = held.step
        stop.cleanup.append(held.forget)
        crew = lane.crew
        assert crew is not None
        team = crew.team()
        stop.at_steps = True

        def lost(why: str) -> None:
            held.forget()
            crew.end(1.0)
            print(_("error: {name}: {why}").format(name=request.name, why=why), file=sys.stderr)

        team.on_lost = lost

        def on_step(step: int, total: int, log: Any) -> None:
            bar.expect(total)
            bar.advance(step - bar.done)

        try:
            worker.take_part(team, lane, lambda: lane.load(bar), lambda: stop.number is not None, on_step)
        except UserError as error:
            team.lose(str(error))
            raise
        except RuntimeError as error:
            if not is_lost(error):
                team.lose(f"{type(error).__name__}: {error}")
                raise
            team.settle()
            return FAILED, str(error)
    return 128 + stop.number if stop.number else DONE, ""
