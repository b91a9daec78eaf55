"""The memory that ms-swift needs for LoRA, from the model's shape; called by swift.py, fitted by bench/plan_fit.py.

What autograd keeps is counted tensor by tensor, as ms-swift 4.6, transformers 5 and peft 0.20 run it: bfloat16 weights,
float32 adapter, autocast, sdpa attention, LoRA dropout on. `FITTED` holds what cannot be counted; bench/plan_fit.py
measures it (docs/plan.md lists the measurements). Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen2.config import PROJECTIONS, Config

GIB = 2**30
# bitsandbytes NF4 with blocks of 64 and double quantization: 4 bits, 8 for a block's scale, and 32 per 256 scales.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)


@dataclass(frozen=True)
class Fitted:
    """Constants that cannot be counted."""

    overhead_gib: float  # cuBLAS workspaces, buffers
    kept: float  # measured / counted bytes kept for the backward pass, without liger
    kept_liger: float  # the same with liger
    passing: float  # bytes of a layer in flight, relative to what it keeps; for checkpointing
    passing_liger: float
    logit_bytes: float  # per logit: bfloat16 and float32 copies, log-softmax, gradients
    logit_bytes_liger: float  # per hidden value at a position with a loss, in chunks of the same size
    mask_bytes: float  # a layer's attention mask, per pair of positions, if rows are padded


# From 36 settings on one H100, 2026-11-24, within -0.1 and +0.3 % of the allocated peak: docs/plan.md has the table.
FITTED = Fitted(
    overhead_gib=0.106,
    kept=1.003,
    kept_liger=1.034,
    passing=0.240,
    passing_liger=1.846,
    logit_bytes=12.064,
    logit_bytes_liger=0.001,
    mask_bytes=1.357,
)


@dataclass(frozen=True)
class LargestMicroBatch:
    """The micro-batch that determines the peak: `rows` rows padded to `width` tokens, `kept` positions with logits."""

    width: int
    rows: int
    kept: int
    padded: bool  # rows of different lengths: a mask, and keys and values repeated for each query head

    @property
    def tokens(self) -> int:
        """Positions, padding included."""
        return self.width * self.rows


@dataclass(frozen=True)
class LoraSpec:
    """LoRA of that rank on these linears, with the base at `bits` bits (None: bfloat16)."""

    rank: int = 8
    targets: Sequence[str] = PROJECTIONS
    bits: int | None = None


def fixed_gib(shape: Config, adapter: LoraSpec) -> float:
    """GiB that do not grow with the batch: the weights; adapter, gradient and two moments in float32."""
    heads = 1 if shape.tie_embeddings else 2
    small = shape.num_layers * (2 * shape.hidden_size + shape.q_size + 2 * shape.kv_size) + shape.hidden_size
    weights: float = 2 * (heads * shape.vocab_size * shape.hidden_size + small)
    weights += shape.linear_parameters * (NF4_BITS / 8 if adapter.bits == 4 else 1 if adapter.bits == 8 else 2)
    if adapter.bits:  # the largest linear, unpacked while in use, forward or backward
        weights += 2 * shape.hidden_size * shape.intermediate_size
    trained = shape.num_layers * sum(adapter.rank * sum(shape.projections[name]) for name in adapter.targets)
    return (weights + 16 * trained) / GIB


def layer_bytes(shape: Config, adapter: LoraSpec, liger: bool, padded: bool) -> int:
    """Bytes per token that a layer keeps for the backward pass."""
    h, i, q, kv = shape.hidden_size, shape.intermediate_size, shape.q_size, shape.kv_size
    norms = 2 * (2 * h if liger else 4 * h)
    attention = 2 * q + 2 * (2 * q if padded else 2 * kv) + 2 * q + 4 * shape.num_heads
    swiglu = (4 if liger else 6) * i
    # each LoRA keeps its own dropped-out input in bfloat16, its mask, and its low-rank output
    lora = sum(3 * shape.projections[name][1] + 2 * adapter.rank for name in adapter.targets)
    return norms + attention + swiglu + lora


def peak_gib(
    shape: Config,
    adapter: LoraSpec,
    micro: LargestMicroBatch,
    checkpointing: bool,
    liger: bool,
    fitted: Fitted = FITTED,
) -> float:
    """Maximum GiB that torch's allocator reserves."""
    layer = layer_bytes(shape, adapter, liger, micro.padded) * micro.tokens
    masks = fitted.mask_bytes * micro.rows * micro.width**2 if micro.padded else 0.0
    kept = fitted.kept_liger if liger else fitted.kept
    passing = fitted.passing_liger if liger else fitted.passing
    if liger:
        logits = fitted.logit_bytes_liger * micro.kept * shape.hidden_size
    else:
        logits = fitted.logit_bytes * micro.kept * shape.vocab_size
    if checkpointing:
        inputs = shape.num_layers * 2 * shape.hidden_size * micro.tokens
        growing = inputs + max(logits, passing * layer + masks)
    else:
        growing = shape.num_layers * (kept * layer + masks) + logits
    return fixed_gib(shape, adapter) + fitted.overhead_gib + growing / GIB
