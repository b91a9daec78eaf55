"""The probe: what each pair of health.json and job.json means, its exit code, its time, and what it imports."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import state
from healthchecks import probe

ROOT = Path(__file__).resolve().parents[3]
LAUNCHER = ROOT / "entrypoint" / "bin" / "healthcheck"


def health(run_dir: Path, **changes: object) -> None:
    check = {"name": "weights", "status": "pass", "code": "", "seconds": 0.1, "figure": "4 shards"}
    value = {
        "schema": 1,
        "container_start": state.container_start(),
        "writer": state.this_process(),
        "state": "ready",
        "level": "full",
        "seconds": 4.2,
        "running": [],
        "checks": [check],
    }
    state.write(f"{run_dir}/health.json", value | changes)


def job(run_dir: Path, **changes: object) -> None:
    value = {
        "schema": 1,
        "container_start": state.container_start(),
        "writer": state.this_process(),
        "name": "sft",
        "step": 12,
        "total": 40,
        "beat": state.now(),
        "stale_s": 600.0,
    }
    state.write(f"{run_dir}/job.json", value | changes)


def look(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = probe.main([])
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    return code, line


def dead_process() -> dict:
    child = subprocess.Popen(["sleep", "60"])
    record = {"pid": child.pid, "start": state.process_start(child.pid)}
    child.kill()
    child.wait()
    return record


def test_ready(run_dir, capsys):
    health(run_dir)
    assert look(capsys) == (0, "ready: 1 checks at level full, 4.2 s\n")


def test_ready_names_warnings(run_dir, capsys):
    health(run_dir, checks=[{"name": "forward", "status": "warn"}])
    assert look(capsys)[1].endswith("; warnings: forward\n")


def test_not_checked(run_dir, capsys):
    health(run_dir, level="off", checks=[])
    assert look(capsys) == (0, "ready: not checked (HEALTH_LEVEL=off)\n")


def test_missing_file_is_starting(run_dir, capsys):
    code, line = look(capsys)
    assert code == 1
    assert line.startswith("starting: no start-up check has reported yet")


def test_starting_names_the_check_under_way(run_dir, capsys):
    health(run_dir, state="starting", running=["forward"])
    assert look(capsys) == (1, "starting: running: forward\n")


def test_checks_that_were_killed(run_dir, capsys):
    health(run_dir, state="starting", running=["forward"], writer=dead_process())
    code, line = look(capsys)
    assert code == 1
    assert line.startswith("failed: the start-up checks were killed during: forward")
    assert "memory" in line


def test_failed_names_cause_and_remedy(run_dir, capsys):
    failed = {"name": "weights", "status": "fail", "cause": "model-2 is missing", "remedy": "build again"}
    health(run_dir, state="failed", checks=[failed, failed | {"name": "storage"}])
    assert look(capsys) == (1, "failed: weights: model-2 is missing (and 1 more); build again\n")


def test_a_file_of_another_start_is_not_believed(run_dir, capsys):
    health(run_dir, container_start="another-boot/77")
    job(run_dir, container_start="another-boot/77", writer=dead_process())
    assert look(capsys)[1].startswith("starting")


@pytest.mark.parametrize("name", ["health.json", "job.json"])
@pytest.mark.parametrize("text", ["", '{"state": "rea', "[]", "\x00\x01", "null", '{"a":' * 20000])
def test_half_written_file_is_failed(run_dir, capsys, name, text):
    health(run_dir)
    (run_dir / name).write_text(text)
    code, line = look(capsys)
    assert code == 1
    assert line.startswith("failed: ") and name in line
    assert "healthcheck startup" in line or "next job" in line


@pytest.mark.parametrize("changes", [{"state": "wonderful"}, {"state": None}, {"state": "failed", "checks": None}])
def test_nonsense_is_failed(run_dir, capsys, changes):
    health(run_dir, **changes)
    code, line = look(capsys)
    assert (code, line[:7]) == (1, "failed:")


def test_busy_shows_job_and_step(run_dir, capsys):
    health(run_dir)
    job(run_dir)
    assert look(capsys) == (0, "busy: sft step 12/40\n")


def test_busy_before_the_first_step(run_dir, capsys):
    health(run_dir)
    job(run_dir, step=None, phase="loading")
    assert look(capsys) == (0, "busy: sft (loading)\n")


def test_a_failed_check_outweighs_a_job(run_dir, capsys):
    health(run_dir, state="failed", checks=[{"name": "storage", "status": "fail", "cause": "c", "remedy": "r"}])
    job(run_dir)
    assert look(capsys)[0] == 1


def test_stale_heartbeat_is_failed(run_dir, capsys):
    health(run_dir)
    job(run_dir, beat=state.now() - 700)
    code, line = look(capsys)
    assert code == 1
    assert "job sft is stuck step 12/40: no sign of life for 700 s (the limit is 600 s)" in line
    assert "MIRROR_STALE_S" in line


def test_a_job_without_a_limit_is_never_stale(run_dir, capsys):
    health(run_dir)
    job(run_dir, beat=state.now() - 1e6, stale_s=0)
    assert look(capsys)[0] == 0


def test_killed_job_is_failed(run_dir, capsys):
    health(run_dir)
    job(run_dir, writer=dead_process())
    code, line = look(capsys)
    assert code == 1
    assert line.startswith("failed: job sft was killed step 12/40") and "start the job again" in line


def test_zombie_counts_as_dead(run_dir, capsys):
    health(run_dir)
    child = subprocess.Popen(["true"])
    start = None
    while start is None:
        start = state.process_start(child.pid) or 1
    while Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.01)
    job(run_dir, writer={"pid": child.pid, "start": start})
    code, _ = look(capsys)
    child.wait()
    assert code == 1


def test_a_reused_pid_is_not_the_job(run_dir, capsys):
    health(run_dir)
    job(run_dir, writer={"pid": os.getpid(), "start": 1})
    assert look(capsys)[0] == 1


def test_fallback_folder(run_dir, tmp_path, monkeypatch, capsys):
    """Under --read-only the files are in the second place; one of another start in the first is skipped."""
    monkeypatch.setattr(state, "FALLBACK_RUN_DIR", str(tmp_path / "second"))
    (tmp_path / "second").mkdir()
    health(run_dir, container_start="another-boot/77", state="failed")
    health(tmp_path / "second")
    assert look(capsys)[0] == 0


def test_odd_characters_stay_in_one_line(run_dir, capsys):
    health(run_dir)
    job(run_dir, name="a\nb\ud800")
    assert look(capsys) == (0, "busy: a b\\ud800 step 12/40\n")


@pytest.mark.parametrize("name", ["beat", "stale_s"])
def test_a_number_beyond_all_floats(run_dir, capsys, name):
    health(run_dir)
    job(run_dir, **{"beat": 1.0, "stale_s": 600.0, name: 10**400})
    assert look(capsys)[0] in (0, 1)


def test_json_holds_what_utf_8_cannot_write(run_dir, capfd):
    health(run_dir)
    job(run_dir, name="\ud800")
    probe.main(["--json"])
    assert json.loads(capfd.readouterr().out)["job"]["name"] == "\ud800"


def test_json(run_dir, capsys):
    health(run_dir)
    job(run_dir)
    assert probe.main(["--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["state"] == "busy"
    assert value["job"]["step"] == 12


@pytest.mark.parametrize(
    ("changes", "more", "checked", "live"),
    [
        ({"state": "failed", "checks": [{"name": "driver", "status": "fail"}]}, None, 0, 0),
        ({"state": "starting", "running": ["forward"]}, None, 1, 0),
        ({"state": "starting", "writer": {"pid": 1, "start": -1}}, None, 1, 0),
        ({"container_start": "another-boot/77"}, None, 1, 0),
        ({}, None, 0, 0),
        ({}, {"writer": {"pid": 1, "start": -1}}, 0, 0),
        ({}, {}, 0, 0),
        ({}, {"beat": -1e6}, 0, 1),
    ],
)
def test_the_probes_of_kubernetes(run_dir, capsys, changes, more, checked, live):
    """A restart does not bring back a lost GPU, and throws out who is looking into it: only a stuck job is not live."""
    health(run_dir, **changes)
    if more is not None:
        job(run_dir, **more)
    assert probe.main(["--checked"]) == checked
    assert probe.main(["--live"]) == live


def test_unusable_argument(run_dir, capsys):
    assert probe.main(["--jsn"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(("ready", "failed")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
HEALTH_KEYS = ("state", "level", "checks", "running", "writer", "seconds", "schema")
JOB_KEYS = ("writer", "name", "step", "total", "phase", "beat", "stale_s", "killed")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(HEALTH_KEYS), ANYTHING),
    st.none() | st.dictionaries(st.sampled_from(JOB_KEYS), ANYTHING),
)
def test_whatever_the_files_hold_there_is_one_line_and_a_code(run_dir, capsys, health_values, job_values):
    """Only a whole record says healthy: ready by its word, busy by a living process."""
    health(run_dir, **health_values)
    if job_values is not None:
        job(run_dir, **job_values)
    code, line = look(capsys)
    (run_dir / "job.json").unlink(missing_ok=True)
    assert code in (0, 1)
    assert line.split(":")[0] in (("ready", "busy") if code == 0 else ("starting", "failed"))


# ---- the whole process ----


def environment(run_dir: Path) -> dict[str, str]:
    return os.environ | {"MIRROR_ROOT": str(ROOT), "MIRROR_PYTHON": sys.executable, "MIRROR_RUN_DIR": str(run_dir)}


def test_whole_process_is_fast(run_dir):
    """60 ms is the bar on a quiet machine; processor time is what does not depend on what else runs there."""
    health(run_dir)
    used = []
    for _ in range(9):
        before = os.times()
        done = subprocess.run([LAUNCHER, "probe"], env=environment(run_dir), capture_output=True, text=True)
        after = os.times()
        assert done.returncode == 0, done.stderr
        used.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert statistics.median(used) < 0.06


def test_only_the_standard_library_is_imported(run_dir):
    health(run_dir)
    job(run_dir)
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from healthchecks.probe import main
main(["--json"])
names = {{name.split(".")[0] for name in sys.modules}}
print(sorted(names - set(sys.stdlib_module_names) - {{"common", "healthchecks", "__main__"}}))
print(sorted(name for name in sys.modules if name.startswith(("common", "healthchecks"))))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], env=environment(run_dir), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["[]", "['common', 'common.state', 'healthchecks', 'healthchecks.probe']"]


def test_bounds_its_own_time(run_dir):
    """A file that never answers: a pipe without a writer hangs every reader, as a dead network mount does."""
    os.mkfifo(run_dir / "health.json")
    begin = time.monotonic()
    done = subprocess.run([LAUNCHER, "probe"], env=environment(run_dir), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stdout.startswith("failed: the probe could not read")
    assert time.monotonic() - begin < probe.LIMIT_S + 2


def test_a_users_module_in_the_working_folder_is_not_imported(run_dir, tmp_path):
    health(run_dir)
    (tmp_path / "json.py").write_text("raise SystemExit(99)")
    done = subprocess.run(
        [LAUNCHER, "probe"], env=environment(run_dir) | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0
