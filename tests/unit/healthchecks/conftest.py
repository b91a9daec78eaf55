"""A tiny whole model folder (official tokenizer, random weights) for the health-check tests, and a STUB of NVML."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import shutil
import struct
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from healthchecks.checks.weights import expected_tensors
from healthchecks.context import Context

REPOSITORY = Path(__file__).resolve().parents[3]
OFFICIAL = REPOSITORY / "standin" / "official"

TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def write_shard(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """A safetensors file by hand, so that broken ones can be written as well: name -> (dtype, shape, data)."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(data for _, _, data in tensors.values()))


def read_shard(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The reverse of write_shard."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    result = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        begin, stop = (8 + length + offset for offset in entry["data_offsets"])
        result[name] = (entry["dtype"], tuple(entry["shape"]), data[begin:stop])
    return result


def make_model(folder: Path, tokenizer: Path) -> None:
    """A whole model folder: the shape of TINY, two bf16 shards of random weights, an index and its own SHA256SUMS."""
    folder.mkdir(parents=True)
    config = json.loads((OFFICIAL / "config.json").read_text(encoding="utf-8")) | TINY | {"mirror_standin": True}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(tokenizer / name)
    (folder / "generation_config.json").symlink_to(OFFICIAL / "generation_config.json")
    shapes = expected_tensors(config)
    names = sorted(shapes)
    draw = random.Random(0)
    # The high bytes 0x3c and 0xbc are +-0.01 in bf16; the low byte may be anything.
    noise = bytes(b for _ in range(1 << 16) for b in (draw.randrange(256), draw.choice((0x3C, 0xBC))))
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        tensors = {}
        for name in part:
            count = 2
            for size in shapes[name]:
                count *= size
            tensors[name] = ("BF16", shapes[name], (noise * (count // len(noise) + 1))[:count])
            weight_map[name] = file
        write_shard(folder / file, tensors)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def whole_model(tmp_path_factory: pytest.TempPathFactory, official_tokenizer_dir: Path) -> Path:
    """A whole tiny model, made once; tests that damage one take `model`."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_model(folder, official_tokenizer_dir)
    return folder


@pytest.fixture
def model(tmp_path: Path, whole_model: Path) -> Path:
    """A copy of the whole model that a test may damage."""
    return Path(shutil.copytree(whole_model, tmp_path / "model"))


@pytest.fixture
def context(tmp_path: Path, whole_model: Path) -> Context:
    """Settings for a healthy machine without a GPU, on the whole model."""
    shm = tmp_path / "shm"
    shm.mkdir()
    return Context(
        model_dir=whole_model,
        output_dir=tmp_path / "output",
        lock_file=tmp_path / "image.lock",
        official_sums=REPOSITORY / "weights" / "SHA256SUMS",
        system_root=tmp_path,
    )


@pytest.fixture
def gpu_context(context: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    """The same with a STUB of NVML in place of a GPU; `context.nvml()` is the stub, healthy until a test changes it.

    The torch of the test machine may have no CUDA, so the version that it was built for is given.
    """
    stub = load_stub().StubNvml()
    context.nvml = lambda: stub
    monkeypatch.setattr("healthchecks.checks.driver.torch_cuda_version", lambda: "12.8")
    return context


def load_stub() -> ModuleType:
    """The module stub_nvml beside this file (pytest's importlib mode puts no test folder on the path)."""
    spec = importlib.util.spec_from_file_location("stub_nvml", Path(__file__).with_name("stub_nvml.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stub_nvml() -> ModuleType:
    """The module with the STUB of NVML."""
    return load_stub()


@pytest.fixture
def shards() -> SimpleNamespace:
    """`read(path)` and `write(path, tensors)` of a safetensors file, tensor by tensor as (dtype, shape, bytes)."""
    return SimpleNamespace(read=read_shard, write=write_shard)
