"""The tensors of a safetensors file and the position of their bytes, for code that needs offsets or the file length.

Other code reads with the safetensors package, which reports neither. Does not import torch: the health checks and the
look-up of a checkpoint must not wait for it.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from common.i18n import _

LONGEST = 100 << 20  # maximum header size in bytes; the package's own limit


@dataclass(frozen=True)
class Entry:
    """Location of one tensor: `offset` and `nbytes`, counted from the start of `path`."""

    path: Path
    dtype: str  # BF16, F16, F32, ...
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name, the offset of their data, and the size of the file in bytes."""

    entries: dict[str, Entry]
    begin: int
    size: int

    @property
    def end(self) -> int:
        """Size in bytes that the header requires."""
        return max((entry.offset + entry.nbytes for entry in self.entries.values()), default=self.begin)


class BrokenHeader(ValueError):
    """The file, of `size` bytes, has no safetensors header. `is_cut`: it cannot hold one of the length it states."""

    def __init__(self, why: str, size: int, is_cut: bool = False) -> None:
        super().__init__(why)
        self.size, self.is_cut = size, is_cut


def read(path: Path) -> Header:
    """Read the header: 8 bytes little-endian n, n bytes of JSON (https://github.com/huggingface/safetensors#format).

    Raises OSError if the file cannot be read, BrokenHeader if it does not start with a header.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, LONGEST):
            raise BrokenHeader(_("it does not begin with a complete header"), size, is_cut=True)
        text = file.read(length)
    begin, entries = 8 + length, {}
    try:
        for name, info in json.loads(text).items():
            if name != "__metadata__":
                first, last = info["data_offsets"]
                shape = tuple(info["shape"])
                if not all(type(number) is int for number in (first, last, *shape)):
                    raise TypeError(_("{name} has an offset or a size that is not a whole number").format(name=name))
                if not 0 <= first <= last:
                    raise ValueError(_("{name} ends before it begins").format(name=name))
                entries[name] = Entry(path, str(info["dtype"]), shape, begin + first, last - first)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenHeader(f"{type(error).__name__}: {error}", size) from None
    return Header(entries, begin, size)
