"""The model card (README.md) of a merged model: where it came from and how it was checked; for the command."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.merge.same_answers import NEAR_TIE, Asked

BASE = "Qwen/Qwen2.5-7B-Instruct"


def write(
    path: Path,
    *,
    name: str,
    base: Path,
    base_digest: str | None,
    standin: bool,
    dtype: str,
    adapter: Path,
    record: dict[str, Any],
    lora: dict[str, Any],
    system: str,
    versions: dict[str, str],
    asked: Sequence[Asked] | None,
    device: str,
) -> None:
    """Write the card. `record` is the run's run.json ({} when it has none), `asked` None when nothing was checked."""
    head = {"license": "apache-2.0", "library_name": "transformers", "pipeline_tag": "text-generation"}
    if not standin:
        head["base_model"] = BASE
    lines = ["---", *(f"{key}: {value}" for key, value in head.items()), "---", "", f"# {name}", ""]
    if standin:
        lines += ["**Made from the stand-in**, a tiny model for tests: these are not the weights of Qwen2.5-7B.", ""]
    lines += [
        f"A LoRA adapter merged into {'the stand-in' if standin else BASE}: {dtype} weights, no adapter needed.",
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
        f"`sha256sum -c SHA256SUMS` proves the files. Apache-2.0, see LICENSE; the base is Alibaba Cloud's {BASE}.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


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


def _check(asked: Sequence[Asked] | None) -> str:
    if asked is None:
        return "left out (--no-check)"
    differing = sum(each.gap is not None for each in asked)
    text = f"{len(asked)} questions, greedy, before and after merging: {differing} answers differ"
    return text + (f", each at a near tie (at most {NEAR_TIE} logits)" if differing else "")


def _cell(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("|", "\\|")
