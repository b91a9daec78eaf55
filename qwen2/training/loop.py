"""LoRA training: settings in, checkpoints and logging.jsonl out; called by finetune (the fast lane) and bench.

On a GPU a micro-batch (forward and backward) and the update (clipping, AdamW, schedule, new bfloat16 copies) are CUDA
graphs, so a step of small batches is not limited by kernel launches. On a CPU the same code runs without graphs.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.i18n import _
from qwen2.attention import Rows, has_flash
from qwen2.config import Config
from qwen2.lora import Adapter
from qwen2.model import Model
from qwen2.training import batches, checkpoint
from qwen2.training.backprop import Backprop, MicroBatch
from qwen2.training.batches import Micro, Row, Shape, Step
from qwen2.training.evaluate import Evaluation
from qwen2.training.graphs import Graphs
from qwen2.training.log import RunLog
from qwen2.training.result import DivergedError, StoppedError, TrainResult, finite, peak_gib
from qwen2.training.settings import TrainSettings
from qwen2.training.team import Team
from qwen2.training.update import Update

OnStep = Callable[[int, int, "dict[str, Any] | None"], None]
AHEAD = 2  # steps that the host may be ahead of the GPU: keeps it busy, and the progress bar accurate


def train(
    model: Model,
    rows: Sequence[Row],
    settings: TrainSettings,
    out_dir: str | Path,
    resume: str | Path | None = None,
    on_step: OnStep | None = None,
    adapter: Adapter | None = None,
    extra_files: Mapping[str, str] | None = None,
    stop: Callable[[], bool] | None = None,
    team: Team | None = None,
    held_out: Sequence[Row] = (),
) -> TrainResult:
    """Train a LoRA adapter.

    Args:
        model: the base, bfloat16 on a GPU or float32 on a CPU; its weights stay unchanged.
        rows: (ids, labels) each, of the same length; a label of -100 has no loss, as in ms-swift.
        settings: see TrainSettings. `vram_ceiling_gib` limits this process's GPU memory from here on.
        out_dir: where checkpoint-N folders and logging.jsonl are written.
        resume: a checkpoint-N folder of the same run.
        on_step: called with (step, total, log) after every step; `log` is the line of logging.jsonl, if any.
        adapter: where to start from, instead of PEFT's random initialization.
        extra_files: name -> text, put into every checkpoint.
        stop: called after every step; a true result saves a checkpoint and raises StoppedError.
        team: the processes that share the rows of a step; all call this with the same rows and settings. Only process 0
            writes, and all start from its `resume` and `adapter`.
        held_out: rows that are evaluated and never trained on.

    Returns:
        The adapter after the last step; the last checkpoint, or the best one with load_best_model_at_end; losses,
        gradient norms and milliseconds with one entry per step.

    Raises:
        ValueError: rows or settings cannot be trained on, or `resume` is from another run.
        DivergedError: a loss or a gradient is not finite.
        StoppedError: `stop` returned true, here or in another process of the team.
        LostError: another process of the team was lost.
        torch.OutOfMemoryError: the ceiling is too low for the micro-batch.
    """
    begin = time.perf_counter()
    batches.check_rows(rows, model.config)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.clean(folder)
    if held_out:
        batches.check_rows(held_out, model.config)
    run = _Run(model, list(rows), settings, folder, dict(extra_files or {}), on_step, stop, held_out, team)
    with torch.no_grad():
        run.prepare(Path(resume) if resume else None, adapter)
        return run.loop(begin)


def new_adapter(config: Config, settings: TrainSettings) -> Adapter:
    """The initial adapter of a run, on the CPU: what train() creates if it is not given one."""
    s = settings
    adapter = Adapter(config, s.lora_rank, s.lora_alpha, s.target_modules, s.lora_dropout, s.use_rslora)
    adapter.initialize(s.seed)
    return adapter


class _Run:
    """One training run: its steps, the graphs that it replays, its checkpoints."""

    def __init__(
        self,
        model: Model,
        rows: list[Row],
        settings: TrainSettings,
        folder: Path,
        extra_files: dict[str, str],
        on_step: OnStep | None,
        stop: Callable[[], bool] | None,
        held_out: Sequence[Row],
        team: Team | None,
    ) -> None:
        self.team = team
        self.model, self.rows, self.settings, self.folder = model, rows, settings, folder
        self.extra_files, self.on_step, self.stop = extra_files, on_step, stop
        self.cuda = model.device.type == "cuda"
        self.total = settings.total_steps(len(rows))
        self.fingerprint = settings.fingerprint(rows)
        self.steps = batches.plan_steps(
            rows,
            self.total,
            settings.batch_size,
            settings.data_seed,
            settings.micro_batch_size,
            settings.micro_batch_tokens,
            *((team.rank, team.size) if team else (0, 1)),
        )
        self.stopped: list[Tensor] = []  # per step: how many processes were asked to stop; on the host
        self.shapes: dict[Micro, Shape] = {}
        self.graphs = Graphs()
        self.evaluation = Evaluation(model, held_out, settings) if held_out else None
        self.evaluates = bool(held_out)  # this process, or process 0 of the team

    # ---- set-up

    def prepare(self, resume: Path | None, adapter: Adapter | None) -> None:
        """Everything before the first step: memory limit, adapter, optimizer state, graphs."""
        s, model, device = self.settings, self.model, self.model.device
        if self.cuda:
            if s.vram_ceiling_gib is not None:
                total = torch.cuda.get_device_properties(device).total_memory
                torch.cuda.set_per_process_memory_fraction(min(1.0, s.vram_ceiling_gib * 2**30 / total), device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        state: dict[str, Any] = {}
        moments: tuple[Tensor, Tensor] | None = None
        if resume is not None:
            adapter, moments, state = checkpoint.load(resume, model)
            checkpoint.require_same_run(resume, state, self.fingerprint, self.total)
        elif adapter is None:
            adapter = new_adapter(model.config, s)
        if self.team:
            state, self.evaluates = self.team.share_json([state, self.evaluates])
        adapter.dropout = s.lora_dropout
        initial = adapter.flat
        self.adapter = adapter
        self.update = Update(model, adapter, s, self.total, moments, state)
        if self.team:
            for tensor in (adapter.flat, self.update.first, self.update.second):
                self.team.spread(tensor)
            initial = adapter.flat
            self.update.refresh()
        self.start_step = self.update.start_step
        self.log = RunLog(self.folder, s, self.steps, len(self.rows), device, state)
        if self.evaluation:
            self.evaluation.restore(state)
        self.backprop = Backprop(model, adapter, self.update.lora, self.update.grad, s.lora_dropout, s.recompute)
        if has_flash(device, model.dtype):
            self.shapes, captured = batches.plan_shapes(self.steps[self.start_step :], s.cuda_graphs)
            if captured:
                self._try_capture(captured, initial)
        else:
            self.shapes = {micro: batches.exact_shape(micro) for step in self.steps for micro in step.micros}

    def _try_capture(self, captured: list[Shape], initial: Tensor) -> None:
        """Capture the graphs. If their memory does not fit under the ceiling, continue without them, slower.

        The state is restored afterwards; `initial` holds the adapter's values.
        """
        kept = self.update.kept(initial)
        every = self.backprop.layers
        try:
            inputs = {shape: self._words_of_any(shape).to(self.model.device) for shape in captured}
            self.graphs.capture(inputs, self.backprop, self._micro, self.update.apply)
        except torch.OutOfMemoryError:
            print(
                _("note: no room for CUDA graphs under the ceiling; steps are launched one kernel at a time"),
                file=sys.stderr,
            )
            self.graphs.clear()
            self.shapes, _saved = batches.plan_shapes(self.steps[self.start_step :], graphs=False)
        self.backprop.layers = every
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self.update.restore(kept)

    def _words_of_any(self, shape: Shape) -> Tensor:
        micro = next(micro for micro, its in self.shapes.items() if its == shape)
        return self._words(micro, shape, 1.0, 0)

    def _words(self, micro: Micro, shape: Shape, scale: float, seed: int) -> Tensor:
        return batches.lay_out(micro, self.rows, shape, scale, seed, self.model.config.pad_id)

    # ---- one step

    def _micro(self, shape: Shape, words: Tensor, lengths: tuple[int, ...] = ()) -> None:
        """Forward and backward of one micro-batch: adds to grad, loss and hits."""
        ids, positions, pick, labels, bounds, scale, seed = batches.views(words, shape)
        rows = Rows(bounds, shape.longest, lengths)
        loss, hits = self.backprop.step(MicroBatch(ids, positions, rows, pick, labels, scale, seed))
        self.update.loss += loss
        self.update.hits += hits

    def _step(self, number: int, step: Step) -> None:
        seed = batches.mix(self.settings.seed, number, 0)
        for micro in step.micros:
            shape = self.shapes[micro]
            words = self._words(micro, shape, 1.0 / step.labels, seed)
            if self.cuda:
                words = words.pin_memory()  # freed only once the copy is done: PyTorch's host allocator waits for it
            if shape in self.graphs.micros:
                self.graphs.inputs[shape].copy_(words, non_blocking=True)
                self.graphs.micros[shape].replay()
            else:
                lengths = tuple(len(self.rows[index][0]) for index in micro.rows)
                self._micro(shape, words.to(self.model.device, non_blocking=True), lengths)
        if self.team:
            self._add_up(self.team)
        if self.graphs.update is not None:
            self.graphs.update.replay()
        else:
            self.update.apply()

    def _add_up(self, team: Team) -> None:
        """Add up this step's sums over all processes, and record, for later, whether one was asked to stop."""
        if self.stop and self.stop():
            self.update.stops.fill_(1)
        team.add_up(self.update.sums)
        kept = torch.empty(1, pin_memory=self.cuda)
        kept.copy_(self.update.stops, non_blocking=True)
        self.stopped.append(kept)

    # ---- the loop

    def loop(self, begin: float) -> TrainResult:
        """Run all steps from start_step on; writes log and checkpoints, returns the result."""
        if self.cuda:
            torch.cuda.synchronize()
        self.log.start()
        marks = [self._mark()]
        saved: Path | None = None
        for number in range(self.start_step, self.total):
            self._step(number, self.steps[number])
            marks.append(self._mark())
            if self.cuda and len(marks) > AHEAD:
                self._wait(marks[-1 - AHEAD])
            count = number + 1
            is_logged, is_saved = self.log.is_due(count), self.settings.is_save_due(count, len(self.rows), self.total)
            if self.cuda and self.team and (is_logged or is_saved):
                self._wait(marks[-1])  # the host reads figures now; while it waits it could not notice a lost process
            line = self.log.step(count, finite(self.update.history[:count])) if is_logged else None
            must_save, is_over = self._judge(count)
            if must_save:
                saved = self._save(count)
            if self.on_step:
                self.on_step(count, self.total, line)
            if is_over:
                break
            if count < self.total and self._is_to_stop():
                if saved is None or saved.name != f"checkpoint-{count}":
                    saved = self._save(count)
                raise StoppedError(count, saved)
        assert saved is not None
        return self._finish(begin, marks, saved, count)

    def _judge(self, count: int) -> tuple[bool, bool]:
        """(whether this step is saved, whether it is the last), after an evaluation if one is due.

        Process 0 evaluates and the others follow its result: their rounding may differ.
        """
        is_due = self.settings.is_save_due(count, len(self.rows), self.total)
        if not self.evaluates or not (is_due or self.settings.is_eval_due(count, len(self.rows), self.total)):
            return is_due, False
        must_save = self._evaluate(count) or is_due
        is_over = must_save and self.evaluation is not None and self.evaluation.is_over()
        if self.team:
            told = torch.tensor([must_save, is_over], dtype=torch.float32, device=self.model.device)
            self.team.spread(told)
            must_save, is_over = (bool(each) for each in told.tolist())
        return must_save, is_over

    def _evaluate(self, count: int) -> bool:
        """Evaluate the held-out rows if due; returns whether this step must be saved as the best so far."""
        if self.evaluation is None or not self.settings.is_eval_due(count, len(self.rows), self.total):
            return False
        figures, is_best = self.evaluation.run(count, self.update.lora)
        self.log.evaluated(count, figures)
        return is_best and self.settings.load_best_model_at_end

    def _wait(self, mark: Any) -> None:
        if self.team:
            self.team.wait(mark)
        else:
            mark.synchronize()

    def _is_to_stop(self) -> bool:
        """Give the same answer in every process of a team after the same step: that of a step that is surely done."""
        if self.team is None:
            return bool(self.stop and self.stop())
        behind = AHEAD if self.cuda else 0
        return len(self.stopped) > behind and bool(self.stopped[-1 - behind] > 0)

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _save(self, count: int) -> Path:
        figures = finite(self.update.history[:count])
        if not bool(torch.isfinite(self.adapter.flat).all()):
            raise DivergedError(
                _(
                    "the adapter holds NaN after step {count}; nothing was saved at that step; lower learning_rate"
                ).format(count=count)
            )
        if self.team and not self.team.is_same(self.adapter.flat):
            raise DivergedError(
                _("the processes have different adapters after step {count}; nothing was saved at that step").format(
                    count=count
                )
            )
        if self.team and not self.team.is_first:
            return self.folder / f"checkpoint-{count}"
        self.adapter.touch()
        state = {
            "engine": "fast",
            "global_step": count,
            "max_steps": self.total,
            "epoch": self.log.epoch(count),
            "num_train_epochs": self.settings.num_train_epochs,
            "train_batch_size": self.settings.batch_size,
            "logging_steps": self.settings.logging_steps,
            "save_steps": self.settings.save_steps,
            **(self.evaluation.state() if self.evaluation else {"best_metric": None, "best_model_checkpoint": None}),
            "log_history": self.log.history(),
            "fingerprint": self.fingerprint,
            "split": {
                "recompute": self.settings.recompute,
                "micro_batch_tokens": self.settings.micro_batch_tokens,
            },
            "history": figures,
            "log_lines": self.log.lines,
            "logged_until": self.log.logged_until,
            "elapsed": self.log.elapsed(),
        }
        moments = (self.update.first, self.update.second) if count < self.total else None
        keep = self.settings.save_total_limit
        best = state["best_model_checkpoint"] if self.settings.load_best_model_at_end else None
        return checkpoint.save(self.folder, count, self.adapter, moments, state, self.extra_files, keep, best)

    def _best(self) -> tuple[float | None, Path | None]:
        """The metric of the best evaluation, and its checkpoint if it still exists."""
        if self.evaluation is None or not self.evaluation.best_step:
            return None, None
        path = self.folder / f"checkpoint-{self.evaluation.best_step}"
        return self.evaluation.best, path if path.is_dir() else None

    def _finish(self, begin: float, marks: list[Any], saved: Path, done: int) -> TrainResult:
        """Write the last lines of the log; returns the result of `done` steps. The model is as before the run."""
        if self.cuda:
            self._wait(marks[-1])
            torch.cuda.synchronize()
            step_ms = [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
        else:
            step_ms = [(b - a) * 1000 for a, b in itertools.pairwise(marks)]
        seconds = time.perf_counter() - self.log.begin
        figures = finite(self.update.history[:done])
        best = self._best()
        allocated, reserved = peak_gib(self.model.device)
        self.log.end(figures, self.model.config, self.adapter.num_parameters, saved, best, reserved)
        self.graphs.clear()
        self.model.deactivate()
        self.adapter.touch()
        return TrainResult(
            adapter=self.adapter,
            checkpoint=best[1] if self.settings.load_best_model_at_end and best[1] else saved,
            steps=done,
            losses=[loss for loss, _, _ in figures],
            grad_norms=[norm for _, norm, _ in figures],
            seconds=seconds,
            setup_seconds=self.log.begin - begin,
            tokens=sum(step.tokens for step in self.steps[self.start_step : done]),
            step_ms=step_ms,
            peak_allocated_gib=allocated,
            peak_reserved_gib=reserved,
        )
