"""Check 3: the weights are complete and match index and config; `--checksum` verifies every byte.

Only the header of each shard is read (a few kilobytes describe a safetensors file): milliseconds for 15 GB.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from common import sha256sums
from common.i18n import N_, _
from healthchecks.context import Context, Failure, Outcome, gib
from qwen2 import safetensors_header
from qwen2.config import EMBEDDING, HEAD, Sizes
from qwen2.safetensors_header import BrokenHeader, Header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"  # a model in one file, without an index
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}  # torch_dtype of config.json -> safetensors
DTYPE_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
DTYPE_BYTES |= {"I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}
BLOCK = 8 << 20

AGAIN = N_("build or pull the image again; if you mounted a model folder, download that file again")
CHECKSUM = N_("`healthcheck startup --checksum` tells which files are damaged; {again}")


def check(context: Context) -> Outcome:
    """Outcome with files, tensors and GiB. Raises Failure with a separate code for each kind of damage."""
    folder = context.model_dir
    config = _json(folder, "config.json", "no-config")
    is_single = (folder / SINGLE).is_file() and not (folder / INDEX).exists()
    shards = {SINGLE: None} if is_single else _shards(_json(folder, INDEX, "no-index"))
    _check_small_files(context)
    wanted = expected_tensors(config)
    allowed = {HEAD: wanted[EMBEDDING]} | wanted  # a model with tied embeddings may contain the matrix twice
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
        hashed = _(", sha256 of {count} shards right").format(count=_check_sums(context, list(shards)))
    context.sums_match = context.sums_match or recorded_official(context)
    kind = f"{_(context.kind.title)}, " if context.kind.is_for_tests else ""
    files = _("1 file") if is_single else _("{count} shards").format(count=len(shards))
    return Outcome(
        _("{kind}{files}, {count} tensors, {size}{hashed}").format(
            kind=kind, files=files, count=len(found), size=gib(context.weight_bytes), hashed=hashed
        )
    )


def expected_tensors(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a Qwen2ForCausalLM. Raises Failure (config-wrong) if the config is invalid."""
    if config.get("architectures") != ["Qwen2ForCausalLM"]:
        raise Failure(
            "config-wrong",
            _("config.json is of {config}, this image serves Qwen2ForCausalLM").format(
                config=config.get("architectures")
            ),
            AGAIN,
        )
    try:
        return Sizes.of(config).tensor_shapes()
    except ValueError as error:
        raise Failure("config-wrong", _("config.json: {reason}").format(reason=error), AGAIN) from error


def _dtype(config: dict[str, Any]) -> str | None:
    """The number format of all tensors according to config.json; None if it names none, or an unknown one."""
    return DTYPES.get(str(config.get("torch_dtype") or config.get("dtype")).removeprefix("torch."))


def _json(folder: Path, name: str, code: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise Failure(
            "no-model",
            _("there is no model folder {folder}").format(folder=folder),
            _("set MODEL_DIR to one, or {again}").format(again=_(AGAIN)),
        )
    path = folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Failure(code, _("{path} is missing").format(path=path), AGAIN) from error
    except (OSError, ValueError) as error:
        raise Failure(code, _("{path} cannot be read: {reason}").format(path=path, reason=error), AGAIN) from error
    if not isinstance(value, dict):
        raise Failure(code, _("{path} holds no JSON object").format(path=path), AGAIN)
    return value


def _shards(index: dict[str, Any]) -> dict[str, set[str] | None]:
    """Shard file -> names of its tensors, according to the index."""
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
    """Compare the tensors in a file with those that the index assigns to it."""
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
    """Check one file against the index, the shapes in config.json and one dtype (None: that of the first tensor).

    Returns the names of its tensors, and the dtype.
    """
    header = _read_header(folder / name)
    tensors = set(header.entries) if tensors is None else tensors
    _check_names(name, set(header.entries), tensors)
    end = header.begin
    for tensor, entry in sorted(header.entries.items(), key=lambda item: item[1].offset):
        have, shape = entry.dtype, entry.shape
        nbytes = math.prod(shape) * DTYPE_BYTES[have] if have in DTYPE_BYTES else entry.nbytes
        if entry.offset != end or entry.nbytes != nbytes:
            raise Failure(
                "shard-damaged",
                _("the header of {name} gives {tensor} an invalid offset").format(name=name, tensor=tensor),
                _(CHECKSUM).format(again=_(AGAIN)),
            )
        end += nbytes
        if tensor not in wanted:
            raise Failure(
                "config-mismatch",
                _("{name} holds {tensor}, which config.json does not describe").format(name=name, tensor=tensor),
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
    if header.size != end:
        word = _("cut short") if header.size < end else _("longer than its content")
        raise Failure(
            "shard-truncated",
            _("{name} is {word}: {size} bytes, its header describes {end}").format(
                name=name, word=word, size=header.size, end=end
            ),
            AGAIN,
        )
    return tensors, dtype


CONFIG = N_("config.json and the shards are of different models, or config.json was edited; {again}")


def _read_header(path: Path) -> Header:
    """The header of a shard. Raises Failure if there is none."""
    try:
        return safetensors_header.read(path)
    except FileNotFoundError as error:
        raise Failure(
            "shard-missing", _("{path} is missing, which {index} names").format(path=path, index=INDEX), AGAIN
        ) from error
    except OSError as error:
        raise Failure(
            "shard-unreadable", _("{path} cannot be read: {strerror}").format(path=path, strerror=error.strerror), AGAIN
        ) from error
    except BrokenHeader as error:
        cause = _("the header of {name} is not readable ({reason})").format(name=path.name, reason=error)
        if error.is_cut:
            cause = _("{name} ({size} bytes) does not begin with the header of a safetensors file").format(
                name=path.name, size=error.size
            )
        code = "shard-truncated" if error.is_cut and error.size < 1 << 20 else "shard-damaged"
        raise Failure(code, cause, _(CHECKSUM).format(again=_(AGAIN))) from error


def _check_small_files(context: Context) -> None:
    """Hash all files in the folder's own list except the shards: only this reveals an edit of, say, rope_theta."""
    for name, wanted in sha256sums.read(context.model_dir / "SHA256SUMS").items():
        if name.endswith(".safetensors"):
            continue
        try:
            have = sha256sums.digest(context.model_dir / name)
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


def _check_sums(context: Context, names: list[str]) -> int:
    """Compare the sha256 of all shards with the list, several at a time (hashlib releases the GIL); their number."""
    sums = sha256sums.read(context.model_dir / "SHA256SUMS") or sha256sums.read(context.official_sums)
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
    official = sha256sums.read(context.official_sums)
    context.sums_match = bool(official) and all(official.get(name) == digests[name] for name in names)
    return len(names)


def recorded_official(context: Context) -> bool:
    """Whether the list that the build verified and left in the folder has the official checksums of all shards."""
    names = [path.name for path in context.model_dir.glob("*.safetensors")]
    recorded, official = sha256sums.read(context.model_dir / "SHA256SUMS"), sha256sums.read(context.official_sums)
    return bool(names and official) and all(name in official and recorded.get(name) == official[name] for name in names)
