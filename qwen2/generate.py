"""Batched greedy and sampled decoding with a static key/value cache; called by finetune (answers, verdict) and bench.

The cache has a fixed number of slots. When an answer ends, a waiting prompt takes its slot while the others continue,
so short and long answers share the same steps. Every row keeps its own position: its answer does not depend on the
other rows. On a GPU one decoding step is captured as a CUDA graph and replayed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.i18n import _
from qwen2 import ops
from qwen2.lora import Adapter
from qwen2.model import Model, causal_attention
from qwen2.room import Room
from qwen2.sampling import Sampling

CHECK_EVERY = 8  # steps between two checks for ended rows: each check stalls the GPU's queue
REFILL_SHARE = 8  # waiting prompts are read once 1/REFILL_SHARE of the slots, or enough for all, are free
SPREAD, SHORT = 4, 256  # prompts under 1/SPREAD of the group's cache (at least 256 tokens) start a new group


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue by at most `limit` tokens; `number` is its index among all prompts and seeds sampling."""

    number: int
    prompt: Sequence[int]
    limit: int

    @property
    def length(self) -> int:
        """Tokens of cache that it may need."""
        return len(self.prompt) + self.limit


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    adapter: Adapter | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    room: Room | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """Continue every prompt until an eos or max_new_tokens.

    Args:
        model: The base.
        prompts: Token ids, one sequence per prompt.
        max_new_tokens: One limit for all prompts, or one for each.
        adapter: Added to the base; None uses the base alone.
        temperature: 0 is greedy.
        top_p: Cumulative probability of the tokens to draw from, in (0, 1].
        top_k: Number of tokens to draw from; 0 means all.
        repetition_penalty: Makes tokens that occurred less likely; 1 has no effect.
        seed: A sampled row depends on (seed, its index), not on batching.
        batch_size: Rows per batch; None takes as many as memory and `room` allow.
        room: The memory available for answers; None means Room().
        progress: Called with (done_rows, total_rows) when rows have ended.
        watch: Called with the first running row's answer so far, after each step (on a GPU after CHECK_EVERY).

    Returns:
        The answers as ids, in the order of the prompts, without the eos token.

    Raises:
        ValueError: A prompt is empty, or is with its answer longer than the model's maximum positions.
    """
    sampling, room = Sampling(temperature, top_p, top_k, repetition_penalty), room or Room()
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    requests = check(model, prompts, limits)
    answers: list[list[int]] = [[] for _ in prompts]
    done = len(prompts) - len(requests)
    with torch.no_grad():
        for group in _groups(requests):
            length = group[0].length
            rows = min(batch_size or fitting_rows(model, length, room), len(group))
            new_tokens = max(each.limit for each in group)
            decoder = Decoder(model, rows, length, new_tokens, sampling, adapter, room.prefill_tokens)
            for ended in decoder.run(group, seed, watch):
                for number, answer in ended:
                    answers[number] = answer
                done += len(ended)
                if progress:
                    progress(done, len(prompts))
    return answers


def check(model: Model, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Prompt]:
    """The prompts to continue, as requests.

    Args:
        model: The model that continues them.
        prompts: Token ids.
        limits: Maximum new tokens of each prompt.

    Raises:
        ValueError: A prompt cannot be continued.
    """
    requests = [Prompt(*each) for each in zip(range(len(prompts)), prompts, limits, strict=True)]
    requests = [each for each in requests if each.limit >= 1]
    for each in requests:
        if not each.prompt:
            raise ValueError(_("a prompt is empty: there is nothing to continue"))
        if each.length > model.config.max_positions:
            raise ValueError(
                _(
                    "a prompt of {count} tokens with {limit} new ones exceeds the model's {max_positions} "
                    "positions: shorten the prompt or lower max_new_tokens"
                ).format(count=len(each.prompt), limit=each.limit, max_positions=model.config.max_positions)
            )
    return requests


def _groups(requests: Sequence[Prompt]) -> list[list[Prompt]]:
    """Requests that share a cache, the longest first: the slots are as long as it needs."""
    groups: list[list[Prompt]] = []
    for each in sorted(requests, key=lambda each: (-each.length, each.number)):
        if not groups or max(each.length, SHORT) * SPREAD < groups[-1][0].length:
            groups.append([])
        groups[-1].append(each)
    return groups


def fitting_rows(model: Model, length: int, room: Room) -> int:
    """Number of rows whose cache and logits fit in free memory and in `room`; 32 on a CPU.

    Args:
        model: The loaded model.
        length: Tokens of each row.
        room: The memory available for answers.
    """
    if model.device.type != "cuda":
        return 32
    config = model.config
    free, total = torch.cuda.mem_get_info(model.device)
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _device: 1.0)  # not in every torch 2
    cap = total * fraction(model.device)
    free = min(free, int(cap) - torch.cuda.memory_allocated(model.device))
    width = model.embedding.element_size()
    cache = 2 * config.num_layers * config.kv_size * width * length
    logits = config.vocab_size * (width + 3 * 4)
    prefill = room.prefill_tokens * (3 * config.intermediate_size + 4 * config.hidden_size) * width
    fitting = int((0.8 * free - prefill) / (cache + logits))
    return max(1, min(room.rows, fitting, int(room.cache_gib * 2**30 / cache)))


class Decoder:
    """Static tensors for `rows` sequences of up to `length` tokens, and the captured step that uses them."""

    def __init__(
        self,
        model: Model,
        rows: int,
        length: int,
        new_tokens: int,
        sampling: Sampling,
        adapter: Adapter | None,
        prefill_tokens: int = Room.prefill_tokens,
    ) -> None:
        config, device = model.config, model.device
        self.model, self.rows, self.new_tokens, self.sampling = model, rows, new_tokens, sampling
        self.prefill_tokens = prefill_tokens
        self.length = -(-length // 16) * 16  # attention kernels want aligned rows of the mask
        self.lora = model.activate(adapter)
        shape = (config.num_layers, rows, self.length, config.num_kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, dtype=model.dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.eos = torch.tensor(config.eos_ids, dtype=torch.int64, device=device)
        # For each row: its newest token, that token's position, the length of its answer so far, and its limit.
        self.token, self.position, self.count, self.limit = torch.zeros(4, rows, dtype=torch.int64, device=device)
        self.done = torch.ones(rows, dtype=torch.bool, device=device)  # ended, or an unused slot
        self.out = torch.zeros(rows, new_tokens + 1, dtype=torch.int64, device=device)  # ended rows write to the last
        self.uniform = torch.zeros(rows, new_tokens + 1, dtype=torch.float32, device=device)
        self.seen = None
        if sampling.repetition_penalty != 1.0:
            self.seen = torch.zeros(rows, config.vocab_size, dtype=torch.bool, device=device)
        self.cos, self.sin = model.rope_tables(self.length)
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(
        self, requests: Sequence[Prompt], seed: int, watch: Callable[[list[int]], None] | None = None
    ) -> Iterator[list[tuple[int, list[int]]]]:
        """Answer all requests; yields (number, answer), without the eos token, as answers end."""
        if self.model.device.type == "cuda" and self.graph is None and self.new_tokens > 1:
            self._capture()
        waiting, running, free = deque(requests), dict[int, Prompt](), list(range(self.rows))
        while waiting or running:
            if waiting and len(free) >= min(len(waiting), -(-self.rows // REFILL_SHARE)):
                taken = {free.pop(): waiting.popleft() for _ in range(min(len(free), len(waiting)))}
                self._fill(taken, seed)
                running |= taken
            elif self.graph is not None:
                for _ in range(CHECK_EVERY):
                    self.graph.replay()
            else:
                reach = max(each.length for each in running.values())
                self._decode(reach)
            if watch:
                watch(self._answers([next(iter(running))], keep=True)[0])
            ended = [slot for slot, done in enumerate(self.done.tolist()) if done and slot in running]
            if ended:
                said = self._answers(ended)
                yield [(running.pop(slot).number, answer) for slot, answer in zip(ended, said, strict=True)]
                free += ended

    def _answers(self, slots: list[int], keep: bool = False) -> list[list[int]]:
        """The answers in these slots, which are freed unless they are kept."""
        index = torch.tensor(slots, device=self.out.device)
        eos = set(self.model.config.eos_ids)
        found = []
        for row, count in zip(self.out[index].tolist(), self.count[index].tolist(), strict=True):
            found.append(row[: count - 1] if row[count - 1] in eos else row[:count])
        if not keep:
            self.position[index] = 0  # a free slot attends to nothing
        return found

    def _fill(self, taken: dict[int, Prompt], seed: int) -> None:
        """Assign slots to requests: run the prompts, fill the cache, choose each row's first token."""
        order = sorted(taken, key=lambda slot: len(taken[slot].prompt))
        start = 0
        while start < len(order):
            # Sorted by length, so the last of a part is its longest.
            size = 1
            while (
                start + size < len(order) and (size + 1) * len(taken[order[start + size]].prompt) <= self.prefill_tokens
            ):
                size += 1
            slots = order[start : start + size]
            self._prefill([taken[slot] for slot in slots], slots, seed)
            start += size

    def _prefill(self, requests: list[Prompt], slots: list[int], seed: int) -> None:
        model, config, device = self.model, self.model.config, self.model.device
        lengths = [len(each.prompt) for each in requests]
        longest = max(lengths)
        padded = [[*each.prompt, *[config.pad_id] * (longest - len(each.prompt))] for each in requests]
        index = torch.tensor(slots, device=device)
        last = torch.tensor(lengths, device=device) - 1
        if self.sampling.temperature > 0:
            numbers = [self._numbers(seed, each.number) for each in requests]
            self.uniform[index, : self.new_tokens] = torch.stack(numbers).to(device)
        if self.seen is not None:
            self.seen[index] = False
            for slot, each in zip(slots, requests, strict=True):
                self.seen[slot, torch.tensor(each.prompt, device=device)] = True
        cos, sin = (table[:longest].repeat(len(slots), 1) for table in (self.cos, self.sin))
        x = model.embed(torch.tensor(padded, device=device).reshape(-1))
        for number in range(config.num_layers):
            cache = (self.keys[number, :, :longest], self.values[number, :, :longest])

            def keep(k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor] = cache) -> None:
                for into, new in zip(cache, (k, v), strict=True):
                    into.index_copy_(0, index, new.reshape(len(slots), *into.shape[1:]))

            attend = causal_attention(config, len(slots), longest, cos, sin, keep)
            x = model.run_layer(number, x, attend, self.lora)
        x = x.view(len(slots), longest, -1)[torch.arange(len(slots), device=device), last]
        seen = None if self.seen is None else self.seen[index]
        token = self._pick(model.logits(x), self.uniform[index, :1], seen)
        if self.seen is not None:
            self.seen[index, token] = True
        limit = torch.tensor([each.limit for each in requests], device=device)
        self.out[index, 0] = token
        self.token[index], self.position[index], self.limit[index] = token, last + 1, limit
        self.count[index] = 1
        self.done[index] = (token[:, None] == self.eos).any(1) | (limit <= 1)

    def _numbers(self, seed: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
        return torch.rand(self.new_tokens, generator=generator)

    def _decode(self, reach: int) -> None:
        """One token for every row, from self.token at self.position; every position is below `reach`. Never waits.

        Rows that have ended repeat the same work at the same position and write to a column that is not read.
        """
        model, config = self.model, self.model.config
        x = model.embed(self.token)
        for number in range(config.num_layers):
            keys, values = self.keys[number, :, :reach], self.values[number, :, :reach]

            def attend(qkv: Tensor, out: Tensor, keys: Tensor = keys, values: Tensor = values) -> None:
                ops.decode_attention(qkv, keys, values, self.cos, self.sin, self.position, out)

            x = model.run_layer(number, x, attend, self.lora)
        # _prefill chooses the first token of an answer, so `count` is the index of the next one.
        place = torch.where(self.done, self.new_tokens, self.count)[:, None]
        token = self._pick(model.logits(x), self.uniform.gather(1, place), self.seen)
        self.out.scatter_(1, place, token[:, None])
        self.token.copy_(token)
        if self.seen is not None:
            self.seen.scatter_(1, token[:, None], True)
        self.position += ~self.done
        self.count += ~self.done
        self.done |= (token[:, None] == self.eos).any(1) | (self.count >= self.limit)

    def _pick(self, logits: Tensor, uniform: Tensor, seen: Tensor | None) -> Tensor:
        """The token of each row of logits [n, V], drawn by `uniform` [n, 1]; tokens in `seen` [n, V] are penalised."""
        s = self.sampling
        if seen is not None:
            logits = logits.float()
            punished = torch.where(logits < 0, logits * s.repetition_penalty, logits / s.repetition_penalty)
            logits = torch.where(seen, punished, logits)
        if s.temperature == 0:
            return logits.argmax(-1)
        logits = logits.float() / s.temperature
        k = min(s.top_k or logits.shape[1], logits.shape[1])
        logits, index = torch.topk(logits, k) if k < logits.shape[1] else torch.sort(logits, descending=True)
        share = torch.softmax(logits, -1)
        before = share.cumsum(-1) - share
        share = share * (before < s.top_p)  # the token that crosses top_p stays, as in transformers
        total = share.cumsum(-1)
        # Inverse transform sampling with the uniform number of this row and step.
        chosen = (total <= uniform * total[:, -1:]).sum(-1, keepdim=True).clamp(max=k - 1)
        return index.gather(1, chosen)[:, 0]

    def _capture(self) -> None:
        """Capture _decode. An uncaptured run comes first to load the kernels, which must not happen during capture.

        Every slot is free at this point: what the step writes is overwritten when a slot is taken.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._decode(self.length)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._decode(self.length)
