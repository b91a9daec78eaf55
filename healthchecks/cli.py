"""The command `healthcheck startup | report | probe`; called by the entry point, users and CI.

Exit codes: 0 all passed · 1 a check failed (report: the last run failed, or there was none) · 2 unusable arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from common import errors, exec_home, gpu_order, state
from common.errors import DONE, FAILED, UNUSABLE, Parser, UserError, exit_code
from common.i18n import _
from common.state import State
from healthchecks import gpu_in_use, probe, show, startup
from healthchecks.context import Context

T = TypeVar("T")


def parser() -> Parser:
    """The command line of `healthcheck`."""
    top = Parser(prog="healthcheck", description=_("Is this container fit to fine-tune?"))
    verbs = top.add_subparsers(dest="verb", required=True, metavar="startup|report|probe")
    start = verbs.add_parser("startup", help=_("run the checks and write health.json"))
    start.add_argument(
        "--level",
        choices=startup.LEVELS,
        help=_("full: all eight; fast: the first six; off (default: $HEALTH_LEVEL or full)"),
    )
    start.add_argument("--json", action="store_true", help=_("print health.json instead of the table"))
    start.add_argument(
        "--brief", action="store_true", help=_("one line unless something is wrong; HEALTH_VERBOSE=1 shows the table")
    )
    start.add_argument("--checksum", action="store_true", help=_("also prove the sha256 of every shard (reads 15 GB)"))
    report = verbs.add_parser("report", help=_("show the last run of the checks"))
    report.add_argument("--json", action="store_true", help=_("print health.json"))
    report.add_argument("--junit", metavar="FILE", type=Path, help=_("write JUnit XML for CI (- for stdout)"))
    look = verbs.add_parser(
        "probe", help=_("the state in one line: starting, ready, busy or failed; never touches the GPU")
    )
    look.add_argument("--json", action="store_true", help=_("the same for programs"))
    look.add_argument("--checked", action="store_true", help=_("exit 1 until the checks are over, whatever they found"))
    look.add_argument("--live", action="store_true", help=_("exit 1 only where a restart helps: a job that is stuck"))
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return exit_code(_run, arguments)


def _run(arguments: list[str] | None) -> int:
    options = parser().parse_args(arguments)
    if options.verb == "probe":
        return probe.main([name for name in ("--json", "--checked", "--live") if getattr(options, name[2:])])
    if options.verb == "report":
        return _report(options)
    exec_home.ensure()
    gpu_order.settle()
    return _startup(options)


def _startup(options: argparse.Namespace) -> int:
    level = options.level or os.environ.get("HEALTH_LEVEL") or "full"
    if level not in startup.LEVELS:
        raise UserError(_("HEALTH_LEVEL={level}: unknown level; set it to full, fast or off").format(level=level))
    context = Context.from_env()
    context.checksum = options.checksum
    busy = gpu_in_use.job_name(running=True)
    path = None if busy else _health_path()
    view = show.Plain(open(os.devnull, "w")) if options.json else show.make(brief=options.brief)  # noqa: SIM115
    context.progress = view.progress

    def listen(report: startup.Report) -> None:
        if path:
            _write(path, report)
        view.update(report)

    with view:
        report = startup.run(context, level, listen, busy, gpu_in_use.gpu)
    if busy:
        print(
            _("note: job {busy} is running, so the GPU was left alone and health.json as it was").format(busy=busy),
            file=sys.stderr,
        )
    elif report.state == State.READY:
        gpu_in_use.forget_dead_job()
    if options.json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    return FAILED if report.state == State.FAILED else DONE


def _report(options: argparse.Namespace) -> int:
    try:
        health = state.load(state.HEALTH_FILE)
        report = _as_report(health) if health is not None else None
    except state.UnreadableState as error:
        raise UserError(
            _("{reason}; run `healthcheck startup`, which rewrites it").format(reason=error), FAILED
        ) from error
    if report is None:
        raise UserError(_("the checks have not run since this start; run `healthcheck startup`"), FAILED)
    if options.junit:
        data = show.junit(report)
        try:
            if str(options.junit) == "-":
                sys.stdout.buffer.write(data + b"\n")
            else:
                options.junit.write_bytes(data)
        except OSError as error:
            raise UserError(
                _("{junit} cannot be written: {strerror}; name a file in $OUTPUT_DIR").format(
                    junit=options.junit, strerror=error.strerror
                )
            ) from error
    if options.json:
        print(json.dumps(health, ensure_ascii=False, indent=2))
    elif not options.junit:
        view = show.make()
        with view:
            view.update(report)
    if report.state == State.STARTING:
        print(_("error: the checks have not ended; `healthcheck probe` says whether they still run"), file=sys.stderr)
    return DONE if report.state == State.READY else FAILED


def _as_report(health: dict) -> startup.Report:
    """The report in health.json. Raises UnreadableState if a value is missing or has the wrong type."""
    try:
        rows = [_typed(startup.CheckRow, check) for check in health["checks"]]
        unknown = next((row.status for row in rows if row.status not in show.WORDS), None)
        if unknown is not None:
            raise ValueError(f"status {unknown!r}")
        if health["state"] not in (State.STARTING, State.READY, State.FAILED):
            raise ValueError(f"state {health['state']!r}")
        values = {name: health[name] for name in startup.Report.__dataclass_fields__}
        return _typed(startup.Report, values | {"checks": rows})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise state.UnreadableState(
            _("{health_file} is not one of this version ({name})").format(
                health_file=state.HEALTH_FILE, name=type(error).__name__
            )
        ) from error


def _typed(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass instance with these values.

    Raises TypeError or OverflowError if a value does not have its declared type.
    """
    hints = get_type_hints(kind)
    fit = dict(values)
    for name, value in fit.items():
        hint = hints[name]
        if hint is float and not isinstance(value, str):
            fit[name] = float(value)
        elif get_origin(hint) is list:
            if not isinstance(value, list) or not all(isinstance(item, get_args(hint)) for item in value):
                raise TypeError(name)
        elif not isinstance(value, hint):
            raise TypeError(name)
    return kind(**fit)


def _health_path() -> str | None:
    try:
        return f"{state.run_dir()}/{state.HEALTH_FILE}"
    except OSError as error:
        print(
            _("warning: health.json cannot be written, so the probe will say `starting`: {reason}").format(
                reason=error
            ),
            file=sys.stderr,
        )
        return None


def _write(path: str, report: startup.Report) -> None:
    try:
        state.write(path, report.as_dict())
    except OSError as error:
        print(
            _("warning: {path} cannot be written: {strerror}; is it another user's, or the disk full?").format(
                path=path, strerror=error.strerror
            ),
            file=sys.stderr,
        )


def leave() -> NoReturn:
    """`main` for the launcher; ends without interpreter clean-up, which would wait for torch and CUDA to unload."""
    for stream in (sys.stdout, sys.stderr):
        # A cause may name a file whose name is not UTF-8. (In JSON, the backslash form is the correct escape.)
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = main()
    except SystemExit as error:  # argparse
        code = error.code if isinstance(error.code, int) else UNUSABLE
    errors.leave(code)


if __name__ == "__main__":
    leave()
