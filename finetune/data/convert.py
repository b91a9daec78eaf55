"""Writes the valid rows of dataset files as clean JSONL for ms-swift; check-data --convert and the training use it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from finetune.data import content
from finetune.data.check import check_file
from finetune.data.findings import CheckOptions, FileReport


class Writer:
    """Writes rows of one form, {"messages": [{"role", "content"}, ...]}, without control characters and repeats."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.repeated = 0
        self.seen: set[bytes] = set()
        try:
            descriptor, self.name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as error:
            raise UserError(
                _("{path}: cannot be written ({strerror}); name another file").format(
                    path=path, strerror=error.strerror
                )
            ) from error
        self.file = os.fdopen(descriptor, "w", encoding="utf-8", newline="\n")

    def keep(self, messages: list[dict[str, Any]], tools: Any) -> None:
        """Write one row, unless the same row has been written already."""
        row: dict[str, Any] = {"messages": [_message(message) for message in messages]}
        if tools:
            row["tools"] = _text(tools)
        line = json.dumps(row, ensure_ascii=False)
        digest = blake2b(line.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if digest in self.seen:
            self.repeated += 1
            return
        self.seen.add(digest)
        self.file.write(line + "\n")
        self.rows += 1

    def finish(self) -> None:
        """Rename the finished file, in one step."""
        self.file.close()
        os.chmod(self.name, 0o644)
        os.replace(self.name, self.path)

    def discard(self) -> None:
        """Remove the temporary file, if `finish` has not given it its name."""
        for step in (self.file.close, lambda: os.unlink(self.name)):
            with contextlib.suppress(OSError):  # close() writes buffered text, and the disk may be full
                step()


def convert(paths: Iterable[Path], out: Path, options: CheckOptions | None = None) -> tuple[Writer, list[FileReport]]:
    """Write the valid rows of some files to one file.

    Args:
        paths: Dataset files of any form.
        out: The file to write; it is not written if no row is valid.
        options: What is checked; None: the defaults.

    Returns:
        The writer, which has counted rows and repeats, and the report of each file.

    Raises:
        UserError: `out` is one of the files, or cannot be written.
    """
    files = list(paths)
    if any(out.exists() and path.exists() and out.samefile(path) for path in files):
        raise UserError(_("{out}: is the file that is read; name another for --convert").format(out=out))
    if out.is_dir() or not out.parent.is_dir():
        why = _("is a directory") if out.is_dir() else _("there is no folder {parent}").format(parent=out.parent)
        raise UserError(_("{out}: cannot be written, {why}; name a file such as clean.jsonl").format(out=out, why=why))
    writer = Writer(out)
    try:
        reports = [check_file(path, None, options, writer.keep) for path in files]
        if writer.rows:
            writer.finish()
    except OSError as error:
        raise UserError(
            _("{out}: cannot be written ({strerror}); make room, or name another file").format(
                out=out, strerror=error.strerror
            )
        ) from error
    finally:
        writer.discard()
    return writer, reports


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message's role, content and loss settings."""
    loss: dict[str, Any] = {key: message[key] for key in ("loss", "loss_scale") if key in message}
    return {"role": message["role"], "content": _text(message["content"]), **loss}


def _text(value: Any) -> str:
    """A message's text. The arguments and the result of a tool call may be objects, which become JSON."""
    return content.clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
