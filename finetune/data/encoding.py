"""Tell a text file's encoding from its beginning: UTF-8, UTF-16, or GB18030 as Chinese spreadsheets export it."""

from __future__ import annotations

import codecs

BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# What is looked for where a file is not UTF-8; GB18030 takes in GBK and GB2312.
CANDIDATES = ["gb18030", "big5", "utf_16_le", "utf_16_be", "cp1252"]
TAKEN = {"gb18030": "gb18030", "utf_16_le": "utf-16-le", "utf_16_be": "utf-16-be"}


def detect(head: bytes, whole: bool) -> str | None:
    """The codec's name, or None when it is none of ours (then the text is read as UTF-8, and the fault has a place).

    `head` is the first part of the file, `whole` whether that is all of it: else a character may be cut at its end.
    """
    for bom, name in BOMS:
        if head.startswith(bom):
            return name
    if b"\0" not in head:
        if _decodes(head, "utf-8", whole):
            return "utf-8"
        # A long file that is UTF-8 but for one place is a damaged UTF-8 file, not one in another encoding.
        if _mostly_utf8(head):
            return None
    from charset_normalizer import from_bytes

    match = from_bytes(head, cp_isolation=CANDIDATES).best()
    guess = TAKEN.get(match.encoding) if match else None
    if guess and _decodes(head, guess, whole):
        return guess
    # A few characters are not enough for a guess by statistics: take the one that gives Chinese.
    if b"\0" not in head and match is None and _decodes(head, "gb18030", whole):
        return "gb18030"
    return None


def _decodes(head: bytes, name: str, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder(name)().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return True


def _mostly_utf8(head: bytes) -> bool:
    """Whether the text has many multi-byte characters of UTF-8 and next to none that are broken."""
    text = head.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    wide = sum(1 for char in text if char > "\x7f") - broken
    return wide > 20 * broken
