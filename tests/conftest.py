"""Fixtures that tests of several folders use; read by pytest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from standin.tokenizer import write_tokenizer

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
