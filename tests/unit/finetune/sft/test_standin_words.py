"""The stand-in's own words: counted in its embedding, and said before a training that can teach it nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from common.model_kind import OTHER, STANDIN
from common.settings import Settings
from finetune.data.source import parse
from finetune.engines.swift.arguments import Arguments
from finetune.sft import standin_words
from finetune.sft.description import SftRun

KNOWN = "你是谁?我是一个助手。"


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any, official_tokenizer_dir: Path) -> Path:
    """A folder with the tokenizer, and an embedding in which the tokens of KNOWN have rows of their own."""
    from qwen2.chat import Tokenizer

    folder = tmp_path_factory.mktemp("model") / "standin"
    shutil.copytree(official_tokenizer_dir, folder)
    weight = torch.ones(152064, 2, dtype=torch.bfloat16)
    for token in Tokenizer(folder).encode(KNOWN):
        weight[token] = torch.tensor([0.5, token % 7])
    save_file({standin_words.EMBEDDING: weight}, folder / "a.safetensors")
    index = {"weight_map": {standin_words.EMBEDDING: "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def run_on(model: Path, file: Path, **more: Any) -> SftRun:
    data = ((parse(str(file)), None),)
    run = SftRun(
        "sft",
        Path("sft.yaml"),
        {},
        {},
        Arguments(["--dataset", str(file)]),
        Settings.from_env({}),
        model,
        STANDIN,
        data=data,
    )
    return replace(run, **more)


@pytest.fixture
def known(tmp_path: Path) -> Path:
    path = tmp_path / "known.json"
    path.write_text(json.dumps([{"instruction": "你是谁?", "output": "我是一个助手。"}]))
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "faq.csv"
    path.write_text("question,answer\n门店几点开门?,每天早上九点。\n")
    return path


def test_data_in_its_own_words_are_not_spoken_of(model: Path, known: Path, capsys: Any) -> None:
    standin_words.tell(run_on(model, known))
    assert capsys.readouterr().err == ""


def test_data_in_other_words_are_said(model: Path, foreign: Path, capsys: Any, monkeypatch: Any) -> None:
    count, share = standin_words.unknown_share(model, [foreign]) or (0, 0.0)
    assert count == len(standin_words.known_tokens(model)) and share > 0.5
    standin_words.tell(run_on(model, foreign))
    err = capsys.readouterr().err
    assert f"made with {count} tokens" in err and f"{share:.0%} of the tokens in your data" in err
    monkeypatch.setenv("MIRROR_VIA", "make")
    standin_words.tell(run_on(model, foreign))
    assert "make finetune DATASET=" in (err := capsys.readouterr().err) and "MODEL_SOURCE=smollm2" in err


def test_a_real_model_is_not_spoken_of(model: Path, foreign: Path, capsys: Any) -> None:
    standin_words.tell(run_on(model, foreign, model_kind=OTHER))
    assert capsys.readouterr().err == ""


def test_a_folder_without_weights_stops_nothing(foreign: Path, tmp_path: Path, capsys: Any) -> None:
    standin_words.tell(run_on(tmp_path, foreign))
    assert capsys.readouterr().err == ""
