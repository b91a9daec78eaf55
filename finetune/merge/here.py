"""Merges in this process with qwen2: one load of the base serves the adapter's answers and the merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.errors import FAILED, UserError
from common.i18n import _
from finetune.merge.same_answers import AdapterAnswers, release
from finetune.verify.engine import Qwen2Engine
from qwen2 import adapter_config


def is_possible(base: Path, adapter: Path) -> bool:
    """Whether qwen2 can merge this base and adapter. ms-swift merges the others."""
    from qwen2 import merged

    try:
        return adapter_config.not_plain(adapter_config.read(adapter)) is None and merged.is_writable_alike(base)
    except ValueError:
        return False


def merge(
    base: Path,
    adapter: Path,
    out: Path,
    device: str,
    ceiling_gib: float,
    answers: AdapterAnswers | None,
    tell: Callable[[str], None],
) -> None:
    """Write the merged weights to `out`.

    Args:
        base: The folder of the base.
        adapter: The folder of the adapter.
        out: Where the weights are written.
        device: "cuda" or "cpu".
        ceiling_gib: The limit on GPU memory, in GiB.
        answers: Asks the adapter before the merge; None skips the check.
        tell: Called with each step, for the screen.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    from qwen2 import merged

    tell(_("loading the base"))
    engine = Qwen2Engine(base, device, ceiling_gib)
    loaded = engine.adapter(adapter)
    if answers:
        tell(_("asking the adapter"))
        answers.ask(engine, loaded)
    tell(_("merging"))
    merged.fold(engine.model, loaded)
    try:
        merged.save_like(base, engine.model, out)
    except OSError as error:
        raise UserError(
            _("merge: {path}: {why}; free some space, or name another folder with --output DIR").format(
                path=error.filename or out, why=error.strerror
            ),
            FAILED,
        ) from None
    release(engine)
