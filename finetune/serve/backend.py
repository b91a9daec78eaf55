"""Which backend answers: qwen2's engine where model, adapters and options allow, else ms-swift; commands/serve.py asks.

`BACKEND=auto|fast|swift|vllm`. One table here says what the fast backend does with each option; it honours no other. No
torch is imported: the choice is made, and said in one line, before anything slow starts.
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

# Options that the command itself looks at, or that say how ms-swift works inside; any value is accepted.
WITHOUT_EFFECT = frozenset(
    ("model", "host", "port", "served_model_name", "system", "check_model", "use_hf", "log_level", "log_interval")
)


@dataclass(frozen=True)
class BackendChoice:
    """The backend, why it is that one, and for the fast one the fields of its EndpointSettings."""

    backend: str
    why: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_fast(self) -> bool:
        """Whether qwen2's engine answers."""
        return self.backend == FAST

    def in_one_line(self) -> str:
        """For the screen."""
        return _("backend: {name}, {why}").format(name=_(NAMES[self.backend]), why=self.why)


def choose(
    asked: str,
    args: Arguments,
    file: Mapping[str, Any],
    model: Path,
    served: Mapping[str, Path],
    on_cpu: bool,
) -> BackendChoice:
    """The backend for these options. Raises UserError if `fast` is asked for and cannot.

    Args:
        asked: BACKEND.
        args: The options given; they win over the file.
        file: The options of the file.
        model: The weights' folder.
        served: {name: folder} of the adapters.
        on_cpu: Whether there is no GPU.
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
    # In the file it is for ms-swift, whose batches are of a fixed size.
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
    """Every option but max_batch_size: of the file, then those given, as texts or as the file has them."""
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
        return [_("the weights ({why})").format(why=_("another chat template than Qwen2.5's"))]
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
    """Take one option over; returns the obstacle, or ""."""
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
    """A number within these bounds."""

    def take(name: str, value: Any, settings: dict[str, Any], on_cpu: bool) -> bool:
        if isinstance(value, bool):
            return False
        number = kind(value)
        settings[name] = number
        return low <= number <= high

    return take


def _only(*allowed: str) -> Taker:
    """An option that may have these values and then changes nothing."""
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
