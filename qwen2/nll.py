"""Negative log-likelihood of given answers, batched, without gradients; called by verify and training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from qwen2.lora import Adapter
from qwen2.model import ActiveLora, Model, causal_attention

BATCH_TOKENS = 4096  # of the padded batch: its activations take about 150 KB per token at 7B
HEAD_ROWS = 256  # rows of logits at a time; at a vocabulary of 152,064 a row takes 0.6 MB in float32

Row = tuple[Sequence[int], Sequence[int]]  # ids and labels, of the same length; -100 for tokens without loss


@dataclass(frozen=True)
class RowScore:
    """Negative log-likelihood of a row's labelled tokens in nats, their number, and how many were the most likely."""

    nll: float
    labels: int
    hits: int


def mean_nll(
    model: Model,
    rows: Sequence[Row],
    adapter: Adapter | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Mean negative log-likelihood of the labelled tokens of each row, in nats per token.

    Args:
        model: The base.
        rows: (ids, labels) as in training; a row without a label gives 0.
        adapter: Active during this call; None uses the bare base.
        batch_tokens: Padded tokens per batch; a longer row gets its own batch.
        progress: Called with the number of rows that were just finished.
    """
    found = measure(model, rows, model.activate(adapter), batch_tokens, progress)
    return [each.nll / max(each.labels, 1) for each in found]


@torch.no_grad()
def measure(
    model: Model,
    rows: Sequence[Row],
    lora: ActiveLora | None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> list[RowScore]:
    """Each row's likelihood with the LoRA that is active in the model's weights.

    Args:
        model: The loaded model.
        rows: Token ids and labels.
        lora: The adapter in its weights; None for the base.
        batch_tokens: Padded tokens per batch.
        progress: Called with the number of rows that were just finished.
    """
    found = [RowScore(0.0, 0, 0)] * len(rows)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
    start = 0
    while start < len(order):
        size = 1
        while start + size < len(order) and (size + 1) * len(rows[order[start + size]][0]) <= batch_tokens:
            size += 1
        batch = order[start : start + size]
        for place, score in zip(batch, _scores(model, [rows[place] for place in batch], lora), strict=True):
            found[place] = score
        if progress:
            progress(size)
        start += size
    return found


def _scores(model: Model, rows: Sequence[Row], lora: ActiveLora | None) -> list[RowScore]:
    """One padded batch; rows are sorted from the shortest."""
    size, length = len(rows), len(rows[-1][0])
    ids = torch.full((size, length), model.config.pad_id, dtype=torch.int64)
    labels = torch.full((size, length), -100, dtype=torch.int64)
    for line, (row_ids, row_labels) in enumerate(rows):
        ids[line, : len(row_ids)] = torch.tensor(row_ids)
        labels[line, : len(row_ids) - 1] = torch.tensor(row_labels[1:])  # a token is predicted by the token before it
    cos, sin = (table[:length].repeat(size, 1) for table in model.rope_tables(length))
    attend = causal_attention(model.config, size, length, cos, sin)
    x = model.embed(ids.to(model.device).reshape(-1))  # (size * length, hidden)
    for number in range(model.config.num_layers):
        x = model.run_layer(number, x, attend, lora)
    wanted = labels.reshape(-1)
    picked = (wanted >= 0).nonzero()[:, 0]
    parts = []
    for part in picked.split(HEAD_ROWS):
        logits, target = model.logits(x[part.to(x.device)]).float(), wanted[part].to(x.device)
        parts.append(
            torch.stack((F.cross_entropy(logits, target, reduction="none"), (logits.argmax(1) == target).float()))
        )
    losses, hits = torch.cat(parts, 1).cpu()
    totals = torch.zeros(3, size).index_add_(1, picked // length, torch.stack((losses, hits, torch.ones_like(losses))))
    return [RowScore(float(loss), int(count), int(hit)) for loss, hit, count in totals.t().tolist()]
