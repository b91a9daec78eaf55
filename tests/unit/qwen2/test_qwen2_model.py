"""Config, weights, model and LoRA on the CPU, held to transformers and peft."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen2.config import PROJECTIONS, Config
from qwen2.lora import Adapter
from qwen2.model import Model, _beside
from tests.unit.qwen2.tiny import EOS, copy_dir, ids


@pytest.fixture
def peft_adapter(tiny_dir: Path, tmp_path: Path) -> Any:
    """A function that makes a peft adapter with random B and returns (folder, logits of given ids)."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2ForCausalLM

    def make(targets: list[str], rank: int, **more: Any) -> tuple[Path, torch.Tensor]:
        base = Qwen2ForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
        settings = LoraConfig(r=rank, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM", **more)
        model = get_peft_model(base, settings).eval()
        torch.manual_seed(3)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.05)
            logits = model(input_ids=ids()).logits
        model.save_pretrained(tmp_path / "peft")
        return tmp_path / "peft", logits

    return make


def test_logits_equal_transformers_in_float32(tiny_model: Model, reference: Any) -> None:
    with torch.no_grad():
        wanted = reference(input_ids=ids()).logits
    torch.testing.assert_close(tiny_model.forward(ids()), wanted, atol=1e-4, rtol=1e-4)


def test_logits_equal_transformers_in_bfloat16_within_rounding(tiny_dir: Path, reference: Any) -> None:
    from transformers import Qwen2ForCausalLM

    with torch.no_grad():
        truth = reference(input_ids=ids()).logits
        theirs = Qwen2ForCausalLM.from_pretrained(tiny_dir, dtype=torch.bfloat16)(input_ids=ids()).logits
    ours = Model.load(tiny_dir, "cpu", torch.bfloat16).forward(ids())
    assert ours.dtype == torch.bfloat16
    error, their_error = (ours.float() - truth).norm() / truth.norm(), (theirs.float() - truth).norm() / truth.norm()
    assert error < 1.2 * their_error
    assert error < 2e-2


@pytest.mark.parametrize(
    ("targets", "rank", "rslora"),
    [
        (list(PROJECTIONS), 8, False),
        (["q_proj", "v_proj"], 5, False),
        (["up_proj", "o_proj"], 20, True),
        (["down_proj"], 1, False),
    ],
)
def test_peft_adapter_gives_peft_logits_on_off_and_after_saving(
    peft_adapter: Any, tiny_model: Model, reference: Any, tmp_path: Path, targets: list[str], rank: int, rslora: bool
) -> None:
    folder, wanted = peft_adapter(targets, rank, use_rslora=rslora)
    bare = tiny_model.forward(ids())
    adapter = Adapter.load(folder, tiny_model)
    assert (wanted - bare).norm() / bare.norm() > 1e-2, "the adapter must matter, or the test shows nothing"
    torch.testing.assert_close(tiny_model.forward(ids(), adapter), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tiny_model.forward(ids()), bare, atol=1e-6, rtol=0)
    adapter.save(tmp_path / "again")
    again, theirs = (load_file(p / "adapter_model.safetensors") for p in (tmp_path / "again", folder))
    assert again.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(again[name], value.float()), name


def test_saved_adapter_is_loaded_by_peft(tiny_dir: Path, tiny_model: Model, reference: Any, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import Qwen2ForCausalLM

    adapter = Adapter(tiny_model.config, 8, 32)
    adapter.initialize(1)
    adapter.flat += torch.randn(adapter.flat.shape, generator=torch.Generator().manual_seed(2)) * 0.02
    for layer in range(tiny_model.config.num_layers):  # what pads A must stay zero
        for group in adapter.layout.groups:
            adapter.a(layer, group)[8 * len(adapter.layout.groups[group]) :] = 0
    adapter.touch()
    adapter.save(tmp_path)
    base = Qwen2ForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        wanted = model(input_ids=ids()).logits
    torch.testing.assert_close(tiny_model.forward(ids(), adapter), wanted, atol=1e-4, rtol=1e-4)


def test_two_adapters_take_turns(tiny_model: Model) -> None:
    adapters = [Adapter(tiny_model.config, rank, 16, targets) for rank, targets in ((4, PROJECTIONS), (24, ["q_proj"]))]
    for seed, adapter in enumerate(adapters):
        adapter.initialize(seed)
        for name, view in adapter.named():
            if "lora_B" in name:
                view.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
        adapter.touch()
    first, second = (tiny_model.forward(ids(), adapter) for adapter in adapters)
    assert not torch.allclose(first, second)
    assert torch.equal(tiny_model.forward(ids(), adapters[0]), first)
    adapters[0].flat.zero_()
    adapters[0].touch()
    torch.testing.assert_close(tiny_model.forward(ids(), adapters[0]), tiny_model.forward(ids()), atol=1e-5, rtol=1e-5)


def test_initialisation_has_pefts_distribution(tiny_model: Model) -> None:
    adapter = Adapter(tiny_model.config, 8, 32)
    adapter.initialize(5)
    views = dict(adapter.named())
    a = torch.cat([v.flatten() for n, v in views.items() if "q_proj.lora_A" in n])
    assert a.abs().max() <= 1 / 8 and a.abs().max() > 0.12 and abs(a.mean()) < 0.01  # 1/sqrt(64)
    assert all(not v.any() for n, v in views.items() if "lora_B" in n)
    assert adapter.num_parameters == sum(v.numel() for v in views.values())
    other = Adapter(tiny_model.config, 8, 32)
    other.initialize(5)
    assert torch.equal(adapter.flat, other.flat)


def test_an_answer_of_a_model_before_instruct_ends_at_im_end_too(tiny_dir: Path, tmp_path: Path) -> None:
    """Qwen2.5-7B names <|endoftext|> alone; trained on chats it ends with <|im_end|>, as ms-swift's template does."""
    folder = copy_dir(tiny_dir, tmp_path / "base")
    (folder / "generation_config.json").write_text('{"eos_token_id": 9}')
    tokens = {"8": {"content": "<|im_start|>"}, "11": {"content": "<|im_end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens}))
    config = Config.from_dir(folder)
    assert config.eos_ids == (9, 11)
    (folder / "generation_config.json").write_text('{"eos_token_id": [11, 9]}')
    assert Config.from_dir(folder).eos_ids == (11, 9)


def test_config_reads_both_places_of_rope_theta(tiny_dir: Path, tmp_path: Path) -> None:
    raw = json.loads((tiny_dir / "config.json").read_text())
    raw.pop("rope_theta", None)
    for change in ({"rope_parameters": {"rope_theta": 123.0, "rope_type": "default"}}, {"rope_theta": 123.0}):
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if "rope" not in k} | change))
        config = Config.from_dir(tmp_path)
        assert config.rope_theta == 123.0
        assert config.eos_ids == (7,)
    assert Config.from_dir(tiny_dir).eos_ids == tuple(EOS)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"architectures": ["Qwen2ForSequenceClassification"]},
        {"use_sliding_window": True},
        {"quantization_config": {"bits": 4}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}},
        {"hidden_act": "gelu"},
        {"hidden_size": None},
        {"num_key_value_heads": 3},
    ],
)
def test_config_rejects_what_it_does_not_compute(tiny_dir: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    raw = json.loads((tiny_dir / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"config\.json|Qwen2ForCausalLM"):
        Config.from_dir(tmp_path)


ABSURD: list[dict[str, Any]] = [
    {name: value}
    for name in (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("head_dim", "vocab_size", "max_position_embeddings"),
    )
    for value in (0, -1, 1.5, "x", [], {}, True, float("nan"), float("inf"), 10**30)
] + [
    {"num_attention_heads": 0, "num_key_value_heads": 0},
    {"rope_parameters": [1]},
    {"rope_parameters": "yarn"},
    {"rope_parameters": {"rope_theta": [1]}},
    {"rope_scaling": [1, 2]},
    {"rope_theta": 0},
    {"rope_theta": float("inf")},
    {"rms_norm_eps": -1},
    {"rms_norm_eps": "small"},
    {"eos_token_id": "x"},
    {"eos_token_id": [1, None]},
    {"eos_token_id": -1},
    {"pad_token_id": {}},
    {"architectures": 5},
    {"architectures": [None]},
]


@pytest.mark.parametrize("change", ABSURD, ids=str)
def test_an_absurd_config_is_one_line(tiny_dir: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    raw = json.loads((tiny_dir / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        Config.from_dir(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_config_nested_without_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be read"):
        Config.from_dir(tmp_path)


def test_a_failed_warm_up_is_an_error_of_the_loading(capfd: pytest.CaptureFixture[str]) -> None:
    """What happens beside the reading of the weights must not print a thread's traceback."""

    def fails() -> None:
        raise KeyError("no C compiler\nfor Triton")

    wait = _beside(fails)
    with pytest.raises(RuntimeError, match=r"kernels cannot be prepared .KeyError: .*no C compiler"):
        wait()
    _beside(lambda: None)()

    def full() -> None:
        raise torch.OutOfMemoryError("a stub")

    with pytest.raises(torch.OutOfMemoryError):
        _beside(full)()
    assert capfd.readouterr().err == ""


def test_progress_reaches_the_total(tiny_dir: Path) -> None:
    seen: list[tuple[int, int]] = []
    Model.load(tiny_dir, "cpu", torch.float32, progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] > 100_000
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def rewrite(folder: Path, change: Any) -> None:
    """Load every tensor of the folder, let `change` edit the dict, write it back as one file."""
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    change(tensors)
    save_file(tensors, str(folder / "model.safetensors"))


def test_missing_extra_and_wrong_tensors_are_named(tiny_dir: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    changes = {
        "is missing": lambda t: t.pop(name),
        "does not belong to a": lambda t: t.update({"model.layers.9.mlp.up_proj.weight": torch.zeros(2)}),
        "has shape": lambda t: t.update({name: torch.zeros(96, 65)}),
        "has dtype": lambda t: t.update({name: torch.zeros(96, 64, dtype=torch.int8)}),
    }
    for number, (text, change) in enumerate(changes.items()):
        folder = copy_dir(tiny_dir, tmp_path / str(number))
        rewrite(folder, change)
        with pytest.raises(ValueError, match=text) as caught:
            Model.load(folder, "cpu")
        assert "up_proj" in str(caught.value) and str(folder) in str(caught.value)


def test_broken_files_are_named(tiny_dir: Path, tmp_path: Path) -> None:
    folder = copy_dir(tiny_dir, tmp_path / "cut")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{shard.name}.*past its end"):
        Model.load(folder, "cpu")
    for content in (
        b"",
        b"\x00" * 4,
        struct.pack("<Q", 1 << 40),
        struct.pack("<Q", 4) + b"nope",
        b"<html>not found</html>",
    ):
        shard.write_bytes(content)
        with pytest.raises(ValueError, match="not a complete safetensors file"):
            Model.load(folder, "cpu")
    shard.unlink()
    with pytest.raises(ValueError, match="is missing"):
        Model.load(folder, "cpu")


def test_no_memory_is_taken_for_weights_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = Path(__file__).parents[3] / "standin/official/config.json"
    (tmp_path / "config.json").write_text(official.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(Model, "__init__", lambda *_args, **_more: pytest.fail("28 GB were allocated"))
    with pytest.raises(ValueError, match="the weights are missing"):
        Model.load(tmp_path, "cpu", torch.float32)


def test_other_dtypes_and_tied_heads_load(tiny_dir: Path, tmp_path: Path) -> None:
    from transformers import Qwen2ForCausalLM

    from tests.unit.qwen2.tiny import make_tiny

    folder = copy_dir(tiny_dir, tmp_path / "f32")
    rewrite(folder, lambda t: t.update({k: v.float() for k, v in t.items()}))
    a, b = (Model.load(f, "cpu", torch.float32).forward(ids()) for f in (folder, tiny_dir))
    assert torch.equal(a, b)
    tied = make_tiny(tmp_path / "tied", tie_word_embeddings=True)
    with torch.no_grad():
        wanted = Qwen2ForCausalLM.from_pretrained(tied, dtype=torch.float32)(input_ids=ids()).logits
    torch.testing.assert_close(Model.load(tied, "cpu", torch.float32).forward(ids()), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"rank_pattern": {"q_proj": 4}}, "rank 4 need"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"r": 4}, "shape"),
        ({"r": "x"}, "not a number"),
    ],
)
def test_adapters_that_are_not_computed_are_refused(
    tiny_model: Model, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    Adapter(tiny_model.config, 8, 32).save(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=text):
        Adapter.load(tmp_path, tiny_model)


def test_broken_adapters_are_refused(tiny_model: Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an adapter folder"):
        Adapter.load(tmp_path, tiny_model)
    Adapter(tiny_model.config, 8, 32).save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    whole = load_file(file)
    name = next(iter(whole))
    for change, text in (
        ({name: torch.full_like(whole[name], float("nan"))}, "NaN"),
        ({"base_model.model.lm_head.lora_A.weight": torch.zeros(8, 64)}, "not a LoRA weight of one of the seven"),
        ({name.replace("layers.0", "layers.5"): torch.zeros(8, 64)}, "does not exist in this model"),
    ):
        save_file(whole | change, str(file))
        with pytest.raises(ValueError, match=text):
            Adapter.load(tmp_path, tiny_model)
    save_file({k: v for k, v in whole.items() if k != name}, str(file))
    with pytest.raises(ValueError, match="is missing"):
        Adapter.load(tmp_path, tiny_model)
    file.write_bytes(b"short")
    with pytest.raises(ValueError, match="cannot be read"):
        Adapter.load(tmp_path, tiny_model)
    file.unlink()
    with pytest.raises(ValueError, match="incomplete"):
        Adapter.load(tmp_path, tiny_model)
    with pytest.raises(ValueError, match="targets"):
        Adapter(tiny_model.config, 8, 32, ["lm_head"])
    with pytest.raises(ValueError, match="rank"):
        Adapter(tiny_model.config, 0, 32)
