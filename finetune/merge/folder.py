"""The folder of a merged model: it has a temporary name until it is complete, and is then renamed."""

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

# These files are copied from the base, byte for byte, over those that ms-swift writes. config.json as transformers 5
# writes it moves rope_theta, and older readers then misread it; every reader understands the official file.
SHARED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
)
# What ms-swift reads from args.json when it serves or trains the folder later. The other entries describe the machine
# that trained the adapter.
KEPT_ARGUMENTS = ("model_type", "template", "system", "task_type", "swift_version")
# ms-swift guesses these from the folder's name, which the user chooses here. The fast lane does not record them.
QWEN25 = {"model_type": "qwen2", "template": "qwen2_5", "tuner_type": "full"}


@contextlib.contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """A temporary folder next to `target`, removed at the end. Leftovers of killed merges are removed first.

    The folder stays locked while its merge runs. The kernel releases the lock even if the process is killed, so a
    folder without a lock is a leftover.

    Raises:
        UserError: The folder cannot be written.
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
    """Replace the small files that ms-swift wrote with the base's, and write the part of args.json that is needed.

    Args:
        model: The folder of the merged model.
        base: The folder of the base.
        dtype: The type of the merged weights. If config.json of the base names another one, its copy is changed.
        adapter_args: The adapter's args.json; {} if it has none.
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
        (model / "chat_template.jinja").unlink(missing_ok=True)  # tokenizer_config.json holds the same text
    kept = {key: adapter_args[key] for key in KEPT_ARGUMENTS if adapter_args.get(key) is not None}
    (model / "args.json").write_text(json.dumps(QWEN25 | kept, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def publish(model: Path, target: Path) -> None:
    """Rename the complete folder to `target`. Raises UserError if something else has taken that name meanwhile."""
    mask = os.umask(0)
    os.umask(mask)
    model.chmod(0o777 & ~mask)
    for path in model.iterdir():
        path.chmod(0o666 & ~mask)
    try:
        os.rename(model, target)  # an empty folder of that name is replaced
    except OSError as error:
        raise UserError(
            _("{target}: the merged model cannot be moved there ({strerror}); is that folder in use?").format(
                target=target, strerror=error.strerror
            )
        ) from error
