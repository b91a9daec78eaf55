"""Reads rows from Parquet: a table with a question and an answer column, or rows as in JSON; used by reading."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from finetune.data import tables
from finetune.data.items import Broken, Remember, Row

MAX_ROW = 16 << 20  # bytes of a row, unpacked: a small file could fill the memory
BATCH = 1024


def read(path: Path, columns: tuple[str, str] | None, note: Remember) -> Iterator[Row | Broken]:
    """The rows of a Parquet file. Raises UserError if it cannot be read.

    Args:
        path: The file.
        columns: The question's and the answer's column; None: guessed.
        note: Called if the table has something above its heading.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
        size = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
        if size > MAX_ROW:
            raise UserError(
                _("{path}: {size} MB per row, and no training row is that long; export the texts again").format(
                    path=path, size=size >> 20
                )
            )
        schema = file.schema_arrow
        batches = (batch.to_pylist(maps_as_pydicts="lossy") for batch in file.iter_batches(BATCH))
        rows = itertools.chain.from_iterable(batches)
        if _is_table(schema, columns):
            cells = enumerate(([_cell(value) for value in row.values()] for row in rows), 2)
            yield from tables.from_cells(path, itertools.chain([(1, list(schema.names))], cells), columns, note)
            return
        for number, row in enumerate(rows, 1):
            yield Row(number, number, _as_json(row))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            _("{path}: not a Parquet file ({reason}); export it again").format(
                path=path, reason=" ".join(str(error).split())[:120]
            )
        ) from error


def _is_table(schema: Any, columns: tuple[str, str] | None) -> bool:
    """Whether the file is a table: its question and its answer are columns of single values."""
    import pyarrow.types

    if columns:
        return True
    places = tables.find_heading([(1, list(schema.names))], None)
    if places is None or any(tables.plain(name) in tables.CHATS for name in schema.names):
        return False
    return not any(pyarrow.types.is_nested(schema.types[at]) for at in places[1].values())


def _as_json(value: Any) -> Any:
    """A value as in JSON: without the nulls that fill up a struct, and with times as texts."""
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_as_json(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else _cell(value)


def _cell(value: Any) -> Any:
    """A value of a table as text, 3.0 as 3. A list or a struct is kept, and the check reports its type."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return _as_json(value) if isinstance(value, list | dict) else str(value)
