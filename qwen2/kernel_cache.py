"""Triton's cache in two layers: kernels compiled when the image was built (read-only), then Triton's own folder.

ops_triton enables it; image/compile_kernels.py fills the first layer. Kernels that it lacks (for another GPU or
another model's shape) are compiled into TRITON_CACHE_DIR as usual. A checkout without a first layer uses that alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from triton import knobs
from triton.runtime.cache import CacheManager, FileCacheManager

COMPILED = Path(__file__).resolve().parent / "compiled"  # a folder per key, as Triton writes them
VERSIONS = "ptxas-version"  # file in COMPILED; its content is part of every key there


class LayeredCache(CacheManager):
    """One key's files: read from COMPILED if present there; everything else is left to Triton's FileCacheManager.

    Triton's folder is neither created nor read before it is needed: the first layer alone needs no writable disk.
    """

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        self._built = None if override or dump else COMPILED / key
        self._arguments = (key, override, dump)
        self._made: FileCacheManager | None = None

    @property
    def _own(self) -> FileCacheManager:
        if self._made is None:
            self._made = FileCacheManager(*self._arguments)
        return self._made

    def get_file(self, filename: str) -> str | None:
        """The file's path, or None."""
        if self._built is not None and (self._built / filename).is_file():
            return str(self._built / filename)
        return self._own.get_file(filename)

    def get_group(self, filename: str) -> dict[str, str] | None:
        """Files that belong together, by name; None if there is no such group.

        Triton stores absolute paths in a group. In the first layer only their names count, so the folder may move.
        """
        if self._built is not None and (self._built / f"__grp__{filename}").is_file():
            group = json.loads((self._built / f"__grp__{filename}").read_text(encoding="utf-8"))
            return {name: str(self._built / name) for name in group["child_paths"]}
        return self._own.get_group(filename)

    def put(self, data: bytes | str, filename: str, binary: bool = True) -> str:
        """Store a file in Triton's folder; returns its path."""
        return self._own.put(data, filename, binary)

    def put_group(self, filename: str, group: dict[str, str]) -> str:
        """Store a group in Triton's folder."""
        return self._own.put_group(filename, group)


def use() -> None:
    """Put the first layer in front of Triton's cache, for this process and the processes that inherit its environment.

    Does nothing if there is no first layer. A key contains the output of `ptxas --version`; the file VERSIONS supplies
    it, so looking up a kernel neither starts nor needs a compiler.
    """
    versions = COMPILED / VERSIONS
    if versions.is_file():
        knobs.cache.manager_class = LayeredCache
        knobs.nvidia.mock_ptx_version = versions.read_text(encoding="utf-8")
