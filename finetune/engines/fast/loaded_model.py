"""The fast lane's model in this process: tokenizer, torch and weights, each loaded on first use.

Used by fast and verify. The pipeline (check, train, verify) passes one on, so the weights are loaded once. torch is
imported in the background as soon as a Lane is created, while options, data and questions are checked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import FAILED, UserError
from common.i18n import _
from finetune.engines.fast import shared
from finetune.engines.fast.crew import LOOPBACK, Crew
from finetune.engines.fast.workers import Workers
from finetune.runs.gpu_lock import PARENT
from finetune.runs.progress_bar import Bar
from qwen2 import early_cuda, early_torch

# Names that are added to the environment later, with the value that means unset: ours; those that numpy sets during its
# import; and the one that torch sets when it starts CUDA.
RESERVED = dict.fromkeys((PARENT, *LOOPBACK), "") | {
    "OPENBLAS_MAIN_FREE": "1",
    "GOTOBLAS_MAIN_FREE": "1",
    "CUDA_MODULE_LOADING": "LAZY",
}


def reserve_names(device: str) -> None:
    """Add the names of RESERVED to the environment, before a thread starts that reads it.

    A new name moves C's array of names, and the CUDA driver, which starts in its own thread, may be reading it: two of
    some thirty starts on two GPUs ended with a segmentation fault.
    """
    if device == "cpu":
        spare_the_cores()
    for name, value in RESERVED.items():
        os.environ.setdefault(name, value)


def begin_import(device: str) -> None:
    """Import torch in the background; a command calls this before it reads its data. Uses no GPU memory."""
    reserve_names(device)
    early_torch.begin()


class Lane:
    """The model on `device` (cuda or cpu); `ceiling_gib` limits the CUDA allocator, 0 means no limit."""

    def __init__(self, model_dir: Path, device: str, ceiling_gib: float = 0.0, workers: Workers | None = None) -> None:
        """`workers`: train or answer with several processes; this node's others are started at once."""
        self.model_dir, self.device, self.cap_gib = model_dir, device, ceiling_gib
        self.seconds = 0.0  # time spent loading
        self.fewest = shared.FEWEST[device]  # minimum questions per process; with fewer, only the first process answers
        self.asks_later = False  # whether the others stay after training, to answer
        self._tokenizer: Any = None
        self._model: Any = None
        reserve_names(device)
        if device == "cuda":
            early_cuda.start_cuda()
        early_torch.begin()
        several = workers is not None and workers.size > 1
        self.crew = Crew(workers, model_dir, device, ceiling_gib) if workers and several else None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, which does not need torch."""
        if self._tokenizer is None:
            from qwen2.chat import Tokenizer

            self._tokenizer = _loaded(self.model_dir, lambda: Tokenizer(self.model_dir))
        return self._tokenizer

    def torch(self) -> Any:
        """torch, once imported. Raises UserError if the import fails, or CUDA does not respond."""
        error = early_torch.wait()
        if error is not None:
            raise UserError(
                _(
                    "torch cannot be imported ({name}: {reason}); undo what was installed or mounted over /opt/venv"
                ).format(name=type(error).__name__, reason=error),
                FAILED,
            )
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                _(
                    "no CUDA GPU answers, though this container shows one; `healthcheck report` says why, "
                    "MIRROR_DEVICE=cpu does without"
                ),
                FAILED,
            )
        return torch

    def model(self, progress: Callable[[int, int], None] | None = None) -> Any:
        """The base model: bfloat16 on CUDA, float32 on a CPU. Raises UserError if it cannot be loaded."""
        if self._model is None:
            torch = self.torch()
            from qwen2.model import Model

            begin = time.perf_counter()
            if self.device == "cuda" and self.cap_gib > 0:
                total = torch.cuda.get_device_properties(0).total_memory
                torch.cuda.set_per_process_memory_fraction(min(1.0, self.cap_gib * 2**30 / total))
            dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
            try:
                self._model = _loaded(self.model_dir, lambda: Model.load(self.model_dir, self.device, dtype, progress))
            except torch.OutOfMemoryError:
                raise UserError(
                    _(
                        "the weights do not fit into the GPU memory that is free under "
                        "VRAM_CEILING_GIB={cap_gib:g}; end what else uses the GPU (nvidia-smi), or raise the "
                        "ceiling on a larger card"
                    ).format(cap_gib=self.cap_gib),
                    FAILED,
                ) from None
            except RuntimeError as error:  # CUDA's own errors, Triton's compiler
                raise UserError(
                    _("the GPU cannot be used: {reason}; `healthcheck startup` looks at driver and weights").format(
                        reason=error
                    ),
                    FAILED,
                ) from None
            self.seconds = time.perf_counter() - begin
        return self._model

    def release(self) -> None:
        """Free the weights' memory, for a process that follows."""
        self._model = None
        if self.device == "cuda":
            self.torch().cuda.empty_cache()

    def team(self, pieces: int) -> Any | None:
        """The processes that share this many questions with this one; None if it answers them alone.

        Raises UserError if one of them is missing or lost.
        """
        crew = self.crew
        if crew is None or self.sharing(pieces) == 1:
            return None
        from qwen2.training.team import LostError

        try:
            return crew.team()
        except LostError as error:
            raise shared.not_answered(error) from None

    def sharing(self, pieces: int) -> int:
        """How many processes share this many questions; processes of other nodes do not take part."""
        workers = self.crew.workers if self.crew else Workers()
        return workers.size if workers.nodes == 1 and pieces >= self.fewest * workers.size else 1

    def answer(
        self,
        pieces: Sequence[tuple[list[int], int]],
        adapter: Any,
        folder: Path | None,
        batch_size: int | None,
        room: Any,
        progress: Callable[[int], None],
    ) -> list[list[int]]:
        """Greedy answers in order, as token ids; shared with the other processes, if any.

        Args:
            pieces: Prompts, each with the limit of its answer.
            adapter: Active during this call; None uses the base.
            folder: The adapter's folder; None if it has none, so that only this process can use it.
            batch_size: Rows per batch; None means as many as memory and room allow.
            room: A qwen2.room.Room, or None.
            progress: Called with the number of answers that have just arrived.

        Raises:
            ValueError: A prompt is empty, or too long with its answer.
            UserError: Another process was lost.
        """
        model, team = self.model(), self.team(len(pieces)) if adapter is None or folder else None
        told = 0

        def report(done: int, _total: int) -> None:
            nonlocal told
            if team:
                team.check()
            progress(done - told)
            told = done

        def work(mine: Sequence[Any]) -> list[Any]:
            return shared.answers(model, adapter, mine, batch_size, room, report)

        if team is None:
            return work(pieces)
        from qwen2.generate import check

        check(model, [prompt for prompt, _limit in pieces], [limit for _prompt, limit in pieces])
        costs = [len(prompt) // shared.READ_AS_ONE + limit for prompt, limit in pieces]
        return shared.shared(team, shared.answer_order(folder, batch_size, room), pieces, costs, work, progress)

    def weigh(self, rows: Sequence[tuple[list[int], list[int]]], adapter: Any, folder: Path | None) -> list[float]:
        """Mean negative log-likelihood of each row's labels, in nats per token; otherwise like `answer`."""
        model, team = self.model(), self.team(len(rows)) if adapter is None or folder else None
        from qwen2.nll import mean_nll

        if team is None:
            return mean_nll(model, rows, adapter)
        order = shared.weigh_order(folder)
        costs = [len(ids) for ids, _labels in rows]
        return shared.shared(team, order, rows, costs, lambda mine: mean_nll(model, mine, adapter), lambda _count: None)

    def dismiss(self) -> None:
        """End the other processes of this node: they are no longer needed."""
        if self.crew is not None:
            self.crew.end()
            self.crew = None

    def load(self, bar: Bar) -> Any:
        """`model`, with progress on the bar."""
        if self._model is None:
            bar.phase(
                _("loading {name} on the {device}").format(
                    name=self.model_dir.name, device="CPU" if self.device == "cpu" else "GPU"
                )
            )
        return self.model(
            lambda done, total: bar.detail(_("loading the weights, {percent} %").format(percent=100 * done // total))
        )

    def ceiling_gib(self, apart_gib: float = 0.0) -> float:
        """GiB that this process may reserve: the ceiling, or the free memory less `apart_gib` if that is smaller."""
        torch = self.torch()
        free, _other = torch.cuda.mem_get_info()
        possible = (free + torch.cuda.memory_reserved()) / 2**30 - apart_gib
        return min(self.cap_gib, possible) if self.cap_gib > 0 else possible


def spare_the_cores() -> None:
    """On a CPU, before torch is imported: threads that spin while waiting take cores from each other if a container
    shares them (twice the time on a busy machine)."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _loaded(model_dir: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (ValueError, OSError) as error:
        raise UserError(
            _("{model_dir}: cannot be loaded: {reason}; `healthcheck startup` looks at every file").format(
                model_dir=model_dir, reason=error
            )
        ) from None
