"""A further process of a fast-lane training, on a GPU of its own; crew.py starts it and says what it is to do."""

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
from finetune.engines.fast.crew import ENV, NCCL_GIB, opener, unpack
from finetune.engines.fast.loaded_model import Lane


def main(argv: list[str] | None = None) -> int:
    """Load the model, wait for the training, take part in it. The exit code."""
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
        return FAILED  # the first process is gone, and has said why
    try:
        take_part(team, lane, lane.model)
    except LostError:
        team.settle()
        return FAILED  # the first process names it
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
    """The part of any process but the first: settings, rows and adapter come from that one. Raises as `train` does.

    UserError where the weights or a micro-batch do not fit.
    """
    from qwen2.training.loop import DivergedError, StoppedError, train

    torch = lane.torch()
    team.tell("ceiling", None if lane.device == "cpu" else lane.ceiling_gib(NCCL_GIB))
    model = load()
    settings, rows = unpack(team.share(None))
    team.join(model.device)
    try:
        with tempfile.TemporaryDirectory(prefix="worker-") as folder:  # its log is not kept
            # A stop is the first process's to ask for, or this node's own.
            train(model, rows, settings, folder, on_step=on_step, stop=stop or (lambda: False), team=team)
    except (DivergedError, StoppedError):
        pass  # the first process is at the same step, and says so
    except torch.OutOfMemoryError:
        peak = torch.cuda.max_memory_reserved() / 2**30
        raise UserError(_("its GPU's memory ran out at {peak:.1f} GiB").format(peak=peak), FAILED) from None
    team.leave()


def _end_with_the_first() -> None:
    """stdin is the first process's end of a pipe, which closes however that process ends."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(FAILED)


if __name__ == "__main__":
    main()
