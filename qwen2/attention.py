"""Causal attention over packed rows, with its backward pass; called by backprop.

On Ampere GPUs and newer this is PyTorch's FlashAttention-2 for variable lengths: no padding, no mask. The lengths
stay on the device, so a captured graph serves any batch of its size. Elsewhere each row is computed separately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen2.config import Config


@dataclass(frozen=True)
class Rows:
    """How the T tokens of a batch divide into rows. `bounds` [rows + 1] int32, 0 to T; `lengths` is its host copy."""

    bounds: Tensor
    longest: int
    lengths: tuple[int, ...] = ()


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the packed GPU path is available: compute capability 8.0 or higher, 16-bit dtype."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(device)[0] >= 8
    )


def _heads(qkv: Tensor, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """q [T, heads, d], k and v [T, kv heads, d]: views of qkv [T, q_size + 2 kv_size]."""
    parts = qkv.split((config.q_size, config.kv_size, config.kv_size), 1)
    return tuple(part.unflatten(1, (-1, config.head_dim)) for part in parts)  # type: ignore[return-value]


def forward(qkv: Tensor, rows: Rows, config: Config) -> tuple[Tensor, Any]:
    """Causal attention over packed rows.

    Args:
        qkv: [T, q_size + 2 kv_size], queries and keys already rotated.
        rows: How the T tokens divide into rows.
        config: The model's shape.

    Returns:
        out [T, q_size], and the context that `backward` needs.
    """
    q, k, v = _heads(qkv, config)
    if has_flash(qkv.device, qkv.dtype):
        out, normaliser, state, unused, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, rows.bounds, rows.bounds, rows.longest, rows.longest, 0.0, True, False
        )
        return out.flatten(1), (normaliser, state, unused)
    out = torch.cat([_one_row(*part) for part in zip(*(t.split(rows.lengths) for t in (q, k, v)), strict=True)])
    return out, None


def backward(grad: Tensor, qkv: Tensor, out: Tensor, context: Any, rows: Rows, config: Config) -> Tensor:
    """The gradient of `forward`.

    Args:
        grad: d(loss)/d(out), [T, q_size].
        qkv: The input of `forward`.
        out: Its output; may be row-strided.
        context: The context that it returned.
        rows: How the T tokens divide into rows.
        config: The model's shape.

    Returns:
        d(loss)/d(qkv), [T, q_size + 2 kv_size].
    """
    q, k, v = _heads(qkv, config)
    if has_flash(qkv.device, qkv.dtype):
        normaliser, state, unused = context
        grads = torch.ops.aten._flash_attention_backward(
            grad.unflatten(1, (-1, config.head_dim)), q, k, v, out.unflatten(1, (-1, config.head_dim)), normaliser,
            rows.bounds, rows.bounds, rows.longest, rows.longest, 0.0, True, state, unused,
        )  # fmt: skip
        return torch.cat([g.flatten(1) for g in grads], 1)
    pieces = []
    for q1, k1, v1, g1 in zip(*(t.split(rows.lengths) for t in (q, k, v, grad)), strict=True):
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (q1, k1, v1)]
            one = _one_row(*leaves)
        pieces.append(torch.cat([g.flatten(1) for g in torch.autograd.grad(one, leaves, g1)], 1))
    return torch.cat(pieces)


def _one_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [S, heads, d], k and v [S, kv heads, d] -> [S, heads * d]."""
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out[0].transpose(0, 1).flatten(1)
