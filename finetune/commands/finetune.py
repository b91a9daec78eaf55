"""Checks, trains and verifies in one process, which loads the weights only once; finetune.sh runs it.

The start-up checks of finetune.sh leave out the forward pass (`# health: fast`): it runs here, on the model that is
then trained and asked. With ms-swift as the engine, `healthcheck startup` runs it, and sft and verify follow one after
the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import host, i18n
from common.errors import DONE, FAILED, UserError, leave, run_main
from common.i18n import _
from finetune.commands import sft, verify
from finetune.engines.fast.loaded_model import Lane
from finetune.engines.fast.train import TrainRequest, train_adapter
from finetune.engines.swift.arguments import tidy
from finetune.runs.gpu_lock import job
from finetune.runs.progress_bar import Bar
from finetune.runs.stop_signals import Stop
from finetune.sft import epochs, folder, prepare, start
from finetune.sft.description import SftRun
from finetune.sft.record import trained_adapter
from finetune.verify import base_cache, config, folds, preparation, questions
from finetune.verify.engine import Qwen2Engine
from finetune.verify.epochs import questions as epoch_questions
from finetune.verify.options import add_what_is_asked
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.rewordings.file import Rewording
from finetune.verify.sets import rows as data_rows
from finetune.verify.sets import survey

# Steps of the whole training on a GPU and on a CPU. If it has more, rows are left out instead of training folds.
FOLD_STEPS, FOLD_STEPS_CPU = 2000, 400


def main(argv: list[str] | None = None) -> int:
    """Run finetune; returns the exit code. `argv` is `sft --config FILE --verify-config FILE OPTION...`."""
    name, *words = sys.argv[1:] if argv is None else argv
    words, _other = tidy(words)
    parser = sft.parser(name)
    parser.prog = "finetune.sh"
    parser.add_argument(
        "--verify-config", type=Path, metavar="FILE", help=_("another YAML file of questions and thresholds")
    )
    add_options(parser)
    options, rest = parser.parse_known_args(words)
    begin = time.monotonic()
    run = prepare.prepare(name, options, rest)
    if run is None:
        return DONE
    if options.ask_base:
        base_cache.forget(run.settings.output_dir)
    try:
        run, coming = look_ahead(run, options)
    except UserError:
        folder.discard(run)
        raise
    proof = proof_words(options)
    if not run.choice.is_fast:
        return _one_after_the_other(run, proof)

    def tell() -> None:
        seconds = time.monotonic() - begin
        print(
            _("finetune: {time:.1f} s for the forward check, training and verdict").format(time=seconds),
            file=sys.stderr,
        )

    return _in_one(run, options, proof, coming, tell)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --holdout and the options of verify that are possible before there is an adapter."""
    p = parser.add_argument_group(_("the verdict"))
    add_what_is_asked(p)
    p.add_argument("--all", action="store_true", help=_("print every answer and every figure"))
    p.add_argument(
        "--holdout",
        type=int,
        metavar="N",
        help=_("leave at most N rows out of the training and ask them as unseen; 0: none"),
    )


def proof_words(options: argparse.Namespace) -> list[str]:
    """verify's command line, without the adapter."""
    given = [("--config", options.verify_config), ("--rewordings", options.rewordings), ("--expect", options.expect)]
    given += [("--forbid", options.forbid), ("--lang", getattr(options, "lang", i18n.option))]
    given += [("--questions", path) for path in options.questions or []]
    words = [word for name, value in given if value is not None for word in (name, str(value))]
    return [*words, *(["--all"] if options.all else [])]


def look_ahead(run: SftRun, options: argparse.Namespace) -> tuple[SftRun, Coming | None]:
    """Report what the verdict will ask, and leave rows out of the training if the data and the options require it.

    Args:
        run: The run.
        options: The command line.

    Returns:
        The run, possibly with other data, and the verdict to come; None if the data are on a hub.

    Raises:
        UserError: No verdict is possible, or an option is wrong.
    """
    if options.holdout is not None and options.holdout < 0:
        raise UserError(_("--holdout {holdout}: must be at least 0").format(holdout=options.holdout))
    several = os.environ.get("NNODES", "1") not in ("", "0", "1")
    if options.holdout and several:
        raise UserError(_("--holdout: not on several nodes, whose data must be the same; leave it out"))
    files = run.own_files()
    if not files or run.is_helping or run.checkpoint is not None:
        return run, None
    for path in options.questions or []:
        questions.read(path)
    for name in ("expect", "forbid"):
        questions.option(f"--{name}", getattr(options, name))
    if options.rewordings:
        rewordings_file.read(options.rewordings)
    found = preparation.look(
        files, run.columns, options.questions or (), options.expect, options.verify_config, run.model_kind.name
    )
    survey.require_judgeable(found)
    held_out = folder.keep_held_out(run)
    if held_out and options.holdout:
        raise UserError(_("--holdout: --split_dataset_ratio holds rows out already; leave one of the two out"))
    # A sample, FILE#200, is drawn from all rows, so no row may be left out.
    whole = several or any(source.sample is not None for source, _report in run.data)
    chosen = survey.sets_with(found, held_out, can_fold(run, found), 0 if whole else options.holdout)
    print(survey.in_one_line(found, chosen), file=sys.stderr)
    if chosen.holdout and not held_out:
        count = len(chosen.holdout)
        print(
            _(
                "note: {count} rows are left out of the training and asked as unseen; --holdout 0 trains on them too"
            ).format(count=count),
            file=sys.stderr,
        )
        folder.keep_rows(run)
        path = preparation.leave_out(found, chosen, run.folder, files, run.columns)
        run = prepare.with_rows_instead(run, path)
    return run, Coming(found, chosen)


@dataclass(frozen=True)
class Coming:
    """The data of the verdict to come, and the sets of rows that it asks."""

    found: survey.Survey
    chosen: survey.Sets


def can_fold(run: SftRun, found: survey.Survey) -> bool:
    """Whether the adapter of a fold takes only seconds: the fast lane trains it, in not too many steps."""
    if not run.choice.is_fast:
        return False
    if run.auto:
        run = epochs.settle(run, found.total)
    batch = int(run.choice.train.get("batch_size", 16))
    times = float(run.choice.train.get("num_train_epochs", 3.0))
    steps = int(run.choice.train.get("max_steps", 0))
    steps = steps if steps > 0 else int(times * -(-found.total // batch))
    return steps <= (FOLD_STEPS_CPU if run.settings.wants_cpu else FOLD_STEPS)


def _before(
    run: SftRun, options: Any, lane: Lane, coming: Coming
) -> tuple[SftRun, list[Rewording], epoch_questions.Questions | None]:
    """Before the training: let the base write rewordings, and choose the number of epochs if the user asks for it."""
    folder.keep_rows(run)
    said = epoch_questions.VerdictOptions(
        options.verify_config, tuple(options.questions or ()), options.expect, options.forbid
    )
    data = epochs.Data(coming.found, coming.chosen, said)
    run, known = start.reword(run, lane, coming.found, coming.chosen, options.rewordings, data)
    run, asked = start.settle_epochs(run, lane, data, known)
    return run, known, asked


def _ask_folds(run: SftRun, options: Any, lane: Lane, coming: Coming, known: list[Rewording]) -> None:
    """Measure unseen rows: for each fold, train an adapter on the other rows and ask it."""
    cfg = config.read(config.for_kind(options.verify_config or config.default_path(), run.model_kind.name))
    number = 0

    def train(keys: set[str]) -> Any:
        nonlocal number
        number += 1

        rows = start.encode(run, lane, data_rows.asks_any(keys))
        with tempfile.TemporaryDirectory(prefix="fold-") as log:
            request = TrainRequest(run.name, Path(log), run.choice, rows, {})
            return train_adapter(
                lane, request, _("fold {number} of {count}").format(number=number, count=len(coming.chosen.folds))
            ).adapter

    system = run.choice.system or cfg.system
    folds.ask_all(coming.found, coming.chosen.folds, known, _engine(lane, None), train, cfg, system, run.folder)


def _in_one(run: SftRun, options: Any, proof: list[str], coming: Coming | None, tell: Callable[[], None]) -> int:
    lane = start.lane_of(run)
    lane.asks_later = True
    with contextlib.ExitStack() as stack:
        stack.callback(lane.dismiss)
        stop = stack.enter_context(Stop())
        try:
            held = stack.enter_context(job("finetune", wait=run.wait or None))
            stop.cleanup.append(held.forget)
            if _level() == "full":
                _check_forward(lane)
            run, known, asked = _before(run, options, lane, coming) if coming else (run, [], None)
        except (UserError, SystemExit) as why:  # SystemExit: a stop signal
            folder.abandon(run, why)
            raise
        threading.Thread(target=_import_for_the_verdict, name="import-verdict", daemon=True).start()
        code = start.train(run, lane, stop, asked)
        if code != DONE or run.is_helping:  # node 0 has the adapter and verifies it
            return code
        stop.at_steps = False  # the training is over: a signal now ends the process at once
        try:
            if stop.number is not None:
                raise SystemExit(128 + stop.number)
            if coming and coming.chosen.folds:
                _ask_folds(run, options, lane, coming, known)
            return verify.main(proof_of(run, proof), lambda model_dir, device, gib, size: _engine(lane, size), tell)
        except SystemExit:
            print(
                _(
                    "error: finetune: stopped before the verdict; the adapter is complete, {verify} gives the verdict"
                ).format(verify=host.call("verify", adapter=run.folder)),
                file=sys.stderr,
            )
            raise


def _import_for_the_verdict() -> None:
    """Import what scoring and reports need later, while the GPU trains and this process waits."""
    with contextlib.suppress(Exception):  # verify reports what is missing or broken
        import cn2an  # noqa: F401
        import jinja2  # noqa: F401
        import sacrebleu.metrics  # noqa: F401


def proof_of(run: SftRun, proof: list[str]) -> list[str]:
    """verify's command line for the adapter of this run."""
    return [*proof, "--adapter", str(trained_adapter(run.folder))]


def _engine(lane: Lane, batch_size: int | None) -> Qwen2Engine:
    """verify's engine on the trained model; resets the peak-memory counters."""
    if lane.device == "cuda":
        torch = lane.torch()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    from qwen2.room import ROOMY

    # The training used more memory beyond the weights than answers need.
    return Qwen2Engine(lane.model_dir, lane.device, lane.cap_gib, batch_size, lane, ROOMY)


def _check_forward(lane: Lane) -> None:
    """Run the start-up check `forward` on this process's model, and write its row into health.json.

    Raises UserError if it fails.
    """
    from rich.console import Console

    from healthchecks import show, startup
    from healthchecks.context import Context

    context = Context.from_env()
    context.torch = lane.torch
    with Bar(Console(stderr=True), 0) as bar:
        if lane.device == "cuda":
            context.model = lambda: lane.load(bar)
        row = startup.forward_alone(context)
    if show.is_worth_a_line(row, brief=not show.is_verbose()):
        print(show.line(row), file=sys.stderr)
    if row.status == "fail":
        raise UserError(
            _("finetune was not started: {cause}; {remedy}; HEALTH_LEVEL=off starts it anyway").format(
                cause=row.cause, remedy=row.remedy
            ),
            FAILED,
        )


def _one_after_the_other(run: SftRun, proof: list[str]) -> int:
    """Train with ms-swift in a separate process, then verify in this one."""
    if _level() == "full":
        done = subprocess.run(["healthcheck", "startup", "--brief", "--level", "full"], stdout=sys.stderr, check=False)
        if done.returncode:
            folder.discard(run)
            raise UserError(
                _(
                    "finetune was not started, because a start-up check failed (above, with its remedy); "
                    "HEALTH_LEVEL=off starts it all the same"
                ),
                FAILED,
            )
    run, lane, _asked = start.prepare_data(run)
    code = start.train(run, lane)
    if code != DONE or run.is_helping:  # node 0 has the adapter and verifies it
        return code
    return verify.main(proof_of(run, proof))


def _level() -> str:
    return os.environ.get("HEALTH_LEVEL") or "full"


if __name__ == "__main__":
    leave(run_main(main))
