"""What adapter_config.json says about a PEFT LoRA; used by lora.py to read weights and by finetune to check adapters.

Does not import torch: a command that only looks up an adapter must not wait for it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from common.i18n import _

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
BIN_FILE = "adapter_model.bin"  # what PEFT wrote before 0.6, and still does without safe_serialization

# Initializations that leave the base unchanged. The others (pissa, olora, corda, loftq, ...) move part of the base's
# weights into A and B, so the adapter is correct only on a base that was changed in the same way.
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
# Keys that deliberately leave out layers or linears.
PARTIAL = ("layers_to_transform", "exclude_modules")


def read(folder: Path) -> dict[str, Any]:
    """The settings in `folder`/adapter_config.json. Raises ValueError, with a message for the user, if it has none."""
    file = folder / CONFIG_FILE
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(_("not a JSON object"))
    except FileNotFoundError:
        raise ValueError(
            _("no {name} in {folder}: this is not an adapter folder; name a checkpoint-N folder").format(
                name=CONFIG_FILE, folder=folder
            )
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(
            _("{file} cannot be read ({error}); use another checkpoint").format(file=file, error=error)
        ) from None
    return settings


def rank(settings: dict[str, Any], module: str) -> int:
    """The rank of one linear, by its path in the model. Raises ValueError or KeyError if it is not a number."""
    return int(_of(settings.get("rank_pattern"), module, settings["r"]))


def alpha(settings: dict[str, Any], module: str) -> float:
    """lora_alpha of one linear, by its path in the model. Raises ValueError if it is not a number."""
    return float(_of(settings.get("alpha_pattern"), module, settings.get("lora_alpha", 8)))


def _of(pattern: Any, module: str, default: Any) -> Any:
    """PEFT's rule (tuners_utils.get_pattern_key): the first key that matches the path or its end as a regex."""
    for key, value in (pattern or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error:
            continue
    return default


def converted(folder: Path) -> Path:
    """Where ms-swift saves a PiSSA or OLoRA checkpoint as a plain LoRA."""
    return folder / "converted" / "default"


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint that a `converted` folder belongs to; any other folder is returned unchanged."""
    return folder.parent.parent if folder.parts[-2:] == ("converted", "default") else folder


def not_plain(settings: dict[str, Any]) -> str | None:
    """Why an adapter is more than W + s B A on the base's own linears, in a few words; None for a plain LoRA.

    Ranks and alphas may differ between linears, and linears and layers may be left out.
    """
    start = settings.get("init_lora_weights", True)
    reasons = {
        f"peft_type {settings.get('peft_type')}": settings.get("peft_type", "LORA") != "LORA",
        "DoRA": bool(settings.get("use_dora")),
        "QALoRA": bool(settings.get("use_qalora")),
        f"bias {settings.get('bias')}": settings.get("bias", "none") != "none" or bool(settings.get("lora_bias")),
        f"modules_to_save {settings.get('modules_to_save')}": bool(settings.get("modules_to_save")),
        "fan_in_fan_out": bool(settings.get("fan_in_fan_out")),
        "layer_replication": bool(settings.get("layer_replication")),
        "trainable_token_indices": bool(settings.get("trainable_token_indices")),
        "target_parameters": bool(settings.get("target_parameters")),
        _("init_lora_weights {start}, which changes the base").format(start=start): start not in PLAIN_STARTS,
    }
    return next((reason for reason, is_so in reasons.items() if is_so), None)
