"""Loss and LoRA gradients of one micro-batch, with a hand-written backward pass; called by train.

Autograd would keep more and launch more. Here each activation is kept or recomputed by choice, gradients of A and B are
accumulated in float32 by the matmuls that compute them, and nothing is computed for the frozen weights.
tests/unit/qwen2/training/test_qwen2_backprop.py checks every gradient against autograd through transformers and peft.

Notation: for y = [x | h] [W | sB]^T, h = drop(x) A^T and g = dL/dy, one matmul g [W | sB] gives both dL/dx (without the
LoRA's part) and dL/dh; then dB = s g^T h, dA = dh^T drop(x), dx += drop'(dh A).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qwen2 import attention, ops
from qwen2.attention import Rows
from qwen2.config import PROJECTIONS
from qwen2.lora import Adapter
from qwen2.model import ActiveLora, Model, add_matmul
from qwen2.training.dropout import dropout, dropout_backward_

Recompute = Literal["none", "swiglu", "layer"]


def head_rows(tokens: int) -> int:
    """Rows of logits per chunk. At a vocabulary of 152,064 a row takes 0.9 MB, and long batches need the memory."""
    return 512 if tokens <= 1024 else 256


@dataclass
class MicroBatch:
    """Packed rows on the device: T tokens, n labels. Padding in `pick` points to any token and has label -100."""

    ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, each token's position in its row
    rows: Rows
    pick: Tensor  # [n] int64, the tokens whose successor has a loss
    labels: Tensor  # [n] int64, those successors
    scale: Tensor  # float32 scalar, 1 / labels of the whole optimizer step
    seed: Tensor  # [1 + T] int64, for the dropout masks: the step's seed, then each token's number in the step


@dataclass
class _Kept:
    """What a layer's forward pass keeps for its backward pass; anything None is recomputed."""

    x: Tensor  # the layer's input, in the model's dtype
    wide_qkv: Tensor | None = None
    qkv: Tensor | None = None
    wide_o: Tensor | None = None
    attention: Any = None
    middle: Tensor | None = None
    wide_gate_up: Tensor | None = None
    gate_up: Tensor | None = None
    wide_down: Tensor | None = None


class Backprop:
    """The differentiable forward pass of `model` with `adapter`; adds gradients to `grad` (flat, float32)."""

    def __init__(
        self, model: Model, adapter: Adapter, lora: ActiveLora, grad: Tensor, dropout: float, recompute: Recompute
    ) -> None:
        self.model, self.adapter, self.lora, self.grad = model, adapter, lora, grad
        self.dropout, self.recompute = dropout, recompute
        self.layers = range(model.config.num_layers)

    def step(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Forward and backward. Returns scalars: sum of losses times batch.scale, and the number of correct labels."""
        model = self.model
        table_cos, table_sin = model.rope_tables(batch.rows.longest)
        cos, sin = table_cos.index_select(0, batch.positions), table_sin.index_select(0, batch.positions)
        x = model.embed(batch.ids)  # (tokens, hidden)
        kept: list[_Kept] = []
        for number in self.layers:
            state, x = self._layer(number, x, cos, sin, batch)
            x = self._output(number, state, x, batch)
            kept.append(self._thin(state))
        loss, hits, grad = self._head(x, batch)
        for number in reversed(self.layers):
            grad = self._layer_backward(number, kept.pop(), grad, cos, sin, batch)
        return loss, hits

    # ---- one linear

    def _input(self, number: int, group: str, tokens: int, fill: Callable[[Tensor], Any], seed: Tensor) -> Tensor:
        """[x | h] of a matmul: `fill` writes x [T, K] to the left part; this method writes h next to it."""
        linear = self.model.layers[number].linears[group]
        wide = linear.buffer(tokens, self.lora.columns(number, group))  # (tokens, K + columns)
        x = wide[:, : linear.inputs]
        fill(x)
        if wide.shape[1] > linear.inputs:
            a = self.lora.a[number][group]  # (columns, K)
            if self.dropout == 0:
                torch.mm(x, a.t(), out=wide[:, linear.inputs :])
            else:
                dropped = dropout(x, self.dropout, seed, self._keys(number, group))
                for rows, part in zip(self._a_rows(group, a), dropped, strict=True):
                    torch.mm(part, a[rows].t(), out=wide[:, linear.inputs :][:, rows])
        return wide

    def _keys(self, number: int, group: str) -> tuple[int, ...]:
        """One dropout mask for each linear of each layer."""
        names = self.adapter.layout.groups[group]
        return tuple(1 + number * len(PROJECTIONS) + PROJECTIONS.index(name) for name in names)

    def _a_rows(self, group: str, a: Tensor) -> list[slice]:
        """Rows of the stacked A per linear; the last one includes the padding rows, which are zero."""
        names = self.adapter.layout.groups[group]
        slices = [self.adapter.layout.a_rows(group, name) for name in names]
        return [*slices[:-1], slice(slices[-1].start, a.shape[0])]

    def _linear_backward(
        self, number: int, group: str, wide: Tensor, grad: Tensor, seed: Tensor, need_input: bool = True
    ) -> Tensor:
        """Add dA and dB of a matmul; returns dL/dx [T, K], row-strided. grad = dL/dy [T, N]."""
        linear = self.model.layers[number].linears[group]
        k, columns = linear.inputs, wide.shape[1] - linear.inputs
        if columns == 0:
            return grad @ linear.weight if need_input else grad
        a, s = self.lora.a[number][group], self.adapter.scaling
        if need_input:
            both = grad @ linear.storage[:, : wide.shape[1]]  # (tokens, N) (N, K + columns)
            dx, dh = both[:, :k], both[:, k:]  # (tokens, K), (tokens, columns)
        else:
            dx, dh = grad, grad @ linear.storage[:, k : wide.shape[1]]
        layout = self.adapter.layout
        for name in layout.groups[group]:
            h = wide[:, k:][:, layout.a_rows(group, name)]  # (tokens, rank)
            add_matmul(layout.b[number][name].of(self.grad), grad[:, linear.rows[name]].t(), h, s)
        grad_a = layout.a[number][group].of(self.grad)
        if self.dropout == 0:
            add_matmul(grad_a, dh.t(), wide[:, :k])
            if need_input:
                dx.addmm_(dh, a)
            return dx
        keys = self._keys(number, group)
        dropped = dropout(wide[:, :k], self.dropout, seed, keys)
        for position, rows in enumerate(self._a_rows(group, a)):
            add_matmul(grad_a[rows], dh[:, rows].t(), dropped[position])
        del dropped
        if need_input:
            dropout_backward_(dx, dh, a, layout.rank, self.dropout, seed, keys)
        return dx

    # ---- one layer

    def _normed_input(self, number: int, group: str, x: Tensor, seed: Tensor, rounded: Tensor | None = None) -> Tensor:
        """Input of the matmul after a norm, qkv or gate_up; `rounded` receives a copy of x."""
        layer, eps = self.model.layers[number], self.model.config.rms_eps
        norm = layer.norm1 if group == "qkv" else layer.norm2
        return self._input(number, group, x.shape[0], lambda out: ops.rms_norm(x, norm, eps, out, rounded), seed)

    def _room(self, stream: Tensor) -> Tensor | None:
        """A buffer for the norm's input in the model's dtype, for the backward pass; None if it has that dtype."""
        return None if stream.dtype == self.model.dtype else torch.empty_like(stream, dtype=self.model.dtype)

    def _down_input(self, number: int, gate_up: Tensor, seed: Tensor) -> Tensor:
        return self._input(number, "down", gate_up.shape[0], lambda out: ops.swiglu(gate_up, out), seed)

    def _layer(self, number: int, x: Tensor, cos: Tensor, sin: Tensor, batch: MicroBatch) -> tuple[_Kept, Tensor]:
        """Forward pass of a layer up to the input of its last matmul, and the residual stream at that point.

        x [T, H] is the stream in float32. If the model's dtype differs, it is overwritten with the returned stream.
        """
        config, linears = self.model.config, self.model.layers[number].linears
        room = self._room(x)
        kept = _Kept(x if room is None else room)
        kept.wide_qkv = self._normed_input(number, "qkv", x, batch.seed, room)
        kept.qkv = linears["qkv"].apply(kept.wide_qkv)  # (tokens, (heads + 2 kv_heads) head_dim)
        ops.rope_(kept.qkv, config.num_heads + config.num_kv_heads, cos, sin)
        out, kept.attention = attention.forward(kept.qkv, batch.rows, config)  # (tokens, heads head_dim)
        kept.wide_o = self._input(number, "o", x.shape[0], lambda to: to.copy_(out), batch.seed)
        x = linears["o"].apply(kept.wide_o, x)
        room = self._room(x)
        kept.middle = x if room is None else room
        wide = self._normed_input(number, "gate_up", x, batch.seed, room)
        kept.gate_up = linears["gate_up"].apply(wide)  # (tokens, 2 intermediate)
        if self.recompute == "none":
            kept.wide_gate_up = wide
        else:
            kept.wide_qkv = None
        return kept, x

    def _output(self, number: int, kept: _Kept, x: Tensor, batch: MicroBatch) -> Tensor:
        """The stream after the layer, from the output of `_layer`."""
        assert kept.gate_up is not None
        wide = self._down_input(number, kept.gate_up, batch.seed)
        if self.recompute == "none":
            kept.wide_down = wide
        return self.model.layers[number].linears["down"].apply(wide, x)

    def _thin(self, kept: _Kept) -> _Kept:
        return _Kept(kept.x) if self.recompute == "layer" else kept

    def _layer_backward(
        self, number: int, kept: _Kept, grad: Tensor, cos: Tensor, sin: Tensor, batch: MicroBatch
    ) -> Tensor:
        """dL/d(layer input) from grad = dL/d(layer output), both [T, H]. Not computed for the first layer."""
        config, layer, seed = self.model.config, self.model.layers[number], batch.seed
        if kept.gate_up is None:
            kept, _ = self._layer(number, kept.x.float(), cos, sin, batch)
        assert kept.gate_up is not None and kept.middle is not None
        wide = kept.wide_down if kept.wide_down is not None else self._down_input(number, kept.gate_up, seed)
        kept.wide_down = None
        inner = self._linear_backward(number, "down", wide, grad, seed)
        del wide
        ops.swiglu_backward_(kept.gate_up, inner)
        del inner
        wide = (
            kept.wide_gate_up
            if kept.wide_gate_up is not None
            else self._normed_input(number, "gate_up", kept.middle, seed)
        )
        kept.wide_gate_up = None
        inner = self._linear_backward(number, "gate_up", wide, kept.gate_up, seed)
        del wide
        kept.gate_up = None
        grad = ops.rms_norm_backward(kept.middle, layer.norm2, config.rms_eps, inner, grad)
        kept.middle = None
        assert kept.wide_o is not None and kept.qkv is not None
        inner = self._linear_backward(number, "o", kept.wide_o, grad, seed)
        out = kept.wide_o[:, : config.q_size]
        inner = attention.backward(inner, kept.qkv, out, kept.attention, batch.rows, config)
        kept.wide_o = kept.qkv = kept.attention = None
        ops.rope_(inner, config.num_heads + config.num_kv_heads, cos, sin, inverse=True)
        wide = kept.wide_qkv if kept.wide_qkv is not None else self._normed_input(number, "qkv", kept.x, seed)
        first = number == self.layers[0]
        inner = self._linear_backward(number, "qkv", wide, inner, seed, need_input=not first)
        if first:
            return grad
        return ops.rms_norm_backward(kept.x, layer.norm1, config.rms_eps, inner, grad)

    # ---- the head

    def _head(self, x: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, hits, dL/dx [T, H]). Only tokens with a label pass through the head, head_rows at a time."""
        model, eps = self.model, self.model.config.rms_eps
        picked = x.index_select(0, batch.pick)  # (labels, hidden)
        normed = torch.empty_like(picked, dtype=model.dtype)
        ops.rms_norm(picked, model.norm, eps, normed)
        loss = hits = torch.zeros((), dtype=torch.float32, device=x.device)
        size = min(head_rows(x.shape[0]), picked.shape[0])
        # one buffer for all chunks: a second one next to the next chunk's logits would be the peak of the whole step
        buffer = torch.empty(size, model.head.shape[0], dtype=model.dtype, device=x.device)
        for start in range(0, picked.shape[0], size):
            rows = slice(start, start + size)
            logits = matmul32(normed[rows], model.head.t())  # (rows, vocabulary)
            grad_logits = buffer[: logits.shape[0]]
            losses, hit = ops.cross_entropy(logits, batch.labels[rows], batch.scale, grad_logits)
            del logits
            torch.mm(grad_logits, model.head, out=normed[rows])
            loss, hits = loss + losses.sum() * batch.scale, hits + hit.sum()
        picked = ops.rms_norm_backward(picked, model.norm, eps, normed, torch.zeros_like(normed))
        grad = torch.zeros_like(x, dtype=model.dtype).index_add_(0, batch.pick, picked)
        return loss, hits, grad


def matmul32(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32 for inputs of any dtype: the result is not rounded."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float())
