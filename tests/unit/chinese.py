"""How Chinese text is written here, for the tests of messages, documents and reports."""

from __future__ import annotations

import re

HAN = r"[\u3400-\u9fff]"
# A half-width mark that touches a Chinese character, or stands before one with a space between.
HALF_WIDTH = re.compile(rf"(?<={HAN})[,:;!?()]|(?<!:)[,:;!?](?= ?{HAN})|[()](?={HAN})|(?<={HAN} )\(|\)(?=[，。；：、])")
INLINE_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)


def half_width(text: str) -> list[str]:
    """Each half-width mark in Chinese text, with what stands around it; inline code is skipped."""
    text = INLINE_CODE.sub("x", text)
    return [text[max(0, found.start() - 12) : found.end() + 12] for found in HALF_WIDTH.finditer(text)]
