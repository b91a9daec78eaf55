"""Fixtures that tests of several folders use; read by pytest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from standin.tokenizer import write_tokenizer
from tests.swift_rows import swift_template

os.environ["MIRROR_LANG"] = "C"  # tests look at English messages, on a machine in any language


@pytest.fixture(scope="session")
def official_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the official Qwen2.5 tokenizer (vocab.json, merges.txt, tokenizer.json, tokenizer_config.json)."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct in Qwen2's format, made from the package as the image's is (20 s, 270 MB)."""
    from standin import real

    folder = tmp_path_factory.mktemp("models") / "smollm2"
    assert real.main(["--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def swift_processor(official_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What ms-swift's own templates are made of, over the official tokenizer: `get_template(swift_processor, ...)`."""
    from swift.model import get_processor
    from transformers import Qwen2Config

    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(official_tokenizer_dir, folder, dirs_exist_ok=True)
    Qwen2Config(architectures=["Qwen2ForCausalLM"]).save_pretrained(folder)  # ms-swift asks it for the model's type
    return get_processor(str(folder), model_type="qwen2", download_model=False)


@pytest.fixture(scope="module")
def tokenizer(official_tokenizer_dir: Path) -> Any:
    """qwen2's tokenizer, on the official files."""
    from qwen2.chat import Tokenizer

    return Tokenizer(official_tokenizer_dir)


@pytest.fixture(scope="module")
def template(swift_processor: Any) -> Any:
    """ms-swift's own template with the system prompt of sft.yaml, in training mode."""
    return swift_template(swift_processor, "You are a helpful assistant.")


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of the test's own: where health.json and job.json go."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv("MIRROR_RUN_DIR", str(folder))
    # The second place is shared by the whole machine.
    monkeypatch.setattr("common.state.FALLBACK_RUN_DIR", str(tmp_path / "no-fallback"))
    return folder
