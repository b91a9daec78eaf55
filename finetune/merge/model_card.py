"""The model card (README.md) of a merged model: where it came from and how it was checked; commands/merge.py calls it.

export/card.py uses the parts that both cards have.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.i18n import N_, _
from common.model_kind import ModelKind
from finetune.merge.same_answers import NEAR_TIE, AnswerPair


def write(
    path: Path,
    *,
    name: str,
    base: Path,
    base_digest: str | None,
    kind: ModelKind,
    dtype: str,
    adapter: Path,
    record: dict[str, Any],
    lora: dict[str, Any],
    system: str,
    versions: dict[str, str],
    asked: Sequence[AnswerPair] | None,
    device: str,
) -> None:
    """Write the card.

    Args:
        path: The card's file.
        name: The model's name, the title of the card.
        base: The folder of the base.
        base_digest: The sha256 of the base's SHA256SUMS; None if it has none.
        kind: Whether the base is one made for tests.
        dtype: The type of the merged weights.
        adapter: The folder of the adapter.
        record: The run's run.json; {} if it has none.
        lora: The adapter's adapter_config.json.
        system: The training's system prompt.
        versions: {package: version} at the merge.
        asked: The questions of the check with both answers; None if the check was skipped.
        device: Where the weights were merged.
    """
    original = original_of(base, kind)
    lines = head(name, base, kind, "transformers")
    lines += [
        _("A LoRA adapter merged into {title}: {dtype} weights, no adapter needed.").format(
            title=kind.title or original or base.name, dtype=dtype
        ),
        "",
    ]
    rows = {
        **provenance(base, base_digest, adapter, record, lora),
        N_("merged"): f"{now()} on {device}",
        N_("versions at merge"): _versions(versions),
        N_("check"): _check(asked),
    }
    lines += [*table(rows), *_use(system, base, original or kind.title or base.name)]
    path.write_text("\n".join(lines), encoding="utf-8")


def _use(system: str, base: Path, name: str) -> list[str]:
    """The lines below the table; `name` is the base's."""
    return [
        _("Use it with the system prompt that it was trained with:"),
        "",
        "```text",
        system,
        "```",
        "",
        _("`sha256sum -c SHA256SUMS` proves the files. {licence}, see LICENSE; the base is {original}.").format(
            licence=licence_of(base), original=name
        ),
        "",
    ]


def original_of(base: Path, kind: ModelKind) -> str:
    """The base's repository on the hubs; "" if it is not known."""
    return f"Qwen/{base.name}" if not kind.is_for_tests and base.name.startswith("Qwen") else kind.repository


def head(name: str, base: Path, kind: ModelKind, library: str) -> list[str]:
    """The first lines of a card: the metadata that hubs read, the title, and a warning if the base is for tests.

    Args:
        name: The model's name, the title.
        base: The folder of the base.
        kind: Whether the base is one made for tests.
        library: What loads the model, in the hubs' words: transformers or gguf.
    """
    read = {"license": licence(base), "library_name": library, "pipeline_tag": "text-generation"}
    if original := original_of(base, kind):
        read["base_model"] = original
    lines = ["---", *(f"{key}: {value}" for key, value in read.items()), "---", "", f"# {name}", ""]
    if kind.is_for_tests:
        lines += [_("**Made from {title}**: {what}.").format(title=_(kind.title), what=_(kind.what)), ""]
    return lines


def provenance(
    base: Path, base_digest: str | None, adapter: Path, record: dict[str, Any], lora: dict[str, Any]
) -> dict[str, str]:
    """Where a model came from: the rows that the cards of a merged folder and of a GGUF share. See `write`."""
    return {
        N_("base"): f"{base.name}" + (f", SHA256SUMS sha256 `{base_digest}`" if base_digest else ""),
        N_("adapter"): f"{adapter.parent.name}/{adapter.name}",
        N_("rank, alpha"): f"{lora.get('r', '?')}, {lora.get('lora_alpha', '?')}",
        N_("trained"): _trained(record),
        N_("engine"): str(record.get("engine") or _("not recorded")),
        N_("settings"): _settings(record),
        **{_("dataset {number}").format(number=number): text for number, text in enumerate(_datasets(record), 1)},
        N_("versions at training"): _versions(record.get("versions") or {}),
    }


def table(rows: dict[str, str]) -> list[str]:
    """The lines of a table with two columns, and an empty line after it."""
    return ["| | |", "| --- | --- |", *(f"| {_(key)} | {_cell(value)} |" for key, value in rows.items()), ""]


def now() -> str:
    """The current time, for a card."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"


def licence(base: Path) -> str:
    """The hubs' name of the licence, from the base's LICENSE: Qwen2.5-3B, for one, is not under Apache-2.0."""
    try:
        text = (base / "LICENSE").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "apache-2.0"
    return "apache-2.0" if "Apache License" in text else "other"


def licence_of(base: Path) -> str:
    """The licence, for a reader."""
    return "Apache-2.0" if licence(base) == "apache-2.0" else _("Under the licence of the base")


def _trained(record: dict[str, Any]) -> str:
    parts = [str(record["started"])] if record.get("started") else []
    if record.get("steps"):
        parts.append(_("{steps} steps").format(steps=record["steps"]))
    if record.get("first_loss") is not None and record.get("final_loss") is not None:
        parts.append(_("loss {first:.2f} -> {last:.2f}").format(first=record["first_loss"], last=record["final_loss"]))
    return ", ".join(parts) or _("not recorded (no run.json next to the checkpoint)")


def _settings(record: dict[str, Any]) -> str:
    settings = record.get("settings") or {}
    names = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "seed")
    return ", ".join(f"{name} {settings[name]}" for name in names if name in settings) or _("not recorded")


def _datasets(record: dict[str, Any]) -> list[str]:
    found = []
    for each in record.get("datasets") or []:
        text = Path(str(each.get("name"))).name
        if each.get("rows") is not None:
            text += _(", {rows} rows").format(rows=each["rows"])
        found.append(text + (f", sha256 `{each['sha256']}`" if each.get("sha256") else ""))
    return found or [_("not recorded")]


def _versions(versions: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or _("not recorded")


def _check(asked: Sequence[AnswerPair] | None) -> str:
    if asked is None:
        return _("skipped (--no-check)")
    differing = sum(each.gap is not None for each in asked)
    text = _("{count} questions, greedy, before and after merging: {differing} answers differ").format(
        count=len(asked), differing=differing
    )
    return text + (_(", each at a near tie (at most {most} logits)").format(most=NEAR_TIE) if differing else "")


def _cell(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("|", "\\|")
