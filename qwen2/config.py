"""The shape of a model folder, read from its config.json and generation_config.json; used all over qwen2."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The four matmuls of a layer and the checkpoint's linears that each of them holds, top to bottom.
GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
PROJECTIONS = tuple(path.split(".")[1] for paths in GROUPS.values() for path in paths)


@dataclass(frozen=True)
class Config:
    """Sizes of a Qwen2ForCausalLM (names as in the literature, not as in config.json)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rms_eps: float
    rope_theta: float
    tie_embeddings: bool
    eos_ids: tuple[int, ...]
    pad_id: int

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Weights of the seven linears of all layers, without embedding and head."""
        per_layer = self.hidden_size * (2 * self.q_size + 2 * self.kv_size + 3 * self.intermediate_size)
        return self.num_layers * per_layer

    @classmethod
    def from_dir(cls, path: str | Path) -> Config:
        """Read `path`/config.json (and generation_config.json where there is one).

        Raises ValueError, with a sentence fit for a user, when the folder does not hold a plain Qwen2ForCausalLM.
        """
        folder = Path(path)
        raw = _read_json(folder / "config.json")
        if raw is None:
            raise ValueError(f"no config.json in {folder}: this is not a model folder; set MODEL_DIR to one")
        generation = _read_json(folder / "generation_config.json") or {}
        _reject_unsupported(folder, raw)
        try:
            hidden = int(raw["hidden_size"])
            heads = int(raw["num_attention_heads"])
            rope = raw.get("rope_parameters") or {}
            theta = raw.get("rope_theta", rope.get("rope_theta", 10000.0))
            eos = _ids(generation.get("eos_token_id")) or _ids(raw.get("eos_token_id"))
            if not eos:
                raise KeyError("eos_token_id")
            pad = generation.get("pad_token_id", raw.get("pad_token_id"))
            config = cls(
                hidden_size=hidden,
                intermediate_size=int(raw["intermediate_size"]),
                num_layers=int(raw["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=int(raw.get("num_key_value_heads") or heads),
                head_dim=int(raw.get("head_dim") or hidden // heads),
                vocab_size=int(raw["vocab_size"]),
                max_positions=int(raw.get("max_position_embeddings", 32768)),
                rms_eps=float(raw.get("rms_norm_eps", 1e-6)),
                rope_theta=float(theta),
                tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
                eos_ids=eos,
                pad_id=int(pad) if pad is not None else eos[-1],
            )
        except KeyError as error:
            raise ValueError(f"{folder}/config.json has no {error}: download the model folder again") from None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{folder}/config.json has a value that is no number ({error}): download it again"
            ) from None
        if config.num_heads % config.num_kv_heads or config.head_dim % 2:
            raise ValueError(f"{folder}/config.json: its head counts do not divide; download the model folder again")
        return config


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): download it again") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} does not hold a JSON object: download it again")
    return data


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)


def _reject_unsupported(folder: Path, raw: dict[str, Any]) -> None:
    """Everything that would change the arithmetic and that this package does not compute."""
    names = raw.get("architectures") or []
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    reasons = {
        f"its architecture is {', '.join(names) or raw.get('model_type')}": raw.get("model_type") != "qwen2"
        or (bool(names) and "Qwen2ForCausalLM" not in names),
        "it is quantized": bool(raw.get("quantization_config")),
        "it uses a sliding window": bool(raw.get("use_sliding_window")),
        f"its positions are scaled ({rope_type})": rope_type != "default",
        f"its activation is {raw.get('hidden_act')}": raw.get("hidden_act", "silu") != "silu",
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise ValueError(
                f"{folder} is not a plain Qwen2ForCausalLM: {reason}; use ENGINE=swift for it, or another model folder"
            )
