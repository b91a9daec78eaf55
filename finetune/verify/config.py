"""Reads configs/verify.yaml: what a run is asked, and the thresholds that decide the verdict."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from os.path import normpath
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from finetune.verify.scoring import compile_pattern
from finetune.verify.yamlmarks import Node, load

SYSTEM = "You are a helpful assistant."  # the system prompt in configs/sft.yaml

# Threshold -> (the figure that it limits, whether it is a minimum or a maximum, the lowest and highest valid value).
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
# ARTICLE applies only to data about who the model is, like the article's; DATA only to all other data. The remaining
# thresholds apply whenever their questions were asked.
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


@dataclass(frozen=True)
class VerifyConfig:
    """configs/verify.yaml, with paths resolved against its own folder."""

    path: Path
    thresholds: dict[str, float]
    old_identity: re.Pattern[str] | None
    old_identity_source: str
    questions: tuple[Path, ...]
    questions_english: tuple[Path, ...]  # for English data: replace the general tasks in `questions`
    choosing: tuple[Path, ...]  # general tasks for choosing the number of epochs; verify never asks them
    choosing_english: tuple[Path, ...]
    dataset: Path | None
    system: str
    max_new_tokens: dict[str, int]  # longest answers in tokens, of "identity", "general" and "rows"
    batch_size: int | None


KEYS = [each.name for each in fields(VerifyConfig) if each.name not in ("path", "old_identity_source")]


def default_path() -> Path:
    """The workspace's configs/verify.yaml: below the working folder (/root in the image), else in this checkout.

    Raises UserError if there is none.
    """
    here = [Path.cwd() / "configs/verify.yaml", Path(__file__).parents[2] / "workspace/configs/verify.yaml"]
    found = next((path for path in [*here, Path("/root/configs/verify.yaml")] if path.is_file()), None)
    if found is None:
        raise UserError(_("no configs/verify.yaml below the working directory; name one with --config FILE"))
    return found


def for_kind(path: Path, kind: str) -> Path:
    """The configuration for a model made for tests, next to configs/verify.yaml; else `path`.

    Args:
        path: The configuration. Only verify.yaml is replaced: another name is the user's own choice.
        kind: The name of the model's kind (common.model_kind).
    """
    own = path.with_name(f"verify_{kind}.yaml")
    return own if path.name == "verify.yaml" and own.is_file() else path


def read(path: Path) -> VerifyConfig:
    """Read the file. Raises UserError, `FILE:LINE: ...`, for an unknown key or an unusable value."""
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
    """Raises UserError if no threshold applies to data that teach no identity: the verdict would be empty."""
    if not DATA & cfg.thresholds.keys():
        raise UserError(
            _("{path}: no threshold for data that teach no identity; set at least one of {names}").format(
                path=cfg.path, names=", ".join(sorted(DATA))
            )
        )


def thresholds_for(thresholds: dict[str, float], is_identity: bool) -> dict[str, float]:
    """The thresholds that apply to data about who the model is, or to all other data."""
    left_out = DATA if is_identity else ARTICLE
    return {name: limit for name, limit in thresholds.items() if name not in left_out}
