"""A run's folder: created, named in the run's options, removed again; and the rows that are written to it."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import replace
from pathlib import Path

from common.errors import UserError
from common.i18n import _
from finetune.data.convert import convert
from finetune.data.findings import CheckOptions
from finetune.engines.fast import rows as fast_rows
from finetune.runs import run_folder
from finetune.sft.description import SftRun
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.sets import row_files, survey
from finetune.verify.sets import rows as data_rows
from finetune.verify.sets.rows import DataRow


def make(run: SftRun, run_name: str) -> SftRun:
    """The run in its folder: the user's --output_dir, or a new one below $OUTPUT_DIR."""
    given = run.args.get("output_dir")
    if given and run_name:
        raise UserError(_("{name}: --run and --output_dir both name the folder; leave one out").format(name=run.name))
    if given:
        folder = Path(given[0]).expanduser().resolve()
        if not run.is_helping:
            run_folder.claim(folder)
    elif run.is_helping:
        folder = run.settings.output_dir.resolve() / (run_name or time.strftime(f"{run.kind}-%Y%m%d-%H%M%S"))
    else:
        folder = run_folder.make_folder(run.settings.output_dir.resolve(), run_name, run.kind)
    return within(run, folder)


def within(run: SftRun, folder: Path) -> SftRun:
    """The run with its folder, and the weights' folder, as part of the command line."""
    run = replace(run, folder=folder)
    for name, value in (("output_dir", folder), ("model", run.model_dir)):
        if run.args.get(name) is None:
            run = run.with_option(name, str(value))
    return run


def discard(run: SftRun) -> None:
    """Remove a new run's folder in which nothing was run; other nodes leave node 0's alone."""
    if run.is_helping or run.checkpoint is not None or (run.folder / "run.json").exists():
        return
    made = ("*dataset-*.jsonl", *row_files.NAMES, rewordings_file.NAME)
    for path in (found for pattern in made for found in run.folder.glob(pattern)):
        path.unlink()
    with contextlib.suppress(OSError):
        run.folder.rmdir()


def abandon(run: SftRun, why: BaseException) -> None:
    """Discard a run that ends before its first step. A stop signal (SystemExit) gets a line; an error has its own."""
    discard(run)
    if isinstance(why, SystemExit):
        line = _("error: {name}: stopped before the first step, so nothing is lost")
        print(line.format(name=run.name), file=sys.stderr)


def keep_rows(run: SftRun) -> None:
    """Copy the rows that verify will judge, if they are the user's own: their file may have moved by then."""
    files = [path for path in run.own_files() if not path.resolve().is_relative_to(run.workspace)]
    if files and not (run.folder / row_files.ROWS).exists():
        from finetune.verify import preparation

        found = data_rows.read(run.own_files(), run.columns)
        preparation.keep_rows(run.folder, data_rows.draw(found, survey.JUDGED_MAX))


def keep_held_out(run: SftRun) -> list[DataRow]:
    """Copy the rows that --split_dataset_ratio holds out, so that verify asks them as unseen; returns them."""
    options = run.options()
    ratio = float(options.get("split_dataset_ratio") or 0)
    sources, val_sources = run.sources()
    if not run.evaluates or val_sources or not 0 < ratio < 1 or any(source.path is None for source in sources):
        return []
    own = {path.resolve() for path in run.own_files()}
    seed = options.get("data_seed")
    drawn = fast_rows.drawn_rows(sources, run.columns, 42 if seed is None else int(seed), ratio)
    # a question that occurs twice may be on both sides: it is not unseen
    trained = {row.key for _source, number, data in drawn.rows if (row := data_rows.data_row(data, number, ""))}
    found: dict[str, DataRow] = {}
    for source, number, data in drawn.held_out:
        if source.path and source.path.resolve() in own:
            row = data_rows.data_row(data, number, f"{source.path}, row {number}")
            if row is not None and row.key not in trained:
                found.setdefault(row.key, row)
    row_files.write(run.folder, [row_files.UnseenRow(row) for row in found.values()])
    return list(found.values())


def convert_data(run: SftRun) -> SftRun:
    """Convert files that ms-swift cannot read as they are (tables, other encodings) to JSONL, and train on those."""
    for name in ("dataset", "val_dataset"):
        words = run.args.get(name) or []
        for source, report in run.data:
            if not source.path or not report or report.plain:
                continue
            old = source.with_path(source.path.resolve())
            if old not in words:
                continue
            rank = f"-node{run.node_rank}" if run.is_helping else ""
            run.folder.mkdir(parents=True, exist_ok=True)
            new = run.folder / f"{name}-{words.index(old) + 1}{rank}.jsonl"
            writer, _other = convert([source.path], new, CheckOptions(columns=run.columns))
            print(
                _("data: {path} as JSONL: {new} ({rows} rows)").format(path=source.path, new=new, rows=writer.rows),
                file=sys.stderr,
            )
            words = [source.with_path(new) if word == old else word for word in words]
        if words:
            run = run.with_option(name, *words)
    return run
