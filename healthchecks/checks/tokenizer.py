"""Check 4: the tokenizer loads offline and fits the weights: special tokens, ids, template, round trips.

Qwen2.5's own files are compared with the official values. Those of other models must meet what training and answering
need: ChatML's special tokens, ids within the vocabulary, special tokens as ends of answers, round trips.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import sha256sums
from common.i18n import N_, _
from common.json_files import json_object
from healthchecks.context import Context, Failure, Outcome

ENTRIES = 151_665  # 151,643 of the vocabulary and 22 added; the model's 152,064 rows include padding
SPECIAL = {"<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645}
CHATML = ("<|im_start|>", "<|im_end|>")  # used in rows and questions, whatever the model
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
USER = "你好,世界!"
TURN = f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n"
PROMPT = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n{TURN}"
# The ids that the official tokenizer.json (sha256 c0382117...) gives for PROMPT; `forward` feeds them to the model.
# fmt: off
PROMPT_IDS = [
    151644, 8948, 198, 2610, 525, 1207, 16948, 11, 3465, 553, 54364, 14817, 13, 1446, 525, 264, 10950, 17847, 13,
    151645, 198, 151644, 872, 198, 108386, 11, 99489, 0, 151645, 198, 151644, 77091, 198,
]
# fmt: on
ROUND_TRIPS = ("今天天气不错,我们去公园散步吧。“引号”、顿号——破折号……", "🙂👩‍💻🇨🇳 naïve café Ω≈∞")

AGAIN = N_(
    "the tokenizer files are not those of Qwen2.5-7B-Instruct: build or pull the image again, or set MODEL_DIR right"
)
INCOMPLETE = N_(
    "download the folder's tokenizer files again (or build or pull the image again), or set MODEL_DIR right"
)
OTHERS = N_(
    "tokenizer and weights are of different models, or a file was replaced: take all files of the model "
    "folder from one place, or set MODEL_DIR right"
)
NOT_CHATML = N_(
    "the image trains and asks in Qwen2.5's chat format: set MODEL_DIR to a model that knows it (-Instruct)"
)


def check(context: Context) -> Outcome:
    """Outcome with the number of entries. Raises Failure: tokenizer-missing, tokenizer-wrong or template-wrong."""
    tokenizer = _load(context)
    if is_official(context):
        return _check_official(context, tokenizer)
    entries = tokenizer.get_vocab_size(with_added_tokens=True)
    _check_special_tokens(context, tokenizer)
    rendered = _check_template(context)
    _check_round_trips(tokenizer, OTHERS)
    template = _("template") if rendered else _("no template of its own: ChatML")
    figure = _("{entries} entries, not Qwen2.5's; special tokens, {template} and {count} round trips right").format(
        entries=entries, template=template, count=len(ROUND_TRIPS)
    )
    if splits_otherwise(tokenizer):
        return Outcome(
            figure,
            "warn",
            "other-splitting",
            _(
                "tokenizer.json cuts text by other rules than Qwen2's, which ms-swift takes for every Qwen2 "
                "(transformers ignores the file's): the engines would train on different ids"
            ),
            _(
                "stay with one engine (ENGINE=fast or ENGINE=swift), or save the folder's tokenizer with "
                "transformers' AutoTokenizer and use that"
            ),
        )
    return Outcome(figure)


def is_official(context: Context) -> bool:
    """Whether one of the two files of every Qwen2.5 tokenizer is the official one, by its sha256.

    One is enough: if the other was replaced, the comparison with the official values reports it.
    """
    return any(_is_official_file(context, name) for name in ("tokenizer_config.json", "tokenizer.json"))


def _is_official_file(context: Context, name: str) -> bool:
    try:
        have = sha256sums.digest(context.model_dir / name)
    except OSError:
        return False
    return sha256sums.read(context.official_sums).get(name) == have


def prompt_ids(model_dir: Path) -> list[int]:
    """The ids of PROMPT from the folder's own tokenizer; `forward` feeds them to a model that is not a Qwen2.5."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(model_dir / "tokenizer.json")).encode(PROMPT, add_special_tokens=False).ids


def _check_official(context: Context, tokenizer: Any) -> Outcome:
    entries = tokenizer.get_vocab_size(with_added_tokens=True)
    if entries != ENTRIES:
        raise Failure(
            "tokenizer-wrong",
            _("the tokenizer has {entries} entries, not {wanted}").format(entries=entries, wanted=ENTRIES),
            AGAIN,
        )
    for token, wanted in SPECIAL.items():
        have = tokenizer.token_to_id(token)
        if have != wanted:
            raise Failure(
                "tokenizer-wrong",
                _("{token} has the id {have}, not {wanted}").format(token=token, have=have, wanted=wanted),
                AGAIN,
            )
    if _is_official_file(context, "tokenizer_config.json"):
        rendered = _render(context, [{"role": "user", "content": USER}])
        if rendered != PROMPT:
            raise Failure(
                "template-wrong",
                _("the chat template gives {rendered!r}, not {prompt!r}").format(rendered=rendered, prompt=PROMPT),
                AGAIN,
            )
    else:  # Coder, Math and the base models have the same tokenizer and another system prompt
        _check_template(context)
    _check_round_trips(tokenizer, AGAIN)
    have = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    if have != PROMPT_IDS:
        raise Failure(
            "tokenizer-wrong",
            _("the fixed prompt becomes {have}..., not {prompt_ids}...").format(
                have=have[:8], prompt_ids=PROMPT_IDS[:8]
            ),
            AGAIN,
        )
    _check_special_tokens(context, tokenizer)
    return Outcome(
        _("{entries} entries, template and {count} round trips right").format(entries=entries, count=len(ROUND_TRIPS))
    )


def _check_special_tokens(context: Context, tokenizer: Any) -> None:
    """Check that ChatML's tokens have one id each, every id has a row in the weights, and answers end properly."""
    for token in CHATML:
        if tokenizer.encode(token, add_special_tokens=False).ids != [tokenizer.token_to_id(token)]:
            raise Failure(
                "tokenizer-wrong", _("tokenizer.json has no special token {token}").format(token=token), NOT_CHATML
            )
    config = json_object(context.model_dir / "config.json")  # `weights` reports what is wrong with it
    generation = json_object(context.model_dir / "generation_config.json")
    rows = config.get("vocab_size")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if isinstance(rows, int) and largest >= rows:
        raise Failure(
            "tokenizer-wrong",
            _("the tokenizer's ids go up to {largest}, the weights have {rows} tokens").format(
                largest=largest, rows=rows
            ),
            OTHERS,
        )
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for name, values in (("generation_config.json", generation), ("config.json", config)):
        ends = values.get("eos_token_id")
        for end in ends if isinstance(ends, list) else [ends]:
            if isinstance(end, int) and end not in special:
                text = tokenizer.id_to_token(end)
                what = (
                    _("not in the tokenizer")
                    if text is None
                    else _("{text!r} there, no special token").format(text=text)
                )
                raise Failure(
                    "tokenizer-wrong",
                    _("{name} ends answers with the token {end}, which is {what}").format(
                        name=name, end=end, what=what
                    ),
                    OTHERS,
                )


def _check_template(context: Context) -> bool:
    """Whether the folder has a chat template. Raises Failure if it does not write ChatML or cannot be rendered."""
    if _template(context) is None:
        return False
    rendered = _render(context, [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}])
    if not rendered.rstrip().endswith(TURN.rstrip()):
        raise Failure(
            "template-wrong",
            _("the chat template gives {rendered!r}, not ChatML: ...{turn!r}").format(rendered=rendered, turn=TURN),
            NOT_CHATML,
        )
    return True


def _check_round_trips(tokenizer: Any, remedy: str) -> None:
    for text in ROUND_TRIPS:
        back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
        if back != text:
            raise Failure("tokenizer-wrong", _("{text!r} comes back as {back!r}").format(text=text, back=back), remedy)


def splits_otherwise(tokenizer: Any) -> bool:
    """Whether the file's normalizer and pre-tokenizer differ from Qwen2's, which transformers uses in their place.

    transformers 5 (models/qwen2/tokenization_qwen2.py): NFC, the split by QWEN2_SPLIT, bytes.
    """
    state = json.loads(tokenizer.to_str())
    steps = (state.get("pre_tokenizer") or {}).get("pretokenizers", [])
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"]
    normal = (state.get("normalizer") or {}).get("type")
    return normal != "NFC" or patterns != [QWEN2_SPLIT] or [step["type"] for step in steps] != ["Split", "ByteLevel"]


QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _load(context: Context) -> Any:
    from tokenizers import Tokenizer

    path = context.model_dir / "tokenizer.json"
    if not path.is_file():
        raise Failure("tokenizer-missing", _("{path} is missing").format(path=path), INCOMPLETE)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise Failure(
            "tokenizer-wrong", _("{path} cannot be loaded: {reason}").format(path=path, reason=error), INCOMPLETE
        ) from error


def _template(context: Context) -> str | None:
    """The folder's chat template: chat_template.jinja, else the entry in tokenizer_config.json (as in transformers)."""
    own = context.model_dir / "chat_template.jinja"
    path = context.model_dir / "tokenizer_config.json"
    try:
        if own.is_file():
            return own.read_text(encoding="utf-8")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Failure("tokenizer-missing", _("{path} is missing").format(path=path), INCOMPLETE) from error
    except (OSError, ValueError) as error:
        raise Failure(
            "template-wrong", _("{path} cannot be read ({reason})").format(path=path, reason=error), INCOMPLETE
        ) from error
    template = value.get("chat_template") if isinstance(value, dict) else None
    if isinstance(template, list):  # several, by name
        template = next((each.get("template") for each in template if each.get("name") == "default"), 0)
    if template is not None and not isinstance(template, str):
        raise Failure("template-wrong", _("the chat template in {path} is not text").format(path=path), INCOMPLETE)
    return template


def _render(context: Context, messages: list[dict[str, str]]) -> str:
    """The folder's chat template applied to these messages, as transformers renders it (jinja2, sandboxed)."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = _template(context)
    if template is None:
        raise Failure(
            "template-wrong", _("{model_dir} has no chat template").format(model_dir=context.model_dir), INCOMPLETE
        )
    try:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True)
    except Exception as error:  # a template is a program: it can raise anything
        raise Failure(
            "template-wrong", _("the chat template cannot be rendered: {reason}").format(reason=error), INCOMPLETE
        ) from error
