"""Runs the engine of a described run as the job that holds the GPU; returns the exit code."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from common.errors import DONE, UserError
from common.i18n import _
from common.model_kind import STANDIN
from finetune.engines.fast import rows as fast_rows
from finetune.engines.fast.loaded_model import Lane
from finetune.engines.fast.train import Ended, Request
from finetune.engines.fast.train import train as train_fast
from finetune.engines.swift import launcher
from finetune.runs import checkpoints, run_folder
from finetune.runs.gpu_lock import STOPPING, job
from finetune.runs.gpu_lock import run as run_job
from finetune.runs.stop_signals import Stop
from finetune.sft import folder, prepare
from finetune.sft.description import SftRun
from finetune.sft.record import args_json, describe, end_at_once, finish, record_of
from finetune.verify import preparation
from finetune.verify.engine import Qwen2Engine
from finetune.verify.session import base_answers
from qwen2.config import Config


def start(name: str, options: argparse.Namespace, rest: list[str]) -> int:
    """All of a run, from what was asked on the command line (prepare.py) to run.json; the exit code."""
    run = prepare.prepare(name, options, rest)
    return DONE if run is None else train(*prepare_data(run))


def train(run: SftRun, lane: Lane | None = None, stop: Stop | None = None) -> int:
    """Run the chosen engine as the job that holds the GPU, and write run.json before and after. The exit code.

    `lane` and `stop` are those of a caller that goes on after the training.
    """
    with contextlib.ExitStack() as stack:
        if not run.is_helping:
            stack.enter_context(run_folder.held(run.folder))
        if run.choice.is_fast and stop is None:
            stop = stack.enter_context(Stop())
        return _train(run, lane, stop)


def prepare_data(run: SftRun) -> tuple[SftRun, Lane | None]:
    """Keep what verify will judge in the run's folder, and add rewordings to the training where they are asked for.

    The lane that wrote them goes on to train, where the fast lane does; else the weights' memory is given back.
    """
    if run.checkpoint is not None or run.is_helping:
        return run, None
    lane = None
    try:
        folder.keep_rows(run)
        if run.reword:
            found = preparation.look(run.own_files(), run.columns, kind=run.model_kind.name)
            lane = lane_of(run)
            with Stop(), job(run.name, wait=run.wait or None):
                base = None
                if run.model_kind is not STANDIN:
                    base = base_answers(Qwen2Engine(lane.model_dir, lane.device, lane=lane))
                path = preparation.reword(found, None, run.folder, base, run.reword)
            if path is not None:
                run = prepare.with_rows(run, path)
    except (UserError, SystemExit):  # SystemExit: a stop signal
        folder.discard(run)
        raise
    if lane is not None and not run.choice.is_fast:
        lane.release()
        lane = None
    return run, lane


def _train(run: SftRun, lane: Lane | None, stop: Stop | None) -> int:
    begin = time.monotonic()
    try:
        if stop is not None:
            record, ended = _train_fast(run, lane, stop)
        else:
            record, ended = _train_swift(run)
    except UserError:
        folder.discard(run)
        raise
    except SystemExit:  # a stop signal before the first step of the fast lane
        folder.discard(run)
        print(
            _("error: {name}: stopped before the first step, so nothing is lost").format(name=run.name), file=sys.stderr
        )
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
    """ms-swift in a process of its own: (run.json, how it ended)."""
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


def _train_fast(run: SftRun, lane: Lane | None, stop: Stop) -> tuple[dict[str, Any], Ended]:
    """The fast lane in this process: (run.json, how it ended)."""
    choice = run.choice
    lane = lane or lane_of(run)
    rows = encode(run, lane)
    record = describe(run, [])
    request = Request(run.name, run.folder, choice, rows, args_json(run, record), resume=run.checkpoint, wait=run.wait)
    with record_of(run, record) as before:
        stop.at_once = lambda number: end_at_once(run, record, before, number)
        ended = train_fast(lane, request, stop)
    if ended.figures:
        record["figures"] = dict(ended.figures)
    return record, ended


def encode(run: SftRun, lane: Lane, skip: Callable[[Any], bool] | None = None) -> fast_rows.Rows:
    """The run's rows as ids, but those for which `skip` is true."""
    choice = run.choice
    sources = [source for source, _other in run.data]
    seed = int(choice.train.get("data_seed", 42))
    length = choice.max_length or Config.from_dir(run.model_dir).max_positions
    return fast_rows.encode(sources, lane.tokenizer, choice.system, length, seed, run.columns, skip)


def lane_of(run: SftRun) -> Lane:
    """The fast lane's model for this run, not loaded yet."""
    return Lane(run.model_dir, run.device, run.settings.vram_ceiling_gib)
