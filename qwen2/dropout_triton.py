"""LoRA dropout in Triton, forward and backward, with the same mask for a seed; imported only by qwen2.ops_triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _hash32(value):
    x = value.to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _keep(row, col, size, seed, key, threshold):
    index = (row * size + col).to(tl.uint32)
    salt = _hash32((tl.load(seed) + key).to(tl.uint32))
    return _hash32(index ^ salt) >= threshold.to(tl.uint32)


@triton.jit(do_not_specialize=["rows", "key0", "key1", "key2", "threshold"], do_not_specialize_on_alignment=["seed"])
def _dropout(x, x_stride, out, rows, size, seed, key0, key1, key2, threshold, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    which = tl.program_id(2)
    key = tl.where(which == 0, key0, tl.where(which == 1, key1, key2))
    inside = col < size
    value = tl.load(x + row * x_stride + col, mask=inside, other=0.0).to(tl.float32)
    kept = _keep(tl.load(seed + 1 + row), col, size, seed, key, threshold)
    place = out + (which.to(tl.int64) * rows + row) * size + col
    tl.store(place, tl.where(kept, value * scale, 0.0).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "key0", "key1", "key2", "threshold"], do_not_specialize_on_alignment=["seed"])
def _dropout_backward(
    total,
    total_stride,
    dh,
    dh_stride,
    a,
    rows,
    size,
    seed,
    key0,
    key1,
    key2,
    threshold,
    scale,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    COUNT: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    r = tl.arange(0, RANK_BLOCK)
    inside = (row[:, None] < rows) & (col[None, :] < size)
    place = total + row[:, None] * total_stride + col[None, :]
    sum_ = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    number = tl.load(seed + 1 + row, mask=row < rows, other=0)
    for which in tl.static_range(COUNT):
        key = key0 if which == 0 else (key1 if which == 1 else key2)
        mine = (row[:, None] < rows) & (r[None, :] < RANK)
        left = tl.load(dh + row[:, None] * dh_stride + which * RANK + r[None, :], mask=mine, other=0.0)
        mine = (r[:, None] < RANK) & (col[None, :] < size)
        right = tl.load(a + (which * RANK + r[:, None]) * size + col[None, :], mask=mine, other=0.0)
        part = tl.dot(left, right, input_precision="ieee")
        kept = _keep(number[:, None], col[None, :], size, seed, key, threshold)
        sum_ += tl.where(kept, part * scale, 0.0)
    tl.store(place, sum_.to(total.dtype.element_ty), mask=inside)


def _keys(keys: tuple[int, ...]) -> tuple[int, int, int]:
    mixed = [key * 0x9E3779B9 & 0x7FFFFFFF for key in keys] + [0, 0]
    return mixed[0], mixed[1], mixed[2]


def dropout(x: Tensor, p: float, seed: Tensor, keys: tuple[int, ...]) -> Tensor:
    """See qwen2.training.dropout.dropout; at most three keys."""
    rows, size = x.shape
    out = torch.empty(len(keys), rows, size, dtype=x.dtype, device=x.device)
    grid = (rows, triton.cdiv(size, 2048), len(keys))
    _dropout[grid](x, x.stride(0), out, rows, size, seed, *_keys(keys), int(p * 2**32), 1 / (1 - p), BLOCK=2048)
    return out


def dropout_backward_(
    total: Tensor, dh: Tensor, a: Tensor, rank: int, p: float, seed: Tensor, keys: tuple[int, ...]
) -> None:
    """See qwen2.training.dropout.dropout_backward_; at most three keys, `a` contiguous."""
    rows, size = total.shape
    grid = (triton.cdiv(rows, 32), triton.cdiv(size, 128))
    _dropout_backward[grid](
        total, total.stride(0), dh, dh.stride(0), a, rows, size, seed, *_keys(keys), int(p * 2**32), 1 / (1 - p),
        RANK=rank, RANK_BLOCK=max(16, triton.next_power_of_2(rank)), COUNT=len(keys), ROW_BLOCK=32, BLOCK=128,
    )  # fmt: skip
