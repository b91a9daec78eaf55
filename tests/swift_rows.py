"""Rows as ms-swift's own preprocessors and template make ids and labels of them; tests hold ours to it."""

from __future__ import annotations

import copy
from typing import Any


def swift_template(processor: Any, system: str | None = None) -> Any:
    """ms-swift's Qwen2.5 template in training mode, over the fixture `swift_processor`."""
    from swift.template import get_template

    made = get_template(processor, template_type="qwen2_5", default_system=system)
    made.set_mode("train")
    return made


def swift_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row as ms-swift's preprocessors hand it to the template. Raises whatever they raise."""
    from swift.dataset.preprocessor.core import AlpacaPreprocessor, MessagesPreprocessor, ResponsePreprocessor

    row = copy.deepcopy(row)
    if any(key in row for key in ("messages", "conversation", "conversations")):
        made = MessagesPreprocessor()
    elif "instruction" in row and "input" in row:
        made = AlpacaPreprocessor()
    else:
        made = ResponsePreprocessor()
    row = made.preprocess(_renamed(row, made.columns))
    if row is None:
        raise ValueError("ms-swift leaves the row out")
    made._check_messages(row)
    made._normalize_tools(row)
    return row


def _renamed(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """RowPreprocessor.safe_rename_columns for one row: no name is changed to one that two columns would have."""
    known = {str(key).lower(): key for key in row}
    names = {known[key]: new for key, new in columns.items() if key in known}
    targets = list(names.values())
    return {names[key] if key in names and targets.count(names[key]) == 1 else key: value for key, value in row.items()}
