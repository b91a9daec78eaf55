"""A tiny random Qwen2 made by transformers, and small helpers; imported by the tests of qwen2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

EOS = [7, 11, *range(170, 190)]  # many, so that greedy decoding of a random model meets one


def ids() -> torch.Tensor:
    """Three rows of eleven token ids."""
    return torch.randint(0, 199, (3, 11), generator=torch.Generator().manual_seed(4))


def numbered(seed: int, tokens: int) -> torch.Tensor:
    """The `seed` of dropout for a whole step: the step's seed, then the numbers of its tokens."""
    return torch.cat((torch.tensor([seed]), torch.arange(tokens)))


def copy_dir(source: Path, target: Path) -> Path:
    """A copy of a model folder that a test may damage."""
    return Path(shutil.copytree(source, target))


def random_adapter(base: Path, targets: list[str], scale: float) -> Any:
    """An Adapter of rank 4 on these linears of the model in `base`, with a B that is not zero: it changes answers."""
    from qwen2.config import Config
    from qwen2.lora import Adapter

    adapter = Adapter(Config.from_dir(base), 4, 16, targets, device="cpu")
    adapter.initialize(0)
    generator = torch.Generator().manual_seed(1)
    for name, view in adapter.named():
        if ".lora_B." in name:
            view.copy_(torch.randn(view.shape, generator=generator) * scale)
    return adapter


def make_tiny(folder: Path, **changes: Any) -> Path:
    """Write a random float32-valued bfloat16 checkpoint with grouped heads and an eos that greedy decoding can meet."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": 199,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "eos_token_id": 7,
        "bos_token_id": 1,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "initializer_range": 0.15,
    } | changes
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias") or "norm" in name:  # as initialised they are 0 and 1 and would hide mistakes
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS, "pad_token_id": 0}))
    return folder


def make_rows(count: int, seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Rows of (ids, labels) of 8 to 28 tokens; labels begin somewhere and have a gap, as with several turns."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        size = int(torch.randint(8, 29, (1,), generator=generator))
        row = torch.randint(12, 160, (size,), generator=generator).tolist()
        begin = int(torch.randint(2, size - 3, (1,), generator=generator))
        labels = [-100] * begin + row[begin:]
        labels[-2] = -100
        rows.append((row, labels))
    return rows
