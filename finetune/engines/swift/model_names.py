"""The model names that ms-swift knows, read from its source without importing it; used by the swift launcher.

ms-swift chooses a model's type and chat template by the folder's name, else by the architecture. Qwen2ForCausalLM
belongs to two of its types, so a Qwen2 in a folder with any other name ends in a traceback.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

QWEN2 = {"model_type": "qwen2", "template": "qwen2_5"}


def is_qwen2(config: dict[str, Any]) -> bool:
    """Whether a config.json describes a Qwen2ForCausalLM."""
    return config.get("model_type") == "qwen2" and config.get("architectures") in (None, [], ["Qwen2ForCausalLM"])


def is_known(folder: Path) -> bool:
    """Whether ms-swift has a model with this folder's name (swift/model/model_meta.py, get_model_name)."""
    name = folder.resolve().name if str(folder) in ("", ".") else folder.name
    name = name.replace("___", ".").lower()
    return any(f"/{name}{quote}" in _registered() for quote in "'\"")


@cache
def _registered() -> str:
    """The source of all of ms-swift's model registrations, concatenated; empty without ms-swift."""
    spec = find_spec("swift")
    folders = spec.submodule_search_locations if spec else None
    files = sorted(Path(folders[0]).glob("model/models/*.py")) if folders else []
    return "\n".join(path.read_text(encoding="utf-8") for path in files).lower()
