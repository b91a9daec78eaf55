"""The shape of a model, read from its config.json and generation_config.json; used throughout qwen2."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.i18n import _

# The four matmuls of a layer and the checkpoint's linears in each of them, top to bottom.
GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
PROJECTIONS = tuple(path.split(".")[1] for paths in GROUPS.values() for path in paths)


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Sizes:
    """The sizes that determine the tensor shapes of a Qwen2ForCausalLM (names as in the literature)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tie_embeddings: bool

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Sizes:
        """The sizes in a config.json. Raises ValueError, which names the key, if one is missing or out of range."""
        hidden, heads = _size(raw, "hidden_size"), _size(raw, "num_attention_heads")
        return cls(
            hidden_size=hidden,
            intermediate_size=_size(raw, "intermediate_size"),
            num_layers=_size(raw, "num_hidden_layers", largest=MOST_LAYERS),
            num_heads=heads,
            num_kv_heads=_size(raw, "num_key_value_heads", heads),
            head_dim=_size(raw, "head_dim", hidden // heads),
            vocab_size=_size(raw, "vocab_size"),
            tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        )

    @property
    def q_size(self) -> int:
        """Total width of the query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Total width of the key (or value) heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Number of weights in the seven linears of all layers, without embedding and head."""
        return self.num_layers * sum(outputs * inputs for outputs, inputs in self.projections.values())

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of each of the seven linears by short name (q_proj, ...)."""
        h, i = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (self.q_size, h),
            "k_proj": (self.kv_size, h),
            "v_proj": (self.kv_size, h),
            "o_proj": (h, self.q_size),
            "gate_proj": (i, h),
            "up_proj": (i, h),
            "down_proj": (h, i),
        }

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of every tensor of the checkpoint, in the order of use."""
        layer: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (self.hidden_size,)}
        for group, paths in GROUPS.items():
            if group == "gate_up":
                layer["post_attention_layernorm.weight"] = (self.hidden_size,)
            for path in paths:
                layer[f"{path}.weight"] = self.projections[path.split(".")[1]]
                if group == "qkv":
                    layer[f"{path}.bias"] = layer[f"{path}.weight"][:1]
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab_size, self.hidden_size)}
        for number in range(self.num_layers):
            shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (self.hidden_size,)
        return shapes if self.tie_embeddings else shapes | {HEAD: shapes[EMBEDDING]}


@dataclass(frozen=True)
class Config(Sizes):
    """The settings of a Qwen2ForCausalLM from config.json and generation_config.json."""

    max_positions: int
    rms_eps: float
    rope_theta: float
    eos_ids: tuple[int, ...]
    pad_id: int

    @classmethod
    def from_dir(cls, path: str | Path) -> Config:
        """Read `path`/config.json and, if present, generation_config.json.

        Raises ValueError, with a message for the user, if the folder does not hold a plain Qwen2ForCausalLM.
        """
        folder = Path(path)
        raw = _read_json(folder / "config.json")
        if raw is None:
            raise ValueError(
                _("no config.json in {folder}: this is not a model folder; set MODEL_DIR to one").format(folder=folder)
            )
        generation = _read_json(folder / "generation_config.json") or {}
        try:
            _reject_unsupported(folder, raw)
            sizes = Sizes.of(raw)
            rope = _object(raw, "rope_parameters")
            eos = _ids(generation, "eos_token_id") or _ids(raw, "eos_token_id")
            if not eos:
                raise _BadValue(_("eos_token_id is missing"))
            config = cls(
                **asdict(sizes),
                max_positions=_size(raw, "max_position_embeddings", 32768),
                rms_eps=_positive(raw, "rms_norm_eps", 1e-6),
                rope_theta=_positive(raw if raw.get("rope_theta") is not None else rope, "rope_theta", 10000.0),
                eos_ids=eos + tuple(number for number in _chat_end(folder) if number not in eos),
                pad_id=(_ids(generation, "pad_token_id") or _ids(raw, "pad_token_id") or eos[-1:])[0],
            )
            if config.num_heads % config.num_kv_heads or config.head_dim % 2:
                raise _BadValue(_("the head counts do not divide evenly"))
        except _BadValue as error:
            raise ValueError(
                _("{folder}/config.json: {error}; download the model folder again").format(folder=folder, error=error)
            ) from None
        return config


# No size of a Qwen2 comes near this limit. A larger value is damage, which would otherwise show as out of memory.
LARGEST, MOST_LAYERS = 10**7, 10**4


class _BadValue(ValueError):
    """An invalid value in config.json; the message names it."""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _size(raw: dict[str, Any], name: str, default: int | None = None, largest: int = LARGEST) -> int:
    """An integer of at least 1; `default` if it is missing or null."""
    value = raw.get(name)
    if value is None:
        value = default
    if value is None:
        raise _BadValue(_("{name} is missing").format(name=name))
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise _BadValue(
            _("{name} is {value}, not a whole number from 1 to {largest}").format(
                name=name, value=_shown(value), largest=largest
            )
        )
    return value


def _positive(raw: dict[str, Any], name: str, default: float) -> float:
    """A finite number above 0."""
    value = raw.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
        raise _BadValue(_("{name} is {value}, not a number above 0").format(name=name, value=_shown(value)))
    return float(value)


def _object(raw: dict[str, Any], name: str) -> dict[str, Any]:
    """A JSON object; {} if it is missing or null."""
    value = raw.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _BadValue(_("{name} is {value}, not a JSON object").format(name=name, value=_shown(value)))
    return value


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            _("{path} cannot be read ({error}); download it again").format(path=path, error=error)
        ) from None
    if not isinstance(data, dict):
        raise ValueError(_("{path} does not hold a JSON object; download it again").format(path=path))
    return data


def _chat_end(folder: Path) -> tuple[int, ...]:
    """The id of <|im_end|>. It ends an answer in chat format even if a base model's config names another token."""
    listed = (_read_json(folder / "tokenizer_config.json") or {}).get("added_tokens_decoder")
    found = listed.items() if isinstance(listed, dict) else ()
    return tuple(
        int(number)
        for number, token in found
        if isinstance(token, dict) and token.get("content") == "<|im_end|>" and str(number).isdecimal()
    )


def _ids(raw: dict[str, Any], name: str) -> tuple[int, ...]:
    """A token id, or a list of them; () if there is none."""
    value = raw.get(name)
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    for each in ids:
        if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each <= LARGEST:
            raise _BadValue(_("{name} is {value}, not a token id").format(name=name, value=_shown(value)))
    return tuple(ids)


def _reject_unsupported(folder: Path, raw: dict[str, Any]) -> None:
    """Raises for every setting that would change the arithmetic and is not implemented in this package."""
    names = raw.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _BadValue(_("architectures is {names}, not a list of names").format(names=_shown(names)))
    new, old = _object(raw, "rope_parameters"), _object(raw, "rope_scaling")
    rope = new or old
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    reasons = {
        _("its architecture is {names}").format(names=", ".join(names) or raw.get("model_type")): raw.get("model_type")
        != "qwen2"
        or (bool(names) and "Qwen2ForCausalLM" not in names),
        _("it is quantized"): bool(raw.get("quantization_config")),
        _("it uses a sliding window"): bool(raw.get("use_sliding_window")),
        _("its positions are scaled ({rope_type})").format(rope_type=rope_type): rope_type != "default",
        _("its activation is {name}").format(name=raw.get("hidden_act")): raw.get("hidden_act", "silu") != "silu",
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise ValueError(
                _(
                    "{folder} is not a plain Qwen2ForCausalLM: {reason}; use ENGINE=swift for it, or another "
                    "model folder"
                ).format(folder=folder, reason=reason)
            )
