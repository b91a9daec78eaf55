"""The fast lane behind sft.sh: rows to ids, the model into memory once, qwen2.training, PEFT checkpoints.

Called by commands/sft.py. The model is a Lane's (loaded_model.py).
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import DONE, FAILED, UserError
from finetune.engines.choose import Choice
from finetune.engines.fast import rows as fast_rows
from finetune.engines.fast.loaded_model import Lane
from finetune.runs.gpu_lock import STOPPING, job
from finetune.runs.progress_bar import Bar

CURVES_WAIT_S = 30.0  # for the loss curve, at the end


@dataclass
class Ended:
    """How a run of the fast lane ended: the exit code, why when it is not 0, and figures for run.json."""

    code: int
    why: str = ""
    figures: Mapping[str, Any] | None = None


@dataclass
class Request:
    """What is to be trained: everything that train.Plan knows and the fast lane needs."""

    name: str
    folder: Path
    choice: Choice
    rows: fast_rows.Rows
    args_json: dict[str, Any]  # options that `swift infer --adapters` reads from a checkpoint
    resume: Path | None = None
    wait: bool = False


def train(lane: Lane, request: Request) -> Ended:
    """Train; checkpoints, logging.jsonl and images/ come into the folder. UserError before the first step only.

    A stop signal saves a checkpoint after the step in hand and ends with 128 + its number.
    """
    from rich.console import Console

    console = Console(stderr=True)
    with job(request.name, wait=request.wait or None) as held, Bar(console, 0, None, "steps") as bar, Stop() as stop:
        bar.listener = held.step
        with curves(request.folder, request.choice.tensorboard), ThreadPoolExecutor(1) as pool:
            drawing = None if request.resume else pool.submit(_first_adapter, lane, request)
            model = lane.load(bar)
            settings, plan = fit(lane, model, request)
            print(plan, file=sys.stderr)
            return _train(lane, model, settings, request, bar, stop, drawing.result() if drawing else None)


def _first_adapter(lane: Lane, request: Request) -> Any:
    """The adapter to begin with, its numbers drawn while the weights are loaded; None where settings are no good."""
    lane.torch()
    from qwen2.config import Config
    from qwen2.training.loop import TrainSettings, new_adapter

    try:
        return new_adapter(Config.from_dir(lane.model_dir), TrainSettings(**request.choice.train))
    except ValueError:
        return None  # fit() says what is wrong


def fit(lane: Lane, model: Any, request: Request) -> tuple[Any, str]:
    """(TrainSettings that fit into the memory, the plan in one line)."""
    from dataclasses import replace

    from qwen2.training import memory
    from qwen2.training.loop import TrainSettings

    try:
        settings = TrainSettings(**request.choice.train)
        rows = request.rows.rows
        steps = f"{settings.total_steps(len(rows))} steps of {settings.batch_size} rows"
        if lane.device == "cpu":
            return settings, f"plan: {steps}, {request.rows.in_one_line()}"
        ceiling = lane.ceiling_gib()
        planned = memory.plan(model.config, settings, rows, ceiling)
    except ValueError as error:
        raise UserError(f"{request.name}: {error}") from None
    settings = replace(settings, recompute=planned.recompute, micro_batch_tokens=planned.micro_batch_tokens)
    parts = f"parts of {planned.micro_batch_tokens} tokens" if planned.micro_batch_tokens else "each in one piece"
    again = {"none": "nothing", "swiglu": "SwiGLU", "layer": "whole layers"}[planned.recompute]
    return settings, (
        f"plan: {steps}, {parts}, {again} recomputed, about {planned.peak_gib:.1f} GiB of {ceiling:.1f}; "
        f"{request.rows.in_one_line()}"
    )


def _train(lane: Lane, model: Any, settings: Any, request: Request, bar: Bar, stop: Stop, adapter: Any) -> Ended:
    torch = lane.torch()
    from qwen2.training.loop import DivergedError, StoppedError
    from qwen2.training.loop import train as run

    bar.expect(settings.total_steps(len(request.rows.rows)))
    bar.phase("training")
    begun = 0

    def on_step(step: int, total: int, log: dict[str, Any] | None) -> None:
        nonlocal begun
        bar.advance(step - begun)
        begun = step
        if log:
            bar.note(f"step {step}/{total}, loss {log['loss']:.4f}")

    stop.at_steps = True
    try:
        result = run(
            model,
            request.rows.rows,
            settings,
            request.folder,
            resume=request.resume,
            adapter=adapter,
            on_step=on_step,
            extra_files={"args.json": json.dumps(request.args_json, ensure_ascii=False, indent=2) + "\n"},
            stop=lambda: stop.number is not None,
        )
    except StoppedError as error:
        number = stop.number or signal.SIGTERM
        return Ended(128 + number, f"stopped by {signal.Signals(number).name} at step {error.step}")
    except DivergedError as error:
        return Ended(FAILED, str(error))
    except ValueError as error:  # rows or a checkpoint that cannot be trained on; found before the first step
        raise UserError(f"{request.name}: {error}") from None
    except torch.OutOfMemoryError:
        peak = torch.cuda.max_memory_reserved() / 2**30
        return Ended(
            FAILED,
            f"the GPU's memory ran out at {peak:.1f} GiB of VRAM_CEILING_GIB={lane.cap_gib:g}: lower "
            "max_length, end what else uses the GPU (nvidia-smi), or raise the ceiling on a larger card",
        )
    except OSError as error:
        return Ended(FAILED, f"{error.filename or request.folder}: {error.strerror}: free some room and resume")
    finally:
        stop.at_steps = False
    figures: dict[str, Any] = {
        "loss_of_last_step": round(result.losses[-1], 5),
        "setup_seconds": round(result.setup_seconds, 3),
        "loop_seconds": round(result.seconds, 3),
        "load_seconds": round(lane.seconds, 3),
        "ms_per_step": round(sorted(result.step_ms)[len(result.step_ms) // 2], 2),
        "tokens": result.tokens,
    }
    if lane.device == "cuda":
        figures["peak_allocated_gib"] = round(result.peak_allocated_gib, 2)
        figures["peak_reserved_gib"] = round(result.peak_reserved_gib, 2)
    return Ended(DONE, figures=figures)


class Stop:
    """Stop signals while it is open: noted during steps, and as an exception that ends the run at any other time."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_steps = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in STOPPING}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        if self.at_steps and self.number is None:
            self.number = number
            print(f"{signal.Signals(number).name}: saving a checkpoint after this step", file=sys.stderr)
        elif not self.at_steps:
            raise SystemExit(128 + number)


@contextlib.contextmanager
def curves(folder: Path, tensorboard: bool) -> Iterator[None]:
    """Draw the loss curve when what runs inside has ended, by a process that imports matplotlib meanwhile."""
    words = [sys.executable, "-m", "finetune.engines.fast.curves", str(folder), "--wait"]
    words += [] if tensorboard else ["--no-tensorboard"]
    # A session of its own: a Ctrl-C or stop signal to the group is for the training, which saves first.
    process = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(CURVES_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(f"note: {folder}: the loss curve was given up after {CURVES_WAIT_S:g} s", file=sys.stderr)
