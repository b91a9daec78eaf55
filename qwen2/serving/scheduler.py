"""Turns requests into tokens: assigns slots, orders prompts, ends rows; for finetune/serve's worker.

    add(request) ...   then repeatedly step() -> tokens since the last call

One step is one unit of work for the device: a token for every running row, or a chunk of the waiting prompts. The two
alternate, so a long prompt does not hold up the other rows. The next unit is submitted before the tokens of the last
are read. A row that has ended may therefore be computed once more; that result is discarded.

Pages of the cache are taken as answers grow. If none is left, the newest row gives its pages back and waits; its prompt
and its answer so far are read again later.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from qwen2.model import Model
from qwen2.serving.adapters import Adapters
from qwen2.serving.batch import Batch, Chosen, PromptPiece, Special
from qwen2.serving.pages import PAGE, Pages, digests, pages_for
from qwen2.serving.request import LENGTH, STOP, NextToken, Request

CONTEXT = 65_536  # tokens before the rows of one chunk: a layer copies the keys and values of all of them
PIECE_ALONE, PIECE_BESIDE = 2048, 512  # prompt tokens per unit of work: with no row running, or with rows waiting
GATHER_S, GATHER_SHARE = 0.03, 16  # prompts wait this long for others, unless 1 / GATHER_SHARE of the rows are there
GROWTH = 4  # pages that an answer takes at a time


@dataclass(eq=False)
class RunningRequest:
    """A request in progress."""

    request: Request
    since: float
    uniform: random.Random
    slot: int = -1
    pages: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # digests of the full pages of its text
    text: list[int] = field(default_factory=list)  # read before it continues: the prompt and the answer so far
    read: int = 0  # tokens of `text` in the cache, or submitted
    asked: int = 0  # tokens requested from the device
    said: list[int] = field(default_factory=list)
    over: bool = False

    @property
    def length(self) -> int:
        """Number of tokens in its pages once all submitted work is done."""
        return len(self.request.prompt) + max(0, self.asked - 1)


class Scheduler:
    """Serves `model` with `rows` slots over a cache of `pages` pages."""

    def __init__(
        self, model: Model, adapters: Adapters | None, rows: int, pages: int, max_length: int | None = None
    ) -> None:
        """`max_length`: maximum tokens of prompt and answer, if lower than what model and cache allow."""
        config = model.config
        self.pages = Pages(pages)
        self.max_length = min(config.max_positions, self.pages.total * PAGE, max_length or config.max_positions)
        self.batch = Batch(model, adapters, rows, pages, pages_for(self.max_length))
        self.eos = frozenset(config.eos_ids)
        self.on_gpu = model.device.type == "cuda"
        self.free = list(range(rows - 1, -1, -1))
        self.rows: dict[int, RunningRequest] = {}
        self.waiting: deque[RunningRequest] = deque()
        self.reading: list[RunningRequest] = []
        self.running: list[RunningRequest] = []
        self.pending: deque[tuple[Chosen, list[RunningRequest]]] = deque()
        self.news: list[NextToken] = []
        self.read_last = False
        self.stats: dict[str, int] = dict.fromkeys(("prompt_tokens", "shared_tokens", "answer_tokens", "taken_back"), 0)

    def add(self, request: Request) -> None:
        """Accept a request. Raises ValueError for a prompt that is empty, or too long for model or cache."""
        if not request.prompt:
            raise ValueError("the prompt is empty: there is nothing to continue")
        if len(request.prompt) >= self.max_length:
            raise ValueError(
                f"the prompt has {len(request.prompt)} tokens, which with an answer is larger than the max_length of "
                f"{self.max_length}: shorten it"
            )
        if request.limit < 1:
            raise ValueError("max_tokens must be at least 1")
        row = RunningRequest(
            request, time.monotonic(), random.Random(None if request.seed is None else str(request.seed))
        )
        row.text = list(request.prompt)
        row.keys = digests(b"%d" % request.adapter, row.text)
        self.rows[request.id] = row
        self.waiting.append(row)

    def cancel(self, ident: int) -> None:
        """Cancel a request and free its slot and pages. Does nothing for one that has ended."""
        if row := self.rows.pop(ident, None):
            self._let_go(row)

    @property
    def idle(self) -> bool:
        """Whether there is neither work nor output left."""
        return not (self.rows or self.pending or self.news)

    def load(self) -> dict[str, int]:
        """Current load, and totals since the start."""
        return {
            "running": len(self.running),
            "waiting": len(self.waiting) + len(self.reading),
            "pages_used": self.pages.total - self.pages.available,
            "pages": self.pages.total,
            **self.stats,
        }

    @torch.no_grad()
    def step(self) -> list[NextToken]:
        """Submit the next unit of work to the device; returns the output of the previous one."""
        before = len(self.pending)
        if self._reads_next():
            self._read()
        elif self.running:
            self._go_on()
        ahead = 1 if len(self.pending) > before and self.on_gpu else 0
        while len(self.pending) > ahead:
            self._collect()
        news, self.news = self.news, []
        return news

    # ---- prompts

    def _reads_next(self) -> bool:
        """Whether to read prompts now; if so, assigns slots to those that wait."""
        if self.running and self.read_last:
            self.read_last = False
            return False
        if not self.reading and self.waiting and self.running:
            enough = len(self.waiting) * GATHER_SHARE >= len(self.running)
            if not enough and time.monotonic() - self.waiting[0].since < GATHER_S:
                return False
        self._admit()
        self.read_last = bool(self.reading)
        return self.read_last

    def _admit(self) -> None:
        """Assign slots and pages in order. A request that waits for a prompt being read lets others pass."""
        coming = {key for row in self.reading for key in row.keys}
        for row in list(self.waiting):
            if not self.free:
                return
            # The last token is always read: the answer starts with the token after it.
            usable = row.keys[: (len(row.text) - 1) // PAGE]
            known = self.pages.known(usable)
            if len(known) < len(usable) and usable[len(known)] in coming:
                continue
            self.pages.share(known)
            taken = self.pages.take(pages_for(len(row.text) + 1) - len(known))
            spare = len(self.running) + len(self.reading)  # one page for each answer to grow
            if taken is None or (spare and self.pages.available < spare):
                self.pages.give_back([*known, *(taken or [])])
                return
            self.waiting.remove(row)
            row.pages, row.read, row.slot = [*known, *taken], len(known) * PAGE, self.free.pop()
            self.stats["shared_tokens"] += row.read
            self.reading.append(row)
            coming.update(row.keys)

    def _read(self) -> None:
        """One unit of work: as many prompt tokens as fit."""
        left = PIECE_BESIDE if self.running else PIECE_ALONE
        pieces: list[PromptPiece] = []
        begun: list[RunningRequest] = []
        context = 0
        for row in self.reading[: self.batch.rows]:
            count = min(left, len(row.text) - row.read)
            context += row.read + count
            if not count or (pieces and context > CONTEXT):
                break
            ends = row.read + count == len(row.text)
            if ends:
                self._begin(row)
                begun.append(row)
            tokens = row.text[row.read : row.read + count]
            pieces.append(PromptPiece(row.slot, row.request.adapter, tokens, row.read, row.pages, ends))
            row.read += count
            left -= count
        lora = any(row.request.adapter for row in self.reading[: len(pieces)])
        special = self._special(begun)
        self.stats["prompt_tokens"] += sum(len(piece.tokens) for piece in pieces)
        chosen = self.batch.prefill(pieces, lora, special)
        for row in self.reading[: len(pieces)]:
            for key, page in zip(row.keys[: row.read // PAGE], row.pages, strict=False):
                self.pages.register(key, page)
        if chosen is not None:
            self.pending.append((chosen, begun))
        for row in begun:
            row.asked += 1
            self.reading.remove(row)
            self.running.append(row)

    def _begin(self, row: RunningRequest) -> None:
        """Tell the device about the row whose answer starts or continues."""
        self.batch.begin(row.slot, row.request.adapter, row.pages)
        if row.request.settings.penalised:
            self.batch.remember(row.slot, row.request.prompt, row.said)

    def _special(self, rows: Sequence[RunningRequest]) -> list[Special]:
        return [
            Special(place, row.slot, row.request.settings, row.uniform.random())
            for place, row in enumerate(rows)
            if not row.request.settings.plain
        ]

    # ---- answers

    def _go_on(self) -> None:
        """One unit of work: a token for every row that may have another."""
        rows = [row for row in self.running if row.asked < self._limit(row)]
        if rows:
            rows = self._grow(rows)
        if not rows:
            return
        reach = max(row.length for row in rows) + 1
        lora = any(row.request.adapter for row in rows)
        chosen = self.batch.step([row.slot for row in rows], reach, lora, self._special(rows))
        for row in rows:
            row.asked += 1
        self.pending.append((chosen, rows))

    def _limit(self, row: RunningRequest) -> int:
        return min(row.request.limit, self.max_length - len(row.request.prompt))

    def _grow(self, rows: list[RunningRequest]) -> list[RunningRequest]:
        """Pages for the next token of each row. If none is left, the newest rows give theirs back."""
        grown: list[tuple[int, int, int]] = []
        for row in rows:
            while row.slot >= 0 and row.length >= len(row.pages) * PAGE:
                most = pages_for(len(row.request.prompt) + self._limit(row)) - len(row.pages)
                taken = self.pages.take(min(GROWTH, most)) or self.pages.take(1)
                if taken is not None:
                    grown += [(row.slot, len(row.pages) + number, page) for number, page in enumerate(taken)]
                    row.pages += taken
                else:
                    self._take_back((self.reading or self.running)[-1])
        rows = [row for row in rows if row.slot >= 0]
        slots = {row.slot for row in rows}
        if grown := [each for each in grown if each[0] in slots]:
            self.batch.grow(grown)
        return rows

    def _take_back(self, row: RunningRequest) -> None:
        """Take slot and pages from a row and queue it again; its answer so far will be read again."""
        while self.pending:  # its answer so far must be known
            self._collect()
        if row.over:
            return
        self._release(row)
        row.text = [*row.request.prompt, *row.said]
        row.keys = digests(b"%d" % row.request.adapter, row.text)
        row.asked = len(row.said)
        self.waiting.appendleft(row)
        self.stats["taken_back"] += 1

    def _collect(self) -> None:
        """Read the tokens of the oldest submitted unit."""
        chosen, rows = self.pending.popleft()
        tokens = chosen.tokens()
        likely = chosen.logprobs()
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if row.over:
                continue
            ident = row.request.id
            if token in self.eos:
                self._end(row)
                self.news.append(NextToken(ident, None, STOP))
                continue
            row.said.append(token)
            self.stats["answer_tokens"] += 1
            last = len(row.said) >= self._limit(row)
            self.news.append(NextToken(ident, token, LENGTH if last else None, likely.get(place)))
            if last:
                self._end(row)

    # ---- the end of a row

    def _end(self, row: RunningRequest) -> None:
        self.rows.pop(row.request.id, None)
        self._let_go(row)

    def _let_go(self, row: RunningRequest) -> None:
        row.over = True
        if row in self.waiting:
            self.waiting.remove(row)
            return
        # Its answer may be part of the next prompt of the conversation. The last token is not in the cache yet.
        whole = len(row.request.prompt) + max(0, len(row.said) - 1)
        text = [*row.request.prompt, *row.said][: min(whole, self._held(row))]
        for key, page in zip(digests(b"%d" % row.request.adapter, text), row.pages, strict=False):
            self.pages.register(key, page)
        self._release(row)

    def _held(self, row: RunningRequest) -> int:
        """Number of tokens of its text in the cache."""
        return row.read if row in self.reading else row.length

    def _release(self, row: RunningRequest) -> None:
        for group in (self.reading, self.running):
            if row in group:
                group.remove(row)
        self.pages.give_back(row.pages)
        self.free.append(row.slot)
        row.pages, row.slot, row.read = [], -1, 0


def summary(scheduler: Scheduler) -> dict[str, Any]:
    """What the server reports about its engine once ready."""
    return {
        "rows": scheduler.batch.rows,
        "tokens": scheduler.pages.total * PAGE,
        "max_length": scheduler.max_length,
    }
