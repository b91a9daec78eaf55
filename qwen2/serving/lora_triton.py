"""h = (x A^T) * mask for few rows in one kernel instead of cuBLAS's three; adapters.py calls it on a GPU.

K is split over programs, since few rows and few columns would give too few of them. Each program stores its partial
sum. The last to arrive adds all sums in a fixed order, so the result does not depend on timing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qwen2.config import Config

ROWS, BLOCK = 16, 128
PARTS = 32  # at most; the last program reads all partial sums


@triton.jit(do_not_specialize=["rows"])
def _masked_down(
    x,
    x_stride,
    a,
    mask,
    out,
    out_stride,
    sums,
    arrived,
    rows,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
    COLUMNS_BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTS_COUNT: tl.constexpr,
    ROWS_BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    group = tl.program_id(0)
    part = tl.program_id(1)
    row = group * ROWS_BLOCK + tl.arange(0, ROWS_BLOCK)
    column = tl.arange(0, COLUMNS_BLOCK)
    k = tl.arange(0, BLOCK_K)
    here, there = row[:, None] < rows, column[:, None] < COLUMNS
    total = tl.zeros([ROWS_BLOCK, COLUMNS_BLOCK], tl.float32)
    for start in range(0, CHUNK, BLOCK_K):
        n = part * CHUNK + start + k
        inside = n[None, :] < SIZE
        left = tl.load(x + row[:, None].to(tl.int64) * x_stride + n[None, :], mask=here & inside, other=0.0)
        right = tl.load(a + column[:, None] * SIZE + n[None, :], mask=there & inside, other=0.0)
        total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
    block: tl.constexpr = ROWS_BLOCK * COLUMNS_BLOCK
    place = tl.arange(0, ROWS_BLOCK)[:, None] * COLUMNS_BLOCK + column[None, :]
    tl.store(sums + (group * PARTS_COUNT + part) * block + place, total)
    tl.debug_barrier()  # all of this program's sums are written before it signals so
    if tl.atomic_add(arrived + group, 1, sem="acq_rel") == PARTS_COUNT - 1:
        tl.debug_barrier()
        total = tl.zeros([ROWS_BLOCK, COLUMNS_BLOCK], tl.float32)
        for other in range(PARTS_COUNT):
            total += tl.load(sums + (group * PARTS_COUNT + other) * block + place, cache_modifier=".cg")
        inside = here & (column[None, :] < COLUMNS)
        own = tl.load(mask + row[:, None] * COLUMNS + column[None, :], mask=inside, other=0.0).to(tl.float32)
        to = out + row[:, None].to(tl.int64) * out_stride + column[None, :]
        tl.store(to, (total * own).to(out.dtype.element_ty), mask=inside)
        tl.store(arrived + group, 0)  # reset for the next launch


class MaskedDown:
    """The kernel and its counters, which each launch resets to 0. Use it on one stream at a time."""

    def __init__(self, device: torch.device | str) -> None:
        self.arrived = torch.zeros(64, dtype=torch.int32, device=device)

    def __call__(self, x: Tensor, a: Tensor, mask: Tensor, out: Tensor) -> None:
        """out = (x A^T) * mask. x [T, K] and out [T, columns], rows strided; a [columns, K]; mask [T, columns]."""
        rows, size = x.shape
        columns = a.shape[0]
        chunk = BLOCK * max(2, triton.cdiv(size, PARTS * BLOCK))
        parts, groups = triton.cdiv(size, chunk), triton.cdiv(rows, ROWS)
        wide = max(16, triton.next_power_of_2(columns))
        sums = torch.empty(groups * parts * ROWS * wide, dtype=torch.float32, device=x.device)
        _masked_down[(groups, parts)](
            x, x.stride(0), a, mask, out, out.stride(0), sums, self.arrived, rows, SIZE=size, COLUMNS=columns,
            COLUMNS_BLOCK=wide, CHUNK=chunk, PARTS_COUNT=parts, ROWS_BLOCK=ROWS, BLOCK_K=BLOCK,
        )  # fmt: skip


def warm_up(config: Config, device: str = "cuda", ranks: tuple[int, ...] = (8,)) -> None:
    """Launch the kernel once for one adapter on all linears at this model's sizes."""
    work = MaskedDown(device)
    for rank in ranks:
        sizes = ((config.hidden_size, 3), (config.q_size, 1), (config.hidden_size, 2), (config.intermediate_size, 1))
        for size, count in sizes:
            columns = -(-rank * count // 16) * 16
            x, a = (torch.zeros(rows, size, dtype=torch.bfloat16, device=device) for rows in (1, columns))
            mask = torch.zeros(1, columns, dtype=torch.bfloat16, device=device)
            work(x, a, mask, torch.zeros(1, size + columns, dtype=torch.bfloat16, device=device)[:, size:])
