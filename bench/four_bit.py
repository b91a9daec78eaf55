"""What a 4-bit base would cost the fast lane on one CUDA GPU: its linears unpacked before every matmul; run by hand.

    python bench/four_bit.py [--size 7B] [--tokens 736 2048]

NF4 as packed by bitsandbytes: two weights per byte, an 8-bit scale per 64 weights, a 32-bit scale per 256 of those. A
Triton kernel unpacks each linear into one shared buffer, which is then multiplied: once forward, once for dL/dx. Random
numbers; the kernel is first checked against plain torch. One JSON line for each number of tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench.machine import gpu_ms  # noqa: E402
from bench.shapes import SHAPES  # noqa: E402

# The 16 values of NF4: Dettmers et al., "QLoRA", appendix E.
NF4 = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
)  # fmt: skip
PER_SCALE, PER_COARSE = 32, 32 * 256  # bytes, two weights each
BLOCK = 2048  # bytes a program unpacks
MOVED = 0.5 + 1 / (2 * PER_SCALE) + 4 / (2 * PER_COARSE) + 2  # bytes per weight: read packed with its scales, written
REPEATS = 7


@triton.jit
def _unpack(packed, scales, coarse, table, out, per_scale: tl.constexpr, per_coarse: tl.constexpr, block: tl.constexpr):
    at = tl.program_id(0) * block + tl.arange(0, block)
    byte = tl.load(packed + at).to(tl.int32)
    scale = tl.load(scales + at // per_scale).to(tl.float32) * tl.load(coarse + at // per_coarse)
    both = tl.join(tl.load(table + (byte >> 4)) * scale, tl.load(table + (byte & 15)) * scale)
    to = tl.program_id(0) * block * 2 + tl.arange(0, block * 2)
    tl.store(out + to, tl.reshape(both, (block * 2,)).to(tl.bfloat16))


class Packed:
    """A random linear [out, in] in NF4."""

    def __init__(self, rows: int, columns: int, table: torch.Tensor) -> None:
        size = rows * columns // 2
        self.shape, self.table, cuda = (rows, columns), table, table.device
        self.packed = torch.randint(0, 256, (size,), dtype=torch.uint8, device=cuda)
        self.scales = torch.randint(1, 256, (-(-size // PER_SCALE),), dtype=torch.uint8, device=cuda)
        self.coarse = torch.rand(-(-size // PER_COARSE), device=cuda) * 2e-4
        assert size % BLOCK == 0

    def unpack(self, buffer: torch.Tensor) -> torch.Tensor:
        """The weights [out, in] in bfloat16, unpacked into the start of `buffer`."""
        size = self.packed.numel()
        _unpack[(size // BLOCK,)](
            self.packed, self.scales, self.coarse, self.table, buffer, PER_SCALE, PER_COARSE, BLOCK
        )
        return buffer[: size * 2].view(self.shape)

    def in_torch(self) -> torch.Tensor:
        """The same in plain torch."""
        byte = self.packed.int()
        scale = self.scales.float().repeat_interleave(PER_SCALE)[: len(byte)]
        scale *= self.coarse.repeat_interleave(PER_COARSE)[: len(byte)]
        both = torch.stack((self.table[byte >> 4] * scale, self.table[byte & 15] * scale), 1)
        return both.bfloat16().view(self.shape)


def linears(size: str) -> tuple[list[tuple[int, int]], int]:
    """([out, in] of a layer's fused linears, layers)."""
    hidden, inner, layers, heads, kv_heads, _vocabulary, _tied = SHAPES[size]
    width = (heads + 2 * kv_heads) * (hidden // heads)
    return [(width, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)], layers


def milliseconds(run: Callable[[], Any]) -> float:
    """The median time of `run` as a captured graph, in milliseconds."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return gpu_ms(graph.replay, REPEATS)


def measure(size: str, tokens: Sequence[int]) -> None:
    """Print the figures for that size."""
    cuda = torch.device("cuda")
    table = torch.tensor(NF4, device=cuda)
    shapes, layers = linears(size)
    base = torch.cuda.memory_allocated()
    packed = [[Packed(*shape, table) for shape in shapes] for _layer in range(layers)]
    buffer = torch.empty(max(rows * columns for rows, columns in shapes), dtype=torch.bfloat16, device=cuda)
    four = torch.cuda.memory_allocated() - base
    for each in packed[0]:
        torch.testing.assert_close(each.unpack(buffer), each.in_torch(), rtol=2**-7, atol=0)  # the last bit of bfloat16
    base = torch.cuda.memory_allocated()
    whole = [[each.unpack(buffer).clone() for each in layer] for layer in packed]
    sixteen = torch.cuda.memory_allocated() - base
    count = sum(rows * columns for rows, columns in shapes) * layers

    def alone() -> None:
        for layer in packed:
            for each in layer:
                each.unpack(buffer)

    once = milliseconds(alone)
    for number in tokens:
        inputs = {columns: torch.randn(number, columns, device=cuda).bfloat16() for _rows, columns in shapes}
        grads = {rows: torch.randn(number, rows, device=cuda).bfloat16() for rows, _columns in shapes}

        def step(unpack: bool, inputs: Any = inputs, grads: Any = grads) -> None:
            order = list(zip(packed, whole, strict=True))
            for layer in order:
                for four_bit, weight in zip(*layer, strict=True):
                    inputs[weight.shape[1]] @ (four_bit.unpack(buffer) if unpack else weight).t()
            for layer in reversed(order):
                for four_bit, weight in zip(*layer, strict=True):
                    grads[weight.shape[0]] @ (four_bit.unpack(buffer) if unpack else weight)

        plain, with_unpacking = milliseconds(lambda: step(False)), milliseconds(lambda: step(True))
        figures = {
            "size": size,
            "gpu": torch.cuda.get_device_name(),
            "tokens": number,
            "linears": count,
            "gib_bfloat16": round(sixteen / 2**30, 2),
            "gib_nf4_with_buffer": round(four / 2**30, 2),
            "unpack_all_once_ms": round(once, 2),
            "unpack_gb_s": round(count * MOVED / once / 1e6),
            "matmuls_ms": round(plain, 2),
            "matmuls_unpacking_ms": round(with_unpacking, 2),
        }
        print("four_bit", json.dumps(figures), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", choices=SHAPES, default="7B")
    parser.add_argument("--tokens", type=int, nargs="+", default=[736, 2048])
    arguments = parser.parse_args()
    measure(arguments.size, arguments.tokens)
