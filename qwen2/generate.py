"""Batched greedy and sampled decoding with a static key/value cache; called by finetune (answers, verdict) and bench.

Rows are padded on the right and every row keeps its own position, so a row's answer does not depend on its neighbours.
On a GPU one decoding step is captured as a CUDA graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen2.lora import Adapter
from qwen2.model import Attend, Model, causal_attention

PREFILL_TOKENS = 4096  # tokens of the prompt pass at a time: bounds its activations (about 150 KB a token at 7B)
MOST_ROWS = 128  # answered at a time on a GPU: more are hardly faster
CACHE_GIB = 1.5  # of keys and values at most
CHECK_EVERY = 8  # steps between two looks at whether every row has ended: a look stalls the GPU's queue


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen; the order of the filters is transformers': penalty, temperature, top-k, top-p."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.repetition_penalty <= 0:
            raise ValueError(
                "sampling: temperature and top_k must be at least 0, top_p in (0, 1], repetition_penalty above 0"
            )


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    adapter: Adapter | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Continue every prompt (token ids) until an eos or max_new_tokens; the answers, in order, without the eos.

    Greedy when temperature is 0. A sampled row depends on (seed, its index), not on the batching. `batch_size` None
    takes what memory allows. `progress(done_rows, total_rows)` is called after every batch. ValueError for an empty
    prompt or one that, with its answer, is longer than the model's positions.
    """
    sampling = Sampling(temperature, top_p, top_k, repetition_penalty)
    if not prompts or max_new_tokens < 1:
        return [[] for _ in prompts]
    longest = max(len(prompt) for prompt in prompts)
    if min(len(prompt) for prompt in prompts) == 0:
        raise ValueError("a prompt is empty: there is nothing to continue")
    if longest + max_new_tokens > model.config.max_positions:
        raise ValueError(
            f"a prompt of {longest} tokens with {max_new_tokens} new ones passes the model's "
            f"{model.config.max_positions} positions: shorten the prompt or lower max_new_tokens"
        )
    with torch.no_grad():
        order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
        size = min(batch_size or fitting_rows(model, longest + max_new_tokens), len(prompts))
        # Equal batches rather than full ones and a small rest: all of them use the same captured step.
        size = -(-len(prompts) // -(-len(prompts) // size))
        decoder = Decoder(model, size, longest + max_new_tokens, max_new_tokens, sampling, adapter)
        answers: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            for row, answer in zip(rows, decoder.run([prompts[row] for row in rows], rows, seed), strict=True):
                answers[row] = answer
            if progress:
                progress(start + len(rows), len(order))
    return answers


def fitting_rows(model: Model, length: int) -> int:
    """Rows of `length` tokens whose cache and logits fit in what is free; at most MOST_ROWS (32 on a CPU).

    The cache stays under CACHE_GIB, so that a process that only answers stays under 17 GiB with the 7B weights.
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
    prefill = PREFILL_TOKENS * (3 * config.intermediate_size + 4 * config.hidden_size) * width
    fitting = int((0.8 * free - prefill) / (cache + logits))
    return max(1, min(MOST_ROWS, fitting, int(CACHE_GIB * 2**30 / cache)))


class Decoder:
    """Static tensors for `rows` sequences of up to `length` tokens, and the captured step that works on them."""

    def __init__(
        self, model: Model, rows: int, length: int, new_tokens: int, sampling: Sampling, adapter: Adapter | None
    ) -> None:
        config, device = model.config, model.device
        self.model, self.rows, self.new_tokens, self.sampling = model, rows, new_tokens, sampling
        self.length = -(-length // 16) * 16  # attention kernels want the mask's rows aligned
        self.lora = model.activate(adapter)
        shape = (config.num_layers, rows, self.length, config.num_kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, dtype=model.dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.token = torch.zeros(rows, dtype=torch.int64, device=device)
        self.position = torch.zeros(rows, dtype=torch.int64, device=device)  # of self.token
        self.step = torch.zeros(1, dtype=torch.int64, device=device)  # where in `out` the next token goes
        self.out = torch.zeros(rows, new_tokens, dtype=torch.int64, device=device)
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)
        self.eos = torch.tensor(config.eos_ids, dtype=torch.int64, device=device)
        self.row_index = torch.arange(rows, device=device)
        self.columns = torch.arange(self.length, device=device)
        self.uniform = torch.zeros(rows, new_tokens, dtype=torch.float32, device=device)
        self.seen = None
        if sampling.repetition_penalty != 1.0:
            self.seen = torch.zeros(rows, config.vocab_size, dtype=torch.bool, device=device)
        self.cos, self.sin = model.rope_tables(self.length)
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], seed: int) -> list[list[int]]:
        """Answers of at most `rows` prompts; `numbers` are their indices, which seed the sampling."""
        if self.model.device.type == "cuda" and self.graph is None and self.new_tokens > 1:
            self._reset(prompts, numbers, seed)  # what is captured works on any state: this one is in range
            self._capture()
        self._reset(prompts, numbers, seed)
        self._prefill(prompts)
        check = CHECK_EVERY if self.graph is not None else 1
        for count in range(1, self.new_tokens):
            if count % check == 0 and bool(self.done.all()):
                break
            if self.graph is not None:
                self.graph.replay()
            else:
                self._decode()
        eos = set(self.model.config.eos_ids)
        answers = []
        # Where the loop ended early the rest of `out` holds the filler eos that _reset put there.
        for row in self.out[: len(prompts)].tolist():
            end = next((i for i, token in enumerate(row) if token in eos), len(row))
            answers.append(row[:end])
        return answers

    def _reset(self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], seed: int) -> None:
        self.out.fill_(self.model.config.eos_ids[0])
        self.step.zero_()
        self.done.zero_()
        self.done[len(prompts) :] = True
        self.position.zero_()
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        self.position[: len(prompts)] = (lengths - 1).to(self.position.device)
        if self.sampling.temperature > 0:
            for slot, number in enumerate(numbers):
                generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
                self.uniform[slot] = torch.rand(self.new_tokens, generator=generator).to(self.uniform.device)
        if self.seen is not None:
            self.seen.zero_()
            for slot, prompt in enumerate(prompts):
                self.seen[slot, torch.tensor(prompt, device=self.seen.device)] = True

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        """Run the prompts, fill the cache, choose each row's first token."""
        model, config = self.model, self.model.config
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), config.pad_id, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        ids = ids.to(model.device)
        last = torch.zeros(self.rows, config.hidden_size, dtype=model.dtype, device=model.device)
        step = max(1, PREFILL_TOKENS // longest)
        for start in range(0, len(prompts), step):
            part = ids[start : start + step]
            count = part.shape[0]
            causal = causal_attention(config, count, longest)
            cos, sin = (table[:longest].repeat(count, 1) for table in (self.cos, self.sin))
            x = F.embedding(part.reshape(-1), model.embedding)
            for number in range(config.num_layers):
                keys = self.keys[number, start : start + count, :longest]
                values = self.values[number, start : start + count, :longest]

                def store(
                    q: Tensor,
                    k: Tensor,
                    v: Tensor,
                    keys: Tensor = keys,
                    values: Tensor = values,
                    causal: Attend = causal,
                ) -> Tensor:
                    keys.copy_(k.view(keys.shape))
                    values.copy_(v.view(values.shape))
                    return causal(q, k, v)

                x = model.run_layer(number, x, cos, sin, store, self.lora)
            x = x.view(count, longest, -1)
            last[start : start + count] = x[self.row_index[:count], self.position[start : start + count]]
        self._choose(model.logits(last))

    def _decode(self) -> None:
        """One token for every row, from self.token at self.position; everything stays on the device."""
        model, config = self.model, self.model.config
        x = F.embedding(self.token, model.embedding)
        cos, sin = self.cos.index_select(0, self.position), self.sin.index_select(0, self.position)
        mask = torch.zeros(self.rows, 1, 1, self.length, dtype=model.dtype, device=model.device)
        mask.masked_fill_((self.columns[None] > self.position[:, None])[:, None, None], float("-inf"))
        # The query heads that share a key head are laid out as its queries: the cache is read once, without a copy.
        shared = config.num_heads // config.num_kv_heads
        mask = mask.expand(-1, config.num_kv_heads, shared, -1)
        for number in range(config.num_layers):
            keys, values = self.keys[number], self.values[number]

            def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values) -> Tensor:
                shape = (self.rows, config.num_kv_heads, config.head_dim)
                keys.index_put_((self.row_index, self.position), k.reshape(shape))
                values.index_put_((self.row_index, self.position), v.reshape(shape))
                grouped = q.reshape(self.rows, config.num_kv_heads, shared, config.head_dim)
                out = F.scaled_dot_product_attention(grouped, keys.transpose(1, 2), values.transpose(1, 2), mask)
                return out.reshape(self.rows, config.q_size)

            x = model.run_layer(number, x, cos, sin, attend, self.lora)
        self._choose(model.logits(x))

    def _choose(self, logits: Tensor) -> None:
        """Take the next token of every row from logits [rows, V] and move on."""
        token = self._pick(logits)
        self.token.copy_(token)
        self.out.index_copy_(1, self.step, token[:, None])
        self.done |= (token[:, None] == self.eos).any(1)
        if self.seen is not None:
            self.seen.scatter_(1, token[:, None], True)
        self.position += 1
        self.step += 1

    def _pick(self, logits: Tensor) -> Tensor:
        s = self.sampling
        if self.seen is not None:
            logits = logits.float()
            punished = torch.where(logits < 0, logits * s.repetition_penalty, logits / s.repetition_penalty)
            logits = torch.where(self.seen, punished, logits)
        if s.temperature == 0:
            return logits.argmax(-1)
        logits = logits.float() / s.temperature
        k = min(s.top_k or logits.shape[1], logits.shape[1])
        logits, index = torch.topk(logits, k) if k < logits.shape[1] else torch.sort(logits, descending=True)
        share = torch.softmax(logits, -1)
        before = share.cumsum(-1) - share
        share = share * (before < s.top_p)  # the token that crosses top_p stays, as in transformers
        total = share.cumsum(-1)
        # Inverse of the distribution function at this row's and step's own uniform number.
        u = self.uniform.gather(1, self.step.expand(self.rows)[:, None]) * total[:, -1:]
        chosen = (total <= u).sum(-1, keepdim=True).clamp(max=k - 1)
        return index.gather(1, chosen)[:, 0]

    def _capture(self) -> None:
        """Capture _decode. A first uncaptured run loads the kernels, which must not happen inside a capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._decode()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._decode()
