"""LoRA training: settings in, checkpoints and logging.jsonl out; called by finetune (the fast lane) and bench.

On a GPU a micro-batch (forward and backward) and the update (clipping, AdamW, schedule, new bfloat16 copies) are CUDA
graphs, so that a step of small batches costs its arithmetic and not its launches. On a CPU the same code runs as it is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwen2 import ops
from qwen2.attention import Rows, has_flash
from qwen2.config import PROJECTIONS, Config
from qwen2.lora import Adapter
from qwen2.model import ActiveLora, Model
from qwen2.training import batches, checkpoint
from qwen2.training.backprop import Backprop, MicroBatch, Recompute
from qwen2.training.batches import Micro, Row, Shape, Step

OnStep = Callable[[int, int, "dict[str, Any] | None"], None]
LOG_FILE = "logging.jsonl"
AHEAD = 2  # steps that the host may be ahead of the GPU: enough to keep it busy, few enough for a truthful progress bar


@dataclass(frozen=True)
class TrainSettings:
    """Names and defaults are ms-swift's, but for batch_size: the rows of one optimizer step, however it is split."""

    num_train_epochs: float = 3.0
    max_steps: int = -1
    learning_rate: float = 1e-4
    lora_rank: int = 8
    lora_alpha: float = 32
    lora_dropout: float = 0.05
    use_rslora: bool = False
    target_modules: tuple[str, ...] = PROJECTIONS
    batch_size: int = 16
    micro_batch_size: int | None = None  # rows; None: the whole batch at once
    micro_batch_tokens: int | None = None  # tokens; None: no limit
    lr_scheduler_type: str = "cosine"  # or linear, constant, constant_with_warmup
    warmup_ratio: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    seed: int = 42
    data_seed: int = 42
    save_steps: int = 500
    save_total_limit: int | None = None
    logging_steps: int = 5
    logging_first_step: bool = True
    recompute: Recompute = "none"
    vram_ceiling_gib: float | None = None
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        """ValueError for values that cannot be."""
        checks = {
            "num_train_epochs": self.num_train_epochs > 0,
            "learning_rate": self.learning_rate >= 0,
            "lora_rank": self.lora_rank >= 1,
            "lora_dropout": 0 <= self.lora_dropout < 1,
            "batch_size": self.batch_size >= 1,
            "micro_batch_size": self.micro_batch_size is None or self.micro_batch_size >= 1,
            "micro_batch_tokens": self.micro_batch_tokens is None or self.micro_batch_tokens >= 1,
            "lr_scheduler_type": self.lr_scheduler_type in ("cosine", "linear", "constant", "constant_with_warmup"),
            "warmup_ratio": 0 <= self.warmup_ratio < 1,
            "warmup_steps": self.warmup_steps >= 0,
            "weight_decay": self.weight_decay >= 0,
            "save_steps": self.save_steps >= 1,
            "save_total_limit": self.save_total_limit is None or self.save_total_limit >= 1,
            "logging_steps": self.logging_steps >= 1,
            "recompute": self.recompute in ("none", "swiglu", "layer"),
            "vram_ceiling_gib": self.vram_ceiling_gib is None or self.vram_ceiling_gib > 0,
        }
        for name, is_fine in checks.items():
            if not is_fine:
                raise ValueError(
                    f"{name} {getattr(self, name)} is not possible: see configs/sft.yaml for what it may be"
                )

    def total_steps(self, rows: int) -> int:
        """Optimizer steps for that many rows: an epoch's last batch may be smaller."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.num_train_epochs * self.steps_per_epoch(rows))

    def steps_per_epoch(self, rows: int) -> int:
        """Batches of an epoch."""
        return -(-rows // self.batch_size)

    def learning_rate_at(self, step: int, total: int) -> float:
        """Rate of step `step`, from 0 on (transformers.optimization's schedules: a warm-up begins at 0)."""
        warmup = self.warmup_steps or math.ceil(total * self.warmup_ratio)
        if self.lr_scheduler_type == "constant":
            return self.learning_rate
        if step < warmup:
            return self.learning_rate * step / max(1, warmup)
        progress = (step - warmup) / max(1, total - warmup)
        if self.lr_scheduler_type == "cosine":
            return self.learning_rate * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
        return self.learning_rate * (max(0.0, 1 - progress) if self.lr_scheduler_type == "linear" else 1.0)

    def fingerprint(self, rows: Sequence[Row]) -> str:
        """What a resumed run must share with the one that was stopped: the data and all that enters the arithmetic."""
        free = (
            "save_steps",
            "save_total_limit",
            "logging_steps",
            "logging_first_step",
            "vram_ceiling_gib",
            "cuda_graphs",
        )
        parts = {k: v for k, v in asdict(self).items() if k not in (*free, "recompute")}
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for ids, labels in rows:
            digest.update(json.dumps([list(ids), list(labels)]).encode())
        return digest.hexdigest()


@dataclass
class TrainResult:
    """What came out. Lists have one entry per step; seconds are of the loop alone, captures and set-up apart."""

    adapter: Adapter
    checkpoint: Path
    steps: int
    losses: list[float]
    grad_norms: list[float]
    seconds: float
    setup_seconds: float
    tokens: int
    step_ms: list[float] = field(default_factory=list)
    peak_allocated_gib: float = 0.0
    peak_reserved_gib: float = 0.0


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer a number; the message is a sentence for the user."""


class StoppedError(RuntimeError):
    """`stop` asked for the end after step `step`; `checkpoint` is where the run can be resumed."""

    def __init__(self, step: int, checkpoint: Path) -> None:
        super().__init__(f"stopped after step {step}, saved in {checkpoint}")
        self.step, self.checkpoint = step, checkpoint


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
) -> TrainResult:
    """Train a LoRA on rows of (ids, labels), labels as ms-swift's: same length, -100 for tokens without loss.

    `resume` is a checkpoint-N folder of the same run; `adapter` an adapter to start from instead of PEFT's random one.
    `on_step(step, total, log)` is called after every step, with the line of logging.jsonl where one was written.
    `extra_files` (name -> text) are put into every checkpoint. With `vram_ceiling_gib` the process is held to that much
    GPU memory from here on. `stop()` is asked after every step: true saves a checkpoint and raises StoppedError.
    ValueError for rows or settings that cannot be trained on, DivergedError when the loss is no number, torch's
    OutOfMemoryError when the ceiling is too low for the micro-batch.
    """
    begin = time.perf_counter()
    check_rows(rows, model)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.clean(folder)
    run = _Run(model, list(rows), settings, folder, dict(extra_files or {}), on_step, stop)
    with torch.no_grad():
        run.prepare(Path(resume) if resume else None, adapter)
        return run.loop(begin)


def new_adapter(config: Config, settings: TrainSettings) -> Adapter:
    """The adapter that a run begins with, on the CPU: what train() makes itself unless it is given one."""
    s = settings
    adapter = Adapter(config, s.lora_rank, s.lora_alpha, s.target_modules, s.lora_dropout, s.use_rslora)
    adapter.initialize(s.seed)
    return adapter


def check_rows(rows: Sequence[Row], model: Model) -> None:
    """ValueError naming the first row that cannot be trained on."""
    if not rows:
        raise ValueError("there are no rows to train on: the data set is empty")
    for number, row in enumerate(rows, 1):
        ids, labels = row
        if len(ids) != len(labels):
            raise ValueError(f"row {number} has {len(ids)} ids and {len(labels)} labels: they must be as many")
        if batches.count_labels(row) == 0:
            raise ValueError(f"row {number} has no token that carries loss: it needs an answer")
        if len(ids) > model.config.max_positions:
            raise ValueError(
                f"row {number} has {len(ids)} tokens, more than the model's {model.config.max_positions}: shorten it"
            )
        if min(ids) < 0 or max(max(ids), max(labels)) >= model.config.vocab_size:
            raise ValueError(f"row {number} has a token id outside the model's vocabulary of {model.config.vocab_size}")


class _Run:
    """One training run: the state on the device, the captured graphs, the log."""

    def __init__(
        self,
        model: Model,
        rows: list[Row],
        settings: TrainSettings,
        folder: Path,
        extra_files: dict[str, str],
        on_step: OnStep | None,
        stop: Callable[[], bool] | None,
    ) -> None:
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
        )
        self.shapes: dict[Micro, Shape] = {}
        self.captured: list[Shape] = []
        self.inputs: dict[Shape, Tensor] = {}
        self.graphs: dict[Shape, torch.cuda.CUDAGraph] = {}
        self.update_graph: torch.cuda.CUDAGraph | None = None
        self.log_lines: list[dict[str, Any]] = []
        self.logged_until = 0
        self.start_step = 0
        self.elapsed_before = 0.0

    # ---- set-up

    def prepare(self, resume: Path | None, adapter: Adapter | None) -> None:
        """Everything before the first step: cap, adapter, optimizer state, graphs."""
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
            self._check_resumable(resume, state)
        elif adapter is None:
            adapter = new_adapter(model.config, s)
        adapter.dropout = s.lora_dropout
        initial = adapter.flat
        adapter.flat = initial.to(device)
        self.adapter = adapter
        self.first, self.second = moments or (torch.zeros_like(adapter.flat), torch.zeros_like(adapter.flat))
        self.grad = torch.zeros_like(adapter.flat)
        self.start_step = int(state.get("global_step", 0))
        self.log_lines = list(state.get("log_lines", []))
        self.logged_until = int(state.get("logged_until", 0))
        self.elapsed_before = float(state.get("elapsed", 0.0))
        rates = [s.learning_rate_at(n, self.total) for n in range(self.total)]
        self.rates = torch.tensor(rates, dtype=torch.float32, device=device)
        self.rate_list = rates
        self.done = torch.tensor([self.start_step], dtype=torch.int64, device=device)
        self.adam_step = torch.tensor(float(self.start_step), device=device)
        # loss, gradient norm and hits of every step; filled on the device, read when something is logged
        self.history = torch.zeros(self.total, 3, dtype=torch.float32, device=device)
        if state:
            self.history[: self.start_step] = torch.tensor(state["history"], device=device)
        self.loss = torch.zeros((), dtype=torch.float32, device=device)
        self.hits = torch.zeros((), dtype=torch.float32, device=device)
        self._install()
        self.backprop = Backprop(model, adapter, self.lora, self.grad, s.lora_dropout, s.recompute)
        packed = has_flash(device, model.dtype)
        use_graphs = packed and s.cuda_graphs
        if packed:
            self.shapes, self.captured = batches.plan_shapes(self.steps[self.start_step :], use_graphs)
        else:
            self.shapes = {micro: batches.exact_shape(micro) for step in self.steps for micro in step.micros}
        if self.captured:
            self._try_capture(initial)

    def _check_resumable(self, path: Path, state: dict[str, Any]) -> None:
        if state.get("fingerprint") != self.fingerprint:
            raise ValueError(f"{path} is of a run with other data or settings: resume it with the same, or start anew")
        if int(state["global_step"]) >= self.total:
            raise ValueError(
                f"{path} is the end of its run: all {self.total} steps are done; there is nothing to resume"
            )

    def _install(self) -> None:
        """Room in the model for s B, and A in its dtype as views of one flat copy."""
        model, adapter = self.model, self.adapter
        model.deactivate()
        model.reserve(adapter.columns())
        model.install(adapter)
        layout = adapter.layout
        self.low = adapter.flat if model.dtype == torch.float32 else torch.empty_like(adapter.flat, dtype=model.dtype)
        self.lora = ActiveLora([{group: a[group].of(self.low) for group in a} for a in layout.a])
        pairs = [
            (target, layout.b[number][name])
            for number, layer in enumerate(model.layers)
            for group, names in layout.groups.items()
            for name, (target, _) in zip(names, adapter.b_blocks(number, group, layer.linears[group]), strict=True)
        ]
        self.b_pairs = [(target, block.of(adapter.flat)) for target, block in pairs]
        fast = ops.triton_kernels() if self.cuda and model.dtype == torch.bfloat16 else None
        self.place = fast
        if fast is not None:
            self.table = fast.place_table([(target, block.offset) for target, block in pairs], model.device)
        self._refresh()

    def _refresh(self) -> None:
        """New copies of A and s B in the model's dtype."""
        if self.low is not self.adapter.flat:
            self.low.copy_(self.adapter.flat)
        if self.place is not None:
            self.place.place_blocks(self.table, self.adapter.flat, self.adapter.scaling, self.adapter.rank)
            return
        for target, source in self.b_pairs:
            target.copy_(source * self.adapter.scaling)

    def _try_capture(self, initial: Tensor) -> None:
        """Capture; where the graphs' memory does not fit under the ceiling, go on without them, slower.

        Afterwards all is as before; `initial` is the adapter's numbers.
        """
        # Copies are on the host: at the moment of a capture every GiB counts.
        changed = [self.adam_step, self.done, self.history]
        moments = [self.first, self.second]
        if self.start_step:
            changed += moments
        kept = [(self.adapter.flat, initial.cpu()), *((tensor, tensor.cpu()) for tensor in changed)]
        every = self.backprop.layers
        try:
            self._capture()
        except torch.OutOfMemoryError:
            print(
                "note: no room for CUDA graphs under the ceiling; steps are launched one kernel at a time",
                file=sys.stderr,
            )
            self.graphs.clear()
            self.inputs.clear()
            self.update_graph = None
            self.shapes, self.captured = batches.plan_shapes(self.steps[self.start_step :], graphs=False)
        self.backprop.layers = every
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        for total in (self.grad, self.loss, self.hits, *moments):
            total.zero_()
        for target, value in kept:
            target.copy_(value)
        self._refresh()

    def _capture(self) -> None:
        """Capture the update and one graph per bucket, largest first so that the others fit into its memory."""
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        every = self.backprop.layers
        for shape in self.captured:
            self.inputs[shape] = self._words_of_any(shape).to(self.model.device)
            # Two layers and the head load every kernel of this shape and size; the rest of the layers use the same.
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.backprop.layers = range(min(2, len(every)))
                self._micro(shape, self.inputs[shape])
                self.backprop.layers = every
            torch.cuda.current_stream().wait_stream(stream)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._update()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what the warm-up freed would stay reserved beside the graphs' own memory
        for shape in self.captured:
            self.graphs[shape] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graphs[shape], pool=pool):
                self._micro(shape, self.inputs[shape])
        self.update_graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.update_graph, pool=pool):
            self._update()

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
        self.loss += loss
        self.hits += hits

    def _update(self) -> None:
        """Clip, AdamW, note what happened, new copies of the weights; ready for the next step."""
        s = self.settings
        norm = torch.linalg.vector_norm(self.grad)
        if s.max_grad_norm > 0:  # torch.nn.utils.clip_grad_norm_'s formula
            self.grad.mul_((s.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self.adam_step += 1
        rate: Any = self.rates.index_select(0, self.done)[0] if self.cuda else self.rate_list[int(self.done)]
        torch._fused_adamw_(
            [self.adapter.flat], [self.grad], [self.first], [self.second], [], [self.adam_step],
            lr=rate, beta1=s.adam_beta1, beta2=s.adam_beta2, weight_decay=s.weight_decay, eps=s.adam_epsilon,
            amsgrad=False, maximize=False,
        )  # fmt: skip
        self.history.index_copy_(0, self.done, torch.stack((self.loss, norm, self.hits))[None])
        self.done += 1
        for total in (self.grad, self.loss, self.hits):
            total.zero_()
        self._refresh()

    def _step(self, number: int, step: Step) -> None:
        for position, micro in enumerate(step.micros):
            shape = self.shapes[micro]
            seed = _mix(self.settings.seed, number, position)
            words = self._words(micro, shape, 1.0 / step.labels, seed)
            if self.cuda:
                words = words.pin_memory()  # freed only once the copy is done: PyTorch's host allocator waits for it
            if shape in self.graphs:
                self.inputs[shape].copy_(words, non_blocking=True)
                self.graphs[shape].replay()
            else:
                lengths = tuple(len(self.rows[index][0]) for index in micro.rows)
                self._micro(shape, words.to(self.model.device, non_blocking=True), lengths)
        if self.update_graph is not None:
            self.update_graph.replay()
        else:
            self._update()

    # ---- the loop

    def loop(self, begin: float) -> TrainResult:
        """All steps from start_step on; the log, the checkpoints, the result."""
        s = self.settings
        self._rewrite_log()
        if self.cuda:
            torch.cuda.synchronize()
        self.loop_begin = time.perf_counter()
        marks = [self._mark()]
        saved = None
        for number in range(self.start_step, self.total):
            self._step(number, self.steps[number])
            marks.append(self._mark())
            if self.cuda and len(marks) > AHEAD:
                marks[-1 - AHEAD].synchronize()
            count = number + 1
            line = None
            if count % s.logging_steps == 0 or (count == 1 and s.logging_first_step):
                line = self._log(count)
            if count % s.save_steps == 0 or count == self.total:
                saved = self._save(count)
            if self.on_step:
                self.on_step(count, self.total, line)
            if self.stop and count < self.total and self.stop():
                if saved is None or saved.name != f"checkpoint-{count}":
                    saved = self._save(count)
                raise StoppedError(count, saved)
        assert saved is not None
        return self._finish(begin, marks, saved)

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _elapsed(self) -> float:
        return self.elapsed_before + time.perf_counter() - self.loop_begin

    def _figures(self, until: int) -> list[list[float]]:
        """loss, norm, hits of the first `until` steps; DivergedError when one is no number."""
        figures = self.history[:until].tolist()
        for number, (loss, norm, _) in enumerate(figures, 1):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergedError(
                    f"the loss became {loss} (gradient norm {norm}) at step {number}: lower learning_rate, or look at "
                    "the rows of that batch; checkpoints before that step are whole"
                )
        return figures

    def _log(self, count: int) -> dict[str, Any]:
        figures = self._figures(count)
        window = range(self.logged_until, count)
        elapsed = self._elapsed()
        line: dict[str, Any] = {
            "loss": round(sum(figures[n][0] for n in window) / len(window), 8),
            "grad_norm": round(figures[-1][1], 8),
            # transformers logs the rate after the scheduler's step: the next step's
            "learning_rate": round(self.settings.learning_rate_at(count, self.total), 8),
            "token_acc": round(sum(figures[n][2] for n in window) / sum(self.steps[n].labels for n in window), 8),
            "epoch": round(self._epoch(count), 8),
            "global_step/max_steps": f"{count}/{self.total}",
            "elapsed_time": format_time(elapsed),
            "remaining_time": format_time(elapsed / count * (self.total - count)),
        }
        if self.cuda:
            line["memory(GiB)"] = round(torch.cuda.max_memory_reserved(self.model.device) / 2**30, 2)
        line["train_speed(s/it)"] = round(elapsed / count, 6)
        self.logged_until = count
        self._write_line(line)
        return line

    def _epoch(self, count: int) -> float:
        """ms-swift's epoch at a step: a whole epoch at each epoch's last batch."""
        return count / self.settings.steps_per_epoch(len(self.rows))

    def _write_line(self, line: dict[str, Any]) -> None:
        self.log_lines.append(line)
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _rewrite_log(self) -> None:
        """logging.jsonl as it was at the start: empty, or up to the checkpoint that is resumed."""
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in self.log_lines]
        (self.folder / LOG_FILE).write_text("".join(lines), encoding="utf-8")

    def _save(self, count: int) -> Path:
        figures = self._figures(count)
        if not bool(torch.isfinite(self.adapter.flat).all()):
            raise DivergedError(
                f"the adapter holds NaN after step {count}: lower learning_rate; nothing was saved there"
            )
        self.adapter.touch()
        state = {
            "engine": "fast",
            "global_step": count,
            "max_steps": self.total,
            "epoch": self._epoch(count),
            "num_train_epochs": self.settings.num_train_epochs,
            "train_batch_size": self.settings.batch_size,
            "logging_steps": self.settings.logging_steps,
            "save_steps": self.settings.save_steps,
            "best_metric": None,
            "best_model_checkpoint": None,
            "log_history": self._history_entries(),
            "fingerprint": self.fingerprint,
            "history": figures,
            "log_lines": self.log_lines,
            "logged_until": self.logged_until,
            "elapsed": self._elapsed(),
        }
        moments = (self.first, self.second) if count < self.total else None
        keep = self.settings.save_total_limit
        return checkpoint.save(self.folder, count, self.adapter, moments, state, self.extra_files, keep)

    def _history_entries(self) -> list[dict[str, Any]]:
        """transformers' log_history, from the lines logged."""
        names = ("loss", "grad_norm", "learning_rate", "token_acc", "epoch")
        return [
            {name: line[name] for name in names} | {"step": int(line["global_step/max_steps"].split("/")[0])}
            for line in self.log_lines
        ]

    def _finish(self, begin: float, marks: list[Any], saved: Path) -> TrainResult:
        if self.cuda:
            torch.cuda.synchronize()
            step_ms = [a.elapsed_time(b) for a, b in itertools.pairwise(marks)]
        else:
            step_ms = [(b - a) * 1000 for a, b in itertools.pairwise(marks)]
        seconds = time.perf_counter() - self.loop_begin
        figures = self._figures(self.total)
        device = self.model.device
        allocated, reserved = (
            (torch.cuda.max_memory_allocated(device) / 2**30, torch.cuda.max_memory_reserved(device) / 2**30)
            if self.cuda
            else (0.0, 0.0)
        )
        tokens = [sum(micro.tokens for micro in step.micros) for step in self.steps]
        trained_rows = sum(len(micro.rows) for step in self.steps for micro in step.micros)
        elapsed = self._elapsed()
        losses = [figure[0] for figure in figures]
        config = self.model.config
        base = config.linear_parameters + config.vocab_size * config.hidden_size * (1 if config.tie_embeddings else 2)
        line: dict[str, Any] = {
            "train_runtime": round(elapsed, 4),
            "train_samples_per_second": round(trained_rows / elapsed, 3),
            "train_steps_per_second": round(self.total / elapsed, 3),
            # transformers' estimate: 6 x tokens x parameters without the embedding
            "total_flos": 6.0 * sum(tokens) * (base - config.vocab_size * config.hidden_size),
            "train_loss": round(sum(losses) / len(losses), 8),
            "token_acc": round(figures[-1][2] / self.steps[-1].labels, 8),
            "epoch": round(self._epoch(self.total), 8),
            "global_step/max_steps": f"{self.total}/{self.total}",
            "elapsed_time": format_time(elapsed),
            "remaining_time": "0s",
        }
        if self.cuda:
            line["memory(GiB)"] = round(reserved, 2)
        line["train_speed(s/it)"] = round(elapsed / self.total, 6)
        log_history = self._history_entries()
        self._write_line(line)
        trained = self.adapter.num_parameters
        self._write_line(
            {
                "model_parameter_info": f"Qwen2ForCausalLM with LoRA: {(base + trained) / 1e6:.4f}M Params "
                f"({trained / 1e6:.4f}M Trainable [{100 * trained / (base + trained):.4f}%]).",
                "last_model_checkpoint": str(saved),
                "best_model_checkpoint": None,
                "best_metric": None,
                "global_step": self.total,
                "log_history": log_history,
                "memory": round(reserved, 2),
            }
        )
        self.graphs.clear()
        self.update_graph = None
        self.model.deactivate()
        self.adapter.touch()
        return TrainResult(
            adapter=self.adapter,
            checkpoint=saved,
            steps=self.total,
            losses=losses,
            grad_norms=[figure[1] for figure in figures],
            seconds=seconds,
            setup_seconds=self.loop_begin - begin,
            tokens=sum(tokens[self.start_step :]),
            step_ms=step_ms,
            peak_allocated_gib=allocated,
            peak_reserved_gib=reserved,
        )


def _mix(*numbers: int) -> int:
    """A 31-bit number from a few: the seed of a micro-batch's dropout masks (splitmix64's finaliser)."""
    x = 0
    for number in numbers:
        x = (x + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 31
    return x & 0x7FFFFFFF


def format_time(seconds: float) -> str:
    """ms-swift's way: 5s, 1m 5s, 1h 1m 5s, 1d 1h 1m 5s."""
    total = round(seconds)
    days, hours, minutes = total // 86400, total % 86400 // 3600, total % 3600 // 60
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (total % 60, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{value}{unit}" for value, unit in parts)
