"""Messages for people in Chinese or English: `_()` of every command. JSON, logs, exit codes and CI lines stay English.

The language is `--lang`, else the first of MIRROR_LANG, LC_ALL, LC_MESSAGES and LANG that is set: Chinese for zh,
English for all else. The catalogue, common/locale/zh.po, is read at the first message in Chinese; in English nothing is
read. It is read as text: a source tree, a mounted folder and the image need no compiled copy, which could be stale.
An entry is two lines, a msgid and a msgstr; `make messages` adds what is missing and takes out what is stale.

    _("no adapter in {folder}").format(folder=folder)    a message; values are put in after the look-up
    N_("not measured")                                   marks text of a table, which is given to _() when it is shown
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
option: str | None = None  # what `--lang` asked for; reports follow it, too


def N_(text: str) -> str:
    """The text as it is; marks it for the catalogue."""
    return text


# What argparse says of itself in a help text.
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
    """`zh` or `en` where the environment names a language; None where it names none (C, POSIX, nothing)."""
    env = os.environ if environ is None else environ
    value = next((env[name] for name in VARIABLES if env.get(name)), "")
    word = value.replace("-", "_").split(".")[0].split("@")[0].split("_")[0].lower()
    return None if word in ("", "c", "posix") else "zh" if word == "zh" else "en"


def language() -> str:
    """The language of messages: `zh` or `en`."""
    return chosen() or "en"


def _(text: str) -> str:
    """The text in the language of messages; an unknown one as it is."""
    return catalogue().get(text, text) if language() == "zh" else text


def take_option(words: list[str]) -> None:
    """Take `--lang zh` (or en) out of a command's words and set MIRROR_LANG, which the processes it starts inherit.

    Before a parser is made, since its help texts are messages too. What `--json` prints is for programs, in English.
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
        import argparse  # not at the top: the probe does without it

        argparse._ = _  # type: ignore[attr-defined]  # its own words come from gettext, which reads .mo files alone


@functools.cache
def catalogue() -> dict[str, str]:
    """Every message and its translation; empty, with a line on stderr, where the file cannot be read."""
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
