"""Check 3: the weights are whole, and are those that index and config describe; `--checksum` proves every byte.

Only the head of each shard is read (a few kilobytes say what a safetensors file holds): milliseconds for 15 GB.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

from common.i18n import N_, _
from healthchecks.context import Context, Failure, Outcome, gib

NAME = "weights"
LEVEL = "fast"

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"  # a model in one file, which needs no index
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}  # torch_dtype of config.json -> safetensors
DTYPE_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
DTYPE_BYTES |= {"I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}
BLOCK = 8 << 20

AGAIN = N_("build or pull the image again; if you mounted a model folder, download that file again")
CHECKSUM = N_("`healthcheck startup --checksum` tells which files are damaged; {again}")


def check(context: Context) -> Outcome:
    """Outcome with files, tensors and GiB; Failure with a code of its own for each kind of damage."""
    folder = context.model_dir
    config = _json(folder, "config.json", "no-config")
    is_single = (folder / SINGLE).is_file() and not (folder / INDEX).exists()
    shards = {SINGLE: None} if is_single else _shards(_json(folder, INDEX, "no-index"))
    _hold_small_files(context)
    wanted = expected_tensors(config)
    allowed = {HEAD: wanted[EMBEDDING]} | wanted  # a model with tied embeddings may hold the matrix twice
    dtype = _dtype(config)
    found: set[str] = set()
    for name, tensors in shards.items():
        held, dtype = _check_shard(folder, name, tensors, allowed, dtype)
        found |= held
    if missing := sorted(set(wanted) - found):
        place = SINGLE if is_single else INDEX
        raise Failure(
            "tensor-missing",
            _("{place} has no tensor {missing} ({count} missing)").format(
                place=place, missing=missing[0], count=len(missing)
            ),
            AGAIN,
        )
    hashed = ""
    if context.checksum:
        hashed = _(", sha256 of {hold_shards} shards right").format(hold_shards=_hold_shards(context, list(shards)))
    context.sums_match = context.sums_match or recorded_official(context)
    kind = f"{_(context.kind.title)}, " if context.kind.is_for_tests else ""
    files = _("1 file") if is_single else _("{count} shards").format(count=len(shards))
    return Outcome(
        _("{kind}{files}, {count} tensors, {size}{hashed}").format(
            kind=kind, files=files, count=len(found), size=gib(context.weight_bytes), hashed=hashed
        )
    )


def expected_tensors(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a Qwen2ForCausalLM; Failure config-wrong when the config cannot be one."""
    if config.get("architectures") != ["Qwen2ForCausalLM"]:
        raise Failure(
            "config-wrong",
            _("config.json is of {config}, this image serves Qwen2ForCausalLM").format(
                config=config.get("architectures")
            ),
            AGAIN,
        )
    try:
        hidden, inner, vocab = (_size(config, key) for key in ("hidden_size", "intermediate_size", "vocab_size"))
        layers, heads = _size(config, "num_hidden_layers", most=10**4), _size(config, "num_attention_heads")
        kv_heads = _size(config, "num_key_value_heads", heads)
        head = _size(config, "head_dim", hidden // heads)
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(
            "config-wrong", _("config.json: {name} {reason}").format(name=type(error).__name__, reason=error), AGAIN
        ) from error
    query, key_value = heads * head, kv_heads * head
    layer = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.q_proj.bias": (query,),
        "self_attn.k_proj.weight": (key_value, hidden),
        "self_attn.k_proj.bias": (key_value,),
        "self_attn.v_proj.weight": (key_value, hidden),
        "self_attn.v_proj.bias": (key_value,),
        "self_attn.o_proj.weight": (hidden, query),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING: (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings"):
        tensors[HEAD] = (vocab, hidden)
    for number in range(layers):
        tensors.update({f"model.layers.{number}.{name}": shape for name, shape in layer.items()})
    return tensors


def _size(config: dict[str, Any], name: str, default: int | None = None, most: int = 10**7) -> int:
    value = config[name] if default is None else config.get(name)
    size = default if value is None and default is not None else value
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most:
        raise ValueError(
            _("{name} is {size}, not a whole number from 1 to {most}").format(
                name=name, size=repr(size)[:40], most=most
            )
        )
    return size


def _dtype(config: dict[str, Any]) -> str | None:
    """The number format of all tensors, as config.json has it; None where it does not say, or says something else."""
    return DTYPES.get(str(config.get("torch_dtype") or config.get("dtype")).removeprefix("torch."))


def _json(folder: Path, name: str, code: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise Failure(
            "no-model",
            _("there is no model folder {folder}").format(folder=folder),
            _("set MODEL_DIR to one, or {again}").format(again=_(AGAIN)),
        )
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Failure(code, _("{folder} is missing").format(folder=folder / name), AGAIN) from error
    except (OSError, ValueError) as error:
        raise Failure(
            code, _("{folder} cannot be read: {reason}").format(folder=folder / name, reason=error), AGAIN
        ) from error
    if not isinstance(value, dict):
        raise Failure(code, _("{folder} holds no JSON object").format(folder=folder / name), AGAIN)
    return value


def _shards(index: dict[str, Any]) -> dict[str, set[str] | None]:
    """Shard file -> names of its tensors, by the index."""
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise Failure("no-index", _("{index} has no weight_map").format(index=INDEX), AGAIN)
    shards: dict[str, set[str]] = {}
    for tensor, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise Failure(
                "no-index",
                _("{index} names {file!r} as the file of {tensor}").format(index=INDEX, file=file, tensor=tensor),
                AGAIN,
            )
        shards.setdefault(file, set()).add(tensor)
    return dict(sorted(shards.items()))


def _check_names(name: str, there: set[str], tensors: set[str]) -> None:
    """Hold the tensors that a file has to those that the index puts into it."""
    if absent := sorted(tensors - there):
        raise Failure(
            "tensor-missing",
            _("{name} has no {absent}, which {index} puts there").format(name=name, absent=absent[0], index=INDEX),
            AGAIN,
        )
    if extra := sorted(there - tensors):
        raise Failure(
            "tensor-extra",
            _("{name} holds {extra}, which {index} does not put there").format(name=name, extra=extra[0], index=INDEX),
            AGAIN,
        )


def _check_shard(
    folder: Path, name: str, tensors: set[str] | None, wanted: dict[str, tuple[int, ...]], dtype: str | None
) -> tuple[set[str], str | None]:
    """Hold one file to the index, to the shapes of config.json and to one dtype (None: that of the first tensor).

    Returns the names of its tensors, and the dtype.
    """
    header, base, size = read_header(folder / name)
    tensors = set(header) if tensors is None else tensors
    _check_names(name, set(header), tensors)
    end = base
    for tensor, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        have, shape = entry["dtype"], tuple(entry["shape"])
        begin, stop = (base + offset for offset in entry["data_offsets"])
        nbytes = math.prod(shape) * DTYPE_BYTES[have] if have in DTYPE_BYTES else stop - begin
        if begin != end or stop - begin != nbytes:
            raise Failure(
                "shard-damaged",
                _("the head of {name} gives {tensor} a place that cannot be").format(name=name, tensor=tensor),
                _(CHECKSUM).format(again=_(AGAIN)),
            )
        end = stop
        if tensor not in wanted:
            raise Failure(
                "config-mismatch",
                _("{name} holds {tensor}, for which config.json has no place").format(name=name, tensor=tensor),
                _(CONFIG).format(again=_(AGAIN)),
            )
        if shape != wanted[tensor]:
            raise Failure(
                "config-mismatch",
                _("{tensor} in {name} has shape {shape}, config.json asks for {wanted}").format(
                    tensor=tensor, name=name, shape=list(shape), wanted=list(wanted[tensor])
                ),
                _(CONFIG).format(again=_(AGAIN)),
            )
        dtype = dtype or have
        if have != dtype or have not in DTYPES.values():
            wrong = dtype if dtype in DTYPES.values() else " or ".join(DTYPES.values())
            raise Failure(
                "wrong-dtype",
                _("{tensor} in {name} is {have}, not {wrong}").format(tensor=tensor, name=name, have=have, wrong=wrong),
                AGAIN,
            )
    if size != end:
        word = _("cut short") if size < end else _("longer than its content")
        raise Failure(
            "shard-truncated",
            _("{name} is {word}: {size} bytes, its head describes {end}").format(
                name=name, word=word, size=size, end=end
            ),
            AGAIN,
        )
    return tensors, dtype


CONFIG = N_("config.json and the shards are of different models, or config.json was edited; {again}")


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int, int]:
    """Tensors of a safetensors file, where its data begins, and its size in bytes.

    Format: u64 little-endian length, that many bytes of JSON, data (https://github.com/huggingface/safetensors#format).
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= 100 << 20 or 8 + length > size:
                raise Failure(
                    "shard-truncated" if size < 1 << 20 else "shard-damaged",
                    _("{name} ({size} bytes) does not begin with the head of a safetensors file").format(
                        name=path.name, size=size
                    ),
                    _(CHECKSUM).format(again=_(AGAIN)),
                )
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for entry in header.values():
            begin, stop = entry["data_offsets"]
            if not (isinstance(begin, int) and isinstance(stop, int) and isinstance(entry["dtype"], str)):
                raise TypeError("offsets")
            math.prod(entry["shape"])
    except FileNotFoundError as error:
        raise Failure(
            "shard-missing", _("{path} is missing, which {index} names").format(path=path, index=INDEX), AGAIN
        ) from error
    except OSError as error:
        raise Failure(
            "shard-unreadable", _("{path} cannot be read: {strerror}").format(path=path, strerror=error.strerror), AGAIN
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(
            "shard-damaged",
            _("the head of {name} is not readable ({reason})").format(name=path.name, reason=error),
            _(CHECKSUM).format(again=_(AGAIN)),
        ) from error
    return header, 8 + length, size


def read_sums(path: Path) -> dict[str, str]:
    """File name -> sha256 of a list in `sha256sum` form; empty when there is no list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[1].lstrip("*"): pair[0].lower() for pair in pairs if len(pair) == 2}


def _hold_small_files(context: Context) -> None:
    """Hash all files of the folder's own list but the shards: an edit of, say, rope_theta shows only so."""
    for name, wanted in read_sums(context.model_dir / "SHA256SUMS").items():
        if name.endswith(".safetensors"):
            continue
        try:
            have = hashlib.sha256((context.model_dir / name).read_bytes()).hexdigest()
        except OSError as error:
            raise Failure(
                "file-missing",
                _("{model_dir} is missing ({strerror})").format(
                    model_dir=context.model_dir / name, strerror=error.strerror
                ),
                AGAIN,
            ) from error
        if have != wanted:
            raise Failure(
                "file-changed",
                _("{name} is not the file that was built in: sha256 {have}..., SHA256SUMS has {wanted}...").format(
                    name=name, have=have[:12], wanted=wanted[:12]
                ),
                _("undo the edit; {again}. A model of your own goes into a folder of its own: MODEL_DIR").format(
                    again=_(AGAIN)
                ),
            )


def _hold_shards(context: Context, names: list[str]) -> int:
    """sha256 of all shards, two or more at a time (hashlib lets go of the GIL), against the list; how many."""
    sums = read_sums(context.model_dir / "SHA256SUMS") or read_sums(context.official_sums)
    if unknown := [name for name in names if name not in sums]:
        raise Failure(
            "no-sums",
            _("no SHA256SUMS lists {unknown}, so its bytes cannot be proved").format(unknown=unknown[0]),
            _("put a SHA256SUMS (sha256sum *.safetensors > SHA256SUMS) into the model folder, or leave out --checksum"),
        )
    total, done = context.weight_bytes, [0] * len(names)

    def digest(position: int) -> str:
        hasher = hashlib.sha256()
        buffer = memoryview(bytearray(BLOCK))
        with (context.model_dir / names[position]).open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                hasher.update(buffer[:count])
                done[position] += count
                context.progress("sha256", sum(done), total)
        return hasher.hexdigest()

    workers = min(len(names), len(os.sched_getaffinity(0)))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        digests = dict(zip(names, pool.map(digest, range(len(names))), strict=True))
    if wrong := [name for name in names if digests[name] != sums[name]]:
        raise Failure(
            "checksum", _("the bytes of {names} are not those of SHA256SUMS").format(names=", ".join(wrong)), AGAIN
        )
    official = read_sums(context.official_sums)
    context.sums_match = bool(official) and all(official.get(name) == digests[name] for name in names)
    return len(names)


def recorded_official(context: Context) -> bool:
    """Whether the list that the build left in the folder, after checking it, has the official sums of all shards."""
    names = [path.name for path in context.model_dir.glob("*.safetensors")]
    recorded, official = read_sums(context.model_dir / "SHA256SUMS"), read_sums(context.official_sums)
    return bool(names and official) and all(name in official and recorded.get(name) == official[name] for name in names)
