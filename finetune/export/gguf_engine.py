"""A GGUF file as one of verify's engines: llama.cpp answers greedily on the CPU; for the verdict on a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.export.llamacpp import LlamaServer
from finetune.verify.engine import Answer, Ask, Progress
from qwen2.chat import Tokenizer


class GgufEngine:
    """verify's Engine over a loaded file. It takes no adapter: the file has it merged."""

    name = "llama.cpp"
    device = "cpu"

    def __init__(self, model: LlamaServer, tokenizer: Tokenizer, eos: Sequence[int], dtype: str) -> None:
        """Wrap a loaded file.

        Args:
            model: The file, in llama.cpp's server.
            tokenizer: The base's. The proof has shown that the file's tokenizer gives the same ids.
            eos: The ids that end an answer.
            dtype: The file's quantization, for the report.
        """
        self.model, self.tokenizer, self.eos, self.dtype = model, tokenizer, set(eos), dtype

    def memory(self) -> None:
        """No GPU is used."""
        return

    def adapter(self, path: Any) -> Any:
        """A GGUF file has no adapters to load: always raises ValueError."""
        raise ValueError(f"a GGUF takes no adapter: {path}")

    def answer(self, asks: Sequence[Ask], adapter: Any, progress: Progress) -> list[Answer]:
        """The greedy answers in order.

        Args:
            asks: What to answer.
            adapter: Always None, as the file has its adapter merged.
            progress: Called with 1 after each answer.
        """
        prompts = [self.tokenizer.encode_chat(list(ask.messages), ask.system, tools=ask.tools) for ask in asks]
        limits = [ask.max_new_tokens for ask in asks]
        found = []
        for said in self.model.answers(prompts, limits, progress):
            ids = [token for token in said.ids if token not in self.eos]
            found.append(Answer(self.tokenizer.decode(ids).strip(), len(ids), not said.ended))
        return found
