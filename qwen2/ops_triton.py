"""Triton versions of qwen2.ops for NVIDIA GPUs; imported only by qwen2.ops, and only on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen2 import kernel_cache
from qwen2.attention_triton import add_block, begin_softmax, keep_new, rotated, rotated_queries, this_program
from qwen2.config import Config
from qwen2.dropout_triton import dropout, dropout_backward_

kernel_cache.use()

# Triton compiles a kernel once for pointers that are multiples of 16 and once for others. Small vectors inside a larger
# one may have any alignment. With `do_not_specialize_on_alignment`, one kernel, compiled ahead, serves all of them.


@triton.jit
def _row_of(x, weight, size, eps, BLOCK: tl.constexpr):
    """(row, columns, column mask, values, 1 / root mean square, weight) of this program."""
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    keep = col < size
    value = tl.load(x + row * size + col, mask=keep, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / size + eps)
    return row, col, keep, value, scale, tl.load(weight + col, mask=keep, other=0.0).to(tl.float32)


@triton.jit
def _rms_norm(x, weight, out, out_stride, rounded, size, eps, COPY: tl.constexpr, BLOCK: tl.constexpr):
    row, col, keep, value, scale, w = _row_of(x, weight, size, eps, BLOCK)
    tl.store(out + row * out_stride + col, (value * scale * w).to(out.dtype.element_ty), mask=keep)
    if COPY:
        tl.store(rounded + row * size + col, value.to(rounded.dtype.element_ty), mask=keep)


@triton.jit
def _rms_norm_backward(x, weight, grad, grad_stride, residual, out, size, eps, BLOCK: tl.constexpr):
    row, col, keep, value, scale, w = _row_of(x, weight, size, eps, BLOCK)
    g = tl.load(grad + row * grad_stride + col, mask=keep, other=0.0).to(tl.float32) * w
    n = value * scale
    d = scale * (g - n * (tl.sum(g * n, 0) / size))
    r = tl.load(residual + row * size + col, mask=keep, other=0.0).to(tl.float32)
    tl.store(out + row * size + col, (r + d).to(out.dtype.element_ty), mask=keep)


@triton.jit
def _rope(x, x_stride, cos, sin, heads, sign, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, HEADS_BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)
    i = tl.arange(0, HALF_BLOCK)
    keep = (head[:, None] < heads) & (i[None, :] < HALF)
    c = tl.load(cos + row * HALF + i, mask=i < HALF, other=0.0)[None, :]
    s = tl.load(sin + row * HALF + i, mask=i < HALF, other=0.0)[None, :] * sign
    first = x + row * x_stride + head[:, None] * (2 * HALF) + i[None, :]
    a = tl.load(first, mask=keep, other=0.0).to(tl.float32)
    b = tl.load(first + HALF, mask=keep, other=0.0).to(tl.float32)
    a, b = rotated(a, b, c, s, x.dtype.element_ty)
    tl.store(first, a, mask=keep)
    tl.store(first + HALF, b, mask=keep)


@triton.jit(do_not_specialize_on_alignment=["position"])
def _decode_attention(
    qkv,
    qkv_stride,
    keys,
    values,
    cache_stride,
    cos,
    sin,
    position,
    out,
    out_stride,
    scale,
    Q_SIZE: tl.constexpr,
    KV_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, head, there, i, j, g, c, s = this_program(position, cos, sin, HALF, GROUP_BLOCK)
    size: tl.constexpr = 2 * HALF
    cache = row * cache_stride + head * size
    base = qkv + row * qkv_stride + Q_SIZE + head * size
    key1, key2, value = keep_new(base, keys, values, cache + there * KV_SIZE, i, j, c, s, KV_SIZE, HALF)
    first = qkv + row * qkv_stride + (head * GROUP + g[:, None]) * size + i[None, :]
    mine = g[:, None] < GROUP
    query1, query2 = rotated_queries(first, mine, c, s, HALF, keys.dtype.element_ty)
    top, total, sum_ = begin_softmax(query1, query2, key1, key2, value, scale, GROUP_BLOCK, HALF)
    for start in range(0, there, BLOCK):
        n = start + tl.arange(0, BLOCK)
        at = cache + n[:, None].to(tl.int64) * KV_SIZE
        top, total, sum_ = add_block(
            query1, query2, keys, values, at, n < there, i, j, scale, top, total, sum_, HALF
        )  # fmt: skip
    to = out + row * out_stride + (head * GROUP + g[:, None]) * size + j[None, :]
    tl.store(to, (sum_ / total[:, None]).to(out.dtype.element_ty), mask=mine)


@triton.jit
def _swiglu(gate_up, out, out_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = col < size
    gate = tl.load(gate_up + row * 2 * size + col, mask=keep, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + col, mask=keep, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + col, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=keep)


@triton.jit
def _swiglu_backward(gate_up, grad, grad_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = col < size
    first = gate_up + row * 2 * size + col
    gate = tl.load(first, mask=keep, other=0.0).to(tl.float32)
    up = tl.load(first + size, mask=keep, other=0.0).to(tl.float32)
    d = tl.load(grad + row * grad_stride + col, mask=keep, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    tl.store(first, (d * up * (sigmoid + silu * (1 - sigmoid))).to(gate_up.dtype.element_ty), mask=keep)
    tl.store(first + size, (d * silu).to(gate_up.dtype.element_ty), mask=keep)


@triton.jit(do_not_specialize_on_alignment=["labels", "scale", "loss", "hit"])
def _cross_entropy(logits, labels, scale, grad, loss, hit, size: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    kept = label >= 0
    base = logits + row * size
    # One pass for the normaliser (running maximum and sum), one for the gradient.
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        col = start + tl.arange(0, BLOCK)
        value = tl.load(base + col, mask=col < size, other=float("-inf"))
        new = tl.maximum(top, value)
        # -inf - -inf is NaN: lanes that have seen nothing yet keep a zero sum
        total = tl.where(new == float("-inf"), 0.0, total * tl.exp(top - new) + tl.exp(value - new))
        top = new
    highest = tl.max(top, 0)
    normal = highest + tl.log(tl.sum(tl.where(top == float("-inf"), 0.0, total * tl.exp(top - highest)), 0))
    picked = tl.load(base + tl.where(kept, label, 0))
    tl.store(loss + row, tl.where(kept, normal - picked, 0.0))
    tl.store(hit + row, tl.where(kept & (picked >= highest), 1.0, 0.0))
    factor = tl.where(kept, tl.load(scale), 0.0)
    for start in range(0, size, BLOCK):
        col = start + tl.arange(0, BLOCK)
        value = tl.load(base + col, mask=col < size, other=float("-inf"))
        d = tl.exp(value - normal) - tl.where(col == label, 1.0, 0.0)
        tl.store(grad + row * size + col, (d * factor).to(grad.dtype.element_ty), mask=col < size)


def _rows(x: Tensor) -> tuple[int, int]:
    return x.shape[0], x.shape[1]


def _block(size: int) -> int:
    return triton.next_power_of_2(size)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, rounded: Tensor | None = None) -> None:
    """See qwen2.ops.rms_norm."""
    rows, size = _rows(x)
    copy, place = rounded is not None, out if rounded is None else rounded
    _rms_norm[(rows,)](x, weight, out, out.stride(0), place, size, eps, COPY=copy, BLOCK=_block(size), num_warps=8)


def rms_norm_backward(x: Tensor, weight: Tensor, eps: float, grad: Tensor, residual: Tensor) -> Tensor:
    """See qwen2.ops.rms_norm_backward."""
    rows, size = _rows(x)
    out = torch.empty_like(residual)
    _rms_norm_backward[(rows,)](
        x, weight, grad, grad.stride(0), residual, out, size, eps, BLOCK=_block(size), num_warps=8
    )
    return out


def rope_(x: Tensor, heads: int, cos: Tensor, sin: Tensor, inverse: bool) -> None:
    """See qwen2.ops.rope_."""
    half = cos.shape[1]
    block = 8
    grid = (x.shape[0], triton.cdiv(heads, block))
    sign = -1.0 if inverse else 1.0
    _rope[grid](x, x.stride(0), cos, sin, heads, sign, HALF=half, HALF_BLOCK=_block(half), HEADS_BLOCK=block)


def fits_decode_attention(keys: Tensor, out: Tensor) -> bool:
    """Whether decode_attention supports these sizes: heads of a power of two whose blocks fit into shared memory."""
    _, _, kv_heads, size = keys.shape
    return size in (32, 64, 128) and out.shape[1] // (kv_heads * size) <= 32


def decode_attention(
    qkv: Tensor, keys: Tensor, values: Tensor, cos: Tensor, sin: Tensor, position: Tensor, out: Tensor
) -> None:
    """See qwen2.ops.decode_attention."""
    rows, _, heads, size = keys.shape
    group = out.shape[1] // (heads * size)
    _decode_attention[(rows, heads)](
        qkv, qkv.stride(0), keys, values, keys.stride(0), cos, sin, position, out, out.stride(0), size**-0.5,
        Q_SIZE=out.shape[1], KV_SIZE=heads * size, GROUP=group, HALF=size // 2,
        GROUP_BLOCK=max(16, _block(group)), BLOCK=32,
    )  # fmt: skip


def swiglu(gate_up: Tensor, out: Tensor) -> None:
    """See qwen2.ops.swiglu."""
    rows, size = _rows(out)
    _swiglu[(rows, triton.cdiv(size, 2048))](gate_up, out, out.stride(0), size, BLOCK=2048)


def swiglu_backward_(gate_up: Tensor, grad: Tensor) -> None:
    """See qwen2.ops.swiglu_backward_."""
    rows, size = _rows(grad)
    _swiglu_backward[(rows, triton.cdiv(size, 2048))](gate_up, grad, grad.stride(0), size, BLOCK=2048)


def cross_entropy(logits: Tensor, labels: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """See qwen2.ops.cross_entropy."""
    rows, size = _rows(logits)
    loss, hit = torch.empty(2, rows, dtype=torch.float32, device=logits.device)
    _cross_entropy[(rows,)](logits, labels, scale, grad, loss, hit, size, BLOCK=4096, num_warps=8)
    return loss, hit


@triton.jit
def _place_blocks(table, source, scale, RANK: tl.constexpr, RANK_BLOCK: tl.constexpr, ROWS: tl.constexpr):
    entry = table + tl.program_id(0) * 4
    target = tl.load(entry).to(tl.pointer_type(tl.bfloat16))
    stride = tl.load(entry + 1)
    offset = tl.load(entry + 2)
    rows = tl.load(entry + 3)
    row = tl.arange(0, ROWS)
    col = tl.arange(0, RANK_BLOCK)
    keep = (row[:, None] < rows) & (col[None, :] < RANK)
    value = tl.load(source + offset + row[:, None] * RANK + col[None, :], mask=keep, other=0.0) * scale
    tl.store(target + row[:, None].to(tl.int64) * stride + col[None, :], value.to(tl.bfloat16), mask=keep)


PLACE_ROWS = 256


def place_table(blocks: list[tuple[Tensor, int]], device: torch.device) -> Tensor:
    """Pieces of PLACE_ROWS rows for place_blocks, [pieces, 4] int64, from (target [N, rank], offset of its source)."""
    entries = []
    for target, offset in blocks:
        rank = target.shape[1]
        for row in range(0, target.shape[0], PLACE_ROWS):
            part = target[row : row + PLACE_ROWS]
            entries.append([part.data_ptr(), part.stride(0), offset + row * rank, part.shape[0]])
    return torch.tensor(entries, dtype=torch.int64, device=device)


def place_blocks(table: Tensor, source: Tensor, scale: float, rank: int) -> None:
    """targets = scale * their sources in the flat float32 `source`, in one launch instead of 196 copies at 7B."""
    block = _block(rank)
    _place_blocks[(table.shape[0],)](table, source, scale, RANK=rank, RANK_BLOCK=block, ROWS=PLACE_ROWS)


RANKS = (8, 16, 32, 64)  # of a LoRA: each has its own kernels


def warm_up(config: Config, device: str = "cuda", ranks: Sequence[int] = RANKS[:1]) -> None:
    """Launch every kernel once at this model's widths, with few rows, so only compiling or loading takes time.

    Args:
        config: The model's shape.
        device: "cuda"; image/compile_kernels.py only compiles the launches, with tensors on the CPU.
        ranks: The LoRA ranks to prepare kernels for.
    """

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.zeros(*shape, dtype=dtype, device=device)

    hidden, middle, half = config.hidden_size, config.intermediate_size, config.head_dim // 2
    x, weight = empty(64, hidden), empty(hidden)
    stream, out = empty(64, hidden, dtype=torch.float32), empty(64, hidden + 16)[:, :hidden]
    for each in (stream, x):
        rms_norm(each, weight, config.rms_eps, out)
        rms_norm_backward(each, weight, config.rms_eps, out, x)
    rms_norm(stream, weight, config.rms_eps, out, x)
    heads = config.num_heads + config.num_kv_heads
    angle = empty(1, half, dtype=torch.float32)
    rope_(empty(1, config.q_size + 2 * config.kv_size), heads, angle, angle, False)
    cache, place = empty(1, 16, config.num_kv_heads, config.head_dim), empty(1, dtype=torch.int64)
    out = empty(1, config.q_size + 16)[:, : config.q_size]
    if fits_decode_attention(cache, out):
        new = empty(1, config.q_size + 2 * config.kv_size)
        decode_attention(new, cache, cache, angle, angle, place, out)
    swiglu(empty(1, 2 * middle), empty(1, middle + 16)[:, :middle])
    swiglu_backward_(empty(1, 2 * middle), empty(1, middle + 16)[:, :middle])
    logits, scale = empty(1, config.vocab_size, dtype=torch.float32), empty(1, dtype=torch.float32)
    cross_entropy(logits, empty(1, dtype=torch.int64), scale, empty(1, config.vocab_size))
    seed = torch.zeros(1 + x.shape[0], dtype=torch.int64, device=x.device)
    for keys in ((1,), (1, 2), (1, 2, 3)):
        dropout(x, 0.05, seed, keys)
        for rank in ranks:
            dropout_backward_(x, empty(64, 16 * rank)[:, 16:], empty(3 * rank, hidden), rank, 0.05, seed, keys)
    for rank in ranks:
        table = place_table([(empty(16, 16 + rank)[:, 16:], 0)], x.device)
        place_blocks(table, empty(16 * rank, dtype=torch.float32), 1.0, rank)


def self_test(device: str = "cuda") -> None:
    """Compile and run the smallest kernel. Raises if Triton or its C compiler does not work."""
    x = torch.ones(1, 16, dtype=torch.bfloat16, device=device)
    out = torch.empty_like(x)
    rms_norm(x, x[0], 1e-6, out)
