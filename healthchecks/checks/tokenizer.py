"""Check 4: the tokenizer loads without a network and is Qwen2.5's: entries, special ids, template, round trips, ids."""

from __future__ import annotations

import json
from typing import Any

from healthchecks.context import Context, Failure, Outcome

NAME = "tokenizer"
LEVEL = "fast"

ENTRIES = 151_665  # 151,643 of the vocabulary and 22 added; the model's 152,064 rows are padded beyond
SPECIAL = {"<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645}
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
PROMPT = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n你好,世界!<|im_end|>\n<|im_start|>assistant\n"
# The ids that the official tokenizer.json (sha256 c0382117...) gives for PROMPT; `forward` feeds them to the model.
# fmt: off
PROMPT_IDS = [
    151644, 8948, 198, 2610, 525, 1207, 16948, 11, 3465, 553, 54364, 14817, 13, 1446, 525, 264, 10950, 17847, 13,
    151645, 198, 151644, 872, 198, 108386, 11, 99489, 0, 151645, 198, 151644, 77091, 198,
]
# fmt: on
ROUND_TRIPS = ("今天天气不错,我们去公园散步吧。“引号”、顿号——破折号……", "🙂👩‍💻🇨🇳 naïve café Ω≈∞")

AGAIN = (
    "the tokenizer files are not those of Qwen2.5-7B-Instruct: build or pull the image again, or set MODEL_DIR right"
)


def check(context: Context) -> Outcome:
    """Outcome with the number of entries; Failure tokenizer-missing, tokenizer-wrong or template-wrong."""
    tokenizer = _load(context)
    entries = tokenizer.get_vocab_size(with_added_tokens=True)
    if entries != ENTRIES:
        raise Failure("tokenizer-wrong", f"the tokenizer has {entries} entries, not {ENTRIES}", AGAIN)
    for token, wanted in SPECIAL.items():
        have = tokenizer.token_to_id(token)
        if have != wanted:
            raise Failure("tokenizer-wrong", f"{token} has the id {have}, not {wanted}", AGAIN)
    rendered = _render(context, [{"role": "user", "content": "你好,世界!"}])
    if rendered != PROMPT:
        raise Failure("template-wrong", f"the chat template gives {rendered!r}, not {PROMPT!r}", AGAIN)
    for text in ROUND_TRIPS:
        back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
        if back != text:
            raise Failure("tokenizer-wrong", f"{text!r} comes back as {back!r}", AGAIN)
    have = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    if have != PROMPT_IDS:
        raise Failure("tokenizer-wrong", f"the fixed prompt becomes {have[:8]}..., not {PROMPT_IDS[:8]}...", AGAIN)
    return Outcome(f"{entries} entries, template and {len(ROUND_TRIPS)} round trips right")


def _load(context: Context) -> Any:
    from tokenizers import Tokenizer

    path = context.model_dir / "tokenizer.json"
    if not path.is_file():
        raise Failure("tokenizer-missing", f"{path} is missing", AGAIN)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise Failure("tokenizer-wrong", f"{path} cannot be loaded: {error}", AGAIN) from error


def _render(context: Context, messages: list[dict[str, str]]) -> str:
    """The chat template of tokenizer_config.json on these messages, as transformers renders it (jinja2, sandboxed)."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    path = context.model_dir / "tokenizer_config.json"
    try:
        template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
    except FileNotFoundError as error:
        raise Failure("tokenizer-missing", f"{path} is missing", AGAIN) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure("template-wrong", f"{path} has no chat template ({error})", AGAIN) from error
    try:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True)
    except Exception as error:  # a template is a program: it can raise anything
        raise Failure("template-wrong", f"the chat template cannot be rendered: {error}", AGAIN) from error
