"""Does the merged model answer as base and adapter do? Asks both the same questions, greedily; for merge and export.

"Same" means the same tokens. Merging rounds every changed weight to bfloat16 once more, and two nearly equal tokens may
then change places. An answer may differ only at such a near tie: at the first token that differs, the merged model's
logit of the adapter's token is at most NEAR_TIE below that of its own. A wrong merge (a wrong scale, a missing layer,
another adapter) shows a much larger gap. The stand-in is merged in float32; there no answer may differ.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.verify import questions
from finetune.verify.engine import Qwen2Engine
from finetune.verify.sets import ask

QUESTIONS = 20
NEW_TOKENS = 96
# In logits: the odds of the two tokens are at most e^0.5 = 1.6 to 1. bfloat16 has steps of 0.125 from 16 to 32.
NEAR_TIE = 0.5


@dataclass(frozen=True)
class AnswerPair:
    """A question and both answers. `gap`: how far the merged model prefers its own, in logits; None if they agree."""

    question: str
    adapter: str
    merged: str
    gap: float | None

    def accepted(self, near_tie: float) -> bool:
        """Whether the answers are the same, or differ at a near tie (`near_tie` in logits)."""
        return self.gap is None or self.gap <= near_tie


def choose(folder: Path, english: bool = False) -> list[str]:
    """QUESTIONS questions of the workspace: half about identity, half general tasks, evenly drawn from the files.

    Args:
        folder: Where identity.yaml, general.yaml and general_en.yaml are.
        english: Whether to draw English questions only, for a model that knows no other language.
    """
    found = []
    for name, part in (("identity.yaml", "heldout"), ("general_en.yaml" if english else "general.yaml", "general")):
        every = [each for each in getattr(questions.read(folder / name), part) if len(each.messages) == 1]
        if english:
            every = ask.in_language(every, "en")
        count = min(QUESTIONS // 2, len(every))
        found += [every[index * len(every) // count].text for index in range(count)]
    return found


def first_difference(left: Sequence[int], right: Sequence[int]) -> int:
    """The index of the first token that differs; the shorter length if one answer is the beginning of the other."""
    both = enumerate(zip(left, right, strict=False))
    return next((n for n, (a, b) in both if a != b), min(len(left), len(right)))


class AdapterAnswers:
    """The adapter's answers. They are kept while the base is released and the merged model is loaded."""

    def __init__(self, texts: Sequence[str], system: str, device: str, ceiling_gib: float) -> None:
        self.texts, self.system, self.device, self.ceiling_gib = list(texts), system, device, ceiling_gib
        self.before: list[list[int]] = []

    def ask_adapter(self, base: Path, adapter: Path | None) -> None:
        """Load the base, ask it with the adapter (None: without), and release it."""
        engine = Qwen2Engine(base, self.device, self.ceiling_gib)
        self.ask(engine, engine.adapter(adapter) if adapter else None)
        release(engine)

    def ask(self, engine: Qwen2Engine, adapter: Any) -> None:
        """The same with a base and an adapter that are loaded already and stay loaded."""
        self.before = self._ask(engine, adapter)

    def ask_merged(self, model: Path) -> list[AnswerPair]:
        """Load the merged model, ask it the same questions, and compare."""
        engine = Qwen2Engine(model, self.device, self.ceiling_gib)
        after = self._ask(engine, None)
        asked = []
        for text, left, right in zip(self.texts, self.before, after, strict=True):
            gap = None if left == right else self._gap(engine, text, left, right)
            said = [engine.tokenizer.decode(ids).strip() for ids in (left, right)]
            asked.append(AnswerPair(text, said[0], said[1], gap))
        release(engine)
        return asked

    def _prompt(self, engine: Qwen2Engine, text: str) -> list[int]:
        return engine.tokenizer.encode_chat([{"role": "user", "content": text}], system=self.system)

    def _ask(self, engine: Qwen2Engine, adapter: Any) -> list[list[int]]:
        from qwen2.generate import generate

        prompts = [self._prompt(engine, text) for text in self.texts]
        return generate(engine.model, prompts, NEW_TOKENS, adapter=adapter)

    def _gap(self, engine: Qwen2Engine, text: str, left: list[int], right: list[int]) -> float:
        """Logits by which the merged model prefers its first differing token. The end of an answer is a token too."""
        import torch

        place = first_difference(left, right)
        ends = list(engine.model.config.eos_ids)
        ids = torch.tensor([self._prompt(engine, text) + left[:place]], device=engine.device)
        logits = engine.model.forward(ids)[0, -1].float()
        best = [logits[[side[place]] if place < len(side) else ends].max() for side in (left, right)]
        return float(best[1] - best[0])


def release(engine: Qwen2Engine) -> None:
    """Free the engine's memory for the next model."""
    import torch

    device = engine.device
    del engine.model
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
