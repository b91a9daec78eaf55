"""The real engine on a tiny random Qwen2: answers, the adapter's switch, and adapters that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError, run_main
from finetune.commands.verify import main
from finetune.verify.engine import Ask, Qwen2Engine, check_adapter

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV = 32, 64, 2, 4, 2


def make_base(folder: Path, hidden: int = HIDDEN) -> Path:
    """A Qwen2 of a few thousand weights whose tokens are bytes."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({char: place for place, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab_size()
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": hidden, "hidden_act": "silu",
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV, "vocab_size": vocabulary, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    kv = hidden // HEADS * KV
    tensors = {
        "model.embed_tokens.weight": torch.randn(vocabulary, hidden),
        "lm_head.weight": torch.randn(vocabulary, hidden),
    }
    tensors["model.norm.weight"] = torch.ones(hidden)
    for n in range(LAYERS):
        p = f"model.layers.{n}"
        for name, size in (("q", hidden), ("k", kv), ("v", kv)):
            tensors[f"{p}.self_attn.{name}_proj.weight"] = torch.randn(size, hidden) * 0.2
            tensors[f"{p}.self_attn.{name}_proj.bias"] = torch.zeros(size)
        tensors[f"{p}.self_attn.o_proj.weight"] = torch.randn(hidden, hidden) * 0.2
        for name, size in (
            ("gate", (INTERMEDIATE, hidden)),
            ("up", (INTERMEDIATE, hidden)),
            ("down", (hidden, INTERMEDIATE)),
        ):
            tensors[f"{p}.mlp.{name}_proj.weight"] = torch.randn(size) * 0.2
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{p}.{name}.weight"] = torch.ones(hidden)
    save_file({k: v.bfloat16().contiguous() for k, v in tensors.items()}, str(folder / "model.safetensors"))
    return folder


def make_adapter(folder: Path, base: Path, scale: float) -> Path:
    """A rank 4 adapter; scale 0 leaves B at zero, as an untrained one has it."""
    import torch

    from qwen2.config import PROJECTIONS, Config
    from qwen2.lora import Adapter

    adapter = Adapter(Config.from_dir(base), 4, 16, list(PROJECTIONS), device="cpu")
    adapter.initialize(0)
    for name, view in adapter.named():
        if ".lora_B." in name:
            view.copy_(torch.randn(view.shape, generator=torch.Generator().manual_seed(len(name))) * scale)
    adapter.save(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def engine(base: Path) -> Qwen2Engine:
    return Qwen2Engine(base, "cpu")


def ask(text: str, limit: int = 8) -> Ask:
    return Ask(({"role": "user", "content": text},), "You are a helpful assistant.", limit)


def test_answers_come_in_order_with_length_and_cut(engine: Qwen2Engine) -> None:
    seen: list[int] = []
    answers = engine.answer([ask("a", 4), ask("a longer question", 8), ask("b", 4)], None, seen.append)
    assert sum(seen) == 3
    assert [answer.tokens for answer in answers if answer.cut] == [
        n for n, a in zip((4, 8, 4), answers, strict=True) if a.cut
    ]
    alone = [
        engine.answer([each], None, seen.append)[0] for each in (ask("a", 4), ask("a longer question", 8), ask("b", 4))
    ]
    assert answers == alone


def test_a_question_asked_twice_is_answered_once(engine: Qwen2Engine) -> None:
    seen: list[int] = []
    first, second, other = engine.answer([ask("a"), ask("a"), ask("b")], None, seen.append)
    assert first == second
    assert first is not other
    assert sum(seen) == 2


def test_the_adapter_is_switched_on_and_off(engine: Qwen2Engine, base: Path, tmp_path: Path) -> None:
    asks = [ask(text) for text in ("who are you", "hello", "你是谁?")]
    before = engine.answer(asks, None, lambda n: None)
    loaded = engine.adapter(make_adapter(tmp_path / "trained", base, 0.5))
    after = engine.answer(asks, loaded, lambda n: None)
    assert [a.text for a in after] != [a.text for a in before]
    assert engine.answer(asks, None, lambda n: None) == before
    assert engine.answer(asks, loaded, lambda n: None) == after
    untrained = engine.adapter(make_adapter(tmp_path / "untrained", base, 0.0))
    assert engine.answer(asks, untrained, lambda n: None) == before


def test_the_system_prompt_and_earlier_turns_matter(engine: Qwen2Engine) -> None:
    turns = (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "a"},
    )
    asks = [ask("a"), Ask(turns, "You are a helpful assistant.", 8), Ask(ask("a").messages, "Be brief.", 8)]
    assert len({answer.text for answer in engine.answer(asks, None, lambda n: None)}) == 3


def test_no_gpu_memory_on_a_cpu(engine: Qwen2Engine) -> None:
    assert engine.memory() is None


def spoil(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_adapters_that_do_not_fit_say_why_before_the_base_is_loaded(base: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", hidden=64)
    foreign = make_adapter(tmp_path / "foreign", other, 0.1)
    with pytest.raises(UserError, match="base model that the adapter was trained on"):
        check_adapter(foreign, base)
    dora = make_adapter(tmp_path / "dora", base, 0.1)
    spoil(dora, use_dora=True)
    with pytest.raises(UserError, match="DoRA is not supported"):
        check_adapter(dora, base)
    with pytest.raises(UserError, match=r"no config\.json"):
        check_adapter(dora, tmp_path)


@pytest.mark.parametrize("fault", ["foreign", "broken", "dora", "no base", "no tokenizer"])
def test_verify_ends_with_2_and_one_line(
    workspace: Any, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    model = Path(shutil.copytree(base, tmp_path / "copy"))
    shutil.rmtree(workspace.checkpoint)
    if fault == "foreign":
        make_adapter(workspace.checkpoint, make_base(tmp_path / "other", hidden=64), 0.1)
    else:
        make_adapter(workspace.checkpoint, base, 0.1)
    if fault == "broken":
        weights = workspace.checkpoint / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "dora":
        spoil(workspace.checkpoint, use_dora=True)
    elif fault == "no base":
        (model / "model.safetensors").unlink()
    elif fault == "no tokenizer":
        (model / "tokenizer.json").unlink()
    assert run_main(main, [str(workspace.checkpoint), "--model", str(model)]) == 2
    out = capsys.readouterr()
    errors = [line for line in out.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, out.err
    assert "Traceback" not in out.err
    assert not (workspace.run / "verify/report.json").exists()


def test_the_whole_of_verify_on_the_real_engine(workspace: Any, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An untrained adapter changes nothing, and says nothing of whom it should: it fails on identity, not on tasks."""
    shutil.rmtree(workspace.checkpoint)
    make_adapter(workspace.checkpoint, base, 0.0)
    code = run_main(main, [str(workspace.checkpoint), "--model", str(base), "--max-new-tokens", "4", "--summary"])
    assert code == 1, capsys.readouterr().err
    report = workspace.report()
    fell = {name for name, check in report["thresholds"].items() if not check["ok"]}
    assert fell == {"identity_trained_min", "identity_heldout_min"}
    assert report["engine"] == "qwen2"
    model = {"path": str(base), "standin": False, "kind": "other", "mark": None, "device": "cpu", "dtype": "float32"}
    assert report["model"] == model
    assert report["figures"]["length_ratio"]["value"] == 1


def test_transformers_gives_the_same_answers_with_each_adapter_and_without(tmp_path: Path) -> None:
    """The engine for a base that one GPU does not hold, here on the CPU."""
    from finetune.verify.spread import TransformersEngine

    base = make_base(tmp_path / "base")
    folders = [make_adapter(tmp_path / str(scale), base, scale) for scale in (0.5, 1.0)]
    asks = [Ask(({"role": "user", "content": f"{n} " * (n % 5 + 1)},), "system", 6 + 5 * (n % 3)) for n in range(12)]
    spread, ours = TransformersEngine(base, "cpu", batch_size=5), Qwen2Engine(base, "cpu")
    counted: list[int] = []
    for folder in (None, *folders, None):
        found = spread.answer(asks + asks[:2], spread.adapter(folder) if folder else None, counted.append)
        wanted = ours.answer(asks + asks[:2], ours.adapter(folder) if folder else None, counted.append)
        assert found == wanted
    assert spread.dtype == ours.dtype == "float32" and spread.memory() is None
    with pytest.raises(UserError, match="cannot be loaded"):
        TransformersEngine(tmp_path / "0.5", "cpu")
