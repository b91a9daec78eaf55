"""Dropout of the adapters' inputs and its gradient: Triton on a GPU, plain torch elsewhere; for backprop.

Masks are a function of (seed, step, layer, linear, element), not of a generator's state. They need no memory and are
the same when an activation is recomputed, in a captured graph, after a resume, and on CPU and GPU. A token is
identified by its number in the whole step, so splitting a step or adding processes changes no mask. `seed` is [1 + T]
int64 on the device: the step's seed, then the number of each token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwen2 import ops

_M1, _M2, _M3 = 0x7FEB352D, 0x846CA68B, 0x9E3779B9


def hash32(value: Tensor) -> Tensor:
    """A 32-bit integer hash (C. Wellons' `lowbias32`) of int64 values below 2^32, elementwise."""
    x = value & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * _M1) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * _M2) & 0xFFFFFFFF
    return x ^ (x >> 16)


def dropout_mask(shape: tuple[int, int], p: float, seed: Tensor, key: int) -> Tensor:
    """A bool mask [T, K], False with probability p.

    Args:
        shape: (T, K).
        p: The dropout probability.
        seed: [1 + T], the step's seed and the number of each token in the step.
        key: Distinguishes the masks within one step.
    """
    columns = torch.arange(shape[1], dtype=torch.int64, device=seed.device)
    index = seed[1:, None] * shape[1] + columns
    mixed = hash32(index ^ hash32(seed[0] + (key * _M3 & 0x7FFFFFFF)))
    return mixed >= int(p * 2**32)


def dropout(x: Tensor, p: float, seed: Tensor, keys: tuple[int, ...]) -> Tensor:
    """Independent dropouts of the same rows, one per key: [n, T, K], scaled by 1/(1-p).

    Args:
        x: [T, K], rows strided.
        p: The dropout probability.
        seed: [1 + T], the step's seed and the number of each token in the step.
        keys: One for each of the n masks.
    """
    if fast := ops.kernels_for(x):
        return fast.dropout(x, p, seed, keys)
    masks = [dropout_mask((x.shape[0], x.shape[1]), p, seed, key) for key in keys]
    return torch.stack([x * mask * (1 / (1 - p)) for mask in masks])


def dropout_backward_(
    total: Tensor, dh: Tensor, a: Tensor, rank: int, p: float, seed: Tensor, keys: tuple[int, ...]
) -> None:
    """total += sum over keys of mask * (dh A) / (1-p): the contribution of a matmul's LoRAs to dL/dx.

    Args:
        total: [T, K], rows strided.
        dh: [T, >= n rank], rows strided; key n uses columns n * rank to (n + 1) * rank.
        a: [>= n rank, K]; key n uses the rows of the same range.
        rank: The adapter's rank.
        p: The dropout probability.
        seed: [1 + T], the step's seed and the number of each token in the step.
        keys: One for each mask.
    """
    if fast := ops.kernels_for(total):
        fast.dropout_backward_(total, dh, a, rank, p, seed, keys)
        return
    for number, key in enumerate(keys):
        part = slice(number * rank, (number + 1) * rank)
        mask = dropout_mask((total.shape[0], total.shape[1]), p, seed, key)
        total.add_((dh[:, part] @ a[part]) * mask * (1 / (1 - p)))
