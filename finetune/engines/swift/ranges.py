"""The valid ranges of ms-swift's numeric options; the launcher and the plan command reject others in one line.

ms-swift finds an invalid value after its imports, or after loading the weights, and ends with a traceback.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from common.i18n import N_, _


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts, and their description."""

    holds: Callable[[float], bool]
    words: str


POSITIVE = Range(lambda value: value > 0, N_("more than 0"))
AT_LEAST_0 = Range(lambda value: value >= 0, N_("0 or more"))
AT_LEAST_1 = Range(lambda value: value >= 1, N_("1 or more"))
BELOW_1 = Range(lambda value: 0 <= value < 1, N_("from 0 up to but not including 1"))
SHARE = Range(lambda value: 0 <= value <= 1, N_("from 0 to 1"))
SEED = Range(lambda value: 0 <= value < 2**32, N_("a whole number from 0 to 4294967295"))

RANGES: dict[str, Range] = {
    "lora_rank": AT_LEAST_1,
    "lora_alpha": POSITIVE,
    "lora_dropout": BELOW_1,
    "learning_rate": AT_LEAST_0,
    "num_train_epochs": POSITIVE,
    "max_steps": Range(lambda value: value >= -1, N_("-1 for no limit, or a number of steps")),
    "per_device_train_batch_size": AT_LEAST_1,
    "per_device_eval_batch_size": AT_LEAST_1,
    "gradient_accumulation_steps": AT_LEAST_1,
    "max_length": AT_LEAST_1,
    "save_steps": POSITIVE,
    "eval_steps": POSITIVE,
    "logging_steps": POSITIVE,
    "warmup_ratio": SHARE,
    "warmup_steps": AT_LEAST_0,
    "weight_decay": AT_LEAST_0,
    "adam_beta1": BELOW_1,
    "adam_beta2": BELOW_1,
    "adam_epsilon": AT_LEAST_0,
    "max_grad_norm": AT_LEAST_0,
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_num_workers": AT_LEAST_0,
    "dataset_num_proc": AT_LEAST_1,
    "split_dataset_ratio": SHARE,
    "temperature": AT_LEAST_0,
    "top_p": SHARE,
    "max_new_tokens": AT_LEAST_1,
    "repetition_penalty": POSITIVE,
}


def fault(name: str, value: float) -> str | None:
    """Why a number is not valid for an option, for the end of a line; None if it is valid."""
    if not math.isfinite(value):
        return _("is not a finite number")
    allowed = RANGES.get(name)
    if allowed is None or allowed.holds(value):
        return None
    return _("is out of range; it must be {words}").format(words=_(allowed.words))


# Common values, for which another example would look odd.
EXAMPLES = {"learning_rate": "1e-4", "warmup_ratio": "0.05", "weight_decay": "0.1", "num_train_epochs": "3"}


def not_a_number(name: str, value: str, kind: str) -> str:
    """What is wrong with a word where a number is expected, with an example. `kind` is int or float."""
    if kind == "int":
        text = _("{value} is not a whole number; for example {example}")
    else:
        text = _("{value} is not a number; for example {example}")
    return text.format(value=value, example=EXAMPLES.get(name, "8" if kind == "int" else "0.5"))
