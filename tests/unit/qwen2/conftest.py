"""The tiny model, in transformers and in qwen2; fixtures of the tests of qwen2, read by pytest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.qwen2.tiny import make_tiny


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two threads that wait for each other on a busy machine make tiny matmuls ten times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, in several shards."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def reference(tiny_dir: Path) -> Any:
    """The same model in transformers, float32."""
    from transformers import Qwen2ForCausalLM

    return Qwen2ForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()


@pytest.fixture
def tiny_model(tiny_dir: Path) -> Any:
    """The same model in qwen2, float32; fresh for every test because adapters write into it."""
    from qwen2.model import Model

    return Model.load(tiny_dir, "cpu", torch.float32)
