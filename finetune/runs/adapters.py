"""Finds the adapter that a command is asked for and checks it; used by infer, serve, verify, merge and sft.

The adapter must be complete, its run must record this base, and each key must match one of the base's weights in name
and shape. PEFT itself skips keys that match nothing, and then the bare base answers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common import host, sha256sums
from common.errors import UserError
from common.i18n import N_, _
from common.json_files import json_object
from finetune.runs import checkpoints
from qwen2 import adapter_config

Shape = tuple[int, ...]

_LORA = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector|lora_embedding_A|lora_embedding_B)(?:\.(weight|bias))?")
_PREFIX = "base_model.model."
_ELSEWHERE = N_("use the base model that the adapter was trained on (--model DIR)")


def find(name: str | Path, output_dir: Path, model_dir: Path, tell: bool = True) -> Path:
    """The folder of an adapter that fits the base in `model_dir`.

    Args:
        name: A checkpoint, a run's folder (its newest checkpoint is used), or `newest` (the newest in `output_dir`). A
            path may be the host's, below the mounted output folder, or a run's bare name.
        output_dir: The folder with the runs.
        model_dir: The base that will be loaded.
        tell: Whether to report on stderr which one `newest` is.

    Raises:
        UserError: There is none, it is incomplete, it is not an adapter, or it is for another base.
    """
    path = _locate(name, output_dir, tell)
    if fault := checkpoints.problem(path):
        raise UserError(
            _("{path}: incomplete checkpoint ({fault}); name another checkpoint-N, or newest").format(
                path=path, fault=fault
            )
        )
    if not (path / adapter_config.CONFIG_FILE).is_file():
        raise UserError(
            _("{path}: a full model, not an adapter; it is asked and served by itself, with --model {path}").format(
                path=path
            )
        )
    settings = json_object(path / adapter_config.CONFIG_FILE)
    if settings.get("peft_type", "LORA") != "LORA":
        raise UserError(
            _(
                "{path}: peft_type {peft_type}; only LoRA adapters are taken here; ms-swift may take it: "
                "swift infer --model {model_dir} --adapters {path}"
            ).format(path=path, peft_type=settings["peft_type"], model_dir=model_dir)
        )
    require_fit(path, model_dir)
    plain = adapter_config.converted(path)
    if adapter_config.not_plain(settings) and checkpoints.problem(plain) is None:
        print(
            _("note: {path} began as {settings}: taking {plain}").format(
                path=path, settings=settings.get("init_lora_weights"), plain=plain
            ),
            file=sys.stderr,
        )
        path = plain
        _require_keys(path, model_dir)
    return path


def require_fit(path: Path, model_dir: Path) -> None:
    """Raises UserError if a complete adapter is not for the base in `model_dir`, judged by its run or its keys."""
    require_base(path, model_dir)
    _require_keys(path, model_dir)


def _locate(name: str | Path, output_dir: Path, tell: bool) -> Path:
    if str(name) == "newest":
        found = checkpoints.newest(output_dir)
        if tell:
            print(_("adapter: {found}").format(found=host.shown(found)), file=sys.stderr)
        return found
    path = host.inside(name)
    if not path.is_dir():
        told = _(
            "{name}: no such adapter folder; name a run below {output}, a checkpoint-N in it, or newest "
            "({runs} lists them)"
        ).format(name=name, output=host.output(), runs=host.call("runs"))
        if host.via_make():  # the container sees no other folder of the host
            told += _("; a run that is elsewhere needs OUTPUT=DIR, the folder it is in")
        raise UserError(told)
    own = (adapter_config.CONFIG_FILE, adapter_config.WEIGHTS_FILE, adapter_config.BIN_FILE, "config.json")
    if checkpoints.NAME.match(path.name) or any((path / each).exists() for each in own):
        return path
    return checkpoints.newest(path)


def require_base(adapter: Path, model_dir: Path) -> None:
    """Raises UserError if the adapter's run recorded other base weights than these: it is useless on them.

    Compares the digest of the folder's SHA256SUMS, which run.json stores. Does nothing if one of them is missing.
    """
    official = model_dir / sha256sums.NAME
    above = adapter.parent
    folder = above if checkpoints.NAME.match(adapter.name) or (above / "run.json").is_file() else adapter
    trained_on = json_object(folder / "run.json").get("weights")
    if not isinstance(trained_on, dict) or not trained_on.get("sha256sums") or not official.is_file():
        return
    if sha256sums.digest(official) != trained_on["sha256sums"]:
        raise UserError(
            _(
                "{folder}: trained on other weights than {model_dir} holds now (was {trained_on}; their "
                "SHA256SUMS differ); name its base with --model DIR, or train again"
            ).format(folder=folder, model_dir=model_dir, trained_on=trained_on.get("path"))
        )


def require_plain(adapter: Path, what: str, remedy: str) -> None:
    """Raises UserError if the adapter is more than a plain LoRA (qwen2/adapter_config.py): `what` cannot compute it.

    `remedy` is what to do instead.
    """
    if reason := adapter_config.not_plain(json_object(adapter / adapter_config.CONFIG_FILE)):
        raise UserError(
            _("{adapter}: {reason} is not computed by {what}; {remedy}").format(
                adapter=adapter, reason=reason, what=what, remedy=remedy
            )
        )


def _require_keys(path: Path, model_dir: Path) -> None:
    """Raises UserError if a key of a LoRA does not exist in the base, or has another shape there."""
    settings = json_object(path / adapter_config.CONFIG_FILE)
    base = base_shapes(model_dir)
    if base is None or settings.get("peft_type") != "LORA":
        return  # the loader reports what is wrong with the base; other kinds have their own keys
    try:
        shapes = adapter_shapes(path)
        fault = misfit(shapes, settings, base)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            _("{path}: {config_file}: r is missing or not a number ({reason})").format(
                path=path, config_file=adapter_config.CONFIG_FILE, reason=error
            )
        ) from None
    if fault:
        raise UserError(
            _("adapter {path}: {fault}; {elsewhere}").format(path=path, fault=fault, elsewhere=_(_ELSEWHERE))
        )


def base_shapes(model_dir: Path) -> dict[str, Shape] | None:
    """{name: shape} of the base's weights, from the shard headers; None if there is nothing to compare with.

    Only for plain language models: models with several parts use other names in memory than in their files.
    """
    config = json_object(model_dir / "config.json")
    names = config.get("architectures")
    if isinstance(names, list) and not any(str(name).endswith("ForCausalLM") for name in names):
        return None
    shapes: dict[str, Shape] = {}
    try:
        for shard in sorted(model_dir.glob("*.safetensors")):
            shapes |= _safetensors_shapes(shard)
    except (OSError, ValueError):
        return None
    if config.get("tie_word_embeddings") and "model.embed_tokens.weight" in shapes:
        shapes.setdefault("lm_head.weight", shapes["model.embed_tokens.weight"])
    return shapes or None


def adapter_shapes(path: Path) -> dict[str, Shape]:
    """{key: shape} of an adapter's weights. Raises UserError if they cannot be read."""
    file = path / adapter_config.WEIGHTS_FILE
    if file.is_file():
        return _safetensors_shapes(file)
    from qwen2 import lora

    try:
        return {key: tuple(value.shape) for key, value in lora.read_tensors(path)[1].items()}
    except ValueError as error:
        raise UserError(_("adapter {path}: {reason}").format(path=path, reason=error)) from None


def _safetensors_shapes(file: Path) -> dict[str, Shape]:
    """{name: shape} from a file's header. Raises ValueError if it has none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118, no dict
    except SafetensorError as error:
        raise ValueError(f"{file}: {error}") from None


def misfit(shapes: Mapping[str, Shape], settings: dict[str, Any], base: Mapping[str, Shape]) -> str | None:
    """Why a LoRA does not fit a base, in a few words; None if it does.

    Args:
        shapes: {key: shape} of the adapter's weights, with PEFT's keys.
        settings: Its adapter_config.json.
        base: {name: shape} of the base's weights.

    Raises:
        KeyError, TypeError, ValueError: A rank in adapter_config.json is not a number.
    """
    modules = {name.rpartition(".")[0] for name in base}
    found: dict[str, set[str]] = {}
    for key, shape in shapes.items():
        match = _LORA.fullmatch(key.removeprefix(_PREFIX)) if key.startswith(_PREFIX) else None
        if match is None and key.removeprefix(_PREFIX) in base and key.startswith(_PREFIX):
            if base[key.removeprefix(_PREFIX)] != shape:
                return _other_shape(key, shape, base[key.removeprefix(_PREFIX)])
            continue  # modules_to_save, bias
        if match is None and ".default." in key:
            return _(
                "{key}: PEFT skips keys with `.default`; remove that word from the keys and save the file again"
            ).format(key=key)
        if match is None or match[1] not in modules:
            example = next((name for name in base if name.endswith("q_proj.weight")), next(iter(base)))
            return _("{key} fits no part of this base, whose weights have names such as {example}").format(
                key=key, example=example
            )
        module, part = match[1], match[2]
        found.setdefault(module, set()).add(part)
        wanted = _wanted(part, adapter_config.rank(settings, module), base.get(f"{module}.weight"))
        if wanted is not None and match[3] != "bias" and shape != wanted:
            return _other_shape(key, shape, wanted)
    if not found:
        return _("it holds no LoRA weights")
    for module, parts in found.items():
        if ("lora_A" in parts) != ("lora_B" in parts):
            return _("{module} has only one of lora_A and lora_B, so it is incomplete").format(module=module)
    if not any(settings.get(key) for key in adapter_config.PARTIAL):
        return _left_out(settings.get("target_modules"), found, base)
    return None


def _wanted(part: str, rank: int, weight: Shape | None) -> Shape | None:
    """The shape of one part for a weight [out, in]; None if the base does not determine it (a quantized base)."""
    if weight is None or len(weight) != 2:
        return None
    out, into = weight
    # An embedding's weight is [vocab, hidden]: A takes the token, B gives the vector.
    return {
        "lora_A": (rank, into),
        "lora_B": (out, rank),
        "lora_magnitude_vector": (out,),
        "lora_embedding_A": (rank, out),
        "lora_embedding_B": (into, rank),
    }[part]


def _other_shape(key: str, shape: Shape, wanted: Shape) -> str:
    return _(
        "the adapter was made for a model of another shape: {key} has shape {shape}, this base and its "
        "rank need {wanted}"
    ).format(key=key, shape=list(shape), wanted=list(wanted))


def _left_out(targets: Any, found: Iterable[str], base: Mapping[str, Shape]) -> str | None:
    """A linear that the adapter's own target_modules name, but for which it has no weights."""
    if isinstance(targets, str):
        try:
            rule = re.compile(targets)
        except re.error:
            return None
        wanted = {name[: -len(".weight")] for name in base if rule.fullmatch(name.removesuffix(".weight"))}
    elif isinstance(targets, list):
        ends = tuple(f".{target}.weight" for target in targets)
        wanted = {name[: -len(".weight")] for name in base if f".{name}".endswith(ends)}
    else:
        return None
    missing = sorted(wanted - set(found))
    if missing:
        return _("{missing} is missing ({count} linears are); the adapter is for another model or incomplete").format(
            missing=missing[0], count=len(missing)
        )
    return None
