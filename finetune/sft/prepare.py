"""From command-line arguments to the description of a run: parsed, checked, with its engine and folder."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import host, sha256sums
from common.errors import UserError
from common.i18n import _
from common.model_kind import kind_of
from common.settings import Settings
from finetune.data import hub
from finetune.data.check import default_heldout, in_one_line, require
from finetune.data.findings import CheckOptions
from finetune.data.source import DatasetSource, parse_columns
from finetune.engines import choose
from finetune.engines.fast.loaded_model import begin_import
from finetune.engines.swift import command_line, config_file
from finetune.engines.swift.arguments import Arguments
from finetune.runs import run_folder
from finetune.runs.gpu_lock import waits
from finetune.sft import batch, epochs, folder, gpus, standin_words
from finetune.sft.description import SftRun, listed
from finetune.sft.record import weights_digest


def prepare(name: str, options: argparse.Namespace, rest: list[str]) -> SftRun | None:
    """The description of a run, checked, with its engine and folder; None if only the command line was to be shown.

    Args:
        name: sft or sft_mixed.
        options: our options, as parsed by commands/sft.py.
        rest: the arguments for ms-swift.

    Raises UserError before anything slow.
    """
    if options.config is None:
        raise UserError(_("{name}: no --config; run {name}.sh, which names its own").format(name=name))
    settings = Settings.from_env()
    if not options.show and os.environ.get("ENGINE") != "swift":
        begin_import("cpu" if settings.wants_cpu else "cuda")
    if not options.show and not batch.count("NODE_RANK"):
        run_folder.tell_of_killed(settings.output_dir.resolve(), f"{name}.sh")
    _check_additions(name, options)
    if options.resume is not None:
        return _with_wishes(_resumed(name, options, rest, settings), options)
    run = _read(name, options.config, Arguments(rest), settings, options.general)
    run = _with_engine(run, os.environ.get("ENGINE") or "auto")
    _check_evaluation(run, options.reword, options.mix)
    batch.require_rows(run)
    run = batch.share(run)
    run = batch.fit_the_card(run, waits(options.wait or None))
    if options.show:
        shown = settings.output_dir / (options.run or time.strftime(f"{run.kind}-%Y%m%d-%H%M%S"))
        if run.auto:
            print(
                _("note: ms-swift knows no --num_train_epochs auto; the most epochs that are tried stand in for it"),
                file=sys.stderr,
            )
        print(folder.within(run, shown).line())
        return None
    standin_words.tell(run)
    return _with_wishes(folder.make(run, options.run), options)


def _check_additions(name: str, options: argparse.Namespace) -> None:
    """Raises UserError if --reword or --mix is out of range, or not possible in such a run."""
    for option, most in (("reword", 8), ("mix", 1000)):
        value = getattr(options, option)
        if not 0 <= value <= most:
            raise UserError(
                _("--{option} {value}: must be from 0 to {most}").format(option=option, value=value, most=most)
            )
        if value and batch.count("NNODES") > 1:
            raise UserError(
                _("--{option}: not on several nodes, whose data must be the same; give the rows as --dataset").format(
                    option=option
                )
            )
        if value and options.resume is not None:
            raise UserError(
                _(
                    "{name} --resume: --{option} is not possible, a run continues with its own rows; leave it out"
                ).format(name=name, option=option)
            )


def _with_wishes(run: SftRun, options: argparse.Namespace) -> SftRun:
    return replace(run, wait=options.wait, reword=options.reword, mix=options.mix, adapter_to=options.adapter_to)


def _resumed(name: str, options: argparse.Namespace, rest: list[str], settings: Settings) -> SftRun:
    """A stopped run with its own options, data and engine, and the checkpoint to resume from."""
    if rest:
        raise UserError(
            _("{name} --resume: {rest} is not possible, a run continues with its own options; leave it out").format(
                name=name, rest=rest[0]
            )
        )
    where = host.inside(options.resume).resolve() if options.resume else run_folder.newest(settings.output_dir)
    record = run_folder.load(where)
    if record.get("status") == "done":
        raise UserError(
            _("{where}: is finished ({record}); {command} starts a new run").format(
                where=where, record=record.get("adapter"), command=host.call("sft")
            )
        )
    if (chosen := record.get("epochs")) and "chosen" not in chosen:
        raise UserError(
            _(
                "{folder}: --num_train_epochs auto cannot be resumed: the adapters of the epochs were in memory only; "
                "start a new run"
            ).format(folder=where)
        )
    words = record.get("words")
    if not isinstance(words, list) or record.get("name") != name:
        raise UserError(
            _("{where}: not a run of {name}.sh that can be resumed; start a new one").format(where=where, name=name)
        )
    args = Arguments([str(word) for word in words])
    model = (args.get("model") or [""])[0]
    digest = (record.get("weights") or {}).get("sha256sums")
    if model and digest and Path(model).is_dir() and weights_digest(Path(model)) not in (None, digest):
        raise UserError(
            _("{where}: was trained on other weights than {model} holds now; start a new run").format(
                where=where, model=model
            )
        )
    run = _read(name, options.config, args, settings)
    _require_same_data(run, record)
    checkpoint = run_folder.resumable(where)
    resumed = (*record.get("resumed", []), checkpoint.name)
    run = replace(run, folder=where, checkpoint=checkpoint, resumed=resumed, epochs=record.get("epochs"))
    asked = "fast" if record.get("engine") == choose.FAST else "swift"
    run = _with_engine(run, asked, str(record.get("engine_why") or "because the run began with it"))
    print(_("resume: {where} from {name}").format(where=host.shown(where), name=checkpoint.name), file=sys.stderr)
    return run


def _read(name: str, file: Path, args: Arguments, settings: Settings, general: str | None = None) -> SftRun:
    """Read the config file, and check the data that it or the user names."""
    if args.leading:
        raise UserError(
            _("{name}: {leading!r} belongs to no option; options begin with --, see {name}.sh --help").format(
                name=name, leading=args.leading[0]
            )
        )
    config = config_file.load(file)
    model_dir = _find_model(args, settings)
    kind = kind_of(model_dir)
    # Values that a test model needs, because such a small model does not learn at the real model's learning rate.
    own_path = file.parent / f"{kind.name}.yaml"
    own = config_file.load(own_path) if kind.is_for_tests and own_path.is_file() else {}
    if name != "sft":
        own.pop("dataset", None)  # which belongs to the plain run
    run = SftRun(
        name=name,
        config_path=file,
        config=config,
        own=own,
        args=args,
        settings=settings,
        model_dir=model_dir,
        model_kind=kind,
        node_rank=batch.count("NODE_RANK"),
    )
    if kind.is_for_tests:
        _say_kind(run)
    if general is not None:
        run = _with_general(run, general)
    run = epochs.take(_with_columns(run))
    _check_words(run)
    return _with_data(run)


def _find_model(args: Arguments, settings: Settings) -> Path:
    """The user's --model, or the weights in the image, which the config's name refers to."""
    given = args.get("model")
    return Path(given[0]) if given and Path(given[0]).is_dir() else settings.model_dir


def _say_kind(run: SftRun) -> None:
    """Print the name of a test model, and the values that it changes."""
    kind = run.model_kind
    print(kind.notice(run.model_dir), file=sys.stderr)
    changed = [f"{key} {value}" for key, value in run.own.items() if run.args.get(key) is None]
    if changed:
        print(
            _("{short} settings (configs/{name}.yaml): {names}").format(
                short=_(kind.short), name=kind.name, names=", ".join(changed)
            ),
            file=sys.stderr,
        )


def _with_general(run: SftRun, general: str) -> SftRun:
    """Use a local file for the hub's part of the mixed data, with the same number of rows."""
    if run.args.get("dataset") is not None:
        raise UserError(_("{name}: --general and --dataset both name the data; leave one out").format(name=run.name))
    specs = listed(run.config.get("dataset"))
    first, _mark, count = specs[0].partition("#") if specs else ("", "", "")
    if "/" not in first:
        raise UserError(
            _("{name}: --general takes the place of a hub dataset, and {config_path} names none first").format(
                name=run.name, config_path=run.config_path
            )
        )
    sample = f"#{count}" if count and "#" not in Path(general).name else ""
    own = [str(run.workspace / spec) for spec in specs[1:]]
    return run.with_option("dataset", f"{general}{sample}", *own)


def _with_columns(run: SftRun) -> SftRun:
    """--columns QUESTION,ANSWER is ours; ms-swift has an option of the same name whose value is a JSON object."""
    given = run.args.get("columns")
    if not given or given[0].lstrip().startswith("{"):
        return run
    args = run.args.copy()
    args.remove("columns")
    return replace(run, args=args, columns=parse_columns(",".join(given)))


def _with_data(run: SftRun) -> SftRun:
    """Check every dataset; a hub's dataset only for being reachable. Raises UserError if one is unusable."""
    found = []
    options = check_options(run)
    for name in ("dataset", "val_dataset"):
        given = run.args.get(name)
        specs = given if given is not None else listed(run.own.get(name, run.config.get(name)))
        checked = require(specs, None if given is not None else run.workspace, options)
        for source, _report in checked:
            if source.is_hub:
                hub.require(source)
        if checked:
            specs = [s.with_path(s.path.resolve()) if s.path else s.spec for s, _other in checked]
            run = run.with_option(name, *specs)
        found += checked
    if not found:
        raise UserError(_("{name}: no dataset; name a file with --dataset").format(name=run.name))
    reports = [report for _source, report in found if report]
    if reports:
        print(_("data: {found}").format(found=host.shown(in_one_line(reports))), file=sys.stderr)
    return replace(run, data=tuple(found))


def with_rows(run: SftRun, path: Path) -> SftRun:
    """The run with an additional training file."""
    words = run.args.get("dataset") or []
    count = len(words)
    data = (*run.data[:count], *require([str(path)], None, check_options(run)), *run.data[count:])
    return replace(run, data=data).with_option("dataset", *words, str(path))


def with_rows_instead(run: SftRun, path: Path) -> SftRun:
    """The run with the rows of one file instead of all its own files."""
    gone = {str(own.resolve()) for own in run.own_files()}
    words = run.args.get("dataset") or []

    def stays(each: tuple[DatasetSource, Any]) -> bool:
        return not each[0].path or str(each[0].path.resolve()) not in gone

    kept = [word for word, each in zip(words, run.data, strict=False) if stays(each)]  # the words may be FILE#200
    data = tuple(each for each in run.data if stays(each))
    return with_rows(replace(run, data=data).with_option("dataset", *kept), path)


def _check_words(run: SftRun) -> None:
    """Check for unknown options and invalid values before reading the data, which may take a while."""
    line = command_line.Line("sft", Arguments(run.words()), run.settings, lambda remark: None)
    line.read_config()
    line.rename()
    line.check_options()


def _check_evaluation(run: SftRun, reword: int, mix: int) -> None:
    """Raises UserError if the best checkpoint is requested with nothing to choose it by."""
    options = run.options()
    for name in ("load_best_model_at_end", "early_stop_interval"):
        if options.get(name) and not run.evaluates:
            raise UserError(
                _(
                    "--{name}: no rows are held out to tell which step is best; add --split_dataset_ratio 0.1 or "
                    "--val_dataset FILE"
                ).format(name=name)
            )
    splits = run.evaluates and options.get("split_dataset_ratio") and not options.get("val_dataset")
    if mix and splits:
        raise UserError(
            _(
                "--mix: --split_dataset_ratio would hold general answers out in place of your rows; hold rows of "
                "another file out, with --val_dataset FILE"
            )
        )
    if reword and splits:
        raise UserError(
            _(
                "--reword: the rows that --split_dataset_ratio holds out would be trained on in other words; hold rows "
                "of another file out, with --val_dataset FILE"
            )
        )


def check_options(run: SftRun) -> CheckOptions:
    """How to read the data: as this run will use it."""
    system, length = run.value("system"), str(run.value("max_length") or "")
    return CheckOptions(
        columns=run.columns,
        model_dir=run.model_dir if (run.model_dir / "tokenizer.json").is_file() else None,
        system=" ".join(listed(system)) if system is not None else None,
        max_length=int(length) if length.isdecimal() else 0,
        heldout=default_heldout(),
    )


def _require_same_data(run: SftRun, record: dict[str, Any]) -> None:
    """Raises UserError if a dataset differs from the one that run.json recorded."""
    recorded = {item.get("path"): item.get("sha256") for item in record.get("datasets", [])}
    for source, _report in run.data:
        if source.path and recorded.get(str(source.path.resolve())) not in (None, sha256sums.digest(source.path)):
            raise UserError(
                _("{path}: was changed since the run began; start a new run, or restore it").format(path=source.path)
            )


def _with_engine(run: SftRun, asked: str, why: str = "") -> SftRun:
    """Check every option and choose the engine that supports them all; prints one line with the choice and reason.

    `why` is a resumed run's reason for keeping its engine.
    """
    remarks: list[str] = []
    words = Arguments([*run.words(), "--model", str(run.model_dir)])
    command_line.Line("sft", words, run.settings, remarks.append).check()
    sources = [source for source, _other in run.data]
    choice = choose.choose(asked, run.options(), run.model_dir, sources, on_cpu=run.settings.wants_cpu, resumed=why)
    if choice.is_fast:  # ms-swift's launcher performs them itself
        for remark in remarks:
            command_line.tell(remark)
    print(choice.in_one_line(), file=sys.stderr)
    run = replace(run, choice=choice)
    epochs.require_fast(run)
    return gpus.take(run)
