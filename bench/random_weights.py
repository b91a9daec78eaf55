"""Random bfloat16 weights of a Qwen2.5's shape, for times and memory where the real ones are absent; 15 GB for the 7B.

    python bench/random_weights.py OUT_DIR [--size 7B] [--tokenizer MODEL_DIR | --no-tokenizer]

Four safetensors shards and config.json, drawn on the GPU if there is one (transformers' own initialisation, seed 0),
and the tokenizer's files from MODEL_DIR. The answers and the learning of such a model mean nothing. OUT_DIR is left
unchanged if it already holds a complete set.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench.shapes import OFFICIAL, SHAPES, config_json  # noqa: E402

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


def make(out: Path, tokenizer: Path | None, size: str = "7B", layers: int | None = None) -> None:
    """Write the folder.

    Args:
        out: Where to.
        tokenizer: A folder with the tokenizer's files; None leaves them out.
        size: A key of SHAPES.
        layers: Another number of layers, to try a script out.

    Raises:
        FileNotFoundError: A tokenizer file is missing.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    out.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER if tokenizer else ():
        shutil.copy(tokenizer / name, out)
    shape = config_json(size)
    if layers is not None:
        shape |= {"num_hidden_layers": layers, "max_window_layers": layers}
    configuration = json.dumps(shape, indent=2) + "\n"
    (out / "config.json").write_text(configuration, encoding="utf-8")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out))
    model.save_pretrained(out, max_shard_size="4GB")
    shutil.copy(OFFICIAL / "generation_config.json", out)  # save_pretrained writes its own versions of both
    (out / "config.json").write_text(configuration, encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Whether all shards named by the index exist."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    return all((folder / name).is_file() for name in set(json.loads(index.read_text())["weight_map"].values()))


def make_adapter(model: Path, folder: Path, seed: int = 0, alpha: int = 32, scale: float = 0.01) -> Path:
    """Write a random LoRA of rank 8 on all linears, in PEFT's format, whose B is not zero; returns its folder.

    Args:
        model: The base.
        folder: Where to.
        seed: Of the random numbers.
        alpha: lora_alpha.
        scale: The standard deviation of B.
    """
    import torch

    from qwen2.config import Config
    from qwen2.lora import Adapter

    adapter = Adapter(Config.from_dir(model), 8, alpha, base=str(model))
    adapter.initialize(seed)
    generator = torch.Generator().manual_seed(seed)
    for name, view in adapter.named():
        if ".lora_B." in name:
            view.copy_(torch.randn(view.shape, generator=generator) * scale)
    adapter.save(folder)
    return folder


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path("/root/Qwen2.5-7B-Instruct"))
    parser.add_argument("--no-tokenizer", action="store_true", help="weights alone: for memory and times of training")
    parser.add_argument("--size", choices=SHAPES, default="7B")
    args = parser.parse_args()
    if is_whole(args.out):
        print(f"{args.out}: is there already", file=sys.stderr)
        return 0
    try:
        make(args.out, None if args.no_tokenizer else args.tokenizer, args.size)
    except FileNotFoundError as error:
        print(
            f"error: {error.filename}: not there; --tokenizer names a folder with {', '.join(TOKENIZER)}",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
