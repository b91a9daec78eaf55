"""Chooses the engine: the fast lane if it supports every given option, else ms-swift; used by train.

`ENGINE=auto|fast|swift`. A table here says what the fast lane does with each option; it supports no others.
Does not import torch: the choice is made, and reported in one line, before anything slow starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError, without_remedy
from common.i18n import N_, _
from finetune.data.source import DatasetSource
from qwen2.config import PROJECTIONS, Config

FAST, SWIFT = "fast", "ms-swift"
ASKED = ("auto", "fast", "swift")

# Options for ms-swift's internals, or that the fast lane decides for itself; any value is accepted.
WITHOUT_EFFECT = frozenset(
    {
        "model",
        "dataset",
        "output_dir",
        "check_model",
        "lazy_tokenize",
        "dataloader_num_workers",
        "dataset_num_proc",
        "load_from_cache_file",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "val_dataset",
        "use_hf",
        "model_name",
        "model_author",
        "gradient_checkpointing",
        "use_liger_kernel",
        "enable_jit_checkpoint",
        "logging_dir",
        "save_only_model",
        "bf16",
        "ddp_find_unused_parameters",
        "ddp_timeout",
        "columns",
    }
)
# Names that the fast lane adopts unchanged (TrainSettings of qwen2.training): integers, and fractions. A fraction is
# stored as a float however it was written: 3 and 3.0 are the same run.
AT_LEAST_1 = frozenset(
    {
        "lora_rank",
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "eval_steps",
        "per_device_eval_batch_size",
        "early_stop_interval",
    }
)
WHOLE = AT_LEAST_1 | {"max_steps", "lora_alpha", "warmup_steps", "seed", "data_seed"}
FRACTIONS = frozenset(
    {
        "num_train_epochs",
        "learning_rate",
        "lora_dropout",
        "warmup_ratio",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
    }
)
NUMBERS = WHOLE | FRACTIONS
FLAGS = frozenset({"use_rslora", "logging_first_step", "load_best_model_at_end", "greater_is_better"})


@dataclass(frozen=True)
class EngineChoice:
    """The engine, the reason for it, and the fast lane's TrainSettings."""

    engine: str
    why: str
    train: dict[str, Any] = field(default_factory=dict)  # keyword arguments of TrainSettings
    max_length: int = 0  # tokens; 0: the model's own limit
    system: str | None = None
    tensorboard: bool = True
    split: float = 0.0  # share of the rows that is held out of training and evaluated
    said: str = ""  # the reason, translated, if it is not one of the sentences below

    @property
    def is_fast(self) -> bool:
        """Whether the fast lane trains."""
        return self.engine == FAST

    def in_one_line(self) -> str:
        """One line for the screen."""
        name = _("the fast lane") if self.is_fast else "ms-swift"
        return _("engine: {name}, {why}").format(name=name, why=self.said or _(self.why))


def choose(
    asked: str,
    options: Mapping[str, Any],
    model_dir: Path,
    sources: Sequence[DatasetSource],
    on_cpu: bool,
    resumed: str = "",
) -> EngineChoice:
    """The engine for these options (typed as by train.typed).

    Raises UserError if `fast` is requested but not possible. `resumed` is the reason for a resumed run's engine,
    `asked`, which is then not chosen again.
    """
    if asked not in ASKED:
        raise UserError(_("ENGINE={asked}: unknown engine; set it to auto, fast or swift").format(asked=asked))
    if asked == "swift":
        return EngineChoice(SWIFT, resumed or N_("because ENGINE=swift asks for it"))
    why = resumed or (
        N_("because it honours every option given") if asked == "auto" else N_("because ENGINE=fast asks for it")
    )
    obstacles = _of_model(model_dir)
    obstacles += [f"{source.spec}, a dataset of a hub" for source in sources if source.is_hub]
    train: dict[str, Any] = {}
    rest: dict[str, Any] = {"system": None, "max_length": 0, "tensorboard": True, "split": 0.0}
    for name, value in options.items():
        if obstacle := _take(name, value, train, rest, on_cpu):
            obstacles.append(obstacle)
    train["batch_size"] = _batch(train)
    if options.get("val_dataset") or (train.get("eval_strategy") or train.get("save_strategy")) == "no":
        rest["split"] = 0.0  # as in ms-swift
    if obstacles and resumed:
        raise UserError(
            _(
                "--resume: the run was begun by the fast lane, which does not honour {options}; "
                "leave that out, or start a new run"
            ).format(options="; ".join(obstacles))
        )
    if obstacles and asked == "fast":
        raise UserError(
            _("ENGINE=fast: the fast lane does not honour {options}; leave that out, or set ENGINE=swift").format(
                options="; ".join(obstacles)
            )
        )
    if obstacles:
        rest_count = len(obstacles) - 1
        more = f" (and {rest_count} more)" if rest_count else ""
        said = _("because of {what}").format(what=obstacles[0])
        if rest_count:
            said += _(" (and {count} more)").format(count=rest_count)
        return EngineChoice(SWIFT, f"because of {obstacles[0]}{more}", said=said)
    return EngineChoice(FAST, why, train, **rest)


def _of_model(model_dir: Path) -> list[str]:
    try:
        Config.from_dir(model_dir)
    except ValueError as error:
        return [_("the weights ({why})").format(why=without_remedy(error))]
    return []


def _take(name: str, value: Any, train: dict[str, Any], rest: dict[str, Any], on_cpu: bool) -> str:
    """Adopt one option; returns the obstacle, or ""."""
    if name in WITHOUT_EFFECT:
        return ""
    if name in FLAGS:
        train[name] = bool(value)
        return ""
    if name in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _possible(name, value):
            return f"--{name} {value}"
        train[name] = int(value) if name in WHOLE else float(value)
        return ""
    taker = TAKERS.get(name)
    if taker is None:
        return f"--{name}"
    return "" if taker(name, value, train, rest, on_cpu) else f"--{name} {_shown(value)}"


def _possible(name: str, value: float) -> bool:
    """Values that the fast lane can train with; ms-swift gets the others, or reports what is wrong with them.

    A fraction is not a number of steps: ms-swift takes save_steps and warmup_steps below 1 as a share of the run.
    """
    if name in WHOLE and not float(value).is_integer():
        return False
    if name in ("num_train_epochs", "adam_epsilon"):
        return value > 0
    if name in AT_LEAST_1:
        return value >= 1
    if name in ("lora_dropout", "warmup_ratio", "adam_beta1", "adam_beta2"):
        return 0 <= value < 1
    return name == "max_steps" or value >= 0


# taker(name, value, train, rest, on_cpu): whether the fast lane supports the value; stores it if it has an effect.
Taker = Callable[[str, Any, "dict[str, Any]", "dict[str, Any]", bool], bool]


def _only(*allowed: Any) -> Taker:
    """An option that has no effect if it has one of these values."""
    return lambda name, value, train, rest, on_cpu: value in allowed or str(value).lower() in allowed


def _one_of(*allowed: str) -> Taker:
    """An option that the fast lane adopts if it has one of these values."""
    return _stored(lambda value: value in allowed)


def _stored(fits: Callable[[Any], bool], in_rest: str = "") -> Taker:
    """An option that is stored if `fits`: in `train`, or under another name in `rest`."""

    def take(name: str, value: Any, train: dict[str, Any], rest: dict[str, Any], on_cpu: bool) -> bool:
        if not fits(value):
            return False
        if in_rest:
            rest[in_rest] = value
        else:
            train[name] = value
        return True

    return take


def _at_least_1(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _share(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 <= value < 1


def _modules(name: str, value: Any, train: dict[str, Any], rest: dict[str, Any], on_cpu: bool) -> bool:
    names = [value] if isinstance(value, str) else list(value)
    if names == ["all-linear"]:
        return True
    train["target_modules"] = tuple(each for each in PROJECTIONS if each in names)
    return bool(names) and set(names) <= set(PROJECTIONS)


def _system(name: str, value: Any, train: dict[str, Any], rest: dict[str, Any], on_cpu: bool) -> bool:
    rest["system"] = _shown(value)
    return not rest["system"].endswith(".txt")  # ms-swift reads such a file


def _report_to(name: str, value: Any, train: dict[str, Any], rest: dict[str, Any], on_cpu: bool) -> bool:
    names = {value} if isinstance(value, str) else set(value)
    rest["tensorboard"] = "tensorboard" in names
    return names <= {"tensorboard", "none"}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


TAKERS: dict[str, Taker] = {
    "tuner_type": _only("lora"),
    "train_type": _only("lora"),
    "model_type": _only("qwen2", "qwen2_5"),
    "template": _only("qwen2_5"),
    "task_type": _only("causal_lm"),
    "truncation_strategy": _only("delete"),
    "add_version": _only(False),
    "split_dataset_ratio": _stored(_share, "split"),
    "val_dataset_shuffle": _only(False),
    "save_strategy": _one_of("steps", "epoch"),
    "eval_strategy": _one_of("no", "steps", "epoch"),
    "metric_for_best_model": _one_of("loss", "eval_loss", "token_acc", "eval_token_acc"),
    "logging_strategy": _only("steps"),
    "optim": _only("adamw_torch", "adamw_torch_fused"),
    "dataset_shuffle": _only(True),
    "train_dataloader_shuffle": _only(True),
    "fp16": _only(False),
    "lora_bias": _only("none"),
    "init_weights": _only(True, "true"),
    "torch_dtype": lambda name, value, train, rest, on_cpu: on_cpu or value in ("bfloat16", "auto"),
    # The factors in which a batch is given. Only their product matters, since the plan splits it again.
    "per_device_train_batch_size": _stored(_at_least_1),
    "gradient_accumulation_steps": _stored(_at_least_1),
    "target_modules": _modules,
    "lr_scheduler_type": _one_of("cosine", "linear", "constant", "constant_with_warmup"),
    "system": _system,
    "max_length": _stored(_at_least_1, "max_length"),
    "report_to": _report_to,
}


def _batch(train: dict[str, Any]) -> int:
    """Rows per optimizer step. ms-swift fills a batch up to 16 if gradient_accumulation_steps is not given."""
    rows = train.pop("per_device_train_batch_size", 1)
    parts = train.pop("gradient_accumulation_steps", None)
    return rows * (parts if parts is not None else max(-(-16 // rows), 1))
