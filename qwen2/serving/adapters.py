"""Several adapters side by side in the spare columns of one model; each row of a batch uses its own.

For one matmul, with two adapters (qwen2/lora.py draws a single one):

    y = [x | h] [W | s B1 | s B2]^T     h = (x [A1; A2]^T) * mask     mask: 1 in the columns of a row's own adapter

A row of the base has a mask of zeros: its y is W x, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from qwen2 import ops
from qwen2.config import GROUPS
from qwen2.lora import Adapter
from qwen2.model import ActiveLora, Model

MOST_ROWS = 256  # the kernel for few rows supports; above, a matmul is faster


@dataclass
class RowsLora(ActiveLora):
    """Adapters side by side, for tokens that have one each: `masks` is {matmul: [T, columns]}."""

    masks: dict[str, Tensor] = field(default_factory=dict)
    kernels: Any = None  # lora_triton.MaskedDown; None uses torch

    def down(self, layer: int, group: str, x: Tensor, h: Tensor) -> None:
        """h = (x A^T) * mask."""
        if self.kernels is not None and x.shape[0] <= MOST_ROWS:
            self.kernels(x, self.a[layer][group], self.masks[group], h)
            return
        super().down(layer, group, x, h)
        h.mul_(self.masks[group])


class Adapters:
    """The adapters of a server, installed in `model`. A row selects one by its number: 0 is the base."""

    def __init__(self, model: Model, adapters: Sequence[Adapter]) -> None:
        """Raises ValueError if an adapter is for another base."""
        self.count = len(adapters)
        totals = {group: 0 for group in GROUPS}
        starts: list[dict[str, int]] = []
        for adapter in adapters:
            adapter.check(model.config)
            columns = adapter.columns()
            starts.append({group: totals[group] for group in columns})
            for group, count in columns.items():
                totals[group] += count
        self.totals = {group: count for group, count in totals.items() if count}
        model.deactivate()
        model.reserve(self.totals)
        self.a = [self._install(model, number, adapters, starts) for number in range(model.config.num_layers)]
        self.masks = {group: self._mask(model, group, adapters, starts) for group in self.totals}
        self.kernels = None
        if model.device.type == "cuda" and model.dtype == torch.bfloat16 and ops.triton_kernels() is not None:
            from qwen2.serving.lora_triton import MaskedDown

            self.kernels = MaskedDown(model.device)

    def _install(
        self, model: Model, number: int, adapters: Sequence[Adapter], starts: list[dict[str, int]]
    ) -> dict[str, Tensor]:
        """Write s B of every adapter to the columns of one layer; returns the stacked A of each matmul."""
        stacked = {}
        for group, linear in model.layers[number].linears.items():
            linear.storage[:, linear.inputs :].zero_()
            if group not in self.totals:
                continue
            parts = []
            for adapter, start in zip(adapters, starts, strict=True):
                if group not in start:
                    continue
                parts.append(adapter.a(number, group).to(model.device, model.dtype))
                mine = replace(linear, inputs=linear.inputs + start[group])
                for target, source in adapter.b_blocks(number, group, mine):
                    target.copy_(source * adapter.scaling)
            stacked[group] = torch.cat(parts)
        return stacked

    def _mask(self, model: Model, group: str, adapters: Sequence[Adapter], starts: list[dict[str, int]]) -> Tensor:
        """[adapters + 1, columns]: ones in an adapter's columns."""
        mask = torch.zeros(self.count + 1, self.totals[group], dtype=model.dtype)
        for number, (adapter, start) in enumerate(zip(adapters, starts, strict=True), 1):
            if group in start:
                mask[number, start[group] : start[group] + adapter.columns()[group]] = 1
        return mask.to(model.device)

    def of_rows(self, adapter: Tensor) -> ActiveLora:
        """The adapters for run_layer, given the adapter number of each token in `adapter` [T]."""
        return RowsLora(self.a, {group: mask[adapter] for group, mask in self.masks.items()}, self.kernels)
