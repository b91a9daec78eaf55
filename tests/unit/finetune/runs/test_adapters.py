"""One set of checks for the adapter that infer, serve, verify and merge are asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common import sha256sums
from common.errors import UserError
from common.settings import Settings
from finetune.commands import infer, merge, serve, verify
from finetune.engines.swift import launcher as swift_launcher
from finetune.runs import adapters
from qwen2 import adapter_config
from qwen2.lora import Adapter
from qwen2.model import Model
from tests.unit.qwen2.tiny import make_tiny, random_adapter

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A tiny random base."""
    folder = tmp_path_factory.mktemp("tiny") / "Qwen2.5-7B-Instruct"
    folder.mkdir()
    make_tiny(folder)
    return folder


@pytest.fixture
def base(mirror, tiny) -> Path:
    """The base of the mirror, with sums."""
    folder = mirror / "Qwen2.5-7B-Instruct"
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / "SHA256SUMS").write_text("one  model.safetensors\n")
    return folder


@pytest.fixture
def adapter(mirror, base) -> Path:
    """A run's checkpoint that fits the base."""
    folder = mirror / "output/run-1/checkpoint-7"
    random_adapter(base, ["q_proj", "down_proj"], 0.5).save(folder)
    record = {"number": 1, "weights": {"path": "/there", "sha256sums": sha256sums.digest(base / "SHA256SUMS")}}
    (folder.parent / "run.json").write_text(json.dumps(record))
    return folder


def settings(folder: Path, **changes: object) -> None:
    """Change adapter_config.json."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename(folder: Path, change: Callable[[str], str]) -> None:
    """Give the weights other keys."""
    tensors = load_file(folder / WEIGHTS)
    save_file({change(key): value for key, value in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})


def as_bin(folder: Path) -> None:
    """The same weights in PEFT's older file."""
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def cut_layer(folder: Path) -> None:
    tensors = {key: value for key, value in load_file(folder / WEIGHTS).items() if ".layers.1." not in key}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    key = next(key for key in tensors if "q_proj.lora_A" in key)
    save_file(tensors | {key: torch.zeros(4, 32)}, folder / WEIGHTS, metadata={"format": "pt"})


def other_base(folder: Path) -> None:
    (folder.parents[2] / "Qwen2.5-7B-Instruct/SHA256SUMS").write_text("two  model.safetensors\n")


FAULTS = {
    "another prefix": (
        lambda folder: rename(folder, lambda key: key.replace("model.layers", "model.language_model.layers")),
        r"language_model\S* fits no part of this base",
    ),
    "no prefix": (lambda folder: rename(folder, lambda key: key.removeprefix("base_model.model.")), "fits no part"),
    "the adapter's name in the keys": (
        lambda folder: rename(folder, lambda key: key.replace(".weight", ".default.weight")),
        "PEFT skips keys with `.default`",
    ),
    "more layers than the base has": (
        lambda folder: rename(folder, lambda key: key.replace("layers.1", "layers.9")),
        "fits no part",
    ),
    "a layer less": (cut_layer, r"layers.1.\S+ is missing \(2 linears are\)"),
    "another shape": (other_shape, r"another shape: \S+ has shape \[4, 32\], this base and its rank need \[4, 64\]"),
    "another rank": (lambda folder: settings(folder, r=8), "another shape"),
    "no rank": (lambda folder: settings(folder, r=None), "r is missing or not a number"),
    "other weights": (other_base, "trained on other weights than"),
    "no LoRA": (lambda folder: settings(folder, peft_type="LOHA"), "peft_type LOHA; only LoRA adapters"),
    "half a file": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
        "incomplete checkpoint",
    ),
}
ASKERS: dict[str, Callable[[Path, Path, Path], object]] = {
    "infer": lambda mirror, base, adapter: infer.main(
        ["--config", str(mirror / "infer.yaml"), "--adapter", str(adapter), "q"]
    ),
    "serve": lambda mirror, base, adapter: serve.main(
        ["--config", str(mirror / "infer.yaml"), "--adapter", str(adapter)]
    ),
    "merge": lambda mirror, base, adapter: merge.main([str(adapter)]),
    "merge, unchecked": lambda mirror, base, adapter: merge.main([str(adapter), "--no-check"]),
    "verify": lambda mirror, base, adapter: verify.main([str(adapter)]),
}


class Found(Exception):
    """The adapter was found, and it fits: what is loaded after that is not of this test."""


@pytest.mark.parametrize("asker", ASKERS)
@pytest.mark.parametrize(
    "name", ["newest", "run-1", "run-1/checkpoint-7", "/home/me/out/run-1", "../out/run-1/checkpoint-7", "{inner}"]
)
def test_an_adapter_has_the_same_names_in_every_verb(name, asker, mirror, base, adapter, monkeypatch):
    """Newest, a run's name, and paths of the host below its output folder, absolute and relative."""
    monkeypatch.setenv("MIRROR_HOST_OUTPUT", "/home/me/out")
    monkeypatch.setenv("MIRROR_HOST_DIR", "/home/me/mirror")
    (mirror / "infer.yaml").write_text("temperature: 0\n")

    def stop(path: Path, model_dir: Path) -> None:
        assert path == adapter
        raise Found

    monkeypatch.setattr(adapters, "require_fit", stop)
    with pytest.raises(Found):
        ASKERS[asker](mirror, base, name.format(inner=adapter))


@pytest.mark.parametrize("asker", ASKERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_verb_refuses_an_adapter_that_does_not_fit(fault, asker, mirror, base, adapter, monkeypatch):
    damage, says = FAULTS[fault]
    damage(adapter)
    (mirror / "infer.yaml").write_text("temperature: 0\n")
    monkeypatch.setattr("finetune.runs.gpu_lock.run", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=says) as refused:
        ASKERS[asker](mirror, base, adapter)
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)


def test_a_base_in_another_place_is_told_by_its_sums(mirror, base, adapter):
    other = mirror / "elsewhere/Qwen2.5-7B-Instruct"
    shutil.copytree(base, other)
    assert adapters.find(adapter, mirror / "output", other) == adapter
    (other / "SHA256SUMS").write_text("changed  model.safetensors\n")
    with pytest.raises(UserError, match=rf"trained on other weights than {other}"):
        adapters.find("newest", mirror / "output", other)


def test_newest_a_run_and_a_checkpoint(mirror, base, adapter, capsys):
    for name in ("newest", adapter, adapter.parent, str(adapter)):
        assert adapters.find(name, mirror / "output", base) == adapter
    assert capsys.readouterr().err == f"adapter: {adapter}\n"
    with pytest.raises(UserError, match="no such adapter"):
        adapters.find("nowhere", mirror / "output", base)
    with pytest.raises(UserError, match="a full model, not an adapter"):
        adapters.find(base, mirror / "output", base)


def test_a_base_of_several_parts_is_not_compared(base, adapter, mirror):
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["Qwen2VLForConditionalGeneration"]}))
    rename(adapter, lambda key: key.replace("model.layers", "model.language_model.layers"))
    assert adapters.find(adapter, mirror / "output", base) == adapter


def test_a_bin_loads_as_safetensors_does(mirror, base, adapter):
    whole = adapter.with_name("checkpoint-8")
    shutil.copytree(adapter, whole)
    as_bin(adapter)
    assert adapters.find(adapter, mirror / "output", base) == adapter
    model = Model.load(base, "cpu", torch.float32)
    one, two = (Adapter.load(folder, model).flat for folder in (adapter, whole))
    assert torch.equal(one, two) and one.any()


@pytest.mark.parametrize("content", [b"\x80\x04N.", b"PK\x03\x04 cut"])
def test_a_bin_that_cannot_be_read_safely_names_the_conversion(mirror, base, adapter, content):
    (adapter / WEIGHTS).unlink()
    (adapter / "adapter_model.bin").write_bytes(content)
    with pytest.raises(UserError, match="save it as adapter_model"):
        adapters.find(adapter, mirror / "output", base)


class Evil:
    """Pickled, it would run a command when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('ran')",)


def test_no_code_of_a_bin_is_run(mirror, base, adapter):
    (adapter / WEIGHTS).unlink()
    torch.save({"weight": Evil()}, adapter / "adapter_model.bin")
    with pytest.raises(UserError, match="cannot be read without running code"):
        adapters.find(adapter, mirror / "output", base)


KINDS = {
    "DoRA": {"use_dora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "bias": {"bias": "lora_only"},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_lora_is_refused_with_a_way_where_it_is_not_computed(kind, mirror, base, adapter, monkeypatch):
    settings(adapter, **KINDS[kind])
    (mirror / "infer.yaml").write_text("temperature: 0\n")
    reached = []
    monkeypatch.setattr("finetune.runs.gpu_lock.run", lambda *_: reached.append(1) or 1)
    for asker, remedy in (
        ("verify", "infer.sh --adapter"),
        ("merge", "--no-check"),
        ("serve", "merge.sh DIR --no-check, then serve.sh --model"),
    ):
        with pytest.raises(UserError, match=remedy) as refused:
            ASKERS[asker](mirror, base, adapter)
        assert "ENGINE" not in str(refused.value)
    assert not reached
    for asker in ("infer", "merge, unchecked"):
        with pytest.raises(UserError, match="ended with exit code 1"):  # the stub's
            ASKERS[asker](mirror, base, adapter)
    assert len(reached) == 2


def test_the_plain_lora_that_ms_swift_left_of_a_pissa_run_is_taken(mirror, base, adapter, capsys):
    shutil.copytree(adapter, adapter_config.converted(adapter))
    settings(adapter, init_lora_weights="pissa")
    assert adapters.find("newest", mirror / "output", base) == adapter / "converted/default"
    assert "began as pissa: taking" in capsys.readouterr().err
    settings(adapter, init_lora_weights=True)
    assert adapters.find("newest", mirror / "output", base) == adapter


def test_the_system_prompt_of_a_converted_one_is_its_runs(adapter):
    from finetune.verify import runinfo

    shutil.copytree(adapter, adapter_config.converted(adapter))
    (adapter / "args.json").write_text('{"system": "Be brief."}')
    assert runinfo.of_adapter(adapter_config.converted(adapter)).system == "Be brief."


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_alphas_of_their_own_are_computed_as_peft_computes_them(base, tmp_path, rslora):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "up_proj"],
        rank_pattern={"up_proj": 2, "layers.1.self_attn.q_proj": 6},
        alpha_pattern={"q_proj": 3},
        layers_to_transform=[1],
        use_rslora=rslora,
    )
    peft = get_peft_model(plain, config)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    peft.save_pretrained(tmp_path / "a")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = fresh(ids).logits
    expected = PeftModel.from_pretrained(fresh, tmp_path / "a")(ids).logits
    assert (expected - before).abs().max() > 0.1
    assert adapters.find(tmp_path / "a", tmp_path, base) == tmp_path / "a"
    model = Model.load(base, "cpu", torch.float32)
    logits = model.forward(ids, Adapter.load(tmp_path / "a", model))
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "command", ["infer", "sft --dataset self_cognition.json", "deploy", "export --merge_lora true"]
)
@pytest.mark.parametrize("fault", ["another prefix", "another shape", "other weights"])
def test_the_launcher_of_ms_swift_refuses_it_too(fault, command, base, adapter, dataset):
    damage, says = FAULTS[fault]
    line = [*command.split(), "--model", str(base), "--adapters", str(adapter)]
    swift_launcher.prepare(line, Settings.from_env())
    damage(adapter)
    with pytest.raises(UserError, match=says):
        swift_launcher.prepare(line, Settings.from_env())


def test_training_on_from_a_checkpoint_of_the_fast_lane_names_the_way(base, adapter, dataset):
    line = ["sft", "--model", str(base), "--dataset", str(dataset), "--resume_only_model", "true"]
    line += ["--resume_from_checkpoint", str(adapter)]
    (adapter / "trainer_state.json").write_text('{"global_step": 7}')
    swift_launcher.prepare(line, Settings.from_env())  # ms-swift's own
    (adapter / "trainer_state.json").write_text('{"global_step": 7, "engine": "fast"}')
    with pytest.raises(UserError, match=rf"--adapters {adapter} starts from its weights") as refused:
        swift_launcher.prepare(line, Settings.from_env())
    assert refused.value.exit_code == 2
