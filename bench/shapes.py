"""The shapes of the Qwen2.5 sizes, from their own config.json; for random weights and the table of sizes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

OFFICIAL = Path(__file__).resolve().parent.parent / "standin" / "official"  # the 7B's own config.json and small files

# hidden size, MLP width, layers, query heads, key heads, vocabulary, tied embeddings
SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "0.5B": (896, 4864, 24, 14, 2, 151_936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936, True),
    "3B": (2048, 11008, 36, 16, 2, 151_936, True),
    "7B": (3584, 18944, 28, 28, 4, 152_064, False),
    "14B": (5120, 13824, 48, 40, 8, 152_064, False),
    "32B": (5120, 27648, 64, 40, 8, 152_064, False),
}


def config_json(size: str) -> dict[str, Any]:
    """config.json for that size: the 7B's with other dimensions."""
    hidden, inner, layers, heads, kv_heads, vocabulary, tied = SHAPES[size]
    return json.loads((OFFICIAL / "config.json").read_text(encoding="utf-8")) | {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "max_window_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


def shape_of(config: dict[str, Any]) -> Any:
    """qwen2's Config of a config.json."""
    from qwen2.config import Config

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return Config.from_dir(folder)
