"""Attention over a paged cache, for one new token per row and for chunks of prompts; called by batch.py."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen2 import ops
from qwen2.attention import has_flash
from qwen2.config import Config


@functools.lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    if ops.triton_kernels() is None:
        return None
    from qwen2.serving import paged_triton

    return paged_triton


def paged_attention(
    qkv: Tensor, keys: Tensor, values: Tensor, table: Tensor, cos: Tensor, sin: Tensor, position: Tensor, out: Tensor
) -> None:
    """Attention of one new token per row over its pages; the token's key and value are appended to the cache.

    Args:
        qkv: [R, q_size + 2 kv_size], not rotated yet; may be overwritten.
        keys: [pages, PAGE, kv_heads, head_dim], of one layer.
        values: Same shape as `keys`.
        table: [R, n] int32: the pages of each row in order, enough for its position.
        cos: [>= positions, head_dim / 2] float32.
        sin: Same shape as `cos`.
        position: [R] int64: the number of tokens already in each row's pages.
        out: [R, q_size], rows strided.
    """
    if qkv.is_cuda and (fast := _kernels()) and fast.fits(keys, out):
        fast.paged_attention(qkv, keys, values, table, cos, sin, position, out)
        return
    rows, (_, page, kv_heads, head_dim) = qkv.shape[0], keys.shape
    q_size, kv_size = out.shape[1], kv_heads * head_dim
    ops.rope_(qkv, (q_size + kv_size) // head_dim, cos.index_select(0, position), sin.index_select(0, position))
    q, k, v = qkv.split((q_size, kv_size, kv_size), 1)
    place = table.gather(1, (position // page)[:, None])[:, 0].long() * page + position % page
    for cache, new in ((keys, k), (values, v)):
        cache.view(-1, kv_heads, head_dim).index_copy_(0, place, new.reshape(rows, kv_heads, head_dim))
    index = table.long()
    mask = torch.arange(index.shape[1] * page, device=qkv.device) <= position[:, None]
    k, v = (cache[index].view(rows, -1, kv_heads, head_dim).transpose(1, 2) for cache in (keys, values))
    grouped = q.reshape(rows, kv_heads, -1, head_dim)
    out.copy_(F.scaled_dot_product_attention(grouped, k, v, mask[:, None, None]).reshape(rows, q_size))


@dataclass(frozen=True)
class Pieces:
    """Chunks of prompts, concatenated: T new tokens, in rows that have L tokens including the earlier ones.

    `place` [T]: the cache slot of each new token (page * PAGE + its offset there). `context` [L]: the cache slots of
    all tokens of the rows, None if no chunk has earlier tokens. `new` and `whole`: lengths of the rows in T and in L.
    `bounds`: their int32 cumulative sums on the device, from 0.
    """

    cos: Tensor
    sin: Tensor
    place: Tensor
    context: Tensor | None
    new: tuple[int, ...]
    whole: tuple[int, ...]
    bounds: tuple[Tensor, Tensor]


def piece_attention(qkv: Tensor, keys: Tensor, values: Tensor, pieces: Pieces, config: Config, out: Tensor) -> None:
    """Causal attention of prompt chunks over their own tokens and the earlier ones in the cache.

    The new keys and values are written to the cache.

    Args:
        qkv: [T, q_size + 2 kv_size], not rotated yet.
        keys: The cache, as for paged_attention.
        values: As keys.
        pieces: Where the T tokens are stored, and what each may attend to.
        config: The model's shape.
        out: [T, q_size], rows strided.
    """
    heads, kv_heads, size = config.num_heads, config.num_kv_heads, config.head_dim
    ops.rope_(qkv, heads + kv_heads, pieces.cos, pieces.sin)
    parts = qkv.split((config.q_size, config.kv_size, config.kv_size), 1)
    q, k, v = (part.unflatten(1, (-1, size)) for part in parts)
    keys, values = keys.view(-1, kv_heads, size), values.view(-1, kv_heads, size)
    keys.index_copy_(0, pieces.place, k)
    values.index_copy_(0, pieces.place, v)
    if pieces.context is not None:
        k, v = keys.index_select(0, pieces.context), values.index_select(0, pieces.context)
    if has_flash(qkv.device, qkv.dtype):
        # With fewer queries than keys, FlashAttention-2 aligns the diagonal at the bottom right: the last one sees all.
        found = torch.ops.aten._flash_attention_forward(
            q, k, v, pieces.bounds[0], pieces.bounds[1], max(pieces.new), max(pieces.whole), 0.0, True, False
        )[0]
        out.copy_(found.flatten(1))
        return
    start = 0
    rows = zip(q.split(pieces.new), k.split(pieces.whole), v.split(pieces.whole), strict=True)
    for q1, k1, v1 in rows:
        found = _one_piece(q1, k1, v1)
        out[start : start + found.shape[0]] = found
        start += found.shape[0]


def _one_piece(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [S, heads, d], k and v [L, kv heads, d], where the queries are the last S of L -> [S, heads * d]."""
    new, whole = q.shape[0], k.shape[0]
    mask = None
    if new != whole:
        mask = torch.ones(new, whole, dtype=torch.bool, device=q.device).tril(whole - new)
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)
    return out[0].transpose(0, 1).flatten(1)
