"""The fast lane behind sft.sh: rows to ids, the model into memory once, qwen2.training, PEFT checkpoints.

Called by sft/start.py. The model is a Lane's (loaded_model.py).
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import DONE, FAILED, UserError, command
from common.i18n import _
from finetune.engines.choose import EngineChoice
from finetune.engines.fast import rows as fast_rows
from finetune.engines.fast import together
from finetune.engines.fast.crew import NCCL_GIB
from finetune.engines.fast.loaded_model import Lane
from finetune.runs.gpu_lock import job
from finetune.runs.progress_bar import Bar
from finetune.runs.stop_signals import Stop

CURVES_WAIT_S = 30.0  # wait for the loss curve at the end
STOPPED_WAIT_S = 1.0  # the same, after a stop signal


@dataclass
class Ended:
    """How a fast-lane run ended: exit code, the reason if it is not 0, figures for run.json, the running drawing."""

    code: int
    why: str = ""
    figures: Mapping[str, Any] | None = None
    drawing: Drawing | None = None
    adapter: Any = None  # after the last step
    kept: Mapping[int, Any] = field(default_factory=dict)  # TrainRequest.keep's steps -> its values, on the host


@dataclass
class TrainRequest:
    """What to train: the part of a run's description (sft/description.py) that the fast lane needs."""

    name: str
    folder: Path
    choice: EngineChoice
    rows: fast_rows.EncodedRows
    args_json: dict[str, Any]  # options that `swift infer --adapters` reads from a checkpoint
    resume: Path | None = None
    wait: bool = False
    lost: Callable[[str], object] | None = None  # records why a hung process of several had to be ended
    keep: frozenset[int] = frozenset()  # steps whose adapter is kept


def train(lane: Lane, request: TrainRequest, stop: Stop) -> Ended:
    """Train; writes checkpoints and logging.jsonl to the folder. Raises UserError before the first step only.

    A stop signal saves a checkpoint after the current step and ends with 128 + its number; during or after the last
    step it has no effect. The caller records how the run ended, and then waits for Ended.drawing.
    """
    from rich.console import Console

    console = Console(stderr=True)
    with (
        together.ending(lane),
        job(request.name, wait=request.wait or None) as held,
        Bar(console, 0, None, "steps") as bar,
    ):
        bar.listener = held.step
        drawing = Drawing(request.folder, request.choice.tensorboard)
        stop.cleanup += [held.forget, drawing.give_up]
        try:
            with ThreadPoolExecutor(1) as pool, together.not_waiting(lane):
                # Both run during loading; the free memory is read first, before we change it.
                planned = pool.submit(_plan, lane, request)
                drawn = None if request.resume else pool.submit(_first_adapter, lane, request)
                model = lane.load(bar)
                settings, line = planned.result()
                print(line, file=sys.stderr)
                adapter = drawn.result() if drawn else None
            team = together.begin(lane, model, settings, request, held, drawing) if lane.crew else None
            ended = _train(lane, model, settings, request, bar, stop, adapter, team)
        except BaseException as error:
            drawing.give_up()  # no step was made
            together.tell(lane, error)
            raise
        ended.drawing = drawing
        return ended


def _ceiling_gib(lane: Lane) -> float | None:
    """GiB to plan with; None on a CPU, where no batch is split."""
    lane.torch()
    return None if lane.device == "cpu" else lane.ceiling_gib()


def _plan(lane: Lane, request: TrainRequest) -> tuple[Any, str]:
    """`fit` with the lowest ceiling of all processes."""
    if lane.crew is None:
        return fit(lane.model_dir, request, _ceiling_gib(lane))
    team = lane.crew.team()
    team.tell("ceiling", None if lane.device == "cpu" else lane.ceiling_gib(NCCL_GIB))
    ceilings = [each for each in team.ask("ceiling") if each is not None]
    return fit(lane.model_dir, request, min(ceilings, default=None), team.size)


def train_adapter(lane: Lane, request: TrainRequest, title: str) -> Ended:
    """An adapter trained as by `train`, for a test and not to be saved: the folder is for the log only.

    Raises UserError if it cannot be trained, or diverges.
    """
    from rich.console import Console

    with Bar(Console(stderr=True), 0, None, "steps") as bar:
        model = lane.load(bar)
        settings, _other = fit(lane.model_dir, request, _ceiling_gib(lane))
        from qwen2.training.loop import DivergedError
        from qwen2.training.loop import train as run

        total = settings.total_steps(len(request.rows.rows))
        bar.expect(total)
        bar.phase(title)
        try:
            settings = replace(settings, save_strategy="steps", save_steps=total)
            adapter, keeper = _first_adapter(lane, request), Keeper(request.keep)

            def on_step(step: int, total: int, log: dict[str, Any] | None) -> None:
                keeper.take(step, adapter)
                bar.advance(1)

            run(model, request.rows.rows, settings, request.folder, on_step=on_step, adapter=adapter)
        except (DivergedError, ValueError) as error:
            raise UserError(f"{title}: {error}", FAILED) from None
    return Ended(DONE, adapter=adapter, kept=keeper.kept)


def save_earlier(folder: Path, step: int, ended: Ended) -> None:
    """Save the adapter, with the values of `step`, instead of the run's checkpoints. Raises OSError on failure."""
    from qwen2.training import checkpoint

    checkpoint.save_earlier(folder, step, ended.adapter)


class Keeper:
    """Copies of an adapter's values on the host, after some steps."""

    def __init__(self, steps: frozenset[int]) -> None:
        self.steps, self.kept = steps, dict[int, Any]()

    def take(self, step: int, adapter: Any) -> None:
        """Copy the adapter if this step is wanted; waits for the GPU."""
        if step in self.steps:
            self.kept[step] = adapter.flat.to("cpu", copy=True)


def _first_adapter(lane: Lane, request: TrainRequest) -> Any:
    """The initial adapter, its values drawn while the weights are loaded; None for invalid settings."""
    from qwen2.config import Config
    from qwen2.training.loop import new_adapter
    from qwen2.training.settings import TrainSettings

    try:
        return new_adapter(Config.from_dir(lane.model_dir), TrainSettings(**request.choice.train))
    except ValueError:
        return None  # fit() reports what is wrong


def fit(model_dir: Path, request: TrainRequest, ceiling: float | None, processes: int = 1) -> tuple[Any, str]:
    """(TrainSettings that fit into `ceiling` GiB, the plan in one line). Raises UserError if nothing fits.

    A resumed run keeps its checkpoint's split of the batch if that fits, and reproduces the same numbers. A different
    split is reported.
    """
    from qwen2.config import Config
    from qwen2.training import checkpoint, memory
    from qwen2.training.settings import TrainSettings

    rows, said = request.rows.rows, ""
    try:
        from qwen2.training.evaluate import reserve_gib

        beside = reserve_gib(request.rows.held_out)
        settings = TrainSettings(**request.choice.train)
        steps = _("{count} steps, up to {batch_size} rows a step").format(
            count=settings.total_steps(len(rows)), batch_size=settings.batch_size
        )
        if processes > 1:
            steps = _("{steps} on {processes} processes").format(steps=steps, processes=processes)
        if ceiling is None:
            return settings, _("plan: {rows}; {steps}").format(rows=request.rows.in_one_line(), steps=steps)
        config = Config.from_dir(model_dir)
        ceiling -= beside
        before = checkpoint.split_of(request.resume) if request.resume else None
        planned = memory.as_split(config, settings, rows, ceiling, *before, processes) if before else None
        if planned is None:
            planned = memory.plan(config, settings, rows, ceiling, processes)
            if before and before != (planned.recompute, planned.micro_batch_tokens):
                said = _(
                    "; the split of {name} ({split_in_words}) needs more: the same rows a step, but "
                    "dropout and rounding are not those of a run that was never stopped"
                ).format(name=request.resume and request.resume.name, split_in_words=_split_in_words(*before))
    except ValueError as error:
        raise UserError(f"{request.name}: {error}") from None
    settings = replace(settings, recompute=planned.recompute, micro_batch_tokens=planned.micro_batch_tokens)
    return settings, (
        _("plan: {rows}; {steps}, {split_in_words}, about {peak_gib:.1f} GiB of {ceiling:.1f}{said}").format(
            rows=request.rows.in_one_line(),
            steps=steps,
            split_in_words=_split_in_words(planned.recompute, planned.micro_batch_tokens),
            peak_gib=planned.peak_gib + beside,
            ceiling=ceiling + beside,
            said=said,
        )
    )


def _split_in_words(recompute: str, tokens: int | None) -> str:
    again = {"none": _("nothing"), "swiglu": "SwiGLU", "layer": _("whole layers")}[recompute]
    parts = _("parts of {tokens} tokens").format(tokens=tokens) if tokens else _("each in one piece")
    return _("{parts}, {again} recomputed").format(parts=parts, again=again)


def _train(
    lane: Lane, model: Any, settings: Any, request: TrainRequest, bar: Bar, stop: Stop, adapter: Any, team: Any
) -> Ended:
    torch = lane.torch()
    from qwen2.training.loop import DivergedError, StoppedError
    from qwen2.training.loop import train as run
    from qwen2.training.team import LostError

    bar.expect(settings.total_steps(len(request.rows.rows)))
    bar.phase(_("training"))
    begun, keeper = 0, Keeper(request.keep)

    def on_step(step: int, total: int, log: dict[str, Any] | None) -> None:
        nonlocal begun
        keeper.take(step, adapter)
        bar.advance(step - begun)
        begun = step
        if log:
            bar.figure(
                _("step {step}/{total}, loss {loss:.4f}").format(step=step, total=total, loss=log["loss"]),
                keep=step in (1, total),
            )

    stop.plan = _("a checkpoint is saved after this step")
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
            team=team,
            held_out=request.rows.held_out,
        )
        if team:
            together.trained(lane, team)
    except LostError as error:
        team.settle()
        return Ended(FAILED, str(error))
    except StoppedError as error:
        if team:
            together.trained(lane, team)
        number = stop.number or signal.SIGTERM
        return Ended(
            128 + number,
            _("stopped by {name} at step {step}").format(name=signal.Signals(number).name, step=error.step),
        )
    except DivergedError as error:
        return Ended(FAILED, str(error))
    except ValueError as error:  # rows or a checkpoint that cannot be trained on; found before the first step
        raise UserError(f"{request.name}: {error}") from None
    except torch.OutOfMemoryError:
        if team:
            team.lose(_("its GPU's memory ran out"))
        peak = torch.cuda.max_memory_reserved() / 2**30
        return Ended(
            FAILED,
            _(
                "the GPU's memory ran out at {peak:.1f} GiB of VRAM_CEILING_GIB={cap_gib:g}: lower "
                "max_length, end what else uses the GPU (nvidia-smi), or raise the ceiling on a larger card"
            ).format(peak=peak, cap_gib=lane.cap_gib),
        )
    except OSError as error:
        if team:
            team.lose(f"{error.filename or request.folder}: {error.strerror}")
        return Ended(
            FAILED,
            _("{path}: {strerror}: free some room and resume").format(
                path=error.filename or request.folder, strerror=error.strerror
            ),
        )
    stop.trained()
    if result.steps < settings.total_steps(len(request.rows.rows)):
        print(
            _(
                "note: ended at step {step}: {count} saves in a row brought no better {metric} of the held-out rows"
            ).format(step=result.steps, count=settings.early_stop_interval, metric=settings.metric),
            file=sys.stderr,
        )
    return Ended(DONE, figures=_figures(lane, settings, result), adapter=result.adapter, kept=keeper.kept)


def _figures(lane: Lane, settings: Any, result: Any) -> dict[str, Any]:
    """The part of run.json about a training that finished."""
    figures: dict[str, Any] = {
        "loss_of_last_step": round(result.losses[-1], 5),
        "setup_seconds": round(result.setup_seconds, 3),
        "loop_seconds": round(result.seconds, 3),
        "load_seconds": round(lane.seconds, 3),
        "ms_per_step": round(sorted(result.step_ms)[len(result.step_ms) // 2], 2),
        "tokens": result.tokens,
    }
    if settings.load_best_model_at_end:
        figures["best_checkpoint"] = result.checkpoint.name
    if lane.device == "cuda":
        figures["peak_allocated_gib"] = round(result.peak_allocated_gib, 2)
        figures["peak_reserved_gib"] = round(result.peak_reserved_gib, 2)
    return figures


class Drawing:
    """The loss curve, drawn by a process that imports matplotlib while training runs."""

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        words = [*command("finetune.engines.fast.curves"), str(folder), "--wait"]
        words += [] if tensorboard else ["--no-tensorboard"]
        # A separate session: Ctrl-C or a stop signal to the group is for the training, which saves first.
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
        self.folder = folder

    def finish(self, stop: Stop) -> None:
        """Draw, and wait for it; after a stop signal, even an earlier one, wait only STOPPED_WAIT_S."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        begin = time.monotonic()
        stopped_at = None
        while self.process.poll() is None:
            now = time.monotonic()
            if stopped_at is None and stop.number is not None:
                stopped_at = now
            if now - begin > CURVES_WAIT_S or (stopped_at is not None and now - stopped_at > STOPPED_WAIT_S):
                self.give_up()
                print(_("note: {folder}: the loss curve was given up").format(folder=self.folder), file=sys.stderr)
                return
            time.sleep(0.02)

    def give_up(self) -> None:
        """End the process, drawn or not."""
        self.process.kill()
        self.process.wait()
