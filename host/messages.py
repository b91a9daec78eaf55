"""Updates common/locale/zh.po with the messages in the code; called by `make messages` and the catalogue's test.

Babel finds the messages: _("…") and N_("…") in Python. New ones are added with an empty translation, stale ones are
removed, and entries are sorted. Untranslated messages are printed; exit code 1 if there are any.
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
    """Every message in the code, with its position (`finetune/data/check.py:12`)."""
    for folder in FOLDERS:
        found = extract_from_dir(str(ROOT / folder), [("**.py", "python")], keywords=KEYWORDS, comment_tags=())
        for name, line, message, _comments, _context in found:
            if isinstance(message, str) and message:
                yield message, f"{folder}/{name}:{line}"


def updated(text: str, messages: set[str]) -> str:
    """The catalogue with exactly one entry for each message; text before the first entry is kept."""
    head = text[: text.index('msgid ""')]
    known = i18n.read(text)
    lines = ['msgid ""', r'msgstr "Content-Type: text/plain; charset=UTF-8\n"', ""]
    for message in sorted(messages):
        translated = known.get(message, "")
        lines += [f"msgid {json.dumps(message, ensure_ascii=False)}"]
        lines += [f"msgstr {json.dumps(translated, ensure_ascii=False)}", ""]
    return head + "\n".join(lines)


def main() -> int:
    """Write the catalogue; returns the exit code."""
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
