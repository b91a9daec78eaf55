"""`python -m finetune.dataset check FILE...`: what is wrong with a dataset, and where."""

from __future__ import annotations

import sys

from finetune.dataset.check import check_file
from finetune.dataset.source import parse
from finetune.errors import DONE, UNUSABLE, Parser, run_main

SHOWN = 50  # findings printed per file


def main() -> int:
    """Print every file's findings (exit 2), or its number of rows (exit 0)."""
    parser = Parser(prog="python -m finetune.dataset", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check files; exit 0 when all are fit, 2 when one is not")
    check.add_argument("files", nargs="+", metavar="FILE", help="a JSON list or JSONL file, or the id of a hub dataset")
    args = parser.parse_args()
    code = DONE
    for spec in args.files:
        source = parse(spec)
        if source.path is None:
            print(f"{spec}: a dataset of a hub; its rows are checked when they have been fetched")
            continue
        report = check_file(source.path)
        if not report.findings:
            print(f"{report.file}: {report.rows} rows, nothing to object to")
            continue
        code = UNUSABLE
        for finding in report.findings[:SHOWN]:
            print(f"error: {finding}", file=sys.stderr)
        if len(report.findings) > SHOWN:
            print(f"error: {report.file}: {len(report.findings) - SHOWN} more findings", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
