"""Tell the stand-in (a tiny model, for machines without a GPU) from the real weights; whoever uses it says so."""

from __future__ import annotations

import json
from pathlib import Path


def is_standin(model_dir: str | Path) -> bool:
    """Whether the folder holds the stand-in: config.json has `"mirror_standin": true`, a key the official one lacks.

    A folder without a readable config.json is not the stand-in; what is wrong with it is for the loader to say.
    """
    try:
        config = json.loads((Path(model_dir) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("mirror_standin") is True


def notice(model_dir: str | Path) -> str:
    """The line to print where the stand-in is used."""
    return f"stand-in weights: {model_dir} is a tiny model for tests and machines without a GPU, not Qwen2.5-7B"
