"""Where a base is merged: on the GPU only where it has room, and the ceiling allows it."""

from __future__ import annotations

import pytest

from finetune.merge import resources

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "weights", "ceiling", "device", "why"),
    [
        (79, 14.2, 22, "cuda", "79.0 GiB of GPU memory are free"),
        (79, 27.5, 22, "cpu", "VRAM_CEILING_GIB=22 is below the 31.2 GiB that merging on a GPU needs"),
        (79, 27.5, 0, "cuda", "79.0 GiB"),
        (10, 14.2, 22, "cpu", "10.0 GiB of GPU memory are free; merging there needs 16.6 GiB"),
    ],
)
def test_the_ceiling_counts_as_the_free_memory_does(
    monkeypatch: pytest.MonkeyPatch, free: float, weights: float, ceiling: float, device: str, why: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (int(free * GIB), 80 * GIB))
    found = resources.choose_device(False, int(weights * GIB), ceiling)
    assert found[0] == device and why in found[1]
