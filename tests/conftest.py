"""Fixtures that tests of several folders use; read by pytest."""

from __future__ import annotations

from pathlib import Path

import pytest

from standin.tokenizer import write_tokenizer


@pytest.fixture(scope="session")
def official_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the official Qwen2.5 tokenizer (vocab.json, merges.txt, tokenizer.json, tokenizer_config.json)."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder
