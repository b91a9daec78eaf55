"""What the stand-in cannot learn: it knows only the tokens that it was made with; prepare.py reports it at once.

Its embedding has a separate row for each token in its training text, and one row for all others (standin/build.py). It
cannot tell those apart: a LoRA teaches it nothing about them, the loss stays high, and answers are gibberish.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import host
from common.i18n import _
from common.model_kind import STANDIN
from finetune.data.items import Row
from finetune.data.reading import read
from finetune.sft.description import SftRun
from qwen2 import safetensors_header
from qwen2.config import EMBEDDING

ROWS = 2000  # of the data that are checked
WORTH_SAYING = 0.02  # share of the tokens in the data


def tell(run: SftRun) -> None:
    """Warn on stderr before training that the stand-in does not know the data's words; silent if it does."""
    files = run.own_files()
    if run.model_kind is not STANDIN or not files:
        return
    found = unknown_share(run.model_dir, files, run.columns)
    if found is None or found[1] < WORTH_SAYING:
        return
    known, share = found
    told = _(
        "stand-in: it was made with {known} tokens and knows no other; {share:.0%} of the tokens in your data are "
        "others, so the loss stays high and its answers are gibberish: this tries the workflow and teaches nothing. "
        "A real small model without a GPU, in English: {call}"
    )
    print(told.format(known=known, share=share, call=_real_one(files[0])), file=sys.stderr)


def _real_one(file: Path) -> str:
    if host.via_make():
        return f"{host.call('finetune', dataset=file)} MODEL_SOURCE=smollm2"
    return _("an image of make build MODEL_SOURCE=smollm2")


def unknown_share(
    model_dir: Path, files: list[Path], columns: tuple[str, str] | None = None
) -> tuple[int, float] | None:
    """(tokens that the model knows, share of the data's tokens that it does not); None if unknown."""
    from qwen2.chat import Tokenizer

    try:
        known = known_tokens(model_dir)
        tokenizer = Tokenizer(model_dir)
    except (OSError, ValueError, KeyError):
        return None
    ids = [token for file in files for text in _texts_of(file, columns) for token in tokenizer.encode(text)]
    return (len(known), sum(token not in known for token in ids) / len(ids)) if ids else None


def known_tokens(model_dir: Path) -> set[int]:
    """Tokens with their own row in the embedding: all other rows are copies of the last id's."""
    import numpy

    index = json.loads((model_dir / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    entry = safetensors_header.read(model_dir / index[EMBEDDING]).entries[EMBEDDING]
    rows = numpy.fromfile(entry.path, numpy.uint8, entry.nbytes, offset=entry.offset).reshape(entry.shape[0], -1)
    return set(numpy.flatnonzero((rows != rows[-1]).any(1)).tolist())


def _texts_of(file: Path, columns: tuple[str, str] | None) -> Iterator[str]:
    for item in read(file, columns):
        if isinstance(item, Row):
            if item.number > ROWS:
                return
            yield from _strings(item.data)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
