"""The model card (README.md) of a merged model: where it came from and how it was checked; for the command."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    """Write the card. `record` is the run's run.json ({} when it has none), `asked` None when nothing was checked."""
    original = original_of(base, kind)
    lines = head(name, base, kind, "transformers")
    lines += [
        f"A LoRA adapter merged into {kind.title or original or base.name}: {dtype} weights, no adapter needed.",
        "",
    ]
    rows = {
        **provenance(base, base_digest, adapter, record, lora),
        "merged": f"{now()} on {device}",
        "versions, merge": _versions(versions),
        "check": _check(asked),
    }
    lines += table(rows)
    lines += [
        "Asked with the system prompt that it was trained under:",
        "",
        "```text",
        system,
        "```",
        "",
        "`sha256sum -c SHA256SUMS` proves the files. "
        f"{licence_of(base)}, see LICENSE; "
        f"the base is {original or kind.title or base.name}.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def original_of(base: Path, kind: ModelKind) -> str:
    """The repository that the base is from; empty where it is not known."""
    return f"Qwen/{base.name}" if not kind.is_for_tests and base.name.startswith("Qwen") else kind.repository


def head(name: str, base: Path, kind: ModelKind, library: str) -> list[str]:
    """The first lines of a card: what hubs read, the title, and a warning where the base is made for tests."""
    read = {"license": licence(base), "library_name": library, "pipeline_tag": "text-generation"}
    if original := original_of(base, kind):
        read["base_model"] = original
    lines = ["---", *(f"{key}: {value}" for key, value in read.items()), "---", "", f"# {name}", ""]
    if kind.is_for_tests:
        lines += [f"**Made from {kind.title}**: {kind.what}.", ""]
    return lines


def provenance(
    base: Path, base_digest: str | None, adapter: Path, record: dict[str, Any], lora: dict[str, Any]
) -> dict[str, str]:
    """Where a model came from: the rows of a card that hold for a merged folder and for a GGUF."""
    return {
        "base": f"{base.name}" + (f", SHA256SUMS sha256 `{base_digest}`" if base_digest else ""),
        "adapter": f"{adapter.parent.name}/{adapter.name}",
        "rank, alpha": f"{lora.get('r', '?')}, {lora.get('lora_alpha', '?')}",
        "trained": _trained(record),
        "engine": str(record.get("engine") or "not recorded"),
        "settings": _settings(record),
        **{f"dataset {number}": text for number, text in enumerate(_datasets(record), 1)},
        "versions, training": _versions(record.get("versions") or {}),
    }


def table(rows: dict[str, str]) -> list[str]:
    """The lines of a table of two columns, and an empty one."""
    return ["| what | |", "| --- | --- |", *(f"| {key} | {_cell(value)} |" for key, value in rows.items()), ""]


def now() -> str:
    """The time, for a card."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"


def licence(base: Path) -> str:
    """The licence in the hubs' words: that of the base's own LICENSE, since Qwen2.5-3B's is not Apache's."""
    try:
        text = (base / "LICENSE").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "apache-2.0"
    return "apache-2.0" if "Apache License" in text else "other"


def licence_of(base: Path) -> str:
    """The same in a reader's words."""
    return "Apache-2.0" if licence(base) == "apache-2.0" else "Under the licence of the base"


def _trained(record: dict[str, Any]) -> str:
    parts = [str(record["started"])] if record.get("started") else []
    if record.get("steps"):
        parts.append(f"{record['steps']} steps")
    if record.get("first_loss") is not None and record.get("final_loss") is not None:
        parts.append(f"loss {record['first_loss']:.2f} -> {record['final_loss']:.2f}")
    return ", ".join(parts) or "not recorded (no run.json beside the checkpoint)"


def _settings(record: dict[str, Any]) -> str:
    settings = record.get("settings") or {}
    names = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "seed")
    return ", ".join(f"{name} {settings[name]}" for name in names if name in settings) or "not recorded"


def _datasets(record: dict[str, Any]) -> list[str]:
    found = []
    for each in record.get("datasets") or []:
        text = Path(str(each.get("name"))).name
        if each.get("rows") is not None:
            text += f", {each['rows']} rows"
        found.append(text + (f", sha256 `{each['sha256']}`" if each.get("sha256") else ""))
    return found or ["not recorded"]


def _versions(versions: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"


def _check(asked: Sequence[AnswerPair] | None) -> str:
    if asked is None:
        return "left out (--no-check)"
    differing = sum(each.gap is not None for each in asked)
    text = f"{len(asked)} questions, greedy, before and after merging: {differing} answers differ"
    return text + (f", each at a near tie (at most {NEAR_TIE} logits)" if differing else "")


def _cell(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("|", "\\|")
