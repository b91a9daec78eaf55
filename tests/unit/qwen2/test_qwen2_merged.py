"""A merged model's files against PEFT's own merge, and the base's layout kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qwen2 import merged
from qwen2.model import Model
from tests.unit.qwen2.tiny import make_tiny, random_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base in four bfloat16 shards."""
    return make_tiny(tmp_path_factory.mktemp("base"))


def test_the_merged_files_are_the_base_s_with_s_b_a_added_and_rounded_once(base: Path, tmp_path: Path) -> None:
    model = Model.load(base, "cpu", torch.float32)
    adapter = random_adapter(base, ["q_proj", "v_proj", "down_proj"], 0.3)
    assert merged.is_writable_alike(base)
    merged.fold(model, adapter)
    merged.save_like(base, model, tmp_path / "out")
    shards = [path.name for path in sorted(base.glob("*.safetensors"))]
    assert len(shards) == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*shards, merged.INDEX])
    deltas = dict(adapter.named())
    changed = 0
    for file in shards:
        with safe_open(base / file, "pt") as before, safe_open(tmp_path / "out" / file, "pt") as after:
            assert list(before.keys()) == list(after.keys()) and before.metadata() == after.metadata()
            for name in before.keys():  # noqa: SIM118 - no mapping
                wanted = before.get_tensor(name)
                key = f"base_model.model.{name.removesuffix('.weight')}"
                if f"{key}.lora_A.weight" in deltas:
                    a, b = (deltas[f"{key}.lora_{part}.weight"] for part in "AB")
                    wanted = (wanted.float() + adapter.scaling * b @ a).to(torch.bfloat16)
                    changed += 1
                torch.testing.assert_close(after.get_tensor(name), wanted, rtol=2**-8, atol=1e-6)
    assert changed == 3 * model.config.num_layers
    shutil.copy(base / "config.json", tmp_path / "out")
    again = Model.load(tmp_path / "out", "cpu", torch.float32).checkpoint_tensors()
    for name, tensor in model.checkpoint_tensors().items():
        torch.testing.assert_close(again[name], tensor, rtol=2**-8, atol=1e-6)


def test_other_bases_are_left_to_ms_swift(base: Path, tmp_path: Path) -> None:
    other = make_tiny(tmp_path / "float32")
    for file in other.glob("*.safetensors"):
        save_file({name: value.float() for name, value in load_file(file).items()}, file)
    assert not merged.is_writable_alike(other)
    assert not merged.is_writable_alike(tmp_path)
