"""Shared parts of the single-token attention kernels: whole cache (ops_triton.py) and paged cache (serving).

Triton inlines each function where it is called. A program handles one row and one key head, with the GROUP query
heads that share it. Heads are read as two halves, as the rotation needs them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rotated(first, second, cos, sin, dtype: tl.constexpr):
    """The two halves of the heads, rotated by position."""
    return (first * cos - second * sin).to(dtype), (second * cos + first * sin).to(dtype)


@triton.jit
def this_program(position, cos, sin, HALF: tl.constexpr, GROUP_BLOCK: tl.constexpr):
    """(row, key head, the token's position, columns of half a head, of a head, query heads, cos, sin)."""
    row = tl.program_id(0).to(tl.int64)
    there = tl.load(position + row)
    i = tl.arange(0, HALF)
    c = tl.load(cos + there * HALF + i)
    s = tl.load(sin + there * HALF + i)
    return row, tl.program_id(1), there, i, tl.arange(0, 2 * HALF), tl.arange(0, GROUP_BLOCK), c, s


@triton.jit
def rotated_queries(first, mine, c, s, HALF: tl.constexpr, dtype: tl.constexpr):
    """The queries that share a key head: first halves at `first` [GROUP_BLOCK, HALF], masked by `mine`."""
    a = tl.load(first, mask=mine, other=0.0).to(tl.float32)
    b = tl.load(first + HALF, mask=mine, other=0.0).to(tl.float32)
    return rotated(a, b, c[None, :], s[None, :], dtype)


@triton.jit
def keep_new(base, keys, values, at, i, j, c, s, KV_SIZE: tl.constexpr, HALF: tl.constexpr):
    """Rotate the token's key at `base`, write key and value to the caches at `at`; returns (two halves, value)."""
    a = tl.load(base + i).to(tl.float32)
    b = tl.load(base + HALF + i).to(tl.float32)
    key1, key2 = rotated(a, b, c, s, keys.dtype.element_ty)
    value = tl.load(base + KV_SIZE + j)
    tl.store(keys + at + i, key1)
    tl.store(keys + at + HALF + i, key2)
    tl.store(values + at + j, value)
    return key1, key2, value


@triton.jit
def begin_softmax(query1, query2, key1, key2, value, scale, GROUP_BLOCK: tl.constexpr, HALF: tl.constexpr):
    """(maximum score, sum of weights, weighted sum of values) for the token itself."""
    own = query1.to(tl.float32) * key1.to(tl.float32)[None, :] + query2.to(tl.float32) * key2.to(tl.float32)[None, :]
    top = tl.sum(own, 1) * scale
    total = tl.full([GROUP_BLOCK], 1.0, tl.float32)
    return top, total, tl.zeros([GROUP_BLOCK, 2 * HALF], tl.float32) + value.to(tl.float32)[None, :]


@triton.jit
def add_block(query1, query2, keys, values, at, inside, i, j, scale, top, total, sum_, HALF: tl.constexpr):
    """The same three, updated with a block of tokens at `at` [BLOCK, 1] in the caches."""
    k1 = tl.load(keys + at + i[None, :], mask=inside[:, None], other=0.0)
    k2 = tl.load(keys + at + HALF + i[None, :], mask=inside[:, None], other=0.0)
    score = tl.dot(query1, tl.trans(k1), input_precision="ieee")
    score = tl.dot(query2, tl.trans(k2), score, input_precision="ieee") * scale
    score = tl.where(inside[None, :], score, float("-inf"))
    new = tl.maximum(top, tl.max(score, 1))
    share = tl.exp(score - new[:, None])
    old = tl.exp(top - new)
    v = tl.load(values + at + j[None, :], mask=inside[:, None], other=0.0)
    sum_ = tl.dot(share.to(keys.dtype.element_ty), v, sum_ * old[:, None], input_precision="ieee")
    return new, total * old + tl.sum(share, 1), sum_
