"""The card (README.md) next to a GGUF: what the file is, where it came from, how it was proved, how it is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import sha256sums
from common.i18n import N_, _
from common.model_kind import ModelKind
from finetune.export.proof import Part
from finetune.merge import model_card


@dataclass(frozen=True)
class Made:
    """What the card says about one export."""

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
    """Write the card. It holds the sha256 of the file.

    Args:
        path: The card's file.
        made: What it says.
    """
    lines = model_card.head(made.file.stem, made.base, made.kind, "gguf")
    lines += [*_start(made.file.name), _("## What it is"), ""]
    official = made.base / sha256sums.NAME
    digest = sha256sums.digest(official) if official.is_file() else None
    rows = {
        N_("file"): _("{name}, {size:,} bytes, {quant}").format(
            name=made.file.name, size=made.file.stat().st_size, quant=made.quant.upper()
        ),
        "sha256": f"`{sha256sums.digest(made.file)}`",
        **(
            model_card.provenance(made.base, digest, made.adapter, made.record, made.lora)
            if made.adapter
            else {N_("base"): made.base.name}
        ),
        N_("exported"): model_card.now(),
        N_("versions at export"): ", ".join(f"{each} {version}" for each, version in made.versions.items()),
        N_("licence"): _("{licence}, see LICENSE").format(licence=model_card.licence_of(made.base)),
    }
    lines += [*model_card.table(rows), _("## The proof, by llama.cpp on this file"), ""]
    for part in made.parts:
        failed = "" if part.ok else _("**failed** ")
        lines.append(f"- {failed}{part.name}: {part.looked_at}")
        lines += [f"  - {each}" for each in [*part.faults, *part.lost]]
    lines += ["", _("The system prompt that it was trained with; it is used where a request has none:"), ""]
    lines += ["```text", made.system, "```", "", _("`sha256sum -c SHA256SUMS` proves the files."), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _start(file: str) -> list[str]:
    """The commands that run the file."""
    name = json.dumps(file)[1:-1]
    return [
        _("Run these in this folder; Ollama reads its Modelfile:"),
        "",
        "```bash",
        "ollama create my-model -f Modelfile && ollama run my-model   # Ollama",
        f"llama-server -m {name} --jinja --temp 0                     # llama.cpp: http://127.0.0.1:8080",
        f"lms import {name} && lms load {Path(file).stem}             # LM Studio",
        "```",
        "",
    ]
