"""A shop's things, for rows of data that are about something, and the JSONL that they are written to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

THINGS = (
    *("lamp", "chair", "kettle", "watch", "phone", "jacket", "camera", "printer"),
    *("bag", "fridge", "sofa", "bike", "drone", "guitar", "tent"),
)


def write(path: Path, rows: Iterable[tuple[str, str]], **more: Any) -> Path:
    """Write (query, response) pairs, and what every row has besides."""
    lines = [json.dumps({"query": query, "response": response, **more}) + "\n" for query, response in rows]
    path.write_text("".join(lines))
    return path
