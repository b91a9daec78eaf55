"""`check-data FILE...`: reports what is wrong with a dataset, and where; `--convert` writes a clean one."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from common import host
from common.errors import DONE, UNUSABLE, Parser, UserError, run_main
from common.i18n import _
from common.settings import Settings
from finetune.data.check import check_file, default_heldout
from finetune.data.convert import convert
from finetune.data.findings import CheckOptions, FileReport
from finetune.data.source import parse, parse_columns
from finetune.verify import preparation
from finetune.verify.config import SYSTEM

MAX_LENGTH = 2048  # tokens; the article's --max_length


def parser() -> Parser:
    """The command line."""
    p = Parser(
        prog="check-data",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_("What is wrong with a dataset, and where; --convert writes a clean one."),
        epilog=_(
            "Reads JSON lists and JSONL (instruction/input/output, query/response, messages, ShareGPT),\nand "
            "CSV, TSV, XLSX and Parquet with a question and an answer column; in UTF-8, UTF-16 or GB18030,\n"
            "or in an older encoding, which is guessed and reported. One sheet of an XLSX file is read, with its "
            "cells\nas they are shown.\nExit code: 0 fit (warnings do not matter), or converted; 2 not fit, or "
            "nothing left to convert."
        ),
    )
    p.add_argument("files", nargs="+", metavar="FILE", help=_("a dataset file, or the id of a hub dataset"))
    p.add_argument(
        "--convert", type=Path, metavar="OUT", help=_("write the fit rows of all files to OUT, as clean JSONL")
    )
    p.add_argument("--columns", metavar="QUESTION,ANSWER", help=_("the two columns of a table, if the guess is wrong"))
    p.add_argument(
        "--max-length",
        "--max_length",
        type=int,
        default=MAX_LENGTH,
        metavar="N",
        help=_("tokens (default {max_length})").format(max_length=MAX_LENGTH),
    )
    p.add_argument(
        "--system", default=SYSTEM, metavar="TEXT", help=_("the training's system prompt, whose tokens count too")
    )
    p.add_argument("--no-tokens", action="store_true", help=_("do not count tokens"))
    p.add_argument("--json", action="store_true", help=_("print the report as JSON"))
    p.add_argument("--html", type=Path, metavar="FILE", help=_("also write the report as an HTML page"))
    return p


def main(argv: list[str] | None = None) -> int:
    """Check the files and, with --convert, write a clean one; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(words[1:] if words[:1] == ["check"] else words)
    if args.max_length < 1:
        raise UserError(
            _("--max-length {max_length}: not a number of tokens; the article's is {usual}").format(
                max_length=args.max_length, usual=MAX_LENGTH
            )
        )
    paths = [path for spec in args.files if (path := _path(spec))]
    if not paths:
        return DONE
    with _progress() as progress:
        options = CheckOptions(
            columns=parse_columns(args.columns) if args.columns else None,
            model_dir=None if args.no_tokens else _tokenizer_folder(),
            system=args.system,
            max_length=args.max_length,
            heldout=default_heldout(),
            progress=progress,
        )
        writer = None
        if args.convert:
            writer, reports = convert(paths, args.convert, options)
        else:
            reports = [check_file(path, host.shown(path), options) for path in paths]
    unfit = any(report.errors for report in reports)
    show(reports, args, None if unfit or writer else preparation.announce(paths, options.columns))
    if writer and not writer.rows:
        raise UserError(_("{convert}: not written, no row is fit").format(convert=args.convert))
    if writer:
        left = sum(report.rows for report in reports) - writer.rows - writer.repeated
        print(
            _("{convert}: {rows} rows written; left out: {left} unfit, {repeated} repeated").format(
                convert=args.convert, rows=writer.rows, left=left, repeated=writer.repeated
            ),
            file=sys.stderr,
        )
        return DONE
    return UNUSABLE if unfit else DONE


def show(reports: list[FileReport], args: argparse.Namespace, verdict: str | None) -> None:
    """Print the reports, and the first error on stderr.

    Args:
        reports: The report of each file.
        args: The command line.
        verdict: The line about what a verdict will ask; None: not printed.
    """
    from rich.console import Console

    from finetune.data import report

    if args.json:
        print(report.as_json(reports, verdict))
    else:
        report.terminal(Console(), reports)
        if verdict:
            print(host.shown(verdict))
    if args.html:
        try:
            args.html.write_text(report.as_html(reports), encoding="utf-8")
        except OSError as error:
            raise UserError(
                _("{html}: cannot be written ({strerror}); name another file").format(
                    html=args.html, strerror=error.strerror
                )
            ) from error
    first = next((finding for r in reports for finding in r.findings if finding.error), None)
    if first and not args.convert:
        count = sum(r.errors for r in reports)
        print(
            _("error: {first}{rest}").format(
                first=host.shown(first),
                rest=_(" (the first of {count} errors, above)").format(count=count) if count > 1 else "",
            ),
            file=sys.stderr,
        )


def _path(spec: str) -> Path | None:
    source = parse(spec)
    if source.path is None:
        print(
            _("{spec}: a hub dataset; ms-swift checks its rows after the download").format(spec=spec),
            file=sys.stderr,
        )
    return source.path


def _tokenizer_folder() -> Path | None:
    """The model's folder; None, with a line on stderr, if it has no tokenizer: tokens are then not counted."""
    folder = Settings.from_env().model_dir
    if (folder / "tokenizer.json").is_file():
        return folder
    print(
        _("no tokenizer.json in {folder}: tokens are not counted; set MODEL_DIR to a model's folder").format(
            folder=folder
        ),
        file=sys.stderr,
    )
    return None


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr; yields None if that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checking", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(run_main(main))
