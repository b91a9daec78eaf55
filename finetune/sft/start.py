"""Runs the engine of a described run as the job that holds the GPU; returns the exit code."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import DONE, FAILED, UserError
from common.i18n import N_, _
from common.model_kind import STANDIN
from finetune.engines.fast import rows as fast_rows
from finetune.engines.fast.loaded_model import Lane
from finetune.engines.fast.together import take_part
from finetune.engines.fast.train import Ended, TrainRequest, save_earlier, train_adapter
from finetune.engines.fast.train import train as train_fast
from finetune.engines.swift import launcher
from finetune.runs import checkpoints, run_folder
from finetune.runs.gpu_lock import job
from finetune.runs.gpu_lock import run as run_job
from finetune.runs.stop_signals import Stop
from finetune.runs.supervise import STOPPING
from finetune.sft import epochs, folder, mixing, prepare
from finetune.sft.description import SftRun
from finetune.sft.record import args_json, describe, end_at_once, finish, record_of
from finetune.verify import base_cache
from finetune.verify.engine import Engine, Qwen2Engine
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.rewordings.file import Rewording
from finetune.verify.sets import rows as data_rows
from finetune.verify.sets import survey
from finetune.verify.sets.survey import Sets, Survey
from qwen2.config import Config

if TYPE_CHECKING:
    from finetune.verify.epochs.questions import Questions


def start(name: str, options: argparse.Namespace, rest: list[str]) -> int:
    """A whole run, from the requested options (prepare.py) to run.json; returns the exit code."""
    run = prepare.prepare(name, options, rest)
    if run is None:
        return DONE
    run, lane, asked = prepare_data(run)
    return train(run, lane, asked=asked)


def train(run: SftRun, lane: Lane | None = None, stop: Stop | None = None, asked: Questions | None = None) -> int:
    """Run the chosen engine as the job that holds the GPU, and write run.json before and after. Returns the exit code.

    `lane` and `stop` belong to a caller that continues after training; `asked` is what chooses the saved epoch, if
    settle_epochs left that to this training.
    """
    with contextlib.ExitStack() as stack:
        if not run.is_helping:
            stack.enter_context(run_folder.held(run.folder))
        if run.choice.is_fast and stop is None:
            stop = stack.enter_context(Stop())
        return _train(run, lane, stop, asked)


def prepare_data(run: SftRun) -> tuple[SftRun, Lane | None, Questions | None]:
    """Copy the rows that verify will judge to the run's folder, and add rewordings to the training if requested.

    The lane that wrote them goes on to train with the fast lane; otherwise the weights' memory is freed. The questions
    are those of settle_epochs.
    """
    if run.checkpoint is not None or run.is_helping:
        return run, None, None
    lane, asked = None, None
    try:
        folder.keep_rows(run)
        held_out = folder.keep_held_out(run)
        if run.reword or run.mix or run.auto:
            from finetune.verify import preparation
            from finetune.verify.epochs.questions import VerdictOptions

            found = preparation.look(run.own_files(), run.columns, kind=run.model_kind.name)
            chosen = survey.sets_with(found, held_out) if run.auto else None
            data = epochs.Data(found, chosen, VerdictOptions()) if chosen else None
            lane = lane_of(run)
            with Stop(), job(run.name, wait=run.wait or None):
                run, known = reword(run, lane, found, chosen, data=data)
                if data:
                    run, asked = settle_epochs(run, lane, data, known)
    except (UserError, SystemExit) as why:  # SystemExit: a stop signal
        folder.abandon(run, why)
        raise
    if lane is not None and not run.choice.is_fast:
        lane.release()
        lane = None
    return run, lane, asked


def reword(
    run: SftRun,
    lane: Lane,
    found: Survey,
    chosen: Sets | None,
    given: Path | None = None,
    data: epochs.Data | None = None,
) -> tuple[SftRun, list[Rewording]]:
    """What the base writes before training: rewordings, for the verdict, the training and the choice of an epoch,
    and answers to general questions for the training.

    Args:
        run: The run; rewordings to train on are added to it.
        lane: The base.
        found: The data.
        chosen: The verdict's questions; None if no verdict follows.
        given: The user's own rewordings.
        data: The data on which an epoch is chosen, if requested.
    """
    from finetune.verify import preparation
    from finetune.verify.session import base_answers

    engine: Engine = Qwen2Engine(lane.model_dir, lane.device, lane=lane)
    base = None
    if run.model_kind is not STANDIN:
        engine = base_cache.over(engine, lane.model_dir, run.settings.output_dir)
        base = base_answers(engine)
    choose = data.words if data and run.auto else []
    path = preparation.reword(found, chosen, run.folder, base, run.reword, given, choose)
    if path is not None:
        run = prepare.with_rows(run, path)
    if run.mix:
        system = run.choice.system or "You are a helpful assistant."
        answers = base_answers(engine, what=N_("the base answers {count} general questions, to be trained on"))
        general = mixing.rows(run.mix, found, system, answers, run.folder)
        run = prepare.with_rows(run, general)
    kept = run.folder / rewordings_file.NAME
    return run, rewordings_file.read(kept) if kept.is_file() else []


def settle_epochs(
    run: SftRun, lane: Lane, data: epochs.Data, known: Sequence[Rewording]
) -> tuple[SftRun, Questions | None]:
    """The run with a number of epochs instead of `auto`, and the questions by which its training will choose one.

    No questions means: a trial has chosen already, there were too few, or `auto` was not requested.
    """
    if not run.auto:
        return run, None
    asked = epochs.questions(run, data, known)
    if asked is None:
        return replace(epochs.with_epochs(run, epochs.default_epochs(run)), auto=False), None
    if not data.unseen:
        return epochs.settle(run, len(encode(run, lane).rows)), asked
    rows = encode(run, lane, data_rows.asks_any({data.found.rows[place].key for place in data.unseen}))
    run = epochs.settle(run, len(rows.rows))
    at = epochs.steps_of(run, len(rows.rows))
    with tempfile.TemporaryDirectory(prefix="trial-") as log:
        request = TrainRequest(run.name, Path(log), run.choice, rows, {}, keep=frozenset(at))
        ended = train_adapter(
            lane,
            request,
            _("a trial without {count} rows, to choose the number of epochs").format(count=len(data.unseen)),
        )
    told = epochs.ask(run, lane, asked, ended, at, lambda: False)
    assert told is not None
    return replace(epochs.with_epochs(run, told["chosen"]), auto=False, epochs=told), None


def _train(run: SftRun, lane: Lane | None, stop: Stop | None, asked: Questions | None) -> int:
    begin = time.monotonic()
    try:
        if stop is not None:
            record, ended = _train_fast(run, lane, stop, asked)
        else:
            record, ended = _train_swift(run)
    except (UserError, SystemExit) as why:  # SystemExit: a stop signal before the first step of the fast lane
        folder.abandon(run, why)
        raise
    record["seconds"] = round(time.monotonic() - begin, 1)
    if run.is_helping:
        node = _("node {node_rank} ended with exit code {code}; node 0 writes checkpoints and run.json").format(
            node_rank=run.node_rank, code=ended.code
        )
        print(
            _("error: {name}: {why}").format(name=run.name, why=ended.why) if ended.why else f"{run.name}: {node}",
            file=sys.stderr,
        )
        return ended.code
    if stop is not None:
        stop.at_once = lambda number: _("error: {name}: ended at once; what was trained is in {folder}").format(
            name=run.name, folder=run.folder
        )
    try:
        return finish(run, record, ended)
    finally:
        if ended.drawing is not None and stop is not None:
            ended.drawing.finish(stop)


def _train_swift(run: SftRun) -> tuple[dict[str, Any], Ended]:
    """ms-swift in a separate process: (run.json, how it ended)."""
    if run.checkpoint is None:
        run = folder.convert_data(run)
    words = run.words()
    if run.checkpoint is not None:
        words += ["--resume_from_checkpoint", str(run.checkpoint)]
        checkpoints.unseal(run.folder, checkpoints.step(run.checkpoint))
    _other, words = launcher.prepare(["sft", *words], run.settings, data_checked=True)
    record = describe(run, words)
    with record_of(run, record):
        line = [launcher.find_real(), "sft", *words]
        code = run_job(run.name, line, run.wait, [run.folder], None, keyboard=False)
    failed = code and code not in (128 + number for number in STOPPING)
    return record, Ended(
        code,
        _("ms-swift ended with exit code {code}, its last lines above say why").format(code=code) if failed else "",
    )


def _train_fast(run: SftRun, lane: Lane | None, stop: Stop, asked: Questions | None) -> tuple[dict[str, Any], Ended]:
    """The fast lane in this process: (run.json, how it ended)."""
    choice = run.choice
    lane = lane or lane_of(run)
    rows = encode(run, lane)
    record = describe(run, [])
    at = epochs.steps_of(run, len(rows.rows)) if asked else {}
    request = TrainRequest(
        run.name,
        run.folder,
        choice,
        rows,
        args_json(run, record),
        resume=run.checkpoint,
        wait=run.wait,
        keep=frozenset(at),
        lost=lambda why: finish(run, record, Ended(FAILED, why)),
    )
    if run.is_helping:
        return record, Ended(*take_part(lane, request, stop))
    # Held until an epoch is chosen: a waiting job must not run in between, and the lock is re-entrant.
    with job(run.name, wait=run.wait or None) if asked else contextlib.nullcontext():
        with record_of(run, record) as before:
            stop.at_once = lambda number: end_at_once(run, record, before, number)
            ended = train_fast(lane, request, stop)
        if ended.figures:
            record["figures"] = dict(ended.figures)
        if asked and ended.code == DONE:
            _keep_best(run, lane, record, ended, asked, at, stop)
    return record, ended


def _keep_best(
    run: SftRun,
    lane: Lane,
    record: dict[str, Any],
    ended: Ended,
    asked: Questions,
    at: Mapping[int, int],
    stop: Stop,
) -> None:
    """Choose an epoch of the finished training, and save its adapter instead of the last one's."""
    try:
        told = epochs.ask(run, lane, asked, ended, at, lambda: stop.number is not None)
        if told is None:
            name = signal.Signals(stop.number or signal.SIGTERM).name
            ended.code, ended.why = (
                128 + (stop.number or signal.SIGTERM),
                _("stopped by {name} before an epoch was chosen").format(name=name),
            )
            return
        step = next(step for step, epoch in at.items() if epoch == told["chosen"])
        save_earlier(run.folder, step, ended)
    except (UserError, OSError) as error:
        ended.code, ended.why = FAILED, _("no epoch was chosen: {reason}").format(reason=error)
        return
    record["epochs"] = told
    record["settings"]["num_train_epochs"] = told["chosen"]


def encode(run: SftRun, lane: Lane, skip: Callable[[Any], bool] | None = None) -> fast_rows.EncodedRows:
    """The run's rows as ids, except those for which `skip` is true."""
    choice = run.choice
    sources, held_out = run.sources()
    seed = int(choice.train.get("data_seed", 42))
    length = choice.max_length or Config.from_dir(run.model_dir).max_positions
    return fast_rows.encode(
        sources, lane.tokenizer, choice.system, length, seed, run.columns, skip, choice.split, held_out
    )


def lane_of(run: SftRun) -> Lane:
    """The fast lane's model for this run, not yet loaded."""
    return Lane(run.model_dir, run.device, run.settings.vram_ceiling_gib, run.workers)
