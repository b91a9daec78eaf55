"""Messages in Chinese or English: `_()` for every command. JSON, logs, exit codes and CI lines stay English.

The language is `--lang`, else the first of MIRROR_LANG, LC_ALL, LC_MESSAGES and LANG that is set: Chinese for zh,
English for all others. The catalogue, common/locale/zh.po, is read at the first Chinese message; English reads nothing.
It is read as text: a source tree, a mounted folder and the image need no compiled copy, which could be stale. An entry
is two lines, a msgid and a msgstr; `make messages` adds missing entries and removes stale ones.

    _("no adapter in {folder}").format(folder=folder)    a message; values are inserted after the look-up
    N_("not measured")                                   marks text in a table; it is passed to _() when shown
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLES = ("MIRROR_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
CATALOGUE = Path(__file__).with_name("locale") / "zh.po"
LANGUAGES = ("zh", "en")
option: str | None = None  # the value of `--lang`; reports follow it, too


def N_(text: str) -> str:
    """Returns the text unchanged; marks it for the catalogue."""
    return text


# Texts that argparse itself puts into help.
_ARGPARSE = (
    N_("usage: "),
    N_("positional arguments"),
    N_("options"),
    N_("show this help message and exit"),
    N_("the following arguments are required: %s"),
    N_("expected one argument"),
    N_("expected at least one argument"),
    N_("unrecognized arguments: %s"),
    N_("invalid choice: %(value)r (choose from %(choices)s)"),
    N_("not allowed with argument %s"),
    N_("one of the arguments %s is required"),
    N_("ambiguous option: %(option)s could match %(matches)s"),
    N_("invalid %(type)s value: %(value)r"),
    N_("ignored explicit argument %r"),
    N_("argument %(argument_name)s: %(message)s"),
)


def chosen(environ: Mapping[str, str] | None = None) -> str | None:
    """`zh` or `en` if the environment names a language; None if it names none (C, POSIX, unset)."""
    env = os.environ if environ is None else environ
    value = next((env[name] for name in VARIABLES if env.get(name)), "")
    word = value.replace("-", "_").split(".")[0].split("@")[0].split("_")[0].lower()
    return None if word in ("", "c", "posix") else "zh" if word == "zh" else "en"


def language() -> str:
    """The language of messages: `zh` or `en`."""
    return chosen() or "en"


def _(text: str) -> str:
    """The text in the language of messages; an unknown text is returned unchanged."""
    return catalogue().get(text, text) if language() == "zh" else text


def take_option(words: list[str]) -> None:
    """Remove `--lang zh` (or en) from the arguments and set MIRROR_LANG, which child processes inherit.

    Call it before a parser is created, since its help texts are messages too. `--json` output is always in English.
    Raises ValueError for another language.
    """
    global option
    end = words.index("--") if "--" in words else len(words)
    for at, word in enumerate(words[:end]):
        if word == "--lang" or word.startswith("--lang="):
            parts = 1 if "=" in word else 2
            value = word.partition("=")[2] if parts == 1 else (words[at + 1 : at + 2] or [""])[0]
            if value not in LANGUAGES:
                raise ValueError(value)
            del words[at : at + parts]
            option = value
            os.environ["MIRROR_LANG"] = value
            break
    if "--json" in words[:end]:
        os.environ["MIRROR_LANG"] = "C"
    if language() == "zh":
        import argparse  # not at the top: the probe does not need it

        argparse._ = _  # type: ignore[attr-defined]  # its own texts come from gettext, which reads .mo files only


@functools.cache
def catalogue() -> dict[str, str]:
    """Every message and its translation; empty, with a line on stderr, if the file cannot be read."""
    try:
        return read(CATALOGUE.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"warning: {CATALOGUE}: {error}; messages stay in English", file=sys.stderr)
        return {}


def read(text: str) -> dict[str, str]:
    """The entries of a catalogue in which each msgid and each msgstr is one line, with the escapes of JSON."""
    found = {}
    key = ""
    for number, line in enumerate(text.splitlines(), 1):
        kind, _space, value = line.partition(" ")
        if kind == "msgid":
            key = json.loads(value)
        elif kind == "msgstr":
            if key and (translated := json.loads(value)):
                found[key] = translated
        elif line and not line.startswith(("#", '"')):
            raise ValueError(f"line {number} is neither an msgid nor an msgstr")
    return found
