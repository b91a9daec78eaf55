"""Any plain Qwen2 folder is a base: weights and tokenizer of another model pass, and each fault has its own cause."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest

from healthchecks.checks import forward, tokenizer, weights
from healthchecks.checks.weights import expected_tensors
from healthchecks.context import Context, Failure

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "tie_word_embeddings": True,
    "rope_theta": 100000.0,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of some 260 entries that cuts text as Qwen2's does, with a ChatML template."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    ends = {"unk_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[2]}
    made = Qwen2Tokenizer(vocab=vocab, merges=[], **ends)
    made.add_special_tokens({"additional_special_tokens": [SPECIAL[1]]})
    made.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}), encoding="utf-8")


def tensors(dtype: str = "BF16") -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The same small number in every place of every tensor of CONFIG; `dtype` has two bytes."""
    shapes = expected_tensors(CONFIG)
    return {name: (dtype, shape, b"\x01\x3c" * math.prod(shape)) for name, shape in shapes.items()}


@pytest.fixture
def other(tmp_path: Path, context: Context, shards) -> Path:
    """A sound model that is not a Qwen2.5: one file without an index, tied embeddings, a tokenizer of its own."""
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    shards.write(folder / "model.safetensors", tensors())
    write_tokenizer(folder)
    context.model_dir = folder
    return folder


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def failure(check, context: Context) -> Failure:
    with pytest.raises(Failure) as caught:
        check(context)
    return caught.value


def test_the_figure_of_the_tokenizer_is_all_in_chinese(context: Context, other: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIRROR_LANG", "zh")
    assert "、模板、2 次" in tokenizer.check(context).figure


def test_a_sound_model_of_another_kind_passes(context: Context, other: Path) -> None:
    assert weights.check(context).figure.startswith("1 file, 26 tensors")
    outcome = tokenizer.check(context)
    assert outcome.status == "pass" and outcome.figure.startswith("259 entries, not Qwen2.5's")
    assert forward.check(context).status == "pass"


def test_a_model_in_one_file_that_holds_the_tied_matrix_twice_passes(context: Context, other: Path, shards) -> None:
    held = tensors()
    shards.write(other / "model.safetensors", held | {"lm_head.weight": held["model.embed_tokens.weight"]})
    assert weights.check(context).status == "pass"
    assert forward.check(context).status == "pass"


@pytest.mark.parametrize(("dtype", "said"), [("F16", "float16"), ("F16", None), ("BF16", None)])
def test_a_model_of_one_number_format_passes(context: Context, other: Path, shards, dtype: str, said: str) -> None:
    edit(other / "config.json", torch_dtype=said)
    shards.write(other / "model.safetensors", tensors(dtype))
    assert weights.check(context).status == "pass"


def test_one_tensor_in_float16(context: Context, other: Path, shards) -> None:
    held = tensors()
    name = "model.layers.1.mlp.up_proj.weight"
    held[name] = ("F16", *held[name][1:])
    shards.write(other / "model.safetensors", held)
    found = failure(weights.check, context)
    assert found.code == "wrong-dtype" and found.cause == f"{name} in model.safetensors is F16, not BF16"


def test_one_tensor_missing(context: Context, other: Path, shards) -> None:
    held = tensors()
    del held["model.layers.0.self_attn.k_proj.bias"]
    shards.write(other / "model.safetensors", held)
    found = failure(weights.check, context)
    assert found.code == "tensor-missing" and "self_attn.k_proj.bias (1 missing)" in found.cause
    assert "model.safetensors has no tensor" in found.cause


def test_neither_index_nor_file(context: Context, other: Path) -> None:
    (other / "model.safetensors").unlink()
    assert failure(weights.check, context).code == "no-index"


def test_qwen_s_tokenizer_in_another_model_s_folder(context: Context, other: Path, official_tokenizer_dir) -> None:
    shutil.copy(official_tokenizer_dir / "tokenizer.json", other)
    found = failure(tokenizer.check, context)
    assert found.code == "tokenizer-wrong"
    assert "ids go up to 151664, the weights have 320 tokens" in found.cause
    assert "different models" in found.remedy and "7B" not in found.remedy


def test_another_model_s_tokenizer_in_a_qwen_folder(context: Context, other: Path, model: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
        shutil.copy(other / name, model)
    context.model_dir = model
    found = failure(tokenizer.check, context)
    assert found.code == "tokenizer-wrong"
    assert "ends answers with the token 151645, which is not in the tokenizer" in found.cause


def test_an_end_that_is_an_ordinary_token(context: Context, other: Path) -> None:
    edit(other / "config.json", eos_token_id=7)
    found = failure(tokenizer.check, context)
    assert found.code == "tokenizer-wrong" and "config.json ends answers with the token 7" in found.cause


def test_a_model_without_chat_tokens(context: Context, other: Path) -> None:
    data = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "<|im_start|>"]
    del data["model"]["vocab"]["<|im_start|>"]
    (other / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    found = failure(tokenizer.check, context)
    assert found.code == "tokenizer-wrong" and "no special token <|im_start|>" in found.cause


def test_a_template_of_another_format(context: Context, other: Path) -> None:
    edit(other / "tokenizer_config.json", chat_template="{% for m in messages %}### {{ m['content'] }}{% endfor %}")
    found = failure(tokenizer.check, context)
    assert found.code == "template-wrong" and "not ChatML" in found.cause


@pytest.mark.parametrize("template", [None, [{"name": "default", "template": CHATML}], "in a file of its own"])
def test_places_of_a_template(context: Context, other: Path, template) -> None:
    if template == "in a file of its own":
        (other / "chat_template.jinja").write_text(CHATML)
    edit(other / "tokenizer_config.json", chat_template=template if isinstance(template, list) else None)
    outcome = tokenizer.check(context)
    assert outcome.status == "pass"
    assert ("no template of its own" in outcome.figure) is (template is None)


def test_a_tokenizer_that_cuts_text_otherwise_is_a_warning(context: Context, other: Path) -> None:
    """transformers, and so ms-swift, takes Qwen2's rules whatever the file says; the fast lane takes the file's."""
    data = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (other / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    outcome = tokenizer.check(context)
    assert (outcome.status, outcome.code) == ("warn", "other-splitting")


def test_the_official_tokenizer_cuts_text_by_qwen2_s_rules(context: Context, whole_model: Path) -> None:
    from tokenizers import Tokenizer

    assert not tokenizer.splits_otherwise(Tokenizer.from_file(str(whole_model / "tokenizer.json")))


def test_the_official_tokenizer_with_another_system_prompt_passes(context: Context, model: Path) -> None:
    """As Qwen2.5-Math and -Coder have it: the same tokenizer.json, a template with its own default."""
    path = model / "tokenizer_config.json"
    template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    path.unlink()
    path.write_text(json.dumps({"chat_template": template.replace("You are Qwen", "You reason. You are Qwen")}))
    digest = hashlib.sha256((model / "tokenizer.json").read_bytes()).hexdigest()
    context.official_sums = model.parent / "sums"
    context.official_sums.write_text(f"{digest}  tokenizer.json\n")
    context.model_dir = model
    assert tokenizer.check(context).figure.startswith("151665 entries")
