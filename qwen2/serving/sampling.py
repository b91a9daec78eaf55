"""Chooses the next token of each row, with separate settings per row; called by batch.py.

The order is transformers': penalties, temperature, top-k, top-p. Nothing here waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwen2.serving.request import SamplingParams

SORTED = 1024  # top_k up to this value is sorted; above it, thresholds are searched for instead
AT_ONCE = 32  # rows: each needs several copies of its logits, 0.6 MB per copy
HALVINGS = 30  # of the search for top_p's threshold: the nucleus is then exact except for equal probabilities


class Told:
    """The prompt and answer tokens of each slot, for penalties. Created at the first request that has one."""

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        self.seen = torch.zeros(slots, vocabulary, dtype=torch.bool, device=device)
        self.counts = torch.zeros(slots, vocabulary, dtype=torch.int16, device=device)

    def begin(self, slot: int, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Reset a slot for another row.

        Args:
            slot: The slot.
            prompt: Ids of its prompt.
            answer: Ids of its answer so far.
        """
        device = self.seen.device
        self.seen[slot], self.counts[slot] = False, 0
        self.seen[slot, torch.tensor([*prompt, *answer], device=device)] = True
        if answer:
            said = torch.tensor(answer, device=device)
            self.counts[slot].index_add_(0, said, torch.ones_like(said, dtype=torch.int16))

    def add(self, slots: Tensor, tokens: Tensor) -> None:
        """Record one generated token for each of these slots."""
        self.seen[slots, tokens] = True
        self.counts[slots, tokens] += 1

    def penalise(self, logits: Tensor, slots: Tensor, rows: Sequence[SamplingParams]) -> Tensor:
        """Logits [n, V] float32 after the penalties of each row.

        Args:
            logits: [n, V] float32.
            slots: [n], the slot of each row.
            rows: The settings of each row.
        """
        device = logits.device
        repetition, frequency, presence = column(
            [[each.repetition_penalty, each.frequency_penalty, each.presence_penalty] for each in rows], device
        ).T[:, :, None]
        punished = torch.where(logits < 0, logits * repetition, logits / repetition)
        logits = torch.where(self.seen[slots], punished, logits)
        counts = self.counts[slots].float()
        return logits - frequency * counts - presence * (counts > 0)


def column(values: Sequence[object], device: torch.device) -> Tensor:
    """Floats on the device, copied without waiting."""
    made = torch.tensor(values, dtype=torch.float32)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made


def whole(values: Sequence[Any], device: torch.device) -> Tensor:
    """Integers on the device, copied without waiting."""
    made = torch.tensor(values, dtype=torch.int64)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made


def choose(logits: Tensor, rows: Sequence[SamplingParams], uniform: Sequence[float]) -> Tensor:
    """The token of each row.

    Args:
        logits: [n, V] float32.
        rows: The settings of each row.
        uniform: A number in [0, 1) for each row.
    """
    found = logits.argmax(-1)
    device, vocabulary = logits.device, logits.shape[1]
    kinds: dict[str, list[int]] = {"sorted": [], "wide": []}
    for place, each in enumerate(rows):
        if each.temperature > 0:
            kinds["sorted" if 0 < each.top_k <= min(SORTED, vocabulary) else "wide"].append(place)
    parts = [(kind, all_[n : n + AT_ONCE]) for kind, all_ in kinds.items() for n in range(0, len(all_), AT_ONCE)]
    for kind, places in parts:
        index = whole(places, device)
        mine = [rows[place] for place in places]
        heat = column([[each.temperature] for each in mine], device)
        number = column([[uniform[place]] for place in places], device)
        picked = (_sorted if kind == "sorted" else _wide)(logits[index] / heat, mine, number)
        found = found.index_copy(0, index, picked)
    return found


def _sorted(logits: Tensor, rows: Sequence[SamplingParams], uniform: Tensor) -> Tensor:
    """Rows with a small top_k: their candidates, most likely first."""
    device = logits.device
    top_k = whole([[each.top_k] for each in rows], device)
    logits, index = torch.topk(logits, max(each.top_k for each in rows))
    rank = torch.arange(logits.shape[1], device=device)
    share = torch.softmax(logits.masked_fill(rank >= top_k, float("-inf")), -1)
    before = share.cumsum(-1) - share
    share = share * (before < column([[each.top_p] for each in rows], device))
    return index.gather(1, _inverse(share, uniform))[:, 0]


def _wide(logits: Tensor, rows: Sequence[SamplingParams], uniform: Tensor) -> Tensor:
    """Rows that may choose any token, or any in the nucleus of top_p, without sorting the vocabulary."""
    device = logits.device
    large = [min(each.top_k or logits.shape[1], logits.shape[1]) for each in rows]
    if any(top_k < logits.shape[1] for top_k in large):
        ordered = logits.sort(descending=True).values
        lowest = ordered.gather(1, whole([[top_k - 1] for top_k in large], device))
        logits = logits.masked_fill(logits < lowest, float("-inf"))
    share = torch.softmax(logits, -1)
    if any(each.top_p < 1 for each in rows):
        share = share * (share >= _threshold(share, column([[each.top_p] for each in rows], device)))
    return _inverse(share, uniform)[:, 0]


def _threshold(share: Tensor, top_p: Tensor) -> Tensor:
    """The probability [n, 1] of the least likely token that top_p keeps: those above it sum to less than top_p."""
    low, high = torch.zeros_like(top_p), share.amax(-1, keepdim=True)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = (share * (share >= middle)).sum(-1, keepdim=True) >= top_p
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low


def _inverse(share: Tensor, uniform: Tensor) -> Tensor:
    """The index [n, 1] at which the cumulative sum of share [n, k] passes `uniform` [n, 1] of the total."""
    total = share.cumsum(-1)
    chosen = torch.searchsorted(total, uniform * total[:, -1:], right=True)
    # Rounding may run past the last token with a share. The first index of the largest sum is correct then.
    last = torch.searchsorted(total, total[:, -1:].contiguous())
    return torch.minimum(chosen, last)


@dataclass
class Likelihoods:
    """For the chosen tokens: their log-probability, and the most likely tokens with theirs; [n], [n, k], [n, k]."""

    chosen: Tensor
    tokens: Tensor
    values: Tensor


def likelihoods(logits: Tensor, chosen: Tensor, alternatives: int) -> Likelihoods:
    """Log-probabilities before penalties and temperature.

    Args:
        logits: [n, V] float32.
        chosen: [n], the tokens chosen.
        alternatives: Number of most likely tokens to return in addition.
    """
    normal = torch.logsumexp(logits, -1, keepdim=True)
    values, tokens = torch.topk(logits, alternatives) if alternatives else (logits[:, :0], chosen[:, None][:, :0])
    return Likelihoods((logits.gather(1, chosen[:, None]) - normal)[:, 0], tokens, values - normal)
