"""Files of options: what is read, and what is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from common.errors import UserError
from finetune.engines.swift import config_file
from finetune.engines.swift import options as swift_options

CONFIGS = Path(__file__).parents[5] / "workspace/configs"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.yaml", "model x\ndataset: y: z", "line 2, column"),
        ("x.yaml", "model: [a", "line 1, column 8"),
        ("x.yaml", "- a\n- b", "holds no options"),
        ("x.yaml", "model:", "model: has no value"),
        ("x.yaml", "1: 2", "1: an option's name is a word"),
        ("x.yaml", "a: \0", "not YAML"),
        ("x.json", '{"a": 1,}', "line 1, column 9: not JSON"),
        ("x.json", "[1]", "holds no options"),
    ],
)
def test_a_broken_file_is_named_with_its_place(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as refused:
        config_file.load(tmp_path / name)
    assert str(refused.value).startswith(str(tmp_path / name))
    assert says in str(refused.value)


def test_what_is_no_file_of_options(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(UserError, match="byte 4: not UTF-8"):
        config_file.load(tmp_path / "latin.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        config_file.load(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        config_file.load(tmp_path / "missing.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert config_file.load(tmp_path / "empty.yaml") == {}


def test_words_are_those_that_ms_swift_makes():
    options = {"lr": "1e-4", "dataset": ["a", "b"], "flag": True, "kwargs": {"名": 1}}
    words = ["--lr", "1e-4", "--dataset", "a", "b", "--flag", "True", "--kwargs", '{"名": 1}']
    assert config_file.arguments(options) == words


@pytest.mark.parametrize("name", ["sft.yaml", "sft_mixed.yaml", "sft_attention.yaml", "infer.yaml"])
def test_the_image_s_own_files_hold_known_options_only(name):
    options = swift_options.options_of("infer" if name == "infer.yaml" else "sft")
    assert set(config_file.load(CONFIGS / name)) <= set(options)


def test_sft_yaml_explains_every_parameter():
    lines = [line for line in (CONFIGS / "sft.yaml").read_text().splitlines() if line and not line.startswith("#")]
    assert all(" # " in line for line in lines)
    assert len(lines) == len(config_file.load(CONFIGS / "sft.yaml"))


def test_the_attention_file_is_sft_yaml_but_for_the_layers():
    sft, attention = config_file.load(CONFIGS / "sft.yaml"), config_file.load(CONFIGS / "sft_attention.yaml")
    assert attention == sft | {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}


def test_sft_yaml_has_the_article_s_values():
    found = yaml.safe_load((CONFIGS / "sft.yaml").read_text())
    article = {
        "tuner_type": "lora",
        "dataset": ["self_cognition.json"],
        "torch_dtype": "bfloat16",
        "num_train_epochs": 10,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "learning_rate": "1e-4",
        "lora_rank": 8,
        "lora_alpha": 32,
        "target_modules": ["all-linear"],
        "gradient_accumulation_steps": 16,
        "eval_steps": 50,
        "save_steps": 50,
        "save_total_limit": 2,
        "logging_steps": 5,
        "max_length": 2048,
        "output_dir": "output",
        "system": "You are a helpful assistant.",
        "warmup_ratio": 0.05,
        "model_author": ["swift"],
        "model_name": ["swift-robot"],
    }
    assert json.loads(json.dumps({key: found[key] for key in article})) == article


@pytest.mark.parametrize("name", ["deep.yaml", "deep.json"])
def test_nested_too_deeply(tmp_path, name):
    path = tmp_path / name
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        config_file.load(path)


@pytest.mark.parametrize("value", ["!!timestamp x", "!!int ''", "!!bool x", "2001-99-99"])
def test_values_that_pyyaml_cannot_make(tmp_path, value):
    (tmp_path / "odd.yaml").write_text(f"seed: {value}")
    with pytest.raises(UserError, match="holds a value that does not fit its type"):
        config_file.load(tmp_path / "odd.yaml")
