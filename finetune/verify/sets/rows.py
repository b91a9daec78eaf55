"""The rows of a dataset as questions: a conversation up to its last answer, which is the reference."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from finetune.data import reading
from finetune.data.content import question_key

LEARNED_MAX = 200  # rows of a dataset that are asked
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
NO_WORDS = re.compile(r"https?://[!-~]+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+|`[^`]*`")  # text that has no language
HAN_SHARE = 0.2  # share of all letters; a Chinese answer with English names still has more


@dataclass(frozen=True)
class DataRow:
    """One row. `messages` are the turns before the answer, without the system prompt."""

    number: int  # in its file, from 1
    where: str  # file and row, for messages
    messages: tuple[dict[str, Any], ...]
    answer: str
    system: str | None = None  # the row's own system prompt
    tools: Any = None

    @property
    def question(self) -> str:
        """The user's last turn."""
        return next((str(m["content"]) for m in reversed(self.messages) if m["role"] == "user"), "")

    @cached_property
    def key(self) -> str:
        """The turns without case, width, spaces and punctuation. Two rows with the same key ask the same."""
        turns = "\x1f".join(question_key(str(message["content"])) for message in self.messages)
        return turns if self.system is None else f"{self.system}\x1e{turns}"

    def reworded(self, text: str) -> tuple[dict[str, Any], ...]:
        """The turns with `text` as the user's last turn."""
        turns = [dict(message) for message in self.messages]
        last = max(place for place, message in enumerate(turns) if message["role"] == "user")
        turns[last]["content"] = text
        return tuple(turns)


def read(paths: Iterable[Path], columns: tuple[str, str] | None = None) -> list[DataRow]:
    """All rows with a question and an answer, in the order of the files. A question that is asked twice counts once.

    Args:
        paths: Dataset files of any form that check-data reads.
        columns: The question's and the answer's column of a table; None: guessed.

    Raises:
        UserError: A file cannot be read, or no row has a question and an answer.
    """
    found: dict[str, DataRow] = {}
    files = list(paths)
    for path in files:
        for item in reading.read_rows(path, columns):
            row = data_row(item.data, item.number, f"{path}, row {item.number}")
            if row is not None:
                found.setdefault(row.key, row)
    if not found:
        names = ", ".join(map(str, files))
        raise UserError(
            _("{names}: no row has a question and its answer; `check-data FILE` says what is wrong").format(names=names)
        )
    return list(found.values())


def data_row(data: Any, number: int, where: str) -> DataRow | None:
    """A row of a dataset, in any layout that can be trained on.

    Args:
        data: The row.
        number: Its number in the file, from 1.
        where: File and row, for messages.

    Returns:
        The row; None if it has no question with an answer.
    """
    from qwen2.chat import standard_row

    try:
        turns, tools = standard_row(data)
    except ValueError:
        return None
    return of_messages(turns, tools, number, where)


def asks_any(keys: Collection[str]) -> Callable[[Any], bool]:
    """A test whether a row, in any layout, asks one of the questions with these keys (DataRow.key)."""

    def asks(data: Any) -> bool:
        row = data_row(data, 0, "")
        return row is not None and row.key in keys

    return asks


def of_messages(turns: Sequence[dict[str, Any]], tools: Any, number: int, where: str) -> DataRow | None:
    """The row of a conversation.

    Args:
        turns: Messages with ms-swift's roles.
        tools: The row's tools.
        number: The row's number in the file, from 1.
        where: File and row, for messages.

    Returns:
        The row; None if it has no question with an answer.
    """
    system = next((str(turn["content"]) for turn in turns if turn["role"] == "system"), None)
    spoken = [{"role": turn["role"], "content": turn["content"]} for turn in turns if turn["role"] != "system"]
    end = len(spoken)
    while end and spoken[end - 1]["role"] in ("assistant", "tool_call"):
        end -= 1
    answer = "\n".join(_said(turn) for turn in spoken[end:])
    if not answer.strip() or not any(turn["role"] == "user" for turn in spoken[:end]):
        return None
    return DataRow(number, where, tuple(spoken[:end]), answer, system, tools or None)


def _said(turn: dict[str, Any]) -> str:
    """The text of an assistant's turn; a tool call in the form of Qwen2.5's template."""
    content = turn["content"]
    if turn["role"] == "assistant":
        return str(content)
    call = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def draw(rows: Sequence[DataRow], limit: int = LEARNED_MAX) -> list[DataRow]:
    """At most `limit` of the rows, those with the lowest hashes of their keys, in the order of the file.

    Every call draws the same rows. A row that is added to the data changes at most one of them.
    """
    if len(rows) <= limit:
        return list(rows)
    chosen = sorted(rows, key=lambda row: digest(row.key))[:limit]
    keys = {row.key for row in chosen}
    return [row for row in rows if row.key in keys]


def digest(text: str) -> bytes:
    """An 8-byte hash of a text, the same on every machine."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def language(texts: Iterable[str]) -> str:
    """`zh` if at least HAN_SHARE of all letters are Chinese, else `en`."""
    han = latin = 0
    for text in (NO_WORDS.sub(" ", text) for text in texts):
        han += len(HAN.findall(text))
        latin += len(LATIN.findall(text))
    return "zh" if han and han >= HAN_SHARE * (han + latin) else "en"
