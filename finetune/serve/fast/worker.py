"""The engine's process: loads base and adapters, then answers requests from a pipe; server.py starts it.

It is separate from the endpoint, so that steps of a few milliseconds never wait for the Python code that writes HTTP.

    in:  ("ask", Request)  ("cancel", id)
    out: ("ready", figures) once, or ("failed", why, exit code)
         ("said", [NextToken], load) after every step with news, ("refused", id, why)
"""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common.errors import FAILED, UserError
from common.i18n import _
from finetune.engines.fast.loaded_model import Lane
from finetune.serve.fast.settings import EndpointSettings

ROWS_GPU, ROWS_CPU = 128, 32
CPU_CACHE_GIB = 0.5
# GPU memory besides weights and cache: activations of a piece of a prompt, logits and their copies, CUDA graphs.
ROOM_GIB = 1.25
FILLED = 0.95  # the cache takes this share of what is left: the allocator leaves gaps


def main(pipe: Connection, settings: EndpointSettings) -> None:
    """Answer until the other end of the pipe closes. Stop signals are ignored: the server ends answers first."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            scheduler = load(settings)
        except UserError as error:
            pipe.send(("failed", str(error), error.exit_code))
            return
        except Exception as error:
            text = " ".join(str(error).split())[:500]
            why = _("the engine cannot start ({kind}: {text}); set BACKEND=swift to use ms-swift's engine").format(
                kind=type(error).__name__, text=text
            )
            pipe.send(("failed", why, FAILED))
            return
        from qwen2.serving.scheduler import summary

        pipe.send(("ready", summary(scheduler)))
        try:
            serve(pipe, scheduler)
        except (EOFError, OSError):
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:500]
            print(
                f"serve: engine: {type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})",
                file=sys.stderr,
                flush=True,
            )


def load(settings: EndpointSettings) -> Any:
    """The scheduler with base and adapters loaded. Raises UserError if that fails."""
    lane = Lane(Path(settings.model), settings.device, settings.ceiling_gib)
    torch = lane.torch()
    model = lane.model()
    from qwen2.lora import Adapter
    from qwen2.serving.adapters import Adapters
    from qwen2.serving.scheduler import Scheduler

    try:
        loaded = [Adapter.load(path, model) for path in settings.adapters.values()]
        with torch.no_grad():
            adapters = Adapters(model, loaded) if loaded else None
            del loaded
            rows, pages = size(lane, model, settings.rows)
            scheduler = Scheduler(model, adapters, rows, pages, settings.max_length)
            if settings.device == "cuda":
                scheduler.batch.capture()
    except ValueError as error:
        raise UserError(_("an adapter cannot be served: {error}").format(error=error)) from None
    except torch.OutOfMemoryError:
        raise UserError(
            _(
                "the GPU's memory ran out while the engine was set up; end what else uses the GPU (nvidia-smi), or "
                "raise VRAM_CEILING_GIB on a larger card"
            ),
            FAILED,
        ) from None
    return scheduler


def size(lane: Lane, model: Any, asked: int | None) -> tuple[int, int]:
    """Size the cache by the memory that is free under the ceiling.

    Args:
        lane: Where the model was loaded: its device and its ceiling.
        model: The model.
        asked: Rows that the user asked for; None: the device's default.

    Returns:
        Rows (answers at a time) and pages of the cache.

    Raises:
        UserError: Too little memory is left for a single answer.
    """
    from qwen2.serving.batch import page_bytes
    from qwen2.serving.pages import PAGE, pages_for

    page = page_bytes(model.config, model.embedding.element_size())
    if lane.device == "cpu":
        rows, free = asked or ROWS_CPU, CPU_CACHE_GIB * 2**30
    else:
        torch = lane.torch()
        torch.cuda.empty_cache()
        rows, free = asked or ROWS_GPU, lane.ceiling_gib() * 2**30 - torch.cuda.memory_reserved()
        free = FILLED * (free - ROOM_GIB * 2**30)
    # Never more pages than all rows at the model's maximum length can use.
    pages = min(int(free / page), rows * pages_for(model.config.max_positions) + 1)
    if pages * PAGE < 1024 and pages * PAGE < model.config.max_positions:
        raise UserError(
            _(
                "no GPU memory is left for answers besides the weights under VRAM_CEILING_GIB={ceiling:g}; "
                "raise it on a larger card, or serve fewer adapters"
            ).format(ceiling=lane.cap_gib),
            FAILED,
        )
    return rows, pages


def serve(pipe: Connection, scheduler: Any) -> None:
    """Take requests and send their tokens until the pipe is closed."""
    while True:
        while scheduler.idle or pipe.poll(0):
            take(pipe, scheduler, pipe.recv())
        if said := scheduler.step():
            pipe.send(("said", said, scheduler.load()))


def take(pipe: Connection, scheduler: Any, message: tuple[Any, ...]) -> None:
    """Handle one message of the endpoint."""
    if message[0] == "cancel":
        scheduler.cancel(message[1])
        return
    try:
        scheduler.add(message[1])
    except ValueError as error:
        pipe.send(("refused", message[1].id, str(error)))
