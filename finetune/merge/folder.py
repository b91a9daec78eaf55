"""The folder that a merged model is made in: under a temporary name until it is complete, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from finetune.runs.folder_lock import locked

# Files of the base that the merged model shares with it, byte for byte. ms-swift writes its own of these; transformers
# 5 words config.json in a way that older readers misread (rope_theta is moved), the official ones suit every reader.
SHARED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
)
# What ms-swift takes from args.json when it serves or trains the folder later; the rest is of the adapter's machine.
KEPT_ARGUMENTS = ("model_type", "template", "system", "task_type", "swift_version")
# ms-swift guesses them from the folder's name, which here is any; the fast lane does not record them.
QWEN25 = {"model_type": "qwen2", "template": "qwen2_5", "tuner_type": "full"}


@contextlib.contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """A folder next to `target`, removed at the end. What a killed merge left there is removed first.

    The folder is locked while its merge lives; the kernel releases the lock whatever happens.
    """
    prefix = f".{target.name}.partial-"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"{prefix}*"):
            with locked(left) as alone:
                if alone:
                    shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    except OSError as error:
        raise UserError(
            _("{target}: cannot be written ({strerror}); name another with --output DIR").format(
                target=target, strerror=error.strerror
            )
        ) from error
    with locked(made):
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def complete(model: Path, base: Path, dtype: str, adapter_args: dict[str, Any]) -> None:
    """Replace the small files that ms-swift wrote with the base's own, and keep what is needed of args.json.

    config.json is the base's byte for byte, unless `dtype` (of the weights) is another than it says.
    """
    for name in SHARED:
        if (base / name).is_file():
            shutil.copyfile(base / name, model / name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config.get("torch_dtype", config.get("dtype")) != dtype:
        config.pop("dtype", None)
        (model / "config.json").write_text(
            json.dumps(config | {"torch_dtype": dtype}, indent=2) + "\n", encoding="utf-8"
        )
    if '"chat_template"' in (base / "tokenizer_config.json").read_text(encoding="utf-8"):
        (model / "chat_template.jinja").unlink(missing_ok=True)  # the same text, once
    kept = {key: adapter_args[key] for key in KEPT_ARGUMENTS if adapter_args.get(key) is not None}
    (model / "args.json").write_text(json.dumps(QWEN25 | kept, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def publish(model: Path, target: Path) -> None:
    """Give the whole folder its name. Raises UserError if something else has taken the name meanwhile."""
    mask = os.umask(0)
    os.umask(mask)
    model.chmod(0o777 & ~mask)
    for path in model.iterdir():
        path.chmod(0o666 & ~mask)
    try:
        os.rename(model, target)  # over an empty folder, too
    except OSError as error:
        raise UserError(
            _("{target}: cannot be given to the merged model ({strerror}); is it in use?").format(
                target=target, strerror=error.strerror
            )
        ) from error
