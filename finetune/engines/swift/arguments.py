"""A `swift` command line, parsed into options, changed and reassembled; used by the launcher and scripts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

OPTION = re.compile(r"--[A-Za-z][\w-]*(=.*)?", re.DOTALL)
# What a shell passes if a `\` is followed by a space instead of the end of the line, as in pasted text.
SPACED_OPTION = re.compile(r"\s+(--[A-Za-z][\w-]*)")


@dataclass
class Given:
    """One option as given: its name with underscores, its values, and whether it was written `--name=value`."""

    name: str
    values: list[str] = field(default_factory=list)
    joined: bool = False
    written: str = ""  # the original word, so that unchanged options are passed on verbatim


class Arguments:
    """The words after `swift SUBCOMMAND`. If an option is given twice, the last value counts, as in argparse."""

    def __init__(self, words: Iterable[str]) -> None:
        self.leading: list[str] = []  # words before the first option: a config file, or a mistake
        self.given: list[Given] = []
        for word in words:
            if OPTION.fullmatch(word) and not (" " in word and "=" not in word):
                name, equals, value = word[2:].partition("=")
                values = [value] if equals else []
                self.given.append(Given(name.replace("-", "_"), values, bool(equals), f"--{name}"))
            elif self.given:
                self.given[-1].values.append(word)
            else:
                self.leading.append(word)

    def copy(self) -> Arguments:
        """A copy whose options can be changed without changing these."""
        found = Arguments(self.leading)
        found.given = [replace(item, values=list(item.values)) for item in self.given]
        return found

    def get(self, name: str) -> list[str] | None:
        """The values of an option; None if it is not given."""
        for item in reversed(self.given):
            if item.name == name:
                return item.values
        return None

    def set(self, name: str, *values: str) -> None:
        """Set an option's values, in its place or at the end."""
        mine = [item for item in self.given if item.name == name]
        for item in mine[:-1]:
            self.given.remove(item)
        if mine:
            mine[-1].values, mine[-1].joined = list(values), False
        else:
            self.given.append(Given(name, list(values), written=f"--{name}"))

    def remove(self, name: str) -> None:
        """Remove an option, however often it was given."""
        self.given = [item for item in self.given if item.name != name]

    def rename(self, old: str, new: str) -> bool:
        """Rename an option; returns whether it was there."""
        found = False
        for item in self.given:
            if item.name == old:
                item.name, item.written, found = new, f"--{new}", True
        return found

    def words(self) -> list[str]:
        """The options as words again."""
        words = list(self.leading)
        for item in self.given:
            if item.joined and item.values:
                words += [f"{item.written}={item.values[0]}", *item.values[1:]]
            else:
                words += [item.written, *item.values]
        return words


def tidy(words: Iterable[str]) -> tuple[list[str], bool]:
    """Undo a `\\` followed by a space, which creates the word ` --option` or a lone space; whether there was one."""
    tidied: list[str] = []
    changed = False
    for word in words:
        match = SPACED_OPTION.fullmatch(word)
        if match:
            word, changed = match.group(1), True
        elif word and not word.strip():
            changed = True
            continue
        tidied.append(word)
    return tidied, changed
