"""Small model folders for the tests of export, made of numbers that a generator gives: the same on every machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from finetune.export import gguf_file, vocabulary
from finetune.export.weights import Weights
from qwen2.config import Config

ABOUT = gguf_file.About("small", "apache-2.0", "You are a helpful assistant.", {"temperature": 0.0})


def folder(path: Path, hidden: int, inner: int, layers: int, tied: bool, vocab: int = 512) -> Path:
    """A Qwen2 with weights of a seeded generator, exact in bfloat16 and float16, and no tokenizer."""
    path.mkdir(parents=True)
    settings = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocab,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "eos_token_id": 2,
        "tie_word_embeddings": tied,
    }
    (path / "config.json").write_text(json.dumps(settings))
    config = Config.from_dir(path)
    random = np.random.Generator(np.random.PCG64(7))
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        values = random.integers(-127, 128, shape).astype(np.float32) / 2048
        tensors[name] = torch.from_numpy(values).to(torch.bfloat16)
    save_file(tensors, path / "model.safetensors")
    return path


def words(size: int = 512) -> vocabulary.Vocabulary:
    """A vocabulary that no text is cut by."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"t{n}" for n in range(3, size))]
    return vocabulary.Vocabulary(tokens, [3] * 3 + [1] * (size - 3), ["t 3"], "qwen2", 2, 1, 2)


def write(model: Path, quant: str, path: Path) -> Path:
    """A GGUF of the folder."""
    gguf_file.write(path, Weights(model, None), words(), ABOUT, quant, 2, lambda done, total: None)
    return path
