"""Answers with transformers and peft, for a base that is too large for one GPU and is spread over several.

verify uses it instead of Qwen2Engine with `--engine transformers`; it is several times slower.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import FAILED, UserError
from common.i18n import _
from finetune.verify.engine import Answer, Ask, Progress, answer_of, distinct, memory_ran_out, prompt_of

BATCH = 32  # questions per batch; --batch-size overrides it
BESIDE_GIB = 2.5  # left free on each GPU for the keys and values of BATCH answers, activations and the adapter
GIB = 2**30


class TransformersEngine:
    """AutoModelForCausalLM with its layers spread evenly over all visible GPUs, or on the CPU."""

    name = "transformers"

    def __init__(self, model_dir: Path, device: str, ceiling_gib: float = 0.0, batch_size: int | None = None) -> None:
        """Load the base, in bfloat16 on GPUs and in float32 on a CPU.

        Args:
            model_dir: The base's folder.
            device: "cuda" or "cpu".
            ceiling_gib: The limit of each GPU's memory; 0: none.
            batch_size: Questions per batch; None: BATCH.

        Raises:
            UserError: The base cannot be loaded.
        """
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig
        from transformers.utils import logging

        from qwen2.chat import Tokenizer

        logging.disable_progress_bar()
        self.device, self.batch_size = device, batch_size or BATCH
        where: dict[str, Any] = {"dtype": torch.float32}
        if device == "cuda":
            where = {"dtype": torch.bfloat16, "device_map": "auto", "max_memory": _rooms(ceiling_gib)}
        try:
            self.tokenizer = Tokenizer(model_dir)
            self.model: Any = AutoModelForCausalLM.from_pretrained(model_dir, **where).eval()
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(
                _("{model_dir}: cannot be loaded: {reason}; `healthcheck startup` looks at every file").format(
                    model_dir=model_dir, reason=" ".join(str(error).split())[:200]
                ),
                FAILED,
            ) from None
        self.dtype = str(where["dtype"]).removeprefix("torch.")
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        pad = self.model.generation_config.pad_token_id
        self.pad = pad if pad is not None else min(self.ends)
        # Greedy, regardless of the sampling and penalties in the model's own configuration.
        self.model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=sorted(self.ends), pad_token_id=self.pad
        )
        self._adapters = 0

    def memory(self) -> dict[str, float] | None:
        """The CUDA allocator's peaks in GiB, since the process began, on the GPU with the highest; None on a CPU."""
        if self.device != "cuda":
            return None
        import torch

        cards = range(torch.cuda.device_count())
        peaks = {
            "allocated": max(map(torch.cuda.max_memory_allocated, cards)),
            "reserved": max(map(torch.cuda.max_memory_reserved, cards)),
        }
        return {name: round(value / GIB, 2) for name, value in peaks.items()}

    def adapter(self, path: Path) -> str:
        """Load a PEFT folder in addition to those loaded before, and return its name.

        Raises UserError if it does not fit the base.
        """
        from peft import PeftModel

        name = f"adapter-{self._adapters}"
        try:
            if self._adapters:
                self.model.load_adapter(str(path), adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.model, str(path), adapter_name=name).eval()
        except (ValueError, OSError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(_("adapter {path}: {reason}").format(path=path, reason=reason)) from None
        self._adapters += 1
        return name

    def answer(self, asks: Sequence[Ask], adapter: Any, progress: Progress) -> list[Answer]:
        """Answers in order. A question that is asked twice is answered once."""
        import torch

        wanted, indices = distinct(asks)
        prompts = [prompt_of(self.tokenizer, ask) for ask in wanted]
        # Questions with long answers go together: a batch continues until its longest answer ends.
        order = sorted(range(len(wanted)), key=lambda n: (wanted[n].max_new_tokens, len(prompts[n])))
        found: dict[int, Answer] = {}
        try:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                limits = [wanted[n].max_new_tokens for n in batch]
                said = self._generate([prompts[n] for n in batch], limits, adapter)
                found |= {n: answer_of(self.tokenizer, wanted[n], ids) for n, ids in zip(batch, said, strict=True)}
                progress(len(batch))
        except torch.OutOfMemoryError:
            raise memory_ran_out() from None
        return [found[at] for at in indices]

    def _generate(self, prompts: list[list[int]], limits: list[int], adapter: str | None) -> list[list[int]]:
        """The token ids of the answers, each cut at its end token or its limit."""
        import torch

        longest = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        if adapter:
            self.model.set_adapter(adapter)
        without = self.model.disable_adapter() if self._adapters and not adapter else contextlib.nullcontext()
        first = next(self.model.parameters()).device  # the embedding's
        with torch.no_grad(), without:
            out = self.model.generate(
                input_ids=ids.to(first), attention_mask=mask.to(first), max_new_tokens=max(limits)
            )
        found = []
        for row, limit in zip(out[:, longest:].tolist(), limits, strict=True):
            end = next((n for n, token in enumerate(row) if token in self.ends), len(row))
            found.append(row[: min(end, limit)])
        return found


def _rooms(ceiling_gib: float) -> dict[int, int]:
    """The bytes of weights that each GPU may hold. Also limits the CUDA allocator to the ceiling."""
    import torch

    rooms = {}
    for card in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(card)
        if 0 < ceiling_gib * GIB < free:
            torch.cuda.set_per_process_memory_fraction(ceiling_gib * GIB / total, card)
            free = int(ceiling_gib * GIB)
        rooms[card] = max(0, free - int(BESIDE_GIB * GIB))
    return rooms
