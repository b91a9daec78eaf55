"""Reads safetensors shards straight into the fused tensors of qwen2.model, on the CPU or with threads onto a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from common.i18n import _
from qwen2 import safetensors_header
from qwen2.config import HEAD
from qwen2.safetensors_header import Entry

Progress = Callable[[int, int], None]

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
CHUNK_BYTES = 32 << 20  # one pinned buffer; two per thread
THREADS = 8  # more did not help: eight saturate PCIe from the page cache


def read_header(path: Path) -> dict[str, Entry]:
    """Tensors of one safetensors file by name. Raises ValueError, for the user, if it is truncated or invalid."""
    try:
        header = safetensors_header.read(path)
    except FileNotFoundError:
        raise ValueError(_("{path} is missing; download the model folder again").format(path=path)) from None
    except (OSError, ValueError) as error:
        raise ValueError(
            _("{path} is not a complete safetensors file ({error}); download it again").format(path=path, error=error)
        ) from None
    for name, entry in header.entries.items():
        if entry.offset + entry.nbytes > header.size:
            raise ValueError(
                _("{path} is not a complete safetensors file ({name} extends past its end); download it again").format(
                    path=path, name=name
                )
            )
    return header.entries


def shard_paths(folder: Path) -> list[Path]:
    """The files that the index names, or model.safetensors, or every *.safetensors file in the folder."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(
                _("{index} cannot be read ({error}); download it again").format(index=index, error=error)
            ) from None
        return [folder / str(name) for name in sorted(names)]
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ValueError(
            _("no *.safetensors in {folder}: the weights are missing; download the model folder again").format(
                folder=folder
            )
        )
    return paths


def read_headers(folder: Path) -> dict[str, Entry]:
    """All tensors of a model folder by name. Raises ValueError if two files hold the same name."""
    entries: dict[str, Entry] = {}
    for path in shard_paths(folder):
        for name, entry in read_header(path).items():
            if name in entries:
                raise ValueError(
                    _("{name} is in {first} and in {second}; remove the stale file").format(
                        name=name, first=entries[name].path.name, second=path.name
                    )
                )
            entries[name] = entry
    return entries


def checked_headers(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Entry]:
    """All tensors of a model folder by name, with the names, shapes and dtypes that the model needs.

    Args:
        folder: The model folder.
        shapes: Every tensor's shape by name, from its config. A head that is not among them is allowed: a checkpoint
            with tied weights may contain it as well.

    Raises:
        ValueError: There is a difference; the message names the file and the tensor.
    """
    entries = read_headers(folder)
    for name, shape in shapes.items():
        entry = entries.get(name)
        if entry is None:
            raise ValueError(
                _("{folder}: the tensor {name} is missing; download the model folder again").format(
                    folder=folder, name=name
                )
            )
        if entry.dtype not in DTYPES:
            raise ValueError(
                _("{path}: {name} has dtype {dtype}, not BF16, F16 or F32; use ENGINE=swift").format(
                    path=entry.path, name=name, dtype=entry.dtype
                )
            )
        if entry.shape != shape:
            raise ValueError(
                _(
                    "{path}: {name} has shape {shape}, config.json asks for {wanted}; config.json and the "
                    "weights belong to different models"
                ).format(path=entry.path, name=name, shape=list(entry.shape), wanted=list(shape))
            )
        if entry.nbytes != math.prod(shape) * DTYPES[entry.dtype].itemsize:
            raise ValueError(
                _("{path}: {name} has {nbytes} bytes, too few or too many; download it again").format(
                    path=entry.path, name=name, nbytes=entry.nbytes
                )
            )
    for name, entry in entries.items():
        if name not in shapes and name != HEAD:
            raise ValueError(
                _("{path}: the tensor {name} does not belong to a Qwen2ForCausalLM with this config.json").format(
                    path=entry.path, name=name
                )
            )
    return entries


def load(entries: dict[str, Entry], targets: dict[str, torch.Tensor], progress: Progress | None = None) -> None:
    """Fill `targets` from the files of `entries`; dtypes are converted while reading.

    Args:
        entries: Those of `checked_headers`.
        targets: Tensors or row-strided 2-D views, by checkpoint name.
        progress: Called with (done, total) bytes, from the calling thread.

    Raises:
        ValueError: A file became shorter while it was read.
    """
    wanted = [(entries[name], target) for name, target in targets.items()]
    # By file and offset: the reads are sequential, which matters when the page cache is cold.
    wanted.sort(key=lambda pair: (pair[0].path, pair[0].offset))
    total = sum(entry.nbytes for entry, _ in wanted)
    if progress:
        progress(0, total)
    if wanted and wanted[0][1].is_cuda:
        _load_cuda(wanted, total, progress)
    else:
        _load_cpu(wanted, total, progress)


@dataclass(frozen=True)
class _Piece:
    """Some rows of one tensor, at most CHUNK_BYTES of a file, and their destination."""

    path: Path
    offset: int
    nbytes: int
    dtype: torch.dtype
    target: torch.Tensor


def _pieces(wanted: list[tuple[Entry, torch.Tensor]]) -> Iterator[_Piece]:
    for entry, target in wanted:
        dtype = DTYPES[entry.dtype]
        row_bytes = entry.nbytes // target.shape[0]
        step = max(1, CHUNK_BYTES // row_bytes)
        for row in range(0, target.shape[0], step):
            rows = min(step, target.shape[0] - row)
            yield _Piece(entry.path, entry.offset + row * row_bytes, rows * row_bytes, dtype, target[row : row + rows])


def read_into(descriptor: int, view: memoryview, offset: int, path: Path) -> None:
    """Read bytes of a shard.

    Args:
        descriptor: The open file. Threads may share it: its position is not used.
        view: Filled completely.
        offset: Where to read, in bytes.
        path: The file's path, for the message.

    Raises:
        ValueError: The file ends before.
    """
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise ValueError(_("{path} became shorter while it was read; download it again").format(path=path))
        done += count


def bytes_view(buffer: torch.Tensor) -> memoryview:
    """The bytes of a CPU tensor as a writable memoryview, without numpy."""
    return memoryview((ctypes.c_char * buffer.numel()).from_address(buffer.data_ptr())).cast("B")


def _load_cpu(wanted: list[tuple[Entry, torch.Tensor]], total: int, progress: Progress | None) -> None:
    done = 0
    buffer = torch.empty(0, dtype=torch.uint8)
    with contextlib.ExitStack() as stack:
        files: dict[Path, int] = {}
        for piece in _pieces(wanted):
            if piece.path not in files:
                files[piece.path] = os.open(piece.path, os.O_RDONLY)
                stack.callback(os.close, files[piece.path])
            if buffer.numel() < piece.nbytes:
                buffer = torch.empty(piece.nbytes, dtype=torch.uint8)
            read_into(files[piece.path], bytes_view(buffer)[: piece.nbytes], piece.offset, piece.path)
            piece.target.copy_(buffer[: piece.nbytes].view(piece.dtype).view(piece.target.shape))
            done += piece.nbytes
            if progress:
                progress(done, total)


def _load_cuda(wanted: list[tuple[Entry, torch.Tensor]], total: int, progress: Progress | None) -> None:
    """Threads read into two pinned buffers each, so that one is filled while the other is copied to the GPU."""
    pieces = list(_pieces(wanted))
    size = max(piece.nbytes for piece in pieces)
    device = wanted[0][1].device
    files = {path: os.open(path, os.O_RDONLY) for path in {piece.path for piece in pieces}}
    queue = iter(pieces)
    lock = threading.Lock()
    errors: list[BaseException] = []
    done = [0]

    def work() -> None:
        try:
            with torch.cuda.device(device):
                buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
                stream = torch.cuda.Stream()
                copied = [torch.cuda.Event(), torch.cuda.Event()]
                turn = 0
                while not errors:
                    with lock:
                        piece = next(queue, None)
                    if piece is None:
                        break
                    buffer, event = buffers[turn], copied[turn]
                    turn = 1 - turn
                    event.synchronize()  # an event that was never recorded is complete
                    read_into(files[piece.path], bytes_view(buffer)[: piece.nbytes], piece.offset, piece.path)
                    source = buffer[: piece.nbytes].view(piece.dtype).view(piece.target.shape)
                    with torch.cuda.stream(stream):
                        if piece.target.is_contiguous() and piece.target.dtype == piece.dtype:
                            piece.target.copy_(source, non_blocking=True)
                        else:  # strided rows or another dtype: the GPU converts them
                            piece.target.copy_(source.to(device, non_blocking=True))
                        event.record()
                    with lock:
                        done[0] += piece.nbytes
                stream.synchronize()
        except BaseException as error:
            errors.append(error)

    # The targets may just have been written (zeroed columns) on the current stream.
    torch.cuda.current_stream(device).synchronize()
    threads = [threading.Thread(target=work, name=f"weights-{n}", daemon=True) for n in range(THREADS)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
                if progress:
                    progress(done[0], total)
        if progress:
            progress(done[0], total)
    except BaseException as error:
        errors.append(error)  # Ctrl-C: the workers stop at their next chunk
        for thread in threads:
            thread.join()
        raise
    finally:
        for descriptor in files.values():
            os.close(descriptor)
    if errors:
        raise errors[0]
