"""Reads a run's folder: system prompt, datasets, losses, settings; commands and reports use it.

The files are run.json (from the fast lane), args.json (from ms-swift) and logging.jsonl (from both).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from common.json_files import json_object
from finetune.verify.sets.row_files import MIXED, REWORDED
from qwen2 import adapter_config

# The settings that the report shows; both engines use these names.
SETTINGS = (
    "engine", "model", "dataset", "system", "tuner_type", "train_type", "torch_dtype", "num_train_epochs",
    "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "lora_rank", "lora_alpha",
    "lora_dropout", "target_modules", "warmup_ratio", "max_length", "seed",
)  # fmt: skip

SAMPLED = re.compile(r"#\d+$")  # `FILE#500`


@dataclass
class Run:
    """A run: its folder, the settings it recorded, and its losses as (step, loss)."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    losses: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)  # evaluation losses during the training
    max_steps: int | None = None
    made = (REWORDED, MIXED)  # datasets that finetune made in addition to the user's

    @property
    def system(self) -> str | None:
        """The training's system prompt; None if it was not recorded."""
        value = self.settings.get("system")
        return value if isinstance(value, str) and value.strip() else None

    @property
    def epochs(self) -> dict[str, Any] | None:
        """How the number of epochs was chosen (verify/epochs); None if the user set it."""
        value = self.settings.get("epochs")
        return value if isinstance(value, dict) and isinstance(value.get("curve"), list) else None

    @property
    def losses_of_adapter(self) -> list[tuple[int, float]]:
        """The losses up to the step whose adapter was kept, which may be at the end of an earlier epoch."""
        chosen = self.epochs
        if chosen is None or chosen["by"] != "reworded":  # otherwise the last step is kept
            return self.losses
        last = next(point["step"] for point in chosen["curve"] if point["epoch"] == chosen["chosen"])
        return [point for point in self.losses if point[0] <= last]

    @property
    def datasets(self) -> list[str]:
        """The datasets of the training, as they were named."""
        value = self.settings.get("dataset")
        names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        return [str(name) for name in names]

    @property
    def columns(self) -> tuple[str, str] | None:
        """The question's and the answer's column of its tables; None if they were not named."""
        words = self.settings.get("words")
        if not isinstance(words, list) or "--columns" not in words[:-1]:
            return None
        names = str(words[words.index("--columns") + 1]).split(",")
        return (names[0], names[1]) if len(names) == 2 else None

    def own_datasets(self, *folders: Path) -> list[Path]:
        """The local dataset files to be learned: without samples (`FILE#500`), which are mixed in, and without `made`.

        Args:
            folders: Folders below which relative names are looked up, after the working folder.
        """
        own = [name for name in self.datasets if not SAMPLED.search(name) and Path(name).name not in self.made]
        return self._local(own, folders) or self.local_datasets(*folders)

    def local_datasets(self, *folders: Path) -> list[Path]:
        """All local dataset files; `folders` as in own_datasets."""
        return self._local(self.datasets, folders)

    def _local(self, names: list[str], folders: tuple[Path, ...]) -> list[Path]:
        found = []
        for name in names:
            stem = SAMPLED.sub("", name)
            place = next((path for path in (Path(stem), *(f / stem for f in folders)) if path.is_file()), None)
            if place:
                found.append(place)
        return found

    def shown(self) -> dict[str, str]:
        """The settings that the report shows, as text."""
        chosen = {key: self.settings[key] for key in SETTINGS if self.settings.get(key) not in (None, "", [])}
        return {
            key: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in chosen.items()
        }


def of_adapter(adapter: Path) -> Run:
    """The run of an adapter: the folder above checkpoint-N, or the adapter's own folder."""
    adapter = adapter_config.checkpoint_of(adapter)
    above = adapter.parent
    in_run = re.fullmatch(r"checkpoint-\d+", adapter.name) or any(
        (above / name).is_file() for name in ("run.json", "args.json", "logging.jsonl")
    )
    folder = above if in_run else adapter
    run = Run(folder)
    for path in (adapter / "args.json", folder / "args.json", folder / "run.json"):
        run.settings |= _settings(path)
    run.losses, run.max_steps = losses(folder / "logging.jsonl")
    run.held_out, _ = losses(folder / "logging.jsonl", "eval_loss")
    return run


def _settings(path: Path) -> dict[str, Any]:
    """A file's JSON object, with the options in `args`, `options` and `settings` moved up one level."""
    data = json_object(path)
    lifted: dict[str, Any] = {}
    for key in ("args", "options", "settings"):
        if isinstance(data.get(key), dict):
            lifted |= data[key]
    return lifted | data


def losses(path: Path, name: str = "loss") -> tuple[list[tuple[int, float]], int | None]:
    """The losses in a logging.jsonl.

    Args:
        path: The file; one that cannot be read has no losses.
        name: The key of the loss.

    Returns:
        (step, loss) of each line that has one, and the planned number of steps, or None.
    """
    found: list[tuple[int, float]] = []
    planned: int | None = None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return [], None
    for line in lines:
        try:
            row = json.loads(line)
            step, _, total = str(
                row.get("global_step/max_steps", row.get("step", row.get("global_step", "")))
            ).partition("/")
            planned = int(total) if total else planned
            found.append((int(step), float(row[name])))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return found, planned


def output_folder(run: Run, wanted: Path | None) -> Path:
    """Create the folder of the reports: `wanted`, else verify/ in the run's folder.

    Raises UserError if it cannot be written.
    """
    folder = wanted or run.folder / "verify"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            _("{folder}: cannot write the reports there: {reason}; name another folder with --output DIR").format(
                folder=folder, reason=error.strerror
            )
        ) from None
    return folder
