"""The Qwen2 decoder with fused qkv and gate/up and LoRA inside the matmul; used by generate, train, healthchecks.

A linear with a LoRA is y = [x | h] . [W | s B]^T + b with h = x A^T: one matmul, one rounding. Every weight therefore
has a few spare columns on its right. Without an adapter the same storage is read as W, so switching an adapter on or
off copies only B. Adding s h B^T to an already rounded y, as PEFT does, loses most of a small adapter's effect to
bfloat16 rounding.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from common.i18n import _
from qwen2 import ops, weights
from qwen2.config import EMBEDDING, GROUPS, HEAD, Config

if TYPE_CHECKING:
    from qwen2.lora import Adapter

# Columns of h and s B come in this unit: rows stay 32-byte aligned, which the kernels rely on. Rows of whole cache
# lines (units of 64) brought no measurable gain and cost 0.15 GiB at 7B (docs/fast-lane.md).
COLUMN_UNIT = 16
LOADED_RANK = 8  # space for an adapter of this rank is reserved at loading; a higher rank copies the weights

# attend(qkv, out): qkv [T, q_size + 2 kv_size], not rotated yet, may be overwritten; out [T, q_size], rows strided.
Attend = Callable[[Tensor, Tensor], None]


def padded_columns(count: int) -> int:
    """`count` rounded up to COLUMN_UNIT."""
    return -(-count // COLUMN_UNIT) * COLUMN_UNIT


@dataclass
class Linear:
    """One fused matmul. `storage` is [N, K + spare]: W, then columns for s B; `rows` maps each linear to its rows."""

    storage: Tensor
    inputs: int
    rows: dict[str, slice]
    bias: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """W alone, [N, K], as a view."""
        return self.storage[:, : self.inputs]

    @property
    def spare(self) -> int:
        """Number of columns available for s B."""
        return self.storage.shape[1] - self.inputs

    def buffer(self, tokens: int, columns: int) -> Tensor:
        """A [tokens, K + columns] buffer for [x | h]; the caller fills x, and `project` or the trainer fills h."""
        return self.storage.new_empty(tokens, self.inputs + columns)

    def apply(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[x | h] . [W | s B]^T + bias, or + residual [T, N] (then without bias), rounded once. x [T, K + columns].

        A float32 residual with 16-bit x is updated in place, without rounding.
        """
        weight = self.storage[:, : x.shape[1]]
        if residual is None:
            return F.linear(x, weight, self.bias)
        if residual.dtype == x.dtype:
            return torch.addmm(residual, x, weight.t())
        add_matmul(residual, x, weight.t())
        return residual


@dataclass
class Layer:
    """The weights of one decoder layer."""

    linears: dict[str, Linear]
    norm1: Tensor
    norm2: Tensor


@dataclass
class ActiveLora:
    """An adapter in the model's dtype: A of each matmul, [columns, K], one dict per layer; s B is in the weights."""

    a: list[dict[str, Tensor]] = field(default_factory=list)

    def columns(self, layer: int, group: str) -> int:
        """Columns of h in this matmul; 0 if the adapter does not target it."""
        a = self.a[layer].get(group)
        return 0 if a is None else a.shape[0]

    def down(self, layer: int, group: str, x: Tensor, h: Tensor) -> None:
        """h = x A^T. x [T, K] and h [T, columns], rows strided. Serving overrides it for rows with several adapters."""
        torch.mm(x, self.a[layer][group].t(), out=h)


def add_matmul(target: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    """target += scale a b, in float32."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.addmm(target, a, b, out_dtype=torch.float32, alpha=scale, out=target)
    else:
        target.addmm_(a.float(), b.float(), alpha=scale)


def causal_attention(
    config: Config,
    rows: int,
    length: int,
    cos: Tensor,
    sin: Tensor,
    keep: Callable[[Tensor, Tensor], None] | None = None,
) -> Attend:
    """Attention for sequences of the same padded length, with tokens laid out row by row.

    Args:
        config: The model's shape.
        rows: Number of sequences.
        length: Padded length of each, in tokens.
        cos: [T, head_dim / 2], for each token's position.
        sin: [T, head_dim / 2].
        keep: Called with the rotated keys and the values.
    """

    def attend(qkv: Tensor, out: Tensor) -> None:
        ops.rope_(qkv, config.num_heads + config.num_kv_heads, cos, sin)
        q, k, v = qkv.split((config.q_size, config.kv_size, config.kv_size), 1)
        if keep:
            keep(k, v)
        q, k, v = (t.view(rows, length, -1, config.head_dim).transpose(1, 2) for t in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out.copy_(found.transpose(1, 2).reshape(rows * length, config.q_size))

    return attend


def _warm_up(config: Config, device: torch.device) -> None:
    """Run in a thread while the weights are read: setup that the first forward pass would otherwise wait for."""
    with torch.cuda.device(device), torch.no_grad():
        small = torch.zeros(64, 64, dtype=torch.bfloat16, device=device)
        F.linear(small, small, small[0])  # creates cuBLAS's handle, which goes back to the pool with this thread
        torch.addmm(small, small, small)
        ops.warm_up(config)
        torch.cuda.current_stream().synchronize()


def _beside(work: Callable[[], None]) -> Callable[[], None]:
    """Run `work` in a thread. The returned function waits for it and raises RuntimeError if it failed."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="warm-up", daemon=True)
    thread.start()

    def wait() -> None:
        thread.join()
        if failed and isinstance(failed[0], torch.OutOfMemoryError):
            raise failed[0]
        if failed:
            words = " ".join(str(failed[0]).split())[:300]
            raise RuntimeError(
                _("the GPU's kernels cannot be prepared ({kind}: {words})").format(
                    kind=type(failed[0]).__name__, words=words
                )
            )

    return wait


class Model:
    """Weights of a Qwen2ForCausalLM on one device. Created by `load`. Not an nn.Module: nothing here is trained."""

    def __init__(self, config: Config, device: torch.device, dtype: torch.dtype, lora_rank: int = LOADED_RANK) -> None:
        """Allocate without initializing, with spare columns for a LoRA of `lora_rank` on all seven linears."""
        self.config, self.device, self.dtype = config, device, dtype
        h = config.hidden_size

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, dtype=dtype, device=device)

        def linear(group: str, bias: bool = False) -> Linear:
            names = [path.split(".")[1] for path in GROUPS[group]]
            rows, start = {}, 0
            for name in names:
                rows[name] = slice(start, start + sizes[name][0])
                start += sizes[name][0]
            inputs = sizes[names[0]][1]
            storage = empty(start, inputs + padded_columns(lora_rank * len(names)))
            storage[:, inputs:].zero_()
            return Linear(storage, inputs, rows, empty(start) if bias else None)

        sizes = config.projections
        self.embedding = empty(config.vocab_size, h)
        self.layers = [
            Layer({group: linear(group, bias=group == "qkv") for group in GROUPS}, empty(h), empty(h))
            for _ in range(config.num_layers)
        ]
        self.norm = empty(h)
        self.head = self.embedding if config.tie_embeddings else empty(config.vocab_size, h)
        self._rope: tuple[Tensor, Tensor] | None = None
        self._installed: tuple[weakref.ref[Adapter], int] | None = None
        self._active: ActiveLora | None = None

    @classmethod
    def load(
        cls,
        model_dir: str | Path,
        device: str | torch.device = "cuda",
        dtype: torch.dtype = torch.bfloat16,
        progress: weights.Progress | None = None,
        lora_rank: int = LOADED_RANK,
    ) -> Model:
        """Load a model folder.

        Args:
            model_dir: The folder.
            device: Where the weights go.
            dtype: Their number format.
            progress: Called with (done_bytes, total_bytes).
            lora_rank: The rank that will be used, if known.

        Raises:
            ValueError: The folder is not a complete Qwen2ForCausalLM; the message is for the user.
            torch.OutOfMemoryError: The model does not fit on the device.
            RuntimeError: Any other GPU error.
        """
        folder = Path(model_dir)
        config = Config.from_dir(folder)
        entries = weights.checked_headers(folder, config.tensor_shapes())  # before any memory is taken
        place = torch.device(device)
        if place.type == "cuda" and place.index is None:
            place = torch.device("cuda", torch.cuda.current_device())
        compiling = None
        if place.type == "cuda":
            torch.cuda.set_device(place)
            compiling = _beside(lambda: _warm_up(config, place))
        with torch.no_grad():
            model = cls(config, place, dtype, lora_rank)
            weights.load(entries, model.checkpoint_tensors(), progress)
        if compiling is not None:
            compiling()
        return model

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """Views into the fused storage by checkpoint name."""
        named = {EMBEDDING: self.embedding, "model.norm.weight": self.norm}
        if not self.config.tie_embeddings:
            named[HEAD] = self.head
        for number, layer in enumerate(self.layers):
            prefix = f"model.layers.{number}."
            named[prefix + "input_layernorm.weight"] = layer.norm1
            named[prefix + "post_attention_layernorm.weight"] = layer.norm2
            for group, paths in GROUPS.items():
                linear = layer.linears[group]
                for path in paths:
                    rows = linear.rows[path.split(".")[1]]
                    named[f"{prefix}{path}.weight"] = linear.weight[rows]
                    if linear.bias is not None:
                        named[f"{prefix}{path}.bias"] = linear.bias[rows]
        return named

    # ---- positions

    def rope_tables(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, each [>= length, head_dim / 2] float32, for positions from 0. Cached; grows when needed."""
        if self._rope is None or self._rope[0].shape[0] < length:
            half = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32)
            frequency = 1.0 / (self.config.rope_theta ** (half / self.config.head_dim))
            angle = torch.arange(max(length, 512), dtype=torch.float32)[:, None] * frequency
            self._rope = (angle.cos().to(self.device), angle.sin().to(self.device))
        return self._rope

    # ---- the adapter

    def reserve(self, columns: dict[str, int]) -> None:
        """Make room for this many columns per matmul. Weights that are too narrow are copied, one by one."""
        for layer in self.layers:
            for group, linear in layer.linears.items():
                if columns.get(group, 0) <= linear.spare:
                    continue
                wider = linear.storage.new_zeros(linear.storage.shape[0], linear.inputs + columns[group])
                wider[:, : linear.inputs].copy_(linear.weight)
                linear.storage = wider
                self._installed = None
                if wider.is_cuda:  # otherwise every old weight would stay reserved next to its replacement
                    torch.cuda.empty_cache()

    @torch.no_grad()
    def activate(self, adapter: Adapter | None) -> ActiveLora | None:
        """Write the adapter's s B to the spare columns and convert its A to the model's dtype; None for the bare model.

        Does nothing if this adapter is already active and unchanged.
        """
        if adapter is None:
            return None
        there = self._installed
        if there is None or there[0]() is not adapter or there[1] != adapter.version:
            adapter.check(self.config)
            self.reserve(adapter.columns())
            self._active = self.install(adapter)
            self._installed = (weakref.ref(adapter), adapter.version)
        return self._active

    def deactivate(self) -> None:
        """Forget which adapter is in the spare columns (the trainer writes there directly)."""
        self._installed = self._active = None

    def install(self, adapter: Adapter) -> ActiveLora:
        """`activate` without the check; the trainer keeps the result and refreshes it every step."""
        active = ActiveLora()
        for number, layer in enumerate(self.layers):
            active.a.append({})
            for group, linear in layer.linears.items():
                linear.storage[:, linear.inputs :].zero_()
                if group in adapter.layout.groups:
                    active.a[number][group] = adapter.a(number, group).to(self.device, self.dtype)
                    for target, source in adapter.b_blocks(number, group, linear):
                        target.copy_(source * adapter.scaling)
        return active

    # ---- the forward pass

    def embed(self, ids: Tensor) -> Tensor:
        """The initial residual stream: ids [T] int64 -> [T, H] float32.

        In float32, the output of a layer is not rounded to the precision of the stream 56 times.
        """
        return F.embedding(ids, self.embedding).float()

    def run_layer(self, number: int, x: Tensor, attend: Attend, lora: ActiveLora | None) -> Tensor:
        """One decoder layer without gradients.

        Args:
            number: The layer.
            x: The residual stream [T, H] float32; overwritten if the model's dtype differs.
            attend: The attention function.
            lora: The adapter; None for the base.
        """
        layer, config = self.layers[number], self.config

        def buffer(group: str) -> Tensor:
            return layer.linears[group].buffer(x.shape[0], lora.columns(number, group) if lora else 0)

        def project(group: str, wide: Tensor, residual: Tensor | None = None) -> Tensor:
            linear = layer.linears[group]
            if wide.shape[1] > linear.inputs and lora is not None:
                lora.down(number, group, wide[:, : linear.inputs], wide[:, linear.inputs :])
            return linear.apply(wide, residual)

        wide = buffer("qkv")
        ops.rms_norm(x, layer.norm1, config.rms_eps, wide[:, : config.hidden_size])
        qkv = project("qkv", wide)
        wide = buffer("o")
        attend(qkv, wide[:, : config.q_size])
        x = project("o", wide, x)
        wide = buffer("gate_up")
        ops.rms_norm(x, layer.norm2, config.rms_eps, wide[:, : config.hidden_size])
        gate_up = project("gate_up", wide)
        wide = buffer("down")
        ops.swiglu(gate_up, wide[:, : config.intermediate_size])
        return project("down", wide, x)

    def logits(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Final norm and head. x [T, H] float32 -> [T, V] in the model's dtype, written to `out` if given."""
        normed = torch.empty_like(x, dtype=self.dtype)
        ops.rms_norm(x, self.norm, self.config.rms_eps, normed)
        return F.linear(normed, self.head) if out is None else torch.mm(normed, self.head.t(), out=out)

    @torch.no_grad()
    def forward(self, ids: Tensor, adapter: Adapter | None = None) -> Tensor:
        """ids [B, S] int64 -> logits [B, S, V] in the model's dtype; causal, no padding mask (pad on the right)."""
        rows, length = ids.shape
        lora = self.activate(adapter)
        cos, sin = (table[:length].repeat(rows, 1) for table in self.rope_tables(length))
        attend = causal_attention(self.config, rows, length, cos, sin)
        x = self.embed(ids.to(self.device).reshape(-1))
        for number in range(self.config.num_layers):
            x = self.run_layer(number, x, attend, lora)
        return self.logits(x).view(rows, length, -1)

    __call__ = forward
