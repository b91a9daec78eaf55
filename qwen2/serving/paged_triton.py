"""Paged attention of one new token per row in Triton; imported by qwen2/serving/attention.py on a GPU.

The kernel is decode_attention of qwen2/ops_triton.py with a page table to locate each token. If rows are few and long,
the tokens of a row are split over several programs, and a second kernel combines their results
(Flash-Decoding: Dao et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen2.attention_triton import add_block, begin_softmax, keep_new, rotated_queries, this_program
from qwen2.config import Config
from qwen2.serving.pages import PAGE

PROGRAMS = 512  # target per launch, about four for each multiprocessor of a large GPU
SPLITS = (1, 2, 4, 8, 16, 32)


@triton.jit(do_not_specialize=["table_stride"], do_not_specialize_on_alignment=["position", "table"])
def _paged_attention(
    qkv,
    qkv_stride,
    keys,
    values,
    table,
    table_stride,
    cos,
    sin,
    position,
    out,
    out_stride,
    parts,
    sums,
    scale,
    Q_SIZE: tl.constexpr,
    KV_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SPLIT: tl.constexpr,
):
    row, head, there, i, j, g, c, s = this_program(position, cos, sin, HALF, GROUP_BLOCK)
    part = tl.program_id(2)
    size: tl.constexpr = 2 * HALF
    pages = table + row * table_stride
    first = qkv + row * qkv_stride + (head * GROUP + g[:, None]) * size + i[None, :]
    mine = g[:, None] < GROUP
    query1, query2 = rotated_queries(first, mine, c, s, HALF, keys.dtype.element_ty)
    # Tokens of this part: whole blocks, the same number for each part.
    length = tl.cdiv(tl.cdiv(there, SPLIT), BLOCK) * BLOCK
    begin = part * length
    end = tl.minimum(begin + length, there)
    if part == 0:
        # The new key and value, and with them the softmax, start here.
        base = qkv + row * qkv_stride + Q_SIZE + head * size
        page = tl.load(pages + there // PAGE_SIZE).to(tl.int64)
        at = (page * PAGE_SIZE + there % PAGE_SIZE) * KV_SIZE + head * size
        key1, key2, value = keep_new(base, keys, values, at, i, j, c, s, KV_SIZE, HALF)
        top, total, sum_ = begin_softmax(query1, query2, key1, key2, value, scale, GROUP_BLOCK, HALF)
    else:
        top = tl.full([GROUP_BLOCK], -1.0e30, tl.float32)  # not -inf: its difference from itself is NaN
        total = tl.zeros([GROUP_BLOCK], tl.float32)
        sum_ = tl.zeros([GROUP_BLOCK, size], tl.float32)
    for start in range(begin, end, BLOCK):
        n = start + tl.arange(0, BLOCK)
        inside = n < end
        page = tl.load(pages + n // PAGE_SIZE, mask=inside, other=0).to(tl.int64)
        at = ((page * PAGE_SIZE + n % PAGE_SIZE) * KV_SIZE + head * size)[:, None]
        top, total, sum_ = add_block(query1, query2, keys, values, at, inside, i, j, scale, top, total, sum_, HALF)
    q_head = head * GROUP + g
    if SPLIT == 1:
        to = out + row * out_stride + q_head[:, None] * size + j[None, :]
        tl.store(to, (sum_ / total[:, None]).to(out.dtype.element_ty), mask=mine)
    else:
        heads: tl.constexpr = Q_SIZE // size
        slot = (row * heads + q_head) * SPLIT + part
        tl.store(parts + slot[:, None] * size + j[None, :], sum_, mask=mine)
        tl.store(sums + slot * 2, top, mask=g < GROUP)
        tl.store(sums + slot * 2 + 1, total, mask=g < GROUP)


@triton.jit
def _join(parts, sums, out, out_stride, Q_SIZE: tl.constexpr, SIZE: tl.constexpr, SPLIT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    heads: tl.constexpr = Q_SIZE // SIZE
    p = tl.arange(0, SPLIT)
    j = tl.arange(0, SIZE)
    slot = (row * heads + head) * SPLIT + p
    top = tl.load(sums + slot * 2)
    total = tl.load(sums + slot * 2 + 1)
    weight = tl.exp(top - tl.max(top, 0))
    part = tl.load(parts + slot[:, None] * SIZE + j[None, :])
    found = tl.sum(part * weight[:, None], 0) / tl.sum(total * weight, 0)
    tl.store(out + row * out_stride + head * SIZE + j, found.to(out.dtype.element_ty))


def fits(keys: Tensor, out: Tensor) -> bool:
    """Whether the kernel supports these sizes: heads of a power of two whose blocks fit into shared memory."""
    _, _, kv_heads, size = keys.shape
    return size in (32, 64, 128) and out.shape[1] // (kv_heads * size) <= 32


def splits_for(programs: int) -> int:
    """The number of parts to split a row's tokens into, given the number of programs from rows and heads."""
    return next((split for split in SPLITS if split * programs * 2 > PROGRAMS), SPLITS[-1])


def paged_attention(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    out: Tensor,
    split: int | None = None,
) -> None:
    """See qwen2.serving.attention.paged_attention. `split` None chooses by the number of rows."""
    rows, (_, page, kv_heads, size) = qkv.shape[0], keys.shape
    q_size = out.shape[1]
    group = q_size // (kv_heads * size)
    if split is None:
        split = splits_for(rows * kv_heads)
    parts = sums = out  # unused
    if split > 1:
        parts = torch.empty(rows * (q_size // size) * split * size, dtype=torch.float32, device=qkv.device)
        sums = torch.empty(rows * (q_size // size) * split * 2, dtype=torch.float32, device=qkv.device)
    _paged_attention[(rows, kv_heads, split)](
        qkv, qkv.stride(0), keys, values, table, table.stride(0), cos, sin, position, out, out.stride(0), parts, sums,
        size**-0.5, Q_SIZE=q_size, KV_SIZE=kv_heads * size, GROUP=group, HALF=size // 2,
        GROUP_BLOCK=max(16, triton.next_power_of_2(group)), BLOCK=32, PAGE_SIZE=page, SPLIT=split,
    )  # fmt: skip
    if split > 1:
        _join[(rows, q_size // size)](parts, sums, out, out.stride(0), Q_SIZE=q_size, SIZE=size, SPLIT=split)


def warm_up(config: Config, device: str = "cuda") -> None:
    """Launch each kernel once at this model's sizes, with few rows, so only compiling or loading takes time."""

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.zeros(*shape, dtype=dtype, device=device)

    cache = empty(1, PAGE, config.num_kv_heads, config.head_dim)
    out = empty(1, config.q_size + 16)[:, : config.q_size]
    if not fits(cache, out):
        return
    angle = empty(1, config.head_dim // 2, dtype=torch.float32)
    for split in SPLITS:
        paged_attention(
            empty(1, config.q_size + 2 * config.kv_size), cache, cache, empty(1, 1, dtype=torch.int32), angle, angle,
            empty(1, dtype=torch.int64), out, split,
        )  # fmt: skip
