"""Mean negative log-likelihood of answers, many rows at a time, without gradients; called by finetune/verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from qwen2.lora import Adapter
from qwen2.model import Model, causal_attention

BATCH_TOKENS = 4096  # of the padded batch: its activations are about 150 KB a token at 7B
HEAD_ROWS = 256  # rows of logits at a time; at a vocabulary of 152,064 a row takes 0.6 MB in float32

Row = tuple[Sequence[int], Sequence[int]]  # ids and labels, of the same length; -100 for tokens without loss


@torch.no_grad()
def mean_nll(
    model: Model,
    rows: Sequence[Row],
    adapter: Adapter | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """The mean negative log-likelihood, in nats a token, of the labelled tokens of each row.

    Args:
        model: The base.
        rows: (ids, labels) as they are trained on; a row without a label gives 0.
        adapter: Switched on for this; None asks the bare base.
        batch_tokens: Padded tokens of a batch; a longer row is a batch of its own.
        progress: Called with the number of rows that have just been done.
    """
    found = [0.0] * len(rows)
    lora = model.activate(adapter)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
    start = 0
    while start < len(order):
        size = 1
        while start + size < len(order) and (size + 1) * len(rows[order[start + size]][0]) <= batch_tokens:
            size += 1
        batch = order[start : start + size]
        length = len(rows[batch[-1]][0])
        ids = torch.full((size, length), model.config.pad_id, dtype=torch.int64)
        labels = torch.full((size, length), -100, dtype=torch.int64)
        for line, place in enumerate(batch):
            row_ids, row_labels = rows[place]
            ids[line, : len(row_ids)] = torch.tensor(row_ids)
            labels[line, : len(row_ids) - 1] = torch.tensor(row_labels[1:])  # a token is predicted by the one before it
        cos, sin = (table[:length].repeat(size, 1) for table in model.rope_tables(length))
        attend = causal_attention(model.config, size, length, cos, sin)
        x = model.embed(ids.to(model.device).reshape(-1))  # (size * length, hidden)
        for number in range(model.config.num_layers):
            x = model.run_layer(number, x, attend, lora)
        wanted = labels.reshape(-1)
        picked = (wanted >= 0).nonzero()[:, 0]
        losses = torch.cat(
            [
                F.cross_entropy(model.logits(x[part.to(x.device)]).float(), wanted[part].to(x.device), reduction="none")
                for part in picked.split(HEAD_ROWS)
            ]
        ).cpu()
        totals = torch.zeros(size).index_add_(0, picked // length, losses)
        counts = torch.zeros(size).index_add_(0, picked // length, torch.ones(len(picked)))
        for line, place in enumerate(batch):
            found[place] = float(totals[line] / counts[line].clamp(min=1))
        if progress:
            progress(size)
        start += size
    return found
