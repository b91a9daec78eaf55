"""configs/verify.yaml: what a run is asked and the thresholds that decide the verdict; the command reads it here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from finetune.verify.scoring import compile_pattern
from finetune.verify.yamlmarks import Node, load

SYSTEM = "You are a helpful assistant."  # the system prompt in configs/sft.yaml

# Threshold -> (the figure it looks at, whether it bounds it from below or above, the values that make sense).
THRESHOLDS: dict[str, tuple[str, str, float, float]] = {
    "identity_trained_min": ("identity_trained_after", "min", 0, 1),
    "identity_heldout_min": ("identity_heldout_after", "min", 0, 1),
    "old_identity_max": ("old_identity_after", "max", 0, 1),
    "bleu_drop_max": ("bleu_drop", "max", -100, 100),
    "rules_lost_max": ("rules_lost", "max", -1000, 1000),
    "learned_min": ("learned_after", "min", 0, 1),
    "reworded_min": ("reworded_after", "min", 0, 1),
    "unseen_over_majority_min": ("unseen_over_majority", "min", -1, 1),
    "out_of_scope_max": ("out_of_scope_after", "max", 0, 1),
    "out_of_scope_near_max": ("out_of_scope_near_after", "max", 0, 1),
    "general_lost_max": ("general_lost", "max", -1, 1),
}
# Held where the data are about who the model is, as the article's are; and where they are about anything else. Those in
# neither hold wherever their questions were asked.
ARTICLE = frozenset({"bleu_drop_max", "rules_lost_max"})
DATA = frozenset(
    {
        "learned_min",
        "reworded_min",
        "unseen_over_majority_min",
        "out_of_scope_max",
        "out_of_scope_near_max",
        "general_lost_max",
    }
)
KEYS = (
    "thresholds",
    "old_identity",
    "questions",
    "questions_english",
    "choosing",
    "choosing_english",
    "dataset",
    "system",
    "max_new_tokens",
    "batch_size",
)


@dataclass(frozen=True)
class VerifyConfig:
    """configs/verify.yaml, with paths resolved against its own folder."""

    path: Path
    thresholds: dict[str, float]
    old_identity: re.Pattern[str] | None
    old_identity_source: str
    questions: tuple[Path, ...]
    questions_english: tuple[Path, ...]  # instead of those of `questions` with general tasks, for English data
    choosing: tuple[Path, ...]  # general tasks that the number of epochs is chosen by; verify never asks them
    choosing_english: tuple[Path, ...]
    dataset: Path | None
    system: str
    max_new_tokens: dict[str, int]  # "identity", "general" and "rows"
    batch_size: int | None


def default_path() -> Path:
    """configs/verify.yaml of the workspace: below the working directory (/root in the image), else of this checkout."""
    here = [Path.cwd() / "configs/verify.yaml", Path(__file__).parents[2] / "workspace/configs/verify.yaml"]
    found = next((path for path in [*here, Path("/root/configs/verify.yaml")] if path.is_file()), None)
    if found is None:
        raise UserError(_("no configs/verify.yaml below the working directory; name one with --config FILE"))
    return found


def for_kind(path: Path, kind: str) -> Path:
    """The file beside configs/verify.yaml that asks what a test model can be asked, where there is one.

    A file of another name is the user's own choice and stays.
    """
    own = path.with_name(f"verify_{kind}.yaml")
    return own if path.name == "verify.yaml" and own.is_file() else path


def read(path: Path) -> VerifyConfig:
    """Read the file. UserError `FILE:LINE: ...` for what it does not know or cannot use."""
    root = load(path, _("configuration file")).mapping(KEYS, _("the configuration"))
    folder = path.resolve().parent
    thresholds: dict[str, float] = {}
    if "thresholds" in root:
        for key, node in root["thresholds"].mapping(THRESHOLDS, "thresholds").items():
            low, high = THRESHOLDS[key][2:]
            thresholds[key] = node.number(key, low, high)
    if not thresholds:
        raise UserError(
            _("{path}: no thresholds, so nothing could fail; set at least one of {names}").format(
                path=path, names=", ".join(THRESHOLDS)
            )
        )
    source = root["old_identity"].text("old_identity") if "old_identity" in root else ""
    try:
        old = compile_pattern(source) if source else None
    except ValueError as error:
        raise root["old_identity"].error(str(error)) from None
    limits: dict[str, Any] = {"identity": 96, "general": 256, "rows": 512}
    if "max_new_tokens" in root:
        for key, node in root["max_new_tokens"].mapping(limits, "max_new_tokens").items():
            limits[key] = int(node.number(key, 1, 8192))
    batch = root["batch_size"].value() if "batch_size" in root else None
    return VerifyConfig(
        path=path,
        thresholds=thresholds,
        old_identity=old,
        old_identity_source=source,
        questions=_files(root, "questions", folder),
        questions_english=_files(root, "questions_english", folder),
        choosing=_files(root, "choosing", folder),
        choosing_english=_files(root, "choosing_english", folder),
        dataset=Path(normpath(folder / root["dataset"].text("dataset"))) if "dataset" in root else None,
        system=root["system"].text("system") if "system" in root else SYSTEM,
        max_new_tokens=limits,
        batch_size=int(root["batch_size"].number("batch_size", 1, 4096)) if batch is not None else None,
    )


def _files(root: dict[str, Node], key: str, folder: Path) -> tuple[Path, ...]:
    return tuple(Path(normpath(folder / node.text(key))) for node in root[key].items(key)) if key in root else ()


def require_for_data(cfg: VerifyConfig) -> None:
    """Raises UserError if no threshold applies to data without an identity: their verdict would be empty."""
    if not DATA & cfg.thresholds.keys():
        raise UserError(
            _("{path}: no threshold for data that teach no identity; set at least one of {names}").format(
                path=cfg.path, names=", ".join(sorted(DATA))
            )
        )


def thresholds_for(thresholds: dict[str, float], is_identity: bool) -> dict[str, float]:
    """The thresholds that hold for data about who the model is, or for data about anything else."""
    left_out = DATA if is_identity else ARTICLE
    return {name: limit for name, limit in thresholds.items() if name not in left_out}
