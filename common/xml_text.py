"""Text for XML 1.0; used by both JUnit reports."""

from __future__ import annotations

import re

# Characters that XML 1.0 cannot contain, escaped or not.
_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str | None) -> str:
    """The text with U+FFFD in place of every character that XML cannot contain; "" for None."""
    return _NOT_XML.sub("\ufffd", text or "")
