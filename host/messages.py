"""Brings common/locale/zh.po up to date with the messages in the code; `make messages`, and the test of the catalogue.

Babel finds the messages: _("…") and N_("…") in Python. New ones are added with an empty translation, stale ones are
taken out, entries are sorted. What has no translation yet is printed; exit 1 where there is any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.extract import extract_from_dir

from common import i18n

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("common", "finetune", "healthchecks", "qwen2")
KEYWORDS: dict = {"_": None, "N_": None}


def extracted() -> Iterator[tuple[str, str]]:
    """Every message in the code and where it is (`finetune/data/check.py:12`)."""
    for folder in FOLDERS:
        found = extract_from_dir(str(ROOT / folder), [("**.py", "python")], keywords=KEYWORDS, comment_tags=())
        for name, line, message, _comments, _context in found:
            if isinstance(message, str) and message:
                yield message, f"{folder}/{name}:{line}"


def updated(text: str, messages: set[str]) -> str:
    """The catalogue with an entry for each message and no other; what stands before the first entry is kept."""
    head = text[: text.index('msgid ""')]
    known = i18n.read(text)
    lines = ['msgid ""', r'msgstr "Content-Type: text/plain; charset=UTF-8\n"', ""]
    for message in sorted(messages):
        translated = known.get(message, "")
        lines += [f"msgid {json.dumps(message, ensure_ascii=False)}"]
        lines += [f"msgstr {json.dumps(translated, ensure_ascii=False)}", ""]
    return head + "\n".join(lines)


def main() -> int:
    """Write the catalogue; the exit code."""
    places = dict(extracted())
    text = updated(i18n.CATALOGUE.read_text(encoding="utf-8"), set(places))
    i18n.CATALOGUE.write_text(text, encoding="utf-8")
    missing = set(places) - set(i18n.read(text))
    for message in sorted(missing, key=lambda each: places[each]):
        print(f"{places[message]}: {message}")
    print(f"{len(places)} messages, {len(missing)} without a translation", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
