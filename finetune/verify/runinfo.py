"""What a run's folder says about itself: system prompt, dataset, losses, settings; commands and reports ask here.

Both engines leave these files: run.json (the fast lane), args.json (ms-swift), logging.jsonl (both).
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
from finetune.verify.sets.unseen import MIXED, REWORDED
from qwen2 import adapter_config

# What the report shows of a run, by the names that both engines share.
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
    held_out: list[tuple[int, float]] = field(default_factory=list)  # losses of rows that were evaluated meanwhile
    max_steps: int | None = None
    made = (REWORDED, MIXED)  # datasets that finetune made beside the user's own

    @property
    def system(self) -> str | None:
        """The system prompt it trained under, if it says so."""
        value = self.settings.get("system")
        return value if isinstance(value, str) and value.strip() else None

    @property
    def epochs(self) -> dict[str, Any] | None:
        """How its number of epochs was chosen (verify/epochs); None where the user gave it."""
        value = self.settings.get("epochs")
        return value if isinstance(value, dict) and isinstance(value.get("curve"), list) else None

    @property
    def losses_of_adapter(self) -> list[tuple[int, float]]:
        """The losses up to the step whose adapter was kept: an epoch before the last may have been chosen."""
        chosen = self.epochs
        if chosen is None or chosen["by"] != "reworded":  # of a task, the run's last step is the one
            return self.losses
        last = next(point["step"] for point in chosen["curve"] if point["epoch"] == chosen["chosen"])
        return [point for point in self.losses if point[0] <= last]

    @property
    def datasets(self) -> list[str]:
        """The datasets it trained on, as they were named."""
        value = self.settings.get("dataset")
        names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        return [str(name) for name in names]

    @property
    def columns(self) -> tuple[str, str] | None:
        """The question's and the answer's column of its tables, where they were named."""
        words = self.settings.get("words")
        if not isinstance(words, list) or "--columns" not in words[:-1]:
            return None
        names = str(words[words.index("--columns") + 1]).split(",")
        return (names[0], names[1]) if len(names) == 2 else None

    def own_datasets(self, *folders: Path) -> list[Path]:
        """The files here that were to be learned: all but those it drew a sample of, which are mixed in, and ours."""
        own = [name for name in self.datasets if not SAMPLED.search(name) and Path(name).name not in self.made]
        return self._local(own, folders) or self.local_datasets(*folders)

    def local_datasets(self, *folders: Path) -> list[Path]:
        """Those of the datasets that are files here: as named, or below one of the folders (names may be relative)."""
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
        """The settings worth a line in the report."""
        chosen = {key: self.settings[key] for key in SETTINGS if self.settings.get(key) not in (None, "", [])}
        return {
            key: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in chosen.items()
        }


def of_adapter(adapter: Path) -> Run:
    """The run that an adapter belongs to: the folder above checkpoint-N, or the adapter's own folder."""
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
    """A file's JSON object; options one level down (`args`, `options`, `settings`) are lifted."""
    data = json_object(path)
    lifted: dict[str, Any] = {}
    for key in ("args", "options", "settings"):
        if isinstance(data.get(key), dict):
            lifted |= data[key]
    return lifted | data


def losses(path: Path, name: str = "loss") -> tuple[list[tuple[int, float]], int | None]:
    """The losses of a logging.jsonl by their name in it, and the steps planned; other lines are skipped."""
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
    """The folder for the reports, made: `wanted`, or verify/ in the run's. Raises UserError if it cannot be written."""
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
