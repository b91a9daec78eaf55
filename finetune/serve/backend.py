"""Chooses the backend: qwen2's engine if it supports model, adapters and options, else ms-swift; for commands/serve.py.

BACKEND is auto, fast, swift or vllm. The table TAKERS has the options that the fast backend supports; any other one
leads to ms-swift. No torch is imported: the choice is made before anything slow starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError, without_remedy
from common.i18n import N_, _
from common.json_files import json_object
from finetune.engines.swift.arguments import Arguments
from qwen2 import adapter_config
from qwen2.config import PROJECTIONS, Config

FAST, SWIFT, VLLM = "fast", "swift", "vllm"
ASKED = ("auto", FAST, SWIFT, VLLM)
NAMES = {FAST: N_("qwen2's engine"), SWIFT: "ms-swift", VLLM: N_("vLLM, by ms-swift")}

# Options that the command itself reads, or that concern ms-swift alone. The fast backend accepts any value.
WITHOUT_EFFECT = frozenset(
    ("model", "host", "port", "served_model_name", "system", "check_model", "use_hf", "log_level", "log_interval")
)


@dataclass(frozen=True)
class BackendChoice:
    """The backend, the reason, and for the fast backend the fields of its EndpointSettings."""

    backend: str
    why: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_fast(self) -> bool:
        """Whether qwen2's engine answers."""
        return self.backend == FAST

    def in_one_line(self) -> str:
        """The choice as a line for the screen."""
        return _("backend: {name}, {why}").format(name=_(NAMES[self.backend]), why=self.why)


def choose(
    asked: str,
    args: Arguments,
    file: Mapping[str, Any],
    model: Path,
    served: Mapping[str, Path],
    on_cpu: bool,
) -> BackendChoice:
    """Choose the backend for these options.

    Args:
        asked: The value of BACKEND.
        args: The options on the command line; they override the file's.
        file: The options of the config file.
        model: The folder of the weights.
        served: {name: folder} of the adapters.
        on_cpu: Whether the model runs on the CPU.

    Raises:
        UserError: BACKEND is unknown, or is fast and the fast backend does not support something.
    """
    if asked not in ASKED:
        raise UserError(_("BACKEND={asked}: unknown backend; set it to auto, fast, swift or vllm").format(asked=asked))
    if asked in (SWIFT, VLLM):
        return BackendChoice(asked, _("because BACKEND={asked} asks for it").format(asked=asked))
    settings: dict[str, Any] = {}
    obstacles = [*_of_model(model), *(each for path in served.values() for each in _of_adapter(path))]
    for name, value in _options(args, file).items():
        if obstacle := _take(name, value, settings, on_cpu):
            obstacles.append(obstacle)
    obstacles += args.leading
    # Only the command line counts: the file's value is for ms-swift, whose batches have a fixed size.
    if rows := args.get("max_batch_size"):
        settings["rows"] = int(rows[-1]) if rows[-1].isdigit() and 0 < int(rows[-1]) <= MOST_ROWS else 0
        if not settings["rows"]:
            obstacles.append(f"--max_batch_size {rows[-1]}")
    if obstacles and asked == FAST:
        raise UserError(
            _("BACKEND=fast: qwen2's engine does not honour {what}; leave that out, or set BACKEND=swift").format(
                what="; ".join(obstacles)
            )
        )
    if obstacles:
        if len(obstacles) == 1:
            return BackendChoice(SWIFT, _("because of {what}").format(what=obstacles[0]))
        return BackendChoice(
            SWIFT, _("because of {what} and {count} more").format(what=obstacles[0], count=len(obstacles) - 1)
        )
    if asked == FAST:
        return BackendChoice(FAST, _("because BACKEND={asked} asks for it").format(asked=asked), settings)
    return BackendChoice(FAST, _("because it honours every option given"), settings)


def _options(args: Arguments, file: Mapping[str, Any]) -> dict[str, Any]:
    """Every option except max_batch_size: the command line's texts over the file's values."""
    found = {name.replace("-", "_"): value for name, value in file.items()}
    for each in args.given:
        found[each.name] = each.values[0] if len(each.values) == 1 else (each.values or "true")
    found.pop("max_batch_size", None)
    return found


def _of_model(model: Path) -> list[str]:
    try:
        Config.from_dir(model)
    except ValueError as error:
        return [_("the weights ({why})").format(why=without_remedy(error))]
    tokens = json_object(model / "tokenizer_config.json").get("added_tokens_decoder")
    contents = [token.get("content") for token in tokens.values()] if isinstance(tokens, dict) else []
    if contents and "<|im_start|>" not in contents:
        return [_("the weights ({why})").format(why=_("a chat template other than Qwen2.5's"))]
    return []


def _of_adapter(path: Path) -> list[str]:
    try:
        settings = adapter_config.read(path)
    except ValueError as error:
        return [_("the adapter {path} ({error})").format(path=path, error=error)]
    reason = adapter_config.not_plain(settings)
    targets = settings.get("target_modules")
    if not reason and isinstance(targets, list) and (other := sorted(set(map(str, targets)) - set(PROJECTIONS))):
        reason = f"target_modules {', '.join(other[:3])}"
    return [_("the adapter {path} ({reason})").format(path=path, reason=reason)] if reason else []


MOST_ROWS = 256
Taker = Callable[[str, Any, "dict[str, Any]", bool], bool]


def _take(name: str, value: Any, settings: dict[str, Any], on_cpu: bool) -> str:
    """Check one option and store its value in `settings`; returns what is not supported, or ""."""
    if name in WITHOUT_EFFECT:
        if name == "system" and (isinstance(value, list) or str(value).endswith(".txt")):
            return f"--{name} {_shown(value)}"
        return ""
    taker = TAKERS.get(name)
    try:
        fits = taker is not None and taker(name, value, settings, on_cpu)
    except (TypeError, ValueError):
        fits = False
    return "" if fits else f"--{name} {_shown(value)}" if taker else f"--{name}"


def _number(kind: type, low: float, high: float) -> Taker:
    """An option whose value is a number from `low` to `high`."""

    def take(name: str, value: Any, settings: dict[str, Any], on_cpu: bool) -> bool:
        if isinstance(value, bool):
            return False
        number = kind(value)
        settings[name] = number
        return low <= number <= high

    return take


def _only(*allowed: str) -> Taker:
    """An option that may have only these values, which change nothing."""
    return lambda name, value, settings, on_cpu: str(value).lower() in allowed


def _text(name: str, value: Any, settings: dict[str, Any], on_cpu: bool) -> bool:
    settings[name] = str(value)
    return True


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


TAKERS: dict[str, Taker] = {
    "model_type": _only("qwen2", "qwen2_5"),
    "template": _only("qwen2_5"),
    "verbose": _only("false", "0", "no"),
    "torch_dtype": lambda name, value, settings, on_cpu: on_cpu or str(value) in ("bfloat16", "auto"),
    "max_new_tokens": _number(int, 1, 2**31),
    "max_length": _number(int, 2, 2**31),
    "temperature": _number(float, 0, 2),
    "top_p": _number(float, 1e-6, 1),
    "top_k": _number(int, -1, 2**31),
    "repetition_penalty": _number(float, 0.1, 10),
    "owned_by": _text,
    "ssl_keyfile": _text,
    "ssl_certfile": _text,
}
