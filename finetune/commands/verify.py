"""Asks the base and an adapter, scores the answers, writes the reports and gives the verdict; verify.sh runs it.

Exit codes: 0 passed, 1 a threshold fell short, 2 unusable arguments or input.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import host, i18n
from common.errors import DONE, FAILED, Parser, UserError, run_main
from common.i18n import _
from common.model_kind import STANDIN, kind_of
from common.settings import Settings
from finetune.data.source import parse_columns
from finetune.engines.fast import workers
from finetune.engines.fast.loaded_model import Lane, spare_the_cores
from finetune.engines.fast.shared import ASKED_FOR
from finetune.plan import answering, gpu_memory
from finetune.runs import adapters, gpu_lock
from finetune.runs.progress_bar import Bar
from finetune.verify import base_cache, config, questions, runinfo, selection
from finetune.verify.engine import Engine, Qwen2Engine, check_adapter
from finetune.verify.figures import Asked
from finetune.verify.options import add_what_is_asked
from finetune.verify.questions import QuestionSet
from finetune.verify.report import data, files, terminal
from finetune.verify.session import AFTER, BEFORE, OTHER, Session, VerdictSession, base_answers, limit_of, wordings
from finetune.verify.spread import TransformersEngine
from qwen2.config import Config as Shape

EngineFactory = Callable[[Path, str, float, "int | None"], Engine]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(prog="verify.sh", description=_("Prove that a fine-tune changed what it should, and nothing else."))
    p.add_argument(
        "adapter", nargs="?", type=Path, help=_("checkpoint or run folder; default: the newest below OUTPUT_DIR")
    )
    p.add_argument("--adapter", dest="adapter_option", type=Path, metavar="DIR", help=_("the same, as an option"))
    p.add_argument("--compare", type=Path, metavar="DIR", help=_("a second adapter, shown side by side"))
    p.add_argument("--model", type=Path, metavar="DIR", help=_("the base model; default: MODEL_DIR"))
    p.add_argument(
        "--output", type=Path, metavar="DIR", help=_("folder for the reports; default: verify/ in the run's folder")
    )
    p.add_argument(
        "--config", type=Path, metavar="FILE", help=_("thresholds and settings; default: configs/verify.yaml")
    )
    add_what_is_asked(p)
    p.add_argument("--check", action="store_true", help=_("only check the questions files"))
    p.add_argument(
        "--dataset", type=Path, metavar="FILE", help=_("the dataset trained on; default: as the run recorded it")
    )
    p.add_argument("--columns", metavar="QUESTION,ANSWER", help=_("with --dataset: the two columns of a table"))
    p.add_argument("--system", metavar="TEXT", help=_("the training's system prompt; default: as the run recorded it"))
    p.add_argument(
        "--alpaca", type=int, default=0, metavar="N", help=_("also ask N Alpaca rows that were not trained on")
    )
    p.add_argument(
        "--alpaca-file", type=Path, metavar="FILE", help=_("a local file of such rows, instead of the hub's")
    )
    p.add_argument(
        "--max-new-tokens", type=int, metavar="N", help=_("longest answer in tokens, instead of the configured limits")
    )
    p.add_argument("--batch-size", type=int, metavar="N", help=_("questions per batch"))
    p.add_argument(
        "--engine",
        choices=[Qwen2Engine.name, TransformersEngine.name],
        help=_("which engine answers; transformers spreads a base that is too large for one GPU over several"),
    )
    shown = p.add_mutually_exclusive_group()
    shown.add_argument("--all", action="store_true", help=_("print every answer and every figure"))
    shown.add_argument("--summary", action="store_true", help=_("print figures and verdict, not every answer"))
    p.add_argument("--json", action="store_true", help=_("print report.json on stdout instead"))
    return p


def main(
    argv: Sequence[str] | None = None,
    make_engine: EngineFactory = Qwen2Engine,
    tell: Callable[[], None] | None = None,
) -> int:
    """Run verify; returns the exit code.

    Args:
        argv: The command line; None: this process's.
        make_engine: Makes the engine. finetune passes one with its loaded model, tests pass a fake.
        tell: Called before the verdict is printed, so that the caller's own line precedes it.
    """
    from rich.console import Console

    started = time.monotonic()
    args = parser().parse_args(argv)
    args.lang = getattr(args, "lang", i18n.option)  # also the language of the reports; None: that of the data
    _check_arguments(args)
    settings = Settings.from_env()
    kind = kind_of(args.model or settings.model_dir)
    cfg = config.read(config.for_kind(args.config or config.default_path(), kind.name))
    if args.check:
        return _check_questions(selection.read_questions(cfg, args.questions, args.expect, args.forbid))
    if args.ask_base:
        base_cache.forget(settings.output_dir)
    job = prepare(args, cfg, settings, make_engine)
    asks, engine = ask_all(job, Console(stderr=True), make_engine)
    report = data.assemble(job, asks, engine)
    job.seconds["total"] = time.monotonic() - started
    report["seconds"] = {key: round(value, 3) for key, value in job.seconds.items()}
    files.write(report, job.folder)
    if args.json:
        json.dump(report, sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        if tell:
            tell()
        terminal.show(report, job.folder, Console(), args.all, args.summary)
    return DONE if report["verdict"] == "pass" else FAILED


def prepare(
    args: argparse.Namespace, cfg: config.VerifyConfig, settings: Settings, make_engine: EngineFactory
) -> VerdictSession:
    """Check all input before the model is loaded.

    Args:
        args: The command line.
        cfg: The configuration.
        settings: The settings in the environment.
        make_engine: As in `main`.

    Raises:
        UserError: The first fault.
    """
    model_dir = args.model or settings.model_dir
    adapter = adapters.find(args.adapter_option or args.adapter or "newest", settings.output_dir, model_dir, tell=False)
    other = adapters.find(args.compare, settings.output_dir, model_dir) if args.compare else None
    if make_engine is Qwen2Engine:
        choose_engine(args, settings, model_dir)
    named = [each for each in (adapter, other) if each]
    for each in named if args.engine != TransformersEngine.name else ():
        instead = host.call("infer", adapter=each)
        adapters.require_plain(
            each, "verify", _("ask it with {command}, which ms-swift answers").format(command=instead)
        )
    run = runinfo.of_adapter(adapter)
    old = questions.option("--forbid", args.forbid) or cfg.old_identity
    selected = selection.select(cfg, args, run)
    job = VerdictSession(args, cfg, settings, adapter, other, model_dir, run, selected, old)
    job.folder = runinfo.output_folder(run, args.output)
    if make_engine is Qwen2Engine and args.engine == Qwen2Engine.name:
        for each in named:
            check_adapter(each, model_dir)
    return job


def choose_engine(args: argparse.Namespace, settings: Settings, model_dir: Path) -> None:
    """Set args.engine if it was not given: transformers for a base that does not fit one GPU, else qwen2."""
    if args.engine:
        return
    one = settings.wants_cpu or answering.cards_to_hold(model_dir, settings.vram_ceiling_gib) == 1
    args.engine = Qwen2Engine.name if one else TransformersEngine.name


def ask_all(job: VerdictSession, err: Any, make_engine: EngineFactory) -> tuple[list[Asked], Engine]:
    """Load the model, make rewordings if there are none, ask all questions and score the answers.

    Args:
        job: The verdict.
        err: A rich Console on stderr, for progress and notes.
        make_engine: As in `main`.

    Returns:
        The questions with their scored answers, and the engine that answered.
    """
    if job.kind.is_for_tests:
        err.print(job.kind.notice(job.model_dir), soft_wrap=True, highlight=False, markup=False)
    if job.device == "cpu":
        spare_the_cores()
    args, selected = job.args, job.selected
    # The busy lock lets probes see a job at work while the model answers.
    with gpu_lock.job("verify", total=0) as held, Bar(err, 0, held.step) as bar, contextlib.ExitStack() as ending:
        bar.phase(_("loading {name} on {device}").format(name=job.model_dir.name, device=job.device))
        clock = time.monotonic()
        size = args.batch_size or job.cfg.batch_size
        bare = _engine(job, make_engine, size, ending)
        engine = base_cache.over(bare, job.model_dir, job.settings.output_dir)
        adapters = {BEFORE: None, AFTER: engine.adapter(job.adapter)}
        names = {BEFORE: _("the base"), AFTER: job.adapter.name}
        if job.other:
            adapters[OTHER], names[OTHER] = engine.adapter(job.other), job.other.name
        job.seconds["load"] = time.monotonic() - clock
        clock = time.monotonic()
        kept_in = job.folder if args.dataset or not job.run.folder.is_dir() else job.run.folder
        base = None if job.kind is STANDIN else base_answers(engine, bar)
        job.wordings = wordings(selected, args.rewordings, kept_in, base)
        if job.wordings.rewordings:
            job.seconds["rewordings"] = time.monotonic() - clock
        asks = selected.asks(job.wordings.rewordings, args.system or job.run.system or job.cfg.system)
        if isinstance(bare, Qwen2Engine) and (several := bare.processes(len(asks))) > 1:
            line = _("{count} GPUs answer, each a part of the questions")
            if job.device == "cpu":
                line = _("{count} processes answer, each a part of the questions")
            bar.note(line.format(count=several))
        asking = Session(engine, adapters, names, job.limits, bar, job.seconds)
        bar.expect(sum(not each.given for each in asks) * len(adapters))
        judge = selected.found.judge if selected.found else None
        asking.answer(asks, job.old, judge)
        asking.weigh(asks)
    return asks, engine


def _engine(job: VerdictSession, make_engine: EngineFactory, size: int | None, ending: contextlib.ExitStack) -> Engine:
    """The loaded base. `ending` ends the other processes that answer."""
    if make_engine is not Qwen2Engine:
        return make_engine(job.model_dir, job.device, job.settings.vram_ceiling_gib, size)
    if job.args.engine == TransformersEngine.name:
        return TransformersEngine(job.model_dir, job.device, job.settings.vram_ceiling_gib, size)
    lane = _lane(job)
    ending.callback(lane.dismiss)
    return Qwen2Engine(job.model_dir, job.device, batch_size=size, lane=lane)


def _lane(job: VerdictSession) -> Lane:
    """The model, with more processes if NPROC_PER_NODE asks for them or the estimate says that they are faster."""
    count = workers.given()
    if job.device == "cpu":
        several = workers.from_env((), count or 1, {})
    else:
        if count is None:
            asked = job.selected.asks([], job.cfg.system)  # rewordings are not made yet
            limits = [limit_of(each.question, job.limits) for each in asked if not each.given]
            shape, ceiling = Shape.from_dir(job.model_dir), job.settings.vram_ceiling_gib
            count = answering.fastest(shape, limits, 3 if job.other else 2, ceiling)
        several = workers.from_env(gpu_memory.devices(gpu_memory.visible(), count), count, {})
    lane = Lane(job.model_dir, job.device, job.settings.vram_ceiling_gib, several)
    lane.fewest = ASKED_FOR
    return lane


def _check_questions(found: QuestionSet) -> int:
    for source in found.sources:
        print(_("{source}: valid").format(source=source))
    print(
        _("{count} held-out identity questions, {general} general tasks").format(
            count=len(found.heldout), general=len(found.general)
        )
    )
    return DONE


def _check_arguments(args: argparse.Namespace) -> None:
    for name, low in (("alpaca", 0), ("max_new_tokens", 1), ("batch_size", 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(
                _("--{name} {value}: must be at least {low}").format(name=name.replace("_", "-"), value=value, low=low)
            )
    if args.adapter and args.adapter_option:
        raise UserError(_("an adapter is named twice; give it once, with --adapter or without"))
    if isinstance(args.columns, str):
        args.columns = parse_columns(args.columns)


if __name__ == "__main__":
    sys.exit(run_main(main))
