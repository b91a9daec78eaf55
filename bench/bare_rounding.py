"""How far bfloat16 rounds the bare model's loss, in the fast lane and in transformers, on the CPU.

    python bench/bare_rounding.py TOKENIZER_DIR [--steps 20]

A random model of 28 layers and 512 columns (135 M parameters in the layers), batches of 16 rows, no LoRA: the error of
both against transformers in float32. Prints one JSON line; takes minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Create the model, compute the losses, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("tokenizer_dir", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    import torch

    from qwen2.chat import Tokenizer
    from qwen2.training.settings import TrainSettings

    raw = json.loads((ROOT / "workspace" / "self_cognition.json").read_text(encoding="utf-8"))
    settings = TrainSettings(max_steps=args.steps, learning_rate=0.0, lora_dropout=0.0)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), args.tokenizer_dir)
        tokenizer = Tokenizer(folder)
        rows = [tokenizer.encode_row(row, "You are a helpful assistant.") for row in raw]
        truth = by_transformers(folder, rows, settings, torch.float32)
        found = {
            "fast": by_fast_lane(folder, rows, settings, torch.bfloat16),
            "transformers": by_transformers(folder, rows, settings, torch.bfloat16),
            "fast_float32": by_fast_lane(folder, rows, settings, torch.float32),
        }
    errors = {name: [a - b for a, b in zip(values, truth, strict=True)] for name, values in found.items()}
    closer = sum(abs(a) <= abs(b) for a, b in zip(errors["fast"], errors["transformers"], strict=True))
    rms = {name: statistics.mean(x * x for x in values) ** 0.5 for name, values in errors.items()}
    print(json.dumps({"steps": len(truth), "loss": truth[0], "rms_error": rms, "fast_at_least_as_close": closer}))


def make_model(folder: Path, tokenizer_dir: Path) -> None:
    """Random bfloat16 weights with the 7B's depth and vocabulary, and the tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=28, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=152064, rope_theta=1e6, bos_token_id=151643, eos_token_id=151645,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(tokenizer_dir / name, folder / name)


def by_fast_lane(folder: str, rows: list[Any], settings: Any, dtype: Any) -> list[float]:
    """Losses with a learning rate of 0."""
    from qwen2.model import Model
    from qwen2.training.loop import train

    with tempfile.TemporaryDirectory() as out:
        return list(train(Model.load(folder, "cpu", dtype), rows, settings, out).losses)


def by_transformers(folder: str, rows: list[Any], settings: Any, dtype: Any) -> list[float]:
    """The same batches."""
    import torch
    from transformers import AutoModelForCausalLM

    from bench.fast_lane_losses import padded_batches

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    found = []
    for ids, labels in padded_batches(rows, settings, "cpu"):
        with torch.no_grad():
            found.append(float(model(input_ids=ids, labels=labels, use_cache=False).loss))
    return found


if __name__ == "__main__":
    main()
