"""The shapes that a config asks for are in one place, and one module of ours reads the header of a safetensors file."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qwen2 import safetensors_header
from qwen2.config import Config
from qwen2.model import Model
from qwen2.safetensors_header import BrokenHeader

ROOT = Path(__file__).parents[3]
SMALL = Config(32, 48, 2, 4, 2, 8, 64, False, 128, 1e-6, 1e4, (1,), 0)


def test_the_shapes_are_those_of_the_model():
    held = Model(SMALL, torch.device("cpu"), torch.float32).checkpoint_tensors()
    assert SMALL.tensor_shapes() == {name: tuple(tensor.shape) for name, tensor in held.items()}


def test_the_linears_weigh_what_their_shapes_say():
    shapes = {name: shape for name, shape in SMALL.tensor_shapes().items() if name.endswith("proj.weight")}
    assert SMALL.linear_parameters == sum(outputs * inputs for outputs, inputs in shapes.values())


def test_one_module_of_ours_reads_heads():
    product = [path for path in ROOT.glob("*/**/*.py") if path.relative_to(ROOT).parts[0] not in ("tests", ".venv")]
    assert len(product) > 100
    readers = [path for path in product if re.search(r"unpack\(.<Q.|data_offsets", path.read_text(encoding="utf-8"))]
    assert [str(path.relative_to(ROOT)) for path in readers] == ["qwen2/safetensors_header.py"]


def test_offsets_are_those_of_the_bytes(tmp_path):
    tensors = {"a": torch.arange(6, dtype=torch.float32).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header, data = safetensors_header.read(tmp_path / "x.safetensors"), (tmp_path / "x.safetensors").read_bytes()
    assert header.size == header.end == len(data) and set(header.entries) == {"a", "b"}
    entry = header.entries["a"]
    assert struct.unpack("<6f", data[entry.offset : entry.offset + entry.nbytes]) == tuple(range(6))
    assert (entry.dtype, entry.shape) == ("F32", (2, 3))


@pytest.mark.parametrize("data", [b"", b"1234567", struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", 9) + b"{}"])
def test_a_file_that_ends_in_its_head_is_cut(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BrokenHeader) as caught:
        safetensors_header.read(tmp_path / "x")
    assert caught.value.is_cut and caught.value.size == len(data)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [float("inf"), 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}},
        {"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
    ],
)
def test_what_is_no_head_is_broken_not_cut(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(BrokenHeader) as caught:
        safetensors_header.read(tmp_path / "x")
    assert not caught.value.is_cut
