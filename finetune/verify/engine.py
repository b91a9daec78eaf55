"""Asks a model questions, with or without an adapter; the command calls it, and tests replace it with a small fake.

The base is loaded once. The engine here is qwen2: greedy, batched, in bfloat16 on CUDA and in float32 on a CPU.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from common.errors import FAILED, UserError
from common.i18n import _
from finetune.engines.fast.loaded_model import Lane

# The system prompt of Qwen2.5's chat template for conversations without one.
DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

ANSWER_END = "<|im_end|>"

Progress = Callable[[int], None]  # called with the number of new answers


@dataclass(frozen=True)
class Ask:
    """One question for an engine: the conversation, its system prompt, and the longest answer in tokens."""

    messages: tuple[dict[str, Any], ...]
    system: str
    max_new_tokens: int
    tools: Any = None

    def key(self) -> tuple[Any, ...]:
        """Two questions with the same key have the same answer."""
        said = ((m["role"], str(m["content"])) for m in self.messages)
        return (*said, self.system, self.max_new_tokens, str(self.tools or ""))


def distinct(asks: Sequence[Ask]) -> tuple[list[Ask], list[int]]:
    """The different questions, in order; and for each of `asks`, its index among them."""
    first: dict[tuple[Any, ...], Ask] = {}
    for ask in asks:
        first.setdefault(ask.key(), ask)
    index = {key: at for at, key in enumerate(first)}
    return list(first.values()), [index[ask.key()] for ask in asks]


@dataclass(frozen=True)
class Answer:
    """An answer: the text, its length in tokens, and whether it reached the limit (`cut`)."""

    text: str
    tokens: int
    cut: bool


class Engine(Protocol):
    """What the command needs from an engine."""

    name: str
    device: str
    dtype: str

    def memory(self) -> dict[str, float] | None:
        """Peak GPU memory so far, in GiB: `allocated` and `reserved`; None on a CPU."""

    def adapter(self, path: Path) -> Any:
        """Load an adapter and return what `answer` takes as `adapter`. Raises UserError if it does not fit."""

    def answer(self, asks: Sequence[Ask], adapter: Any, progress: Progress) -> list[Answer]:
        """Greedy answers, in order.

        Args:
            asks: The questions.
            adapter: As `adapter` returned it; None asks the base.
            progress: Called as answers come in.
        """


class Qwen2Engine:
    """The fast lane: this project's own plain-torch Qwen2."""

    name = "qwen2"

    def __init__(
        self,
        model_dir: Path,
        device: str,
        ceiling_gib: float = 0.0,
        batch_size: int | None = None,
        lane: Lane | None = None,
        room: Any = None,
    ) -> None:
        """Load the base, which takes seconds at 7B, or use the one in `lane`.

        Args:
            model_dir: The base's folder.
            device: "cuda" or "cpu".
            ceiling_gib: The limit of GPU memory; 0: none.
            batch_size: Questions per batch; None: as many as fit.
            lane: A loaded base.
            room: A qwen2.room.Room, the share of a GPU that answers may use; None suits a process that only answers.
        """
        lane = lane or Lane(model_dir, device, ceiling_gib)
        self.lane, self.tokenizer, self.model = lane, lane.tokenizer, lane.model()
        self._folders: list[tuple[Any, Path]] = []  # adapters and their folders, from which other processes load them
        self.device, self.batch_size, self.room = device, batch_size, room
        self.dtype = str(self.model.dtype).removeprefix("torch.")

    def memory(self) -> dict[str, float] | None:
        """The CUDA allocator's peaks in GiB, since the process began or the counters were reset; None on a CPU."""
        if self.device != "cuda":
            return None
        import torch

        peaks = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        return {name: round(value / 2**30, 2) for name, value in peaks.items()}

    def adapter(self, path: Path) -> Any:
        """Load a PEFT LoRA folder onto the model's device."""
        adapter = load_adapter(path, self.model)
        self._folders.append((adapter, path))
        return adapter

    def processes(self, questions: int) -> int:
        """The number of processes that answer this many questions."""
        return self.lane.sharing(questions)

    def _folder(self, adapter: Any) -> Path | None:
        return next((path for each, path in self._folders if each is adapter), None)

    def answer(self, asks: Sequence[Ask], adapter: Any, progress: Progress) -> list[Answer]:
        """Answers in order. A question that is asked twice is answered once."""
        import torch

        wanted, indices = distinct(asks)
        pieces = [(prompt_of(self.tokenizer, ask), ask.max_new_tokens) for ask in wanted]
        try:
            produced = self.lane.answer(pieces, adapter, self._folder(adapter), self.batch_size, self.room, progress)
        except ValueError as error:
            raise UserError(_("cannot ask the questions: {reason}").format(reason=error)) from None
        except torch.cuda.OutOfMemoryError:
            raise memory_ran_out() from None
        answers = [answer_of(self.tokenizer, ask, ids) for ask, ids in zip(wanted, produced, strict=True)]
        return [answers[at] for at in indices]

    def nll(self, asks: Sequence[Ask], references: Sequence[str], adapter: Any) -> list[float]:
        """The mean negative log-likelihood, in nats per token, of each reference as the answer to its question.

        Args:
            asks: The questions.
            references: One for each question.
            adapter: As `adapter` returned it; None: the base.
        """
        import torch

        rows = []
        for ask, reference in zip(asks, references, strict=True):
            prompt = prompt_of(self.tokenizer, ask)
            answer = self.tokenizer.encode(reference + ANSWER_END)
            rows.append(([*prompt, *answer], [*[-100] * len(prompt), *answer]))
        try:
            return self.lane.weigh(rows, adapter, self._folder(adapter))
        except torch.cuda.OutOfMemoryError:
            raise UserError(
                _("the GPU's memory ran out while reference answers were scored; end other programs on the GPU"),
                exit_code=FAILED,
            ) from None


def prompt_of(tokenizer: Any, ask: Ask) -> list[int]:
    """The token ids of a question, up to where the answer begins."""
    ids: list[int] = tokenizer.encode_chat(list(ask.messages), system=ask.system, tools=ask.tools)
    return ids


def answer_of(tokenizer: Any, ask: Ask, ids: list[int]) -> Answer:
    """The answer to a question from its token ids, which do not include the end token."""
    return Answer(tokenizer.decode(ids).strip(), len(ids), len(ids) >= ask.max_new_tokens)


def memory_ran_out() -> UserError:
    """The error for the user if torch raises OutOfMemoryError while a model answers."""
    return UserError(
        _("the GPU's memory ran out while answering; try --batch-size 8, or end other programs on the GPU"), FAILED
    )


def load_adapter(path: Path, model: Any) -> Any:
    """Load an adapter. Raises UserError if it does not fit `model`."""
    from qwen2.lora import Adapter

    try:
        return Adapter.load(path, model)
    except ValueError as error:
        raise UserError(_("adapter {path}: {reason}").format(path=path, reason=error)) from None


def check_adapter(path: Path, model_dir: Path) -> None:
    """Raises UserError if an adapter does not fit the base. Reads only the base's config, not its 15 GB of weights."""
    import torch

    from qwen2.config import Config

    try:
        config = Config.from_dir(model_dir)
    except ValueError as error:
        raise UserError(
            _("{model_dir}: cannot load the base model: {reason}").format(model_dir=model_dir, reason=error)
        ) from None
    load_adapter(path, types.SimpleNamespace(config=config, device=torch.device("cpu")))
