"""A further process of the fast lane, on its own GPU: it trains and answers; started by crew.py."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import DONE, FAILED, UserError, leave, run_main
from common.i18n import _
from finetune.engines.fast.crew import ENV, NCCL_GIB, TRAIN, opener, unpack
from finetune.engines.fast.loaded_model import Lane


def main(argv: list[str] | None = None) -> int:
    """Load the model and take part in the first process's work. Returns the exit code."""
    leave(run_main(_main))


def _main() -> int:
    job = json.loads(os.environ.pop(ENV))
    threading.Thread(target=_end_with_the_first, name="stdin", daemon=True).start()
    lane = Lane(Path(job["model_dir"]), job["device"], job["ceiling_gib"])
    lane.torch()
    from qwen2.training.team import LostError, Team

    try:
        team = Team(job["rank"], job["size"], job["name"], opener(job["host"], job["port"], job["seconds"]))
    except RuntimeError:
        return FAILED  # the first process is gone, and has reported why
    try:
        take_part(team, lane, lane.model)
    except LostError:
        team.settle()
        return FAILED  # the first process reports it
    except UserError as error:
        team.lose(str(error))
        return FAILED
    except Exception as error:
        team.lose(f"{type(error).__name__}: {error}")
        return FAILED
    return DONE


def take_part(
    team: Any,
    lane: Lane,
    load: Callable[[], Any],
    stop: Callable[[], bool] | None = None,
    on_step: Callable[[int, int, Any], None] | None = None,
) -> None:
    """The part of every process but the first, in training and in answering. Raises as `train` does.

    Settings, rows, adapter and questions come from the first process. Raises UserError if the weights, a micro-batch or
    answers do not fit.
    """
    from finetune.engines.fast import shared

    team.tell("ceiling", None if lane.device == "cpu" else lane.ceiling_gib(NCCL_GIB))
    model, adapters = load(), dict[str, Any]()
    while True:
        order = team.share_json(None)
        if order["do"] != TRAIN:
            shared.take_order(team, model, order, adapters)
            continue
        _train(team, lane, model, stop, on_step)
        if not order["stay"]:
            team.leave()
            return
        team.disband()


def _train(
    team: Any,
    lane: Lane,
    model: Any,
    stop: Callable[[], bool] | None,
    on_step: Callable[[int, int, Any], None] | None,
) -> None:
    from qwen2.training.loop import DivergedError, StoppedError, train

    torch = lane.torch()
    settings, rows = unpack(team.share(None))
    team.join(model.device)
    try:
        with tempfile.TemporaryDirectory(prefix="worker-") as folder:  # its log is discarded
            # Only the first process, or this node's own, may ask for a stop.
            train(model, rows, settings, folder, on_step=on_step, stop=stop or (lambda: False), team=team)
    except (DivergedError, StoppedError):
        pass  # the first process is at the same step, and reports it
    except torch.OutOfMemoryError:
        peak = torch.cuda.max_memory_reserved() / 2**30
        raise UserError(_("its GPU's memory ran out at {peak:.1f} GiB").format(peak=peak), FAILED) from None


def _end_with_the_first() -> None:
    """stdin is a pipe from the first process; it closes however that process ends."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(FAILED)


if __name__ == "__main__":
    main()
