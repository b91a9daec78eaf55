"""Every decoder operation except the matmuls: Triton on a GPU, plain torch elsewhere; for model, backprop, generate.

The elementwise operations compute in float32 and round once, which is more accurate than rounding after every one.
Arguments named `out`, and inputs where noted, may be views with a row stride: the left part of a wider buffer.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from common.i18n import _
from qwen2.config import Config


@functools.lru_cache(maxsize=1)
def triton_kernels() -> ModuleType | None:
    """The Triton versions, or None without Triton or its C compiler (then plain torch is used, which is slower)."""
    try:
        from qwen2 import ops_triton as module

        module.self_test()
    except Exception as error:
        import sys

        print(
            _("note: Triton kernels are not usable here ({kind}); plain torch is used").format(
                kind=type(error).__name__
            ),
            file=sys.stderr,
        )
        return None
    return module


def warm_up(config: Config) -> None:
    """Compile (or load from Triton's cache) every kernel for this shape. model.load calls it while weights are read."""
    if fast := triton_kernels():
        fast.warm_up(config)


def kernels_for(x: Tensor) -> ModuleType | None:
    """The Triton versions for a tensor on a GPU; None for plain torch."""
    return triton_kernels() if x.is_cuda else None


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, rounded: Tensor | None = None) -> None:
    """out = x / rms(x) * weight, row by row.

    Args:
        x: [T, H].
        weight: [H].
        eps: Added to the mean square.
        out: [T, H], rows strided.
        rounded: [T, H], receives a copy of x; None for no copy.
    """
    if fast := kernels_for(x):
        fast.rms_norm(x, weight, eps, out, rounded)
        return
    if rounded is not None:
        rounded.copy_(x)
    x32 = x.float()
    out.copy_(x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps) * weight.float())


def rms_norm_backward(x: Tensor, weight: Tensor, eps: float, grad: Tensor, residual: Tensor) -> Tensor:
    """residual + d(rms_norm)/dx . grad, in the dtype of `residual`. The norm's weight is frozen.

    With n = x r, r = 1/rms(x), g = grad * weight: dx = r (g - n mean(g n)).

    Args:
        x: The input [T, H].
        weight: [H].
        eps: As in the forward pass.
        grad: d(loss)/d(out), [T, H], rows strided.
        residual: The gradient to add to, [T, H].
    """
    if fast := kernels_for(x):
        return fast.rms_norm_backward(x, weight, eps, grad, residual)
    x32 = x.float()
    r = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    n = x32 * r
    g = grad.float() * weight.float()
    return (residual.float() + r * (g - n * (g * n).mean(-1, keepdim=True))).to(residual.dtype)


def rope_(x: Tensor, heads: int, cos: Tensor, sin: Tensor, inverse: bool = False) -> None:
    """Rotate the first `heads` heads of x in place, with h = head_dim / 2.

    Args:
        x: [T, >= heads * 2h]. The halves of a head are the two coordinates (as in transformers' rotate_half).
        heads: Number of heads to rotate.
        cos: [T, h] float32.
        sin: [T, h] float32.
        inverse: Rotate backwards, for the backward pass.
    """
    if fast := kernels_for(x):
        fast.rope_(x, heads, cos, sin, inverse)
        return
    half = cos.shape[1]
    part = x[:, : heads * 2 * half].view(x.shape[0], heads, 2, half)
    a, b = part[:, :, 0].float(), part[:, :, 1].float()
    c, s = cos[:, None], (-sin if inverse else sin)[:, None]
    part.copy_(torch.stack((a * c - b * s, b * c + a * s), 2))


def decode_attention(
    qkv: Tensor, keys: Tensor, values: Tensor, cos: Tensor, sin: Tensor, position: Tensor, out: Tensor
) -> None:
    """Attention of one new token per row over its cache; the token's key and value are appended to the cache.

    Query heads that share a key head are computed together: the cache is read once.

    Args:
        qkv: [R, q_size + 2 kv_size], not rotated yet; may be overwritten.
        keys: [R, length, kv_heads, head_dim], strided by row.
        values: Same shape as `keys`.
        cos: [>= length, head_dim / 2] float32.
        sin: Same shape as `cos`.
        position: [R], the number of tokens already in each row's cache.
        out: [R, q_size], rows strided.
    """
    if (fast := kernels_for(qkv)) and fast.fits_decode_attention(keys, out):
        fast.decode_attention(qkv, keys, values, cos, sin, position, out)
        return
    rows, length, kv_heads, head_dim = keys.shape
    q_size, kv_size = out.shape[1], kv_heads * head_dim
    angles = cos.index_select(0, position), sin.index_select(0, position)
    rope_(qkv, (q_size + kv_size) // head_dim, *angles)
    q, k, v = qkv.split((q_size, kv_size, kv_size), 1)
    row = torch.arange(rows, device=qkv.device)
    keys.index_put_((row, position), k.reshape(rows, kv_heads, head_dim))
    values.index_put_((row, position), v.reshape(rows, kv_heads, head_dim))
    mask = torch.arange(length, device=qkv.device) <= position[:, None]
    grouped = q.reshape(rows, kv_heads, -1, head_dim)
    found = F.scaled_dot_product_attention(grouped, keys.transpose(1, 2), values.transpose(1, 2), mask[:, None, None])
    out.copy_(found.reshape(rows, q_size))


def swiglu(gate_up: Tensor, out: Tensor) -> None:
    """out = silu(gate) * up. gate_up [T, 2I] holds gate then up; out [T, I], rows strided."""
    if fast := kernels_for(gate_up):
        fast.swiglu(gate_up, out)
        return
    gate, up = gate_up.float().chunk(2, 1)
    out.copy_(F.silu(gate) * up)


def swiglu_backward_(gate_up: Tensor, grad: Tensor) -> None:
    """Overwrite gate_up [T, 2I] with its gradient; grad [T, I], rows strided."""
    if fast := kernels_for(gate_up):
        fast.swiglu_backward_(gate_up, grad)
        return
    gate, up = gate_up.float().chunk(2, 1)
    d = grad.float()
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    gate_up.copy_(torch.cat((d * up * (sigmoid + silu * (1 - sigmoid)), d * silu), 1))


def cross_entropy(logits: Tensor, labels: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and hits for rows of logits; writes scale * d(sum of losses)/d(logits) to `grad`.

    Args:
        logits: [n, V] float32; may be overwritten.
        labels: [n], -100 for rows without loss.
        scale: A float32 scalar.
        grad: [n, V] in any dtype.

    Returns:
        Losses and hits (1 where the label has the highest logit), both [n] float32 and 0 where the label is -100.
    """
    if fast := kernels_for(logits):
        return fast.cross_entropy(logits, labels, scale, grad)
    kept = labels >= 0
    index = labels.clamp(min=0)[:, None]
    normal = torch.logsumexp(logits, -1, keepdim=True)
    picked = logits.gather(1, index)
    loss = (normal - picked)[:, 0] * kept
    hit = (picked >= logits.amax(-1, keepdim=True))[:, 0] & kept
    probability = (logits - normal).exp_()
    probability.scatter_add_(1, index, -torch.ones_like(normal))
    grad.copy_(probability.mul_((kept * scale)[:, None]))
    return loss, hit.float()
