"""`healthcheck probe`: the container's state in one line, for HEALTHCHECK and Kubernetes, from two files and no GPU.

It runs every few seconds during training, so it imports only the standard library and `common`, reads two small
files and ends itself after LIMIT_S: Docker does not kill a probe that timed out.
"""

from __future__ import annotations

import os
import signal
import sys

from common import state

State = state.State
LIMIT_S = 2.0  # for the whole probe; HEALTHCHECK --timeout is longer

DONE, FAILED, UNUSABLE = 0, 1, 2
RERUN = "run `healthcheck startup` in the container"


def status() -> dict:
    """The state as `{"state", "message", "cause", "remedy", "job", "check", "checked", "live"}`; absent parts are None.

    state is starting, ready, busy or failed. Anything that cannot be read counts as unhealthy. `checked`: the start-up
    checks are over, with any result. `live` is False only if a restart would help: for a job that is stuck. A failed
    check is no reason to restart, least of all a lost GPU.
    """
    health, problem = _load(state.HEALTH_FILE)
    result = _failed(problem, f"{RERUN}; it writes the file anew") if problem else _judge(health)
    result["checked"] = health is not None and health.get("state") in (State.READY, State.FAILED)
    return result


def _judge(health: dict | None) -> dict:
    job, problem = _load(state.JOB_FILE)
    if problem:
        return _failed(problem, "delete it once no job runs, or start the next job, which writes it anew")

    if health and health.get("state") == State.FAILED:
        return _failed_check(health)
    if health and health.get("state") == State.STARTING:
        return _starting(health)
    if job:
        return _with_job(job)
    if health is None:
        return _state(
            State.STARTING,
            "no start-up check has reported yet",
            remedy=f"wait; if the container was started with its own --entrypoint, {RERUN}",
        )
    if health.get("state") != State.READY:
        return _failed(f"health.json has no known state ({health.get('state')!r})", RERUN)
    if health.get("level") == "off":
        return _state(State.READY, "not checked (HEALTH_LEVEL=off)")
    checks = health.get("checks")
    warnings = [check.get("name") for check in _dicts(checks) if check.get("status") == "warn"]
    message = f"{len(_dicts(checks))} checks at level {health.get('level')}, {health.get('seconds')} s"
    return _state(State.READY, message + (f"; warnings: {', '.join(map(str, warnings))}" if warnings else ""))


def _load(name: str) -> tuple[dict | None, str | None]:
    """A state file of this container start (None: there is none), and what is wrong with it, if anything."""
    try:
        return state.load(name), None
    except state.UnreadableState as error:
        return None, str(error)


def _starting(health: dict) -> dict:
    running = ", ".join(map(str, health.get("running") or [])) or "the first check"
    if not state.alive(health.get("writer")):
        return _failed(
            f"the start-up checks were killed during: {running}",
            f"often out of memory: give the container more (docker run --memory), then {RERUN}",
        )
    return _state(State.STARTING, f"running: {running}", check=running)


def _failed_check(health: dict) -> dict:
    failed = [check for check in _dicts(health.get("checks")) if check.get("status") == "fail"]
    if not failed:
        return _failed("health.json says failed and names no check", RERUN)
    first = failed[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    result = _failed(f"{first.get('name')}: {first.get('cause')}{more}", str(first.get("remedy")))
    result["check"] = first.get("name")
    return result


def _with_job(job: dict) -> dict:
    name = job.get("name")
    where = step_text(job)
    if job.get("killed"):
        return _failed(
            f"job {name} was killed by {job['killed']}{where}",
            "SIGKILL is mostly the memory limit (docker run --memory). Start the job again; saved checkpoints are kept",
            job,
        )
    if not state.alive(job.get("writer")):
        return _failed(
            f"job {name} was killed{where} and left its record behind",
            "start the job again, or run `healthcheck startup`, which clears the record; saved checkpoints are kept",
            job,
        )
    silent = state.now() - _number(job.get("beat"))
    limit = _number(job.get("stale_s"))
    if limit > 0 and silent > limit:
        return _failed(
            f"job {name} is stuck{where}: no sign of life for {silent:.0f} s (the limit is {limit:.0f} s)",
            "look at its output, end it and start it again; if it is only slow, raise MIRROR_STALE_S (0: no limit)",
            job,
        ) | {"live": False}
    return _state(State.BUSY, f"{name}{where}", job=job)


def step_text(job: dict) -> str:
    """ " step 12/40", " step 12", the job's phase, or nothing, depending on what the job has reported."""
    step, total, phase = job.get("step"), job.get("total"), job.get("phase")
    if isinstance(step, int):
        return f" step {step}/{total}" if isinstance(total, int) else f" step {step}"
    return f" ({phase})" if phase else ""


def _state(name: State, message: str, **parts: object) -> dict:
    empty = {"cause": None, "remedy": None, "job": None, "check": None, "live": True}
    return {"state": name, "message": message, **empty, **parts}


def _failed(cause: str, remedy: str, job: dict | None = None) -> dict:
    return _state(State.FAILED, f"{cause}; {remedy}", cause=cause, remedy=remedy, job=job)


def _dicts(value: object) -> list[dict]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else 0.0
    except OverflowError:  # JSON may contain an integer of any size
        return 0.0


def _out_of_time(signum: int, frame: object) -> None:
    # os._exit: the process may hang in a read on a dead mount, where a normal exit could hang as well.
    os.write(1, b"failed: the probe could not read the container's state in time; is the machine overloaded?\n")
    os._exit(FAILED)


def main(arguments: list[str] | None = None) -> int:
    """`healthcheck probe`: one line on stdout; exit 0 for ready and busy, 1 for starting and failed.

    Kubernetes has two more probes: with --checked (start-up), 1 until the checks are over; with --live (liveness), 1
    only if a restart would help. --json prints the whole status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not {"--json", "--checked", "--live"}.issuperset(arguments):
        print("error: healthcheck probe takes --json, --checked and --live, nothing else", file=sys.stderr)
        return UNUSABLE
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    result = status()
    if "--json" in arguments:
        import json

        line = json.dumps(result, ensure_ascii=False)
    else:
        # One line, whatever a broken file contains.
        line = " ".join(f"{result['state']}: {result['message']}".split())
    # A lone surrogate must not break the output; JSON writes it as \udXXX, too.
    print(line.encode("utf-8", "backslashreplace").decode("utf-8"))
    signal.setitimer(signal.ITIMER_REAL, 0)
    good = result["state"] in (State.READY, State.BUSY)
    for name in ("live", "checked"):
        if f"--{name}" in arguments:
            good = result[name]
    return DONE if good else FAILED


if __name__ == "__main__":
    sys.exit(main())
