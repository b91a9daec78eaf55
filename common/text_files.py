"""Text files written by rename, so that a reader finds either the old one or the complete new one; used by finetune."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError
from common.i18n import _


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
