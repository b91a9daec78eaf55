"""Writes a base with an adapter merged into its weights, shard by shard like the base's own files; for merge."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from common.i18n import _
from qwen2 import weights
from qwen2.config import Config
from qwen2.lora import Adapter
from qwen2.model import Model

INDEX = "model.safetensors.index.json"
CHUNK_BYTES = 64 << 20
WRITERS = 4  # shards at a time


def is_writable_alike(folder: Path) -> bool:
    """Whether a merged model can use this base's file layout: a plain Qwen2 in bfloat16 without unused tensors."""
    try:
        config = Config.from_dir(folder)
        entries = weights.read_headers(folder)
    except ValueError:
        return False
    return set(entries) == set(config.tensor_shapes()) and all(entry.dtype == "BF16" for entry in entries.values())


@torch.no_grad()
def fold(model: Model, adapter: Adapter) -> None:
    """Merge the adapter into the model's weights in place: W + s B A in float32, rounded once."""
    adapter.check(model.config)
    for number, layer in enumerate(model.layers):
        for group, names in adapter.layout.groups.items():
            linear = layer.linears[group]
            for name in names:
                a = adapter.a(number, group)[adapter.layout.a_rows(group, name)]
                b = adapter.layout.b[number][name].of(adapter.flat)
                target = linear.weight[linear.rows[name]]
                target.copy_(target.float().addmm_(b, a, alpha=adapter.scaling))
    model.deactivate()
    for layer in model.layers:
        for linear in layer.linears.values():
            linear.storage[:, linear.inputs :].zero_()


def save_like(base: Path, model: Model, out: Path) -> None:
    """Write the model's weights to `out` with the base's file names and tensor order.

    Raises OSError if the disk is full.
    """
    tensors = model.checkpoint_tensors()
    out.mkdir(parents=True, exist_ok=True)
    paths = weights.shard_paths(base)
    if (base / INDEX).is_file():
        shutil.copyfile(base / INDEX, out / INDEX)
    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(_write, path, tensors, out / path.name) for path in paths]:
            done.result()


def _write(base: Path, tensors: dict[str, Tensor], file: Path) -> None:
    entries = sorted(weights.read_header(base).items(), key=lambda item: item[1].offset)
    with base.open("rb") as source:
        head = source.read(entries[0][1].offset)
    with file.open("wb", buffering=0) as target:
        target.write(head)
        for name, entry in entries:
            if target.tell() != entry.offset:
                raise ValueError(
                    _("{base}: there is a gap before {name}; download it again").format(base=base, name=name)
                )
            for part in _chunks(tensors[name]):
                view = weights.bytes_view(part.view(torch.uint8))
                while view:
                    view = view[target.write(view) :]


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor as bfloat16 rows on the CPU, in chunks of whole rows, about CHUNK_BYTES each."""
    rows = max(1, CHUNK_BYTES // (2 * (tensor.numel() // tensor.shape[0])))
    for part in tensor.split(rows):
        yield part.to(torch.bfloat16).contiguous().cpu().flatten()
