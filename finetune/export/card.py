"""The card (README.md) beside a GGUF: what it is, where it came from, how it was proved, and how it is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import sha256sums
from common.model_kind import ModelKind
from finetune.export.proof import Part
from finetune.merge import model_card


@dataclass(frozen=True)
class Made:
    """One export, as far as its card tells of it."""

    file: Path
    quant: str
    base: Path
    adapter: Path | None
    kind: ModelKind
    system: str
    record: dict[str, Any]  # run.json of the run
    lora: dict[str, Any]  # adapter_config.json
    versions: dict[str, str]
    parts: Sequence[Part]


def write(path: Path, made: Made) -> None:
    """Write the card; the file's sha256 is in it."""
    lines = model_card.head(made.file.stem, made.base, made.kind, "gguf")
    lines += [*_start(made.file.name), "## What it is", ""]
    official = made.base / sha256sums.NAME
    digest = sha256sums.digest(official) if official.is_file() else None
    rows = {
        "file": f"{made.file.name}, {made.file.stat().st_size:,} bytes, {made.quant.upper()}",
        "sha256": f"`{sha256sums.digest(made.file)}`",
        **({"base": made.base.name} if made.adapter is None else _provenance(made, digest)),
        "exported": model_card.now(),
        "versions, export": ", ".join(f"{each} {version}" for each, version in made.versions.items()),
        "licence": f"{model_card.licence_of(made.base)}, see LICENSE",
    }
    lines += [*model_card.table(rows), "## The proof, by llama.cpp on this file", ""]
    for part in made.parts:
        lines.append(f"- {'' if part.ok else '**failed** '}{part.name}: {part.looked_at}")
        lines += [f"  - {each}" for each in [*part.faults, *part.lost]]
    lines += ["", "The system prompt that it was trained under, and that it has where a request brings none:", ""]
    lines += ["```text", made.system, "```", "", "`sha256sum -c SHA256SUMS` proves the files.", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _start(file: str) -> list[str]:
    """The lines that run it."""
    name = json.dumps(file)[1:-1]
    return [
        "```bash",
        "ollama create my-model -f Modelfile && ollama run my-model   # in this folder; Ollama reads Modelfile",
        f"llama-server -m {name} --jinja --temp 0                     # llama.cpp: http://127.0.0.1:8080",
        f"lms import {name} && lms load {Path(file).stem}             # LM Studio",
        "```",
        "",
    ]


def _provenance(made: Made, digest: str | None) -> dict[str, str]:
    assert made.adapter is not None
    return model_card.provenance(made.base, digest, made.adapter, made.record, made.lora)
