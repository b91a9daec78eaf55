"""Check, fine-tune, prove in one process, so that the weights are loaded once; finetune.sh runs it.

The start-up checks of this script leave the forward pass out (`# health: fast` in finetune.sh): it is run here, on the
model that then trains and answers. With ms-swift as the engine, it is left to `healthcheck startup`, and sft and verify
follow one after the other.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common.errors import DONE, FAILED, UserError, leave, run_main
from finetune.commands import sft, verify
from finetune.engines.fast.loaded_model import Lane
from finetune.engines.swift.arguments import tidy
from finetune.runs.gpu_lock import job
from finetune.runs.progress_bar import Bar
from finetune.verify.engine import Qwen2Engine


def main(argv: list[str] | None = None) -> int:
    """The words of finetune.sh: `sft --config FILE --verify-config FILE OPTION...`; the exit code."""
    name, *words = sys.argv[1:] if argv is None else argv
    words, _ = tidy(words)
    parser = sft.parser(name)
    parser.prog = "finetune.sh"
    parser.add_argument(
        "--verify-config", type=Path, metavar="FILE", help="another YAML file of questions and thresholds"
    )
    options, rest = parser.parse_known_args(words)
    begin = time.monotonic()
    plan = sft.prepare(name, options, rest)
    if plan is None:
        return DONE
    proof = ["--config", str(options.verify_config)] if options.verify_config else []
    if not plan.choice.is_fast:
        return _one_after_the_other(plan, options, proof)
    code = _in_one(plan, options, proof)
    print(f"finetune: {time.monotonic() - begin:.1f} s for the forward check, training and verdict", file=sys.stderr)
    return code


def _in_one(plan: sft.Plan, options: Any, proof: list[str]) -> int:
    lane = Lane(plan.model_dir, "cpu" if plan.settings.wants_cpu else "cuda", plan.settings.vram_ceiling_gib)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(job("finetune", wait=options.wait or None))
            if _level() == "full":
                _check_forward(lane)
        except UserError:
            plan.discard_folder()
            raise
        threading.Thread(target=_import_for_the_verdict, name="import-verdict", daemon=True).start()
        code = sft.run(plan, options, lane)
        if code != DONE:
            return code
        return verify.main(proof_of(plan, proof), lambda model_dir, device, gib, size: _engine(lane, size))


def _import_for_the_verdict() -> None:
    """While the GPU trains and this process waits for it: what scoring and reports import, each when first needed."""
    with contextlib.suppress(ImportError):  # verify itself says what is missing
        import jinja2  # noqa: F401
        import sacrebleu.metrics  # noqa: F401


def proof_of(plan: sft.Plan, proof: list[str]) -> list[str]:
    """verify's words for the adapter just made."""
    return [*proof, "--adapter", str(sft.trained_adapter(plan.folder))]


def _engine(lane: Lane, batch_size: int | None) -> Qwen2Engine:
    """verify's engine on the model that has just been trained on; its figures of memory begin anew."""
    if lane.device == "cuda":
        torch = lane.torch()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    from qwen2.generate import ROOMY

    # Training has had more beside the weights than answers will take.
    return Qwen2Engine(lane.model_dir, lane.device, lane.cap_gib, batch_size, lane, ROOMY)


def _check_forward(lane: Lane) -> None:
    """The start-up check `forward` on this process's model, and its row in health.json. UserError when it fails."""
    from rich.console import Console

    from healthchecks import show, startup
    from healthchecks.context import BadSetting, Context

    try:
        context = Context.from_env()
    except BadSetting as error:
        raise UserError(str(error)) from None
    context.torch = lane.torch
    with Bar(Console(stderr=True), 0) as bar:
        if lane.device == "cuda":
            context.model = lambda: lane.load(bar)
        row = startup.forward_alone(context)
    print(show.line(row), file=sys.stderr)
    if row.status == "fail":
        raise UserError(f"finetune was not started: {row.cause}; {row.remedy}; HEALTH_LEVEL=off goes on", FAILED)


def _one_after_the_other(plan: sft.Plan, options: Any, proof: list[str]) -> int:
    """ms-swift in a process of its own, then verify in this one."""
    if _level() == "full":
        done = subprocess.run(["healthcheck", "startup", "--level", "full"], stdout=sys.stderr, check=False)
        if done.returncode:
            plan.discard_folder()
            raise UserError(
                "finetune was not started, because a start-up check failed (above, with its remedy); "
                "HEALTH_LEVEL=off starts it all the same",
                FAILED,
            )
    code = sft.run(plan, options)
    if code != DONE or plan.is_helping:  # node 0 has the adapter, and proves it
        return code
    return verify.main(proof_of(plan, proof))


def _level() -> str:
    return os.environ.get("HEALTH_LEVEL") or "full"


if __name__ == "__main__":
    leave(run_main(main))
