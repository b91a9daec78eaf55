"""Ask the base and the adapter, score, report, and say pass or fail; verify.sh runs it.

Exit codes: 0 passed, 1 a threshold fell short, 2 arguments or input that cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common import standin
from common.errors import DONE, FAILED, Parser, UserError, run_main
from common.settings import Settings
from finetune.engines.fast.loaded_model import spare_the_cores
from finetune.runs import adapters
from finetune.runs.progress_bar import Bar
from finetune.verify import alpaca, config, questions, runinfo
from finetune.verify.engine import DEFAULT_SYSTEM, Ask, Engine, Qwen2Engine, check_adapter
from finetune.verify.figures import DEFAULT, TRAINING, Asked, score
from finetune.verify.questions import Question, QuestionSet
from finetune.verify.report import data, files, terminal

EngineFactory = Callable[[Path, str, float, "int | None"], Engine]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(prog="verify.sh", description="Prove that a fine-tune changed what it should, and nothing else.")
    p.add_argument(
        "adapter", nargs="?", type=Path, help="checkpoint or run folder; default: the newest below OUTPUT_DIR"
    )
    p.add_argument("--adapter", dest="adapter_option", type=Path, metavar="DIR", help="the same, as an option")
    p.add_argument("--compare", type=Path, metavar="DIR", help="a second adapter, shown side by side")
    p.add_argument("--model", type=Path, metavar="DIR", help="the base model; default: MODEL_DIR")
    p.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the reports; default: verify/ in the run's folder"
    )
    p.add_argument("--config", type=Path, metavar="FILE", help="thresholds and settings; default: configs/verify.yaml")
    p.add_argument("--questions", type=Path, action="append", metavar="FILE", help="questions of your own (repeatable)")
    p.add_argument("--check", action="store_true", help="only check the questions files")
    p.add_argument("--expect", metavar="REGEX", help="the new identity, where it is not the article's")
    p.add_argument("--forbid", metavar="REGEX", help="the old identity, where it is not Qwen's")
    p.add_argument(
        "--dataset", type=Path, metavar="FILE", help="the dataset trained on; default: as the run recorded it"
    )
    p.add_argument("--system", metavar="TEXT", help="the training's system prompt; default: as the run recorded it")
    p.add_argument("--alpaca", type=int, default=0, metavar="N", help="also ask N Alpaca rows that were not trained on")
    p.add_argument("--alpaca-file", type=Path, metavar="FILE", help="where those rows are, in place of the hub")
    p.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer, in place of the configured limits")
    p.add_argument("--batch-size", type=int, metavar="N", help="questions answered at a time")
    p.add_argument("--engine", choices=[Qwen2Engine.name], default=Qwen2Engine.name, help="which engine answers")
    p.add_argument("--summary", action="store_true", help="print figures and verdict, not every answer")
    p.add_argument("--json", action="store_true", help="print report.json on stdout instead")
    return p


def main(argv: Sequence[str] | None = None, make_engine: EngineFactory = Qwen2Engine) -> int:
    """Run verify; returns the exit code. `make_engine` is where tests put a fake model."""
    from rich.console import Console

    started = time.monotonic()
    args = parser().parse_args(argv)
    _check_numbers(args)
    err = Console(stderr=True)
    settings = Settings.from_env()
    cfg = config.read(args.config or config.default_path())
    asked_files = read_questions(cfg, args)
    if args.check:
        for source in asked_files.sources:
            print(f"{source}: nothing to object to")
        print(f"{len(asked_files.heldout)} held-out identity questions, {len(asked_files.general)} general tasks")
        return DONE

    old = questions.option("--forbid", args.forbid) or cfg.old_identity
    model_dir = args.model or settings.model_dir
    adapter = adapters.find(args.adapter_option or args.adapter or "newest", settings.output_dir, model_dir, tell=False)
    other = adapters.find(args.compare, settings.output_dir, model_dir) if args.compare else None
    for named in (adapter, *([other] if other else [])):
        adapters.require_plain(named, "verify", f"ask it with infer.sh --adapter {named}, which ms-swift answers")
    run = runinfo.of_adapter(adapter)
    notes: list[str] = []
    chosen = choose(asked_files, cfg, args, run, notes)
    asks = build(chosen, args.system or run.system or cfg.system)
    limits = {part: args.max_new_tokens or limit for part, limit in cfg.max_new_tokens.items()}
    folder = runinfo.output_folder(run, args.output)
    is_standin = standin.is_standin(model_dir)
    if is_standin:
        err.print(standin.notice(model_dir), soft_wrap=True, highlight=False, markup=False)
    device = "cpu" if settings.wants_cpu else "cuda"
    if device == "cpu":
        spare_the_cores()
    if make_engine is Qwen2Engine:
        for named in (adapter, *([other] if other else [])):
            check_adapter(named, model_dir)

    sides: list[tuple[str, Path | None]] = [("before", None), ("after", adapter)]
    sides += [("other", other)] if other else []
    seconds: dict[str, float] = {}
    total = len(asks) * len(sides)
    with busy(total) as beat, Bar(err, total, beat) as bar:
        bar.phase(f"loading {model_dir.name} on {device}")
        clock = time.monotonic()
        engine = make_engine(model_dir, device, settings.vram_ceiling_gib, args.batch_size or cfg.batch_size)
        loaded = {path: engine.adapter(path) for _, path in sides if path}
        seconds["load"] = time.monotonic() - clock
        wanted = [
            Ask(a.question.messages, a.system, limits["identity" if a.question.is_identity else "general"])
            for a in asks
        ]
        for side, path in sides:
            clock = time.monotonic()
            bar.phase(f"asking {'the base' if path is None else path.name} ({len(asks)} answers)")
            answers = engine.answer(wanted, loaded[path] if path else None, bar.advance)
            seconds[side] = time.monotonic() - clock
            clock = time.monotonic()
            for asked, answer in zip(asks, answers, strict=True):
                asked.scored[side] = score(asked.question, answer, old)
            seconds["scoring"] = seconds.get("scoring", 0.0) + time.monotonic() - clock

    parts = data.verdict(asks, cfg.thresholds)
    if not parts["thresholds"]:
        raise UserError(
            "none of the thresholds has a question that it could be held against; ask more with --questions"
        )
    report = {
        "schema_version": data.SCHEMA_VERSION,
        **parts,
        "engine": engine.name,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "adapter": str(adapter),
        "model": {"path": str(model_dir), "standin": is_standin, "device": engine.device, "dtype": engine.dtype},
        "notes": notes,
        "compare": {"adapter": str(other), **data.verdict(asks, cfg.thresholds, "other")} if other else None,
        "run": {
            "folder": str(run.folder),
            "settings": run.shown(),
            "losses": [list(point) for point in run.losses],
            "max_steps": run.max_steps,
        },
        "settings": {
            "prompts": {each.prompt: each.system for each in asks},
            "max_new_tokens": limits,
            "decoding": "greedy",
            "old_identity": args.forbid or cfg.old_identity_source,
            "expect": args.expect,
            "questions": asked_files.sources,
            "config": str(cfg.path),
        },
        "versions": data.versions(),
        "seconds": {},
        "memory": engine.memory(),
        "questions": data.questions(asks),
    }
    seconds["total"] = time.monotonic() - started
    report["seconds"] = {key: round(value, 3) for key, value in seconds.items()}
    written = files.write(report, folder)
    if args.json:
        json.dump(report, sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        out = Console()
        terminal.show(report, out, args.summary)
        out.print(f"reports: {folder}/{{{','.join(path.name for path in written)}}}", soft_wrap=True, highlight=False)
    return DONE if report["verdict"] == "pass" else FAILED


def _check_numbers(args: argparse.Namespace) -> None:
    for name, low in (("alpaca", 0), ("max_new_tokens", 1), ("batch_size", 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {low}")
    if args.adapter and args.adapter_option:
        raise UserError("an adapter is named twice; give it once, with --adapter or without")


@contextlib.contextmanager
def busy(total: int) -> Iterator[Callable[[int, int], None]]:
    """Hold the busy lock while the model answers, so that probes see a job at work; yields its step(done, total)."""
    from finetune.runs.gpu_lock import job

    with job("verify", total=total) as held:
        yield held.step


def read_questions(cfg: config.Config, args: argparse.Namespace) -> QuestionSet:
    """The configured files, with a file of the user's in place of the one of its kind; then the user's own brand."""
    own = [questions.read(path) for path in args.questions or []]
    has_identity = any(each.heldout for each in own)
    has_general = any(each.general for each in own)
    merged = QuestionSet()
    for each in own:
        _merge(merged, each, True, True)
    for path in cfg.questions:
        if not (has_identity and has_general):
            _merge(merged, questions.read(path), not has_identity, not has_general)
    if not merged.all():
        raise UserError(f"{cfg.path}: no questions; name a file under `questions`, or with --questions FILE")
    questions.check_unique(merged.all())
    return questions.rebrand(merged, args.expect, args.forbid)


def _merge(into: QuestionSet, part: QuestionSet, identity: bool, general: bool) -> None:
    if (identity and part.heldout) or (general and part.general):
        into.sources += part.sources
    if identity:
        into.heldout += part.heldout
        into.trained += part.trained
    if general:
        into.general += part.general


def choose(
    files_: QuestionSet, cfg: config.Config, args: argparse.Namespace, run: runinfo.Run, notes: list[str]
) -> list[Question]:
    """All questions of this run: held-out, the dataset's own, general, Alpaca. Notes what a reader should know."""
    chosen = list(files_.heldout)
    datasets = [args.dataset] if args.dataset else run.local_datasets(cfg.path.resolve().parent.parent)
    if not datasets and cfg.dataset:
        datasets = [cfg.dataset]
        if run.datasets:
            notes.append(
                f"the run's dataset ({', '.join(run.datasets)}) is not here; {cfg.dataset} is used in its place"
            )
    known = {
        questions.same_question(turns[-1]["content"]) for path in datasets for turns, _ in questions.read_rows(path)
    }
    seen = [q for q in chosen if len(q.messages) == 1 and questions.same_question(q.text) in known]
    if seen:
        notes.append(f"left out, since the dataset itself asks them: {', '.join(q.id for q in seen)}")
        chosen = [q for q in chosen if q not in seen]
    if files_.trained and datasets:
        chosen += questions.from_dataset(datasets, files_.trained)
    elif chosen:
        notes.append(
            "no trained questions were asked: the questions file has no `trained` entries, or there is no dataset"
        )
    chosen += files_.general
    if args.alpaca:
        chosen += alpaca.held_out(args.alpaca, args.alpaca_file, run)
    questions.check_unique(chosen)
    return chosen


def build(chosen: Sequence[Question], system: str) -> list[Asked]:
    """Each identity question under the training's system prompt and the template's own; the others under the first."""
    asks = []
    for question in chosen:
        asks.append(Asked(question, TRAINING, system))
        if question.is_identity and question.counted and system != DEFAULT_SYSTEM:
            asks.append(Asked(question, DEFAULT, DEFAULT_SYSTEM))
    return asks


if __name__ == "__main__":
    sys.exit(run_main(main))
