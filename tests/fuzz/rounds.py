"""How long a fuzz test runs, and what holds for every command under it; the tests of this folder use it.

`make test` takes the short profile: a fixed seed and a few seconds a test. `make fuzz` sets FUZZ_CPU_S: rounds with new
seeds until a file's tests have used that many seconds of processor time, its child processes' included.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from common.errors import run_main

ROUND = 500  # inputs of a round of the long profile
GROWTH_MIB = 256  # resident memory that a command may take on top of what the imports took
QUIET: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(strategy: SearchStrategy[Any], check: Callable[[Any], object], short: int, share: float = 1.0) -> int:
    """Call `check` with inputs of the strategy: `short` of them, or for FUZZ_CPU_S seconds. How many were tried.

    `share` is this test's part of the seconds, where a file has several tests.
    """
    budget = share * float(os.environ.get("FUZZ_CPU_S") or 0)
    tried = 0

    def counted(value: Any) -> None:
        nonlocal tried
        tried += 1
        check(value)

    if not budget:
        settings(max_examples=short, derandomize=True, **QUIET)(given(strategy)(counted))()
        return tried
    begin = cpu_seconds()
    number = int(os.environ.get("FUZZ_SEED") or time.time())
    while cpu_seconds() - begin < budget:
        print(f"seed {number}, {tried} inputs, {cpu_seconds() - begin:.0f} s, {peak_mib():.0f} MiB", flush=True)
        phases = (Phase.generate, Phase.shrink)
        seed(number)(settings(max_examples=ROUND, phases=phases, **QUIET)(given(strategy)(counted)))()
        number += 1
    print(
        f"{tried} inputs in {cpu_seconds() - begin:.0f} s of processor time, {peak_mib():.0f} MiB at most", flush=True
    )
    return tried


def call(
    main: Callable[[list[str]], int | None],
    words: list[str],
    codes: tuple[int, ...] = (0, 1, 2),
    errors: str = "strict",
) -> str:
    """A command in this process, as its launcher runs it: the exit code is one of `codes` and there is no traceback.

    argparse's own exits (--help) count as the command's. `errors` is how stdout takes what is no UTF-8. Returns what
    was said.
    """
    before = peak_mib()
    raw, raw_error = io.BytesIO(), io.BytesIO()
    out = io.TextIOWrapper(raw, "utf-8", errors)
    err = io.TextIOWrapper(raw_error, "utf-8", "backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: object = run_main(main, words)
        except SystemExit as end:
            code = end.code or 0
        out.flush()
        err.flush()
    said = raw.getvalue().decode() + raw_error.getvalue().decode()
    assert code in codes, f"exit code {code}: {said[-2000:]}"
    assert "Traceback" not in said and "internal error" not in said, said[-2000:]
    assert peak_mib() - before < GROWTH_MIB, f"{peak_mib() - before:.0f} MiB more than before; {words}"
    return said
