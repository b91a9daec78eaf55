"""Which backend answers, and the line that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from finetune.engines.swift import config_file
from finetune.engines.swift.arguments import Arguments
from finetune.serve import backend

ROOT = Path(__file__).parents[4]
FILE = config_file.load(ROOT / "workspace/configs/serve.yaml")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder as far as the choice looks at it."""
    folder = tmp_path / "model"
    folder.mkdir()
    official = ROOT / "standin/official"
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_text((official / name).read_text())
    tokens = {"151644": {"content": "<|im_start|>"}, "151645": {"content": "<|im_end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens}))
    return folder


def choose(
    model: Path, *words: str, asked: str = "auto", served: Any = None, on_cpu: bool = False
) -> backend.BackendChoice:
    return backend.choose(asked, Arguments(words), FILE, model, served or {}, on_cpu)


def test_the_workspaces_own_file_is_honoured(model):
    choice = choose(model)
    assert choice.in_one_line() == "backend: qwen2's engine, because it honours every option given"
    assert choice.settings == {"max_new_tokens": 2048, "temperature": 0.0}


def test_options_win_over_the_file(model):
    words = ["--max-new-tokens", "9", "--temperature=0.5", "--top_k", "20", "--max_batch_size", "4", "--port", "1"]
    assert choose(model, *words).settings == {
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_k": 20,
        "rows": 4,
    }


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--infer_backend", "vllm"], "--infer_backend"),
        (["--use_vllm"], "--use_vllm"),
        (["--max_batch_size", "0"], "--max_batch_size 0"),
        (["--temperature", "hot"], "--temperature hot"),
        (["--temperature", "-1"], "--temperature -1"),
        (["--torch_dtype", "float16"], "--torch_dtype float16"),
        (["--system", "prompt.txt"], "--system prompt.txt"),
        (["--verbose", "true"], "--verbose true"),
        (["--max_batch_sise", "3"], "--max_batch_sise"),
        (["stray"], "stray"),
    ],
)
def test_what_it_does_not_honour_goes_to_ms_swift_and_is_named(model, words, reason):
    choice = choose(model, *words)
    assert choice.backend == "swift" and choice.in_one_line() == f"backend: ms-swift, because of {reason}"
    with pytest.raises(UserError, match=r"BACKEND=fast: .*leave that out, or set BACKEND=swift") as no:
        choose(model, *words, asked="fast")
    assert reason in str(no.value) and no.value.exit_code == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "llama"}, "not a plain Qwen2ForCausalLM"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
    ],
)
def test_weights_that_it_does_not_compute(model, changes, reason):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))
    assert reason in choose(model).why and choose(model).backend == "swift"


def test_another_chat_template(model):
    (model / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"1": {"content": "<|User|>"}}}')
    assert "a chat template other than" in choose(model).why


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "LORA", "use_dora": True, "target_modules": ["q_proj"]}, "DoRA"),
        ({"peft_type": "LORA", "target_modules": ["q_proj", "embed_tokens"]}, "target_modules embed_tokens"),
        ({"peft_type": "LORA", "target_modules": ["q_proj"]}, None),
    ],
)
def test_adapters_that_it_does_not_compute(model, tmp_path, config, reason):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    choice = choose(model, served={"a": tmp_path})
    assert choice.is_fast == (reason is None) and (reason or "") in choice.why


def test_on_a_cpu_the_number_format_is_its_own(model):
    assert choose(model, "--torch_dtype", "float16", on_cpu=True).is_fast


@pytest.mark.parametrize("asked", ["swift", "vllm"])
def test_what_is_asked_for_is_taken(model, asked):
    assert choose(model, asked=asked).backend == asked


def test_an_unknown_backend(model):
    with pytest.raises(UserError, match="BACKEND=quick: unknown backend; set it to auto, fast, swift or vllm"):
        choose(model, asked="quick")
