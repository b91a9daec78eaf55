"""The weights of base and adapter under their GGUF names, merged in float32 while they are read.

Rows are read from their shard, s B A is added to them, and they are returned. Nothing is cached.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from gguf import MODEL_ARCH, get_tensor_name_map

from common.errors import UserError
from common.i18n import _
from finetune.verify.engine import load_adapter
from qwen2.config import Config
from qwen2.safetensors_header import Entry
from qwen2.weights import DTYPES, checked_headers, read_into

Rows: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to a weight [out, in]: scale * b [out, rank] @ a [rank, in]."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


@dataclass(frozen=True)
class TensorSource:
    """One tensor: its name in the GGUF, its shape and place in the checkpoint, and what is added to it."""

    name: str
    entry: Entry
    delta: Delta | None

    @property
    def shape(self) -> tuple[int, ...]:
        """[rows, columns], or [n]."""
        return self.entry.shape

    @property
    def rows(self) -> int:
        """The number of rows; a vector is one row."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        """Weights per row."""
        return self.shape[-1]

    def read(self, start: int, stop: int) -> Rows:
        """Rows start to stop, merged, in float32: [stop - start, columns].

        Raises UserError if a weight is NaN or infinite, or if the file is too short.
        """
        dtype = DTYPES[self.entry.dtype]
        width = self.columns * dtype.itemsize
        buffer = bytearray((stop - start) * width)
        path = self.entry.path
        try:
            read_into(_descriptor(path), memoryview(buffer), self.entry.offset + start * width, path)
        except ValueError as error:
            raise UserError(str(error)) from None
        rows = torch.frombuffer(buffer, dtype=dtype).view(stop - start, self.columns).float()
        if self.delta:
            rows.addmm_(self.delta.b[start:stop], self.delta.a, alpha=self.delta.scale)
        if not torch.isfinite(rows).all():
            raise UserError(
                _("{path}: {name} holds NaN or infinity; train again, or download it again").format(
                    path=path, name=self.name
                )
            )
        return rows.numpy()


class Weights:
    """All tensors of base and adapter, in the order of the GGUF."""

    def __init__(self, model: Path, adapter: Path | None) -> None:
        """Read headers, config and adapter. Raises UserError if one cannot be read, or if they do not fit together."""
        try:
            self.config = Config.from_dir(model)
            shapes = self.config.tensor_shapes()
            entries = checked_headers(model, shapes)
        except ValueError as error:
            raise UserError(str(error)) from None
        deltas = _deltas(adapter, self.config) if adapter else {}
        mapping = get_tensor_name_map(MODEL_ARCH.QWEN2, self.config.num_layers)
        self.sources = []
        for name in shapes:
            stem, _, kind = name.rpartition(".")
            self.sources.append(TensorSource(f"{mapping.get_name(stem)}.{kind}", entries[name], deltas.pop(stem, None)))
        assert not deltas, deltas.keys()

    @property
    def nbytes(self) -> int:
        """Bytes of the base's weights."""
        return sum(source.entry.nbytes for source in self.sources)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors together."""
        return sum(source.rows * source.columns for source in self.sources)

    def __iter__(self) -> Iterator[TensorSource]:
        return iter(self.sources)


def _deltas(folder: Path, config: Config) -> dict[str, Delta]:
    """The adapter's matrices, by the checkpoint's name of the linear."""
    import types

    adapter = load_adapter(folder, types.SimpleNamespace(config=config, device=torch.device("cpu")))
    named = dict(adapter.named())
    found = {}
    for key, a in named.items():
        if key.endswith(".lora_A.weight"):
            stem = key.removesuffix(".lora_A.weight")
            b = named[f"{stem}.lora_B.weight"]
            found[stem.removeprefix("base_model.model.")] = Delta(a, b, adapter.scaling)
    return found


@functools.cache
def _descriptor(path: Path) -> int:
    """The shard's file descriptor, open until the process ends. Threads share it: preadv has no file position."""
    return os.open(path, os.O_RDONLY)
