"""The weights in a file are those of a file that llama.cpp quantized itself, type by type and byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.finetune.export import small
from tests.unit.finetune.export.make_reference import QUANTS, SHAPES, contents

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text())["shapes"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_tensor_is_as_llama_cpp_quantizes_it(shape, tmp_path):
    model = small.folder(tmp_path / "model", *SHAPES[shape])
    for quant in QUANTS:
        found = contents(small.write(model, quant, tmp_path / f"{quant}.gguf"))
        assert found["kinds"] == REFERENCE[shape][quant]["kinds"], quant
        assert found == REFERENCE[shape][quant], quant


def test_seven_b_s_file_has_the_size_that_is_published_for_it():
    """Q4_K_M of Qwen2.5-7B-Instruct, as its makers quantized it with llama.cpp, is 4.68 GB of 7.62 billion weights."""
    from finetune.export.mixture import Mixture, row_bytes
    from qwen2.config import Sizes

    sizes = Sizes(3584, 18944, 28, 28, 4, 128, 152064, tie_embeddings=False)
    mixture, total = Mixture("q4_k_m", 28, False), 0
    for name, shape in sizes.tensor_shapes().items():
        kind = mixture.kind(_gguf_name(name), shape)
        total += (shape[0] if len(shape) > 1 else 1) * row_bytes(kind, shape[-1])
    assert 4.67e9 < total < 4.69e9


def _gguf_name(name: str) -> str:
    from gguf import MODEL_ARCH, get_tensor_name_map

    stem, _, kind = name.rpartition(".")
    return f"{get_tensor_name_map(MODEL_ARCH.QWEN2, 28).get_name(stem)}.{kind}"
