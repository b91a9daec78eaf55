"""Makes reference.json: what llama.cpp itself makes of the folders in small.py, by its own llama_model_quantize.

    npm pack @node-llama-cpp/linux-x64@3.22.1 && tar xzf node-llama-cpp-linux-x64-3.22.1.tgz
    python -m tests.unit.finetune.export.make_reference package/bins/linux-x64 0.5.0

That package holds llama.cpp's library as its release built it. The tests read reference.json alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from gguf import GGUFReader, LlamaFileType

from tests.unit.finetune.export import small

# (hidden, inner, layers, tied). 256 takes K-quants; 192, 96, 48 take what stands in for them; 28 layers are 7B's.
SHAPES = {
    "28 layers": (256, 256, 28, False),
    "tied": (256, 512, 9, True),
    "192": (192, 576, 4, False),
    "tied 192": (192, 256, 3, True),
    "48": (48, 96, 2, False),
}
QUANTS = {
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
    "q5_k_m": LlamaFileType.MOSTLY_Q5_K_M,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}


class Params(ctypes.Structure):
    """llama_model_quantize_params: threads, file type, and the rest as llama.cpp has it."""

    _fields_ = [("number", ctypes.c_int32 * 64)]


def contents(path: Path) -> dict[str, Any]:
    """The tensors of a file by their types, and the sum of all their bytes in the order of their names."""
    total, kinds = hashlib.sha256(), {}
    for each in sorted(GGUFReader(path).tensors, key=lambda tensor: tensor.name):
        total.update(each.data.tobytes())
        kinds.setdefault(each.tensor_type.name, []).append(each.name)
    return {"kinds": kinds, "sha256": total.hexdigest(), "bytes": path.stat().st_size}


def main(folder: Path, version: str) -> None:
    for name in ("libggml-base.so", f"libggml.v{version}.so"):
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    llama = ctypes.CDLL(str(folder / f"libllama.v{version}.so"))
    llama.llama_model_quantize_default_params.restype = Params
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]
    found: dict[str, dict[str, Any]] = {}
    for shape, sizes in SHAPES.items():
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            source = small.write(small.folder(place / "model", *sizes), "f16", place / "f16.gguf")
            for quant, number in QUANTS.items():
                params = llama.llama_model_quantize_default_params()
                params.number[0], params.number[1] = 2, int(number)
                out = place / f"{quant}.gguf"
                assert llama.llama_model_quantize(bytes(source), bytes(out), ctypes.byref(params)) == 0
                found.setdefault(shape, {})[quant] = contents(out)
    rows = {"llama.cpp": version, "shapes": found}
    Path(__file__).with_name("reference.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
