"""Text files: read up to a size; written by rename, so that a reader finds the old one or the new one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError
from common.i18n import _

LARGEST = 16 * 2**20  # bytes of a file that a person writes: settings, questions, rewordings


def read(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file that a person writes; /dev/zero and files named by mistake do not fill the memory.

    Args:
        path: The file, or a pipe.
        encoding: As in open().

    Raises:
        OSError: The file cannot be read, or has more than LARGEST bytes.
        UnicodeDecodeError: It is not text in this encoding.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(errno.EFBIG, _("it has more than {size} MiB").format(size=LARGEST // 2**20), str(path))
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def replace(path: Path, parts: Iterable[str], errors: str = "replace") -> None:
    """Write the parts of a text to a file, which replaces `path` once it is complete.

    Args:
        path: The file.
        parts: Pieces of the text.
        errors: How a lone surrogate, which an answer may contain, is encoded, as in open(); "replace" gives a "?".

    Raises:
        UserError: The file cannot be written.
    """
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("w", encoding="utf-8", errors=errors, newline="\n") as file:
            file.writelines(parts)
        os.replace(draft, path)
    except OSError as error:
        raise UserError(
            _("{path}: cannot be written ({reason}); free some space or check the permissions").format(
                path=path, reason=error.strerror
            )
        ) from None
