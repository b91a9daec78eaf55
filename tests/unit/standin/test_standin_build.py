"""A few training steps show that a build is whole, loadable, and the same twice; quality is shown in tests/flow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import sha256sums
from common.model_kind import STANDIN, kind_of
from standin import build
from standin.tokenizer import SUMS


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    out = tmp_path_factory.mktemp("standin")
    assert build.main(["--out", str(out), "--steps", "3"]) == 0
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    return out


def test_the_folder_has_the_official_files_and_its_own_sums(built: Path) -> None:
    official = set(sha256sums.read(SUMS))
    assert len(official) == 12
    assert {path.name for path in built.iterdir()} == official | {"SHA256SUMS"}
    sums = sha256sums.read(built / "SHA256SUMS")
    assert set(sums) == official
    assert all(sha256sums.digest(built / name) == digest for name, digest in sums.items())
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in built.iterdir())


def test_it_says_that_it_is_a_stand_in(built: Path) -> None:
    assert kind_of(built) is STANDIN


def test_transformers_loads_it(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(built, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(built)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert len(tokenizer) == 151665
    ids = tokenizer("你是谁?", return_tensors="pt")["input_ids"]
    logits = model(input_ids=ids).logits
    assert logits.shape == (1, ids.shape[1], 152064)
    assert torch.isfinite(logits).all()


def test_shards_hold_every_tensor_once(built: Path) -> None:
    from safetensors import safe_open

    index = json.loads((built / "model.safetensors.index.json").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    size = 0
    for file in sorted(built.glob("model-*.safetensors")):
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 (not a dict)
                assert name not in found
                found[name] = file.name
                tensor = shard.get_tensor(name)
                assert tensor.dtype == torch.bfloat16
                size += tensor.numel() * 2
    assert found == index["weight_map"]
    assert size == index["metadata"]["total_size"]
    assert len(set(found.values())) == 4


def test_two_builds_are_the_same(built: Path, tmp_path: Path) -> None:
    assert build.main(["--out", str(tmp_path), "--steps", "3"]) == 0
    assert (tmp_path / "SHA256SUMS").read_text() == (built / "SHA256SUMS").read_text()


def test_unusable_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--out", str(tmp_path / "x"), "--steps", "0"]) == 2
    assert build.main(["--out", str(tmp_path / "y"), "--steps", "1", "--workspace", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)
