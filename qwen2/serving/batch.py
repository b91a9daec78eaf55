"""The device side of serving: the paged cache, the state of each slot, one step of all rows, chunks of prompts.

Nothing here waits for the GPU. A step takes its tokens from the previous step, on the device. What it chose comes to
the host as a `Chosen`, whose `tokens` waits. On a GPU a step is a CUDA graph, captured for several numbers of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qwen2.config import Config
from qwen2.model import ActiveLora, Model
from qwen2.serving import attention
from qwen2.serving.adapters import Adapters
from qwen2.serving.pages import PAGE, SCRATCH, pages_for
from qwen2.serving.request import SamplingParams
from qwen2.serving.sampling import AT_ONCE, Likelihoods, Told, choose, likelihoods, whole

WARM_UP = (40, 512)  # prompt lengths in tokens
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class PromptPiece:
    """Tokens of a row's text from `start` on, all of which go into its pages; `ends`: the answer starts after them."""

    slot: int
    adapter: int
    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    ends: bool


@dataclass(frozen=True)
class Special:
    """A row that is not decoded greedily: its index in the batch, slot, settings and random number."""

    place: int
    slot: int
    settings: SamplingParams
    uniform: float


@dataclass
class Chosen:
    """Tokens that a step has chosen, on their way to the host."""

    host: Tensor
    ready: torch.cuda.Event | None = None
    likely: list[tuple[list[int], Likelihoods]] = field(default_factory=list)

    def tokens(self) -> list[int]:
        """The tokens; waits for the GPU."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.host.tolist()

    def logprobs(self) -> dict[int, tuple[float, list[tuple[int, float]]]]:
        """{index: (log-probability, [(token, log-probability) of the most likely])}; call it after `tokens`."""
        found = {}
        for places, each in self.likely:
            rows = zip(places, each.chosen.tolist(), each.tokens.tolist(), each.values.tolist(), strict=True)
            found.update({place: (chosen, list(zip(ids, values, strict=True))) for place, chosen, ids, values in rows})
        return found


class Batch:
    """Slots for `rows` answers over `pages` pages. `width` is the maximum number of pages per answer."""

    def __init__(self, model: Model, adapters: Adapters | None, rows: int, pages: int, width: int) -> None:
        config, device = model.config, model.device
        self.model, self.adapters, self.rows = model, adapters, rows
        shape = (config.num_layers, pages, PAGE, config.num_kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, dtype=model.dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        # For each slot, and for one more used by padding rows: newest token, its position, adapter, pages.
        self.token, self.position, self.adapter = torch.zeros(3, rows + 1, dtype=torch.int64, device=device)
        self.table = torch.full((rows + 1, width), SCRATCH, dtype=torch.int32, device=device)
        self.index = torch.full((rows,), rows, dtype=torch.int64, device=device)  # slots of the batch
        self.out = torch.zeros(rows, dtype=torch.int64, device=device)
        self.cos, self.sin = model.rope_tables(width * PAGE)
        self.told: Told | None = None
        self.members: list[int] = []
        self.logits = torch.zeros(rows, config.vocab_size, dtype=model.dtype, device=device)
        self.graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}

    # ---- slot updates from the scheduler

    def begin(self, slot: int, adapter: int, pages: Sequence[int]) -> None:
        """Assign a slot to another row, before the chunk that ends its prompt.

        Args:
            slot: The slot.
            adapter: The number of its adapter; 0 is the base.
            pages: The row's pages in the cache.
        """
        device = self.table.device
        self.adapter[slot : slot + 1] = adapter
        row = torch.full((self.table.shape[1],), SCRATCH, dtype=torch.int32)
        row[: len(pages)] = torch.tensor(pages, dtype=torch.int32)
        self.table[slot] = row.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else row

    def remember(self, slot: int, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Record a row's tokens so far. For rows with penalties, before their first token.

        Args:
            slot: The row's slot.
            prompt: Ids of its prompt.
            answer: Ids of its answer so far.
        """
        if self.told is None:
            self.told = Told(self.rows + 1, self.model.config.vocab_size, self.model.device)
        self.told.begin(slot, prompt, answer)

    def grow(self, grown: Sequence[tuple[int, int, int]]) -> None:
        """Add pages: (slot, index of the page in the row, page)."""
        slots, places, pages = whole(list(zip(*grown, strict=True)), self.table.device)
        self.table[slots, places] = pages.int()

    # ---- one token for each row

    def step(self, slots: list[int], reach: int, lora: bool, special: Sequence[Special]) -> Chosen:
        """One token for each slot.

        Args:
            slots: The slots.
            reach: An upper limit of the slots' lengths, in tokens.
            lora: Whether some rows use an adapter.
            special: Rows that are not decoded greedily.
        """
        lora = lora and self.adapters is not None
        count = self._join(slots)
        if graph := self.graphs.get((count, lora)):
            graph.replay()
        else:
            self._step(count, pages_for(reach), lora)
        return self._finish(self.logits[:count], len(slots), special)

    def _join(self, slots: list[int]) -> int:
        """Put the slots into the batch; returns the number of rows, padding included."""
        count = len(slots)
        if self.graphs:
            count = next(size for size, _ in sorted(self.graphs) if size >= count)
        padded = slots + [self.rows] * (count - len(slots))
        if padded != self.members[:count]:
            self.index[:count] = whole(padded, self.index.device)
            self.members[:count] = padded
        return count

    def _step(self, count: int, pages: int, lora: bool) -> None:
        """The forward pass of `count` rows: fills `logits`; the most likely tokens go to `out` and the rows' slots."""
        model = self.model
        slots = self.index[:count]
        position, table = self.position[slots], self.table[slots, :pages]
        active = self.adapters.of_rows(self.adapter[slots]) if lora and self.adapters is not None else None
        x = model.embed(self.token[slots])
        for number in range(model.config.num_layers):

            def attend(qkv: Tensor, out: Tensor, number: int = number) -> None:
                keys, values = self.keys[number], self.values[number]
                attention.paged_attention(qkv, keys, values, table, self.cos, self.sin, position, out)

            x = model.run_layer(number, x, attend, active)
        chosen = model.logits(x, self.logits[:count]).argmax(-1)
        self.out[:count] = chosen
        self.token[slots] = chosen
        self.position[slots] = position + 1
        self.position[self.rows :] = 0

    def _finish(self, logits: Tensor, count: int, special: Sequence[Special]) -> Chosen:
        """Choose tokens for the rows that are not greedy, and send all tokens to the host."""
        likely = self._special(logits, special) if special else []
        if not logits.is_cuda:
            return Chosen(self.out[:count].clone(), None, likely)
        host = torch.empty(count, dtype=torch.int64, pin_memory=True)
        host.copy_(self.out[:count], non_blocking=True)
        for number, (places, each) in enumerate(likely):
            parts = [
                torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (each.chosen, each.tokens, each.values)
            ]
            for to, part in zip(parts, (each.chosen, each.tokens, each.values), strict=True):
                to.copy_(part, non_blocking=True)
            likely[number] = places, Likelihoods(*parts)
        ready = torch.cuda.Event()
        ready.record()
        return Chosen(host, ready, likely)

    def _special(self, logits: Tensor, special: Sequence[Special]) -> list[tuple[list[int], Likelihoods]]:
        device = logits.device
        places, slots = whole([[each.place for each in special], [each.slot for each in special]], device)
        settings = [each.settings for each in special]
        raw = logits[places].float()
        penalised = [number for number, each in enumerate(settings) if each.penalised]
        scored = raw
        if penalised and self.told is not None:
            scored = raw.clone()
            for start in range(0, len(penalised), AT_ONCE):  # each row takes several copies of its logits
                part = penalised[start : start + AT_ONCE]
                index = whole(part, device)
                scored[index] = self.told.penalise(raw[index], slots[index], [settings[number] for number in part])
        token = choose(scored, settings, [each.uniform for each in special])
        self.out[places] = token
        self.token[slots] = token
        if penalised and self.told is not None:
            index = whole(penalised, device)
            self.told.add(slots[index], token[index])
        wanted = [number for number, each in enumerate(settings) if each.logprobs is not None]
        if not wanted:
            return []
        index = whole(wanted, device)
        most = max(settings[number].logprobs or 0 for number in wanted)
        found = likelihoods(raw[index], token[index], min(most, raw.shape[1]))
        return [([special[number].place for number in wanted], found)]

    # ---- prompts

    def prefill(self, pieces: Sequence[PromptPiece], lora: bool, special: Sequence[Special]) -> Chosen | None:
        """Run chunks of prompts.

        Args:
            pieces: The chunks.
            lora: Whether some rows use an adapter.
            special: Rows that are not decoded greedily; `place` counts the chunks that end a prompt.

        Returns:
            The first tokens of the answers that start, in order; None if none does.
        """
        model, config, device = self.model, self.model.config, self.model.device
        laid = _laid_out(pieces, self.cos, self.sin, device)
        active: ActiveLora | None = None
        if lora and self.adapters is not None:
            own = whole([piece.adapter for piece in pieces for _ in piece.tokens], device)
            active = self.adapters.of_rows(own)
        x = model.embed(whole([token for piece in pieces for token in piece.tokens], device))
        for number in range(config.num_layers):

            def attend(qkv: Tensor, out: Tensor, number: int = number) -> None:
                attention.piece_attention(qkv, self.keys[number], self.values[number], laid, config, out)

            x = model.run_layer(number, x, attend, active)
        last, ended, end = [], [], 0
        for piece in pieces:
            end += len(piece.tokens)
            if piece.ends:
                last.append(end - 1)
                ended.append(piece)
        if not ended:
            return None
        logits = model.logits(x[whole(last, device)])
        chosen = logits.argmax(-1)
        self.out[: len(ended)] = chosen
        slots = whole([piece.slot for piece in ended], device)
        self.token[slots] = chosen
        self.position[slots] = whole([piece.start + len(piece.tokens) for piece in ended], device)
        return self._finish(logits, len(ended), special)

    # ---- CUDA graphs

    @torch.no_grad()
    def capture(self) -> None:
        """Capture the step for each number of rows, with and without adapters. All slots must be free."""
        sizes = [*(size for size in BUCKETS if size < self.rows), self.rows]
        stream, pool = torch.cuda.Stream(), None
        for lora in (False, True) if self.adapters is not None else (False,):
            for size in reversed(sizes):  # the largest first: the others fit into its memory
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):  # loads the kernels outside of the capture
                    self._step(size, self.table.shape[1], lora)
                torch.cuda.current_stream().wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    self._step(size, self.table.shape[1], lora)
                pool = graph.pool()
                self.graphs[size, lora] = graph
        self._warm_up()
        torch.cuda.synchronize()

    def _warm_up(self) -> None:
        """Run once what no graph contains, chunks of prompts and sampling, so that the first request waits less."""
        pages = range(1, min(self.keys.shape[1], 1 + pages_for(WARM_UP[-1])))
        for lora in (False, True) if self.adapters is not None else (False,):
            for length in WARM_UP:
                if pages_for(length) <= len(pages):
                    piece = PromptPiece(0, int(lora), [0] * length, 0, pages, True)
                    self.prefill([piece], lora, [Special(0, 0, SamplingParams(1.0, 0.9, logprobs=1), 0.5)])
        self.prefill([PromptPiece(0, 0, [0] * PAGE, PAGE, pages, True)], False, [])


def _laid_out(pieces: Sequence[PromptPiece], cos: Tensor, sin: Tensor, device: torch.device) -> attention.Pieces:
    """The chunks in the form that attention takes."""
    new = tuple(len(piece.tokens) for piece in pieces)
    ends = tuple(piece.start + len(piece.tokens) for piece in pieces)
    places = []
    for piece, end in zip(pieces, ends, strict=True):
        pages = torch.tensor(piece.pages[: pages_for(end)], dtype=torch.int64)
        places.append((pages[:, None] * PAGE + torch.arange(PAGE)).view(-1)[:end])
    place = torch.cat([row[piece.start :] for row, piece in zip(places, pieces, strict=True)])
    context = torch.cat(places) if any(piece.start for piece in pieces) else None
    positions = torch.cat([torch.arange(piece.start, end) for piece, end in zip(pieces, ends, strict=True)])
    whole_ends = ends if context is not None else new

    def sent(tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    def sums(lengths: tuple[int, ...]) -> Tensor:
        return sent(torch.tensor([0, *lengths]).cumsum(0).int())

    at = sent(positions)
    lying = None if context is None else sent(context)
    return attention.Pieces(cos[at], sin[at], sent(place), lying, new, whole_ends, (sums(new), sums(whole_ends)))


def page_bytes(config: Config, width: int) -> int:
    """Bytes of one page; `width` is the size of one number in bytes."""
    return 2 * config.num_layers * PAGE * config.kv_size * width
