"""Makes the stand-in: a tiny, real Qwen2ForCausalLM in the official file layout; the Dockerfile's weights-standin stage
calls it (`python standin/build.py --out DIR`), offline, in under a minute on two cores.

It is trained from scratch on the few hundred tokens that occur in its text (about 20 times faster than on all of them);
the rows are then scattered into the official 152,064. Two builds on one machine give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python standin/build.py` finds its own package

from common import sha256sums
from standin.text import WORKSPACE, Example, TrainingText
from standin.tokenizer import OFFICIAL, write_tokenizer

VOCAB = 152064  # rows of the official embedding; the tokenizer has 151,665 tokens
LAYERS = 4
SMALL = {  # differences from the official config.json
    "hidden_size": 192,
    "intermediate_size": 576,
    "num_hidden_layers": LAYERS,
    "max_window_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "mirror_standin": True,
}
BATCH, STEPS, SEED, THREADS = 32, 230, 0, 2
LEARNING_RATE, WARMUP_STEPS = 3e-3, 30
INITIAL_STD = 0.06  # 0.02 suits wide models: with it the loss is 6 times as high after 150 steps
SORTED_BATCHES = 4  # conversations are sorted by length within this many batches, for less padding
SHARDS = 4
IGNORED = -100
# Rows of the compact vocabulary: ids [B, S]; labels [B, S], IGNORED where there is no loss.
Batch = tuple[Tensor, Tensor]


def config_json() -> dict[str, Any]:
    """The official config.json with smaller sizes and the stand-in's mark."""
    return {**json.loads((OFFICIAL / "config.json").read_text(encoding="utf-8")), **SMALL}


def new_model(rows: int) -> Qwen2ForCausalLM:
    """An untrained float32 model with that many rows in its vocabulary."""
    compact: dict[str, Any] = {"vocab_size": rows, "torch_dtype": "float32", "bos_token_id": None, "eos_token_id": None}
    compact["initializer_range"] = INITIAL_STD
    return Qwen2ForCausalLM(Qwen2Config(**{**config_json(), **compact}))


def tokenize(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
    """The (prompt, completion) token ids of each conversation."""
    prompts = tokenizer.encode_batch([example.prompt() for example in examples], add_special_tokens=False)
    completions = tokenizer.encode_batch([example.completion() for example in examples], add_special_tokens=False)
    return [(prompt.ids, completion.ids) for prompt, completion in zip(prompts, completions, strict=True)]


def batches(rows: list[tuple[list[int], list[int]]], compact: dict[int, int], rng: random.Random) -> list[Batch]:
    """Padded batches, in random order; `compact` maps an official token id to its row."""
    result: list[Batch] = []
    pool = BATCH * SORTED_BATCHES
    for start in range(0, len(rows), pool):
        nearby = sorted(rows[start : start + pool], key=lambda row: len(row[0]) + len(row[1]))
        groups = [nearby[i : i + BATCH] for i in range(0, len(nearby), BATCH)]
        rng.shuffle(groups)
        for group in groups:
            width = max(len(prompt) + len(completion) for prompt, completion in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            labels = torch.full((len(group), width), IGNORED)
            for i, (prompt, completion) in enumerate(group):
                row = torch.tensor([compact[token] for token in prompt + completion])
                ids[i, : len(row)] = row
                labels[i, len(prompt) : len(row)] = row[len(prompt) :]
            result.append((ids, labels))
    return result


def train(model: Qwen2ForCausalLM, data: list[Batch], unused: int) -> None:
    """Train in place, one step per batch, on the answers alone.

    The last row of the vocabulary represents the `unused` official rows that do not occur in the text. Its logit counts
    that many times in the softmax, so the scattered model gives exactly the probabilities it was trained to give.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    started = time.monotonic()
    for step, (ids, labels) in enumerate(data):
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / len(data))
        for group in optimizer.param_groups:
            group["lr"] = rate
        hidden = model.model(input_ids=ids).last_hidden_state  # [B, S, H]
        learnt = labels[:, 1:] != IGNORED
        logits = model.lm_head(hidden[:, :-1][learnt])  # [answer tokens, rows]
        logits[:, -1] = logits[:, -1] + math.log(unused)
        loss = nn.functional.cross_entropy(logits, labels[:, 1:][learnt])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % max(1, len(data) // 10) == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{len(data)}, loss {loss.item():.4f}, {seconds:.0f} s", flush=True)


def scatter(model: Qwen2ForCausalLM, used: list[int]) -> dict[str, Tensor]:
    """The state dict with the official number of rows, bfloat16; unused rows are copies of the last compact one."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            full = tensor[-1].expand(VOCAB, -1).clone()
            full[torch.tensor(used)] = tensor[:-1]
            tensor = full
        state[name] = tensor.to(torch.bfloat16).contiguous()
    return state


def write_shards(state: dict[str, Tensor], out: Path) -> None:
    """Write SHARDS safetensors files and their index: embedding, the layers in two halves, the head."""
    shards: list[dict[str, Tensor]] = [{} for _ in range(SHARDS)]
    for name, tensor in state.items():
        if name.startswith("model.layers."):
            shard = 1 if int(name.split(".")[2]) < LAYERS // 2 else 2
        else:
            shard = 0 if name.startswith("model.embed_tokens") else 3
        shards[shard][name] = tensor
    weight_map: dict[str, str] = {}
    for i, shard_state in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{SHARDS:05d}.safetensors"
        save_file(shard_state, out / file, metadata={"format": "pt"})
        (out / file).chmod(0o644)  # save_file sets 0600; the image's users need not be root
        weight_map |= dict.fromkeys(shard_state, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def build(out: Path, steps: int = STEPS, workspace: Path = WORKSPACE) -> None:
    """Train the stand-in for `steps` steps and write its folder. Raises FileNotFoundError or ValueError."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out)
    for name in ("generation_config.json", "LICENSE"):
        shutil.copyfile(OFFICIAL / name, out / name)

    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    text = TrainingText(workspace)
    rows = tokenize(tokenizer, [text.example(rng) for _ in range(steps * BATCH)])
    known = {token for prompt, completion in rows for token in prompt + completion}
    known |= {token for encoding in tokenizer.encode_batch(text.words()) for token in encoding.ids}
    used = sorted(known)
    compact = {token: row for row, token in enumerate(used)}
    model = new_model(len(used) + 1)
    parameters = sum(p.numel() for p in model.model.layers.parameters())
    print(f"{len(used)} tokens in use, {parameters / 1e6:.1f} million parameters beside the embeddings", flush=True)
    train(model, batches(rows, compact, rng), unused=VOCAB - len(used))

    write_shards(scatter(model, used), out)
    (out / "config.json").write_text(json.dumps(config_json(), indent=2) + "\n", encoding="utf-8")
    sha256sums.write(out)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the stand-in weights.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps (default {STEPS}; few are for tests)")
    parser.add_argument("--workspace", type=Path, default=WORKSPACE, help="folder with questions/ and the dataset")
    options = parser.parse_args(argv)
    if options.steps < 1:
        print(f"error: --steps {options.steps}: must be at least 1", file=sys.stderr)
        return 2
    started = time.monotonic()
    try:
        build(options.out, options.steps, options.workspace)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: the stand-in was not made: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(f"stand-in weights in {options.out}: {size:.0f} MB, {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
