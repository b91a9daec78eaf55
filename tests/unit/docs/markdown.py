"""What the tests of documents look at in a Markdown file; read with markdown-it, which rich brings along."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

PARSER = MarkdownIt("commonmark").enable("table")


@dataclass
class Document:
    """One file, taken apart into blocks."""

    path: Path

    def __post_init__(self) -> None:
        self.text = self.path.read_text(encoding="utf-8")
        self.tokens = PARSER.parse(self.text)

    def inline(self) -> Iterator[Token]:
        """The pieces of all paragraphs, headings and cells."""
        for token in self.tokens:
            yield from token.children or ()

    def headings(self) -> list[tuple[int, str]]:
        """(level, text) in order."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        return [(int(first.tag[1:]), second.content) for first, second in pairs if first.type == "heading_open"]

    def fences(self) -> list[tuple[str, str]]:
        """(language, content) of the fenced blocks."""
        return [(token.info, token.content) for token in self.tokens if token.type == "fence"]

    def code(self) -> list[str]:
        """The inline code."""
        return [token.content for token in self.inline() if token.type == "code_inline"]

    def links(self) -> list[str]:
        """Where links and pictures lead."""
        found = [token.attrGet("href") or token.attrGet("src") for token in self.inline()]
        return [str(target) for target in found if target]

    def tables(self) -> list[list[list[str]]]:
        """Tables of rows of cells, the header with them."""
        found: list[list[list[str]]] = []
        for before, token in zip([None, *self.tokens], self.tokens, strict=False):
            if token.type == "table_open":
                found.append([])
            elif token.type == "tr_open":
                found[-1].append([])
            elif token.type == "inline" and before is not None and before.type in ("td_open", "th_open"):
                found[-1][-1].append(token.content)
        return found

    def anchors(self) -> set[str]:
        """What a link's #part may be: the headings as GitHub writes them."""
        return {slug(text) for _, text in self.headings()}


def slug(heading: str) -> str:
    """A heading as GitHub's anchor: lower case, letters, digits, - and _ kept, spaces as -."""
    plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    kept = (c for c in plain if c in "-_ " or unicodedata.category(c)[0] in "LN" or unicodedata.category(c) == "Mn")
    return "".join(kept).replace(" ", "-")


def uncommented(code: str) -> str:
    """A block of shell or text without its comments and what stood before them."""
    lines = (re.sub(r"(^|\s+)#\s.*$", "", line).rstrip() for line in code.splitlines())
    return "\n".join(line for line in lines if line)
