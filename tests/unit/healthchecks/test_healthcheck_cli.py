"""The command `healthcheck`: whole runs, their files against the schema, exit codes, what a terminal or a log shows."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from common import lock_file, state
from healthchecks import cli, show, startup
from healthchecks.checks import packages
from healthchecks.context import Context, Failure
from healthchecks.startup import CheckRow, Report

ROOT = Path(__file__).resolve().parents[3]
LAUNCHER = ROOT / "entrypoint" / "bin" / "healthcheck"
SCHEMA = json.loads((ROOT / "docs" / "health.schema.json").read_text(encoding="utf-8"))
NAMES = ["driver", "storage", "weights", "tokenizer", "packages", "vram-free", "forward", "vram-ceiling"]


@pytest.fixture
def settings(run_dir, whole_model, tmp_path, monkeypatch) -> dict[str, str]:
    """The environment of a healthy container on a CPU, in this process and for others."""
    values = {
        "MODEL_DIR": str(whole_model),
        "OUTPUT_DIR": str(tmp_path / "output"),
        "MIRROR_DEVICE": "cpu",
        "MIRROR_ROOT": str(ROOT),
        "MIRROR_PYTHON": sys.executable,
        # The packages of the machine that tests the code need not be those of the lock: a lock of what is here.
        "MIRROR_TORCH_SPEC": "torch==0",
        "HEALTH_LEVEL": "",
        "NO_COLOR": "",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    lock = tmp_path / "image.lock"
    lock.write_text(f"tokenizers=={importlib.metadata.version('tokenizers')} \\\n    --hash=sha256:0\n")
    real = Context.from_env.__func__

    def from_env(cls, environ=None):
        context = real(cls, environ)
        context.lock_file = lock
        return context

    monkeypatch.setattr(Context, "from_env", classmethod(from_env))
    return values


def valid(value: dict) -> dict:
    jsonschema.validate(value, SCHEMA, cls=jsonschema.Draft202012Validator)
    return value


def health(run_dir: Path) -> dict:
    return valid(json.loads((run_dir / "health.json").read_text(encoding="utf-8")))


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(("level", "count"), [("full", 8), ("fast", 6), ("off", 0)])
def test_levels(settings, run_dir, capsys, level, count):
    assert cli.main(["startup", "--level", level]) == 0
    value = health(run_dir)
    assert [check["name"] for check in value["checks"]] == NAMES[:count]
    assert value["state"] == "ready"
    output = capsys.readouterr().out
    assert output.count("\n") == count + 1
    assert "\x1b" not in output
    assert cli.main(["probe"]) == 0


def test_level_from_the_environment(settings, run_dir, monkeypatch, capsys):
    monkeypatch.setenv("HEALTH_LEVEL", "off")
    assert cli.main(["startup", "--json"]) == 0
    assert valid(json.loads(capsys.readouterr().out))["level"] == "off"


def test_health_json_is_whole_and_valid_after_every_check(settings, run_dir, monkeypatch, capsys):
    seen = []
    real = state.write

    def write(path, value):
        real(path, value)
        seen.append(health(run_dir))

    monkeypatch.setattr(state, "write", write)
    assert cli.main(["startup", "--level", "fast"]) == 0
    assert [value["running"] for value in seen] == [[name] for name in NAMES[:6]] + [[]]
    assert [len(value["checks"]) for value in seen] == [0, 1, 2, 3, 4, 5, 6]
    assert {value["state"] for value in seen[:-1]} == {"starting"}
    assert sorted(os.listdir(run_dir)) == ["health.json", "job.lock"]  # no draft is left


def test_failure_is_exit_1_with_cause_and_remedy(settings, run_dir, monkeypatch, capsys):
    monkeypatch.setenv("MODEL_DIR", str(run_dir / "none"))
    assert cli.main(["startup", "--level", "fast"]) == 1
    output = capsys.readouterr().out
    assert "FAIL  weights" in output and "cause:" in output and "remedy:" in output
    assert output.splitlines()[-1].startswith("failed: weights, tokenizer")
    assert health(run_dir)["state"] == "failed"
    assert cli.main(["report", "--json"]) == 1
    valid(json.loads(capsys.readouterr().out))


def test_in_brief_a_line_says_all_where_nothing_is_wrong(settings, run_dir, monkeypatch, capsys):
    assert cli.main(["startup", "--brief", "--level", "fast"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("ready: 6 checks") and output.count("\n") == 1
    monkeypatch.setenv("HEALTH_VERBOSE", "1")
    assert cli.main(["startup", "--brief", "--level", "fast"]) == 0
    assert capsys.readouterr().out.count("\n") == 7


def test_in_brief_what_fails_is_shown_with_its_remedy(settings, run_dir, monkeypatch, capsys):
    monkeypatch.setenv("MODEL_DIR", str(run_dir / "none"))
    assert cli.main(["startup", "--brief", "--level", "fast"]) == 1
    output = capsys.readouterr().out
    assert "FAIL  weights" in output and "remedy:" in output and "pass  storage" not in output


def test_report_repeats_the_last_run(settings, run_dir, capsys):
    cli.main(["startup", "--level", "fast"])
    first = capsys.readouterr().out
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out == first


def test_report_without_a_run_and_with_a_broken_file(settings, run_dir, capsys):
    assert cli.main(["report"]) == 1
    assert capsys.readouterr().err.startswith("error: the checks have not run")
    for text in ('{"state": ', json.dumps({"container_start": state.container_start(), "checks": [{"x": 1}]})):
        (run_dir / "health.json").write_text(text)
        for more in ([], ["--junit", "-"]):
            assert cli.main(["report", *more]) == 1
            error = capsys.readouterr().err
            assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"checks": [{"name": None}]},
        {"checks": [{"status": "great"}]},
        {"checks": [{"seconds": "4"}]},
        {"checks": [{"seconds": 10**400}]},
        {"running": [[]]},
        {"seconds": None},
        {"state": "great"},
        {"state": None},
    ],
    ids=str,
)
def test_report_of_values_that_are_not_ours(settings, run_dir, capsys, change):
    """Valid JSON of this start, with a value of another type: one line, no traceback. Found by tests/fuzz."""
    cli.main(["startup", "--level", "fast"])
    found = json.loads((run_dir / "health.json").read_text())
    if "checks" in change:
        change = {"checks": [found["checks"][0] | change["checks"][0]]}
    (run_dir / "health.json").write_text(json.dumps(found | change))
    capsys.readouterr()
    assert cli.main(["report"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: health.json is not one of this version") and error.count("\n") == 1
    del found["state"]
    (run_dir / "health.json").write_text(json.dumps(found))
    assert cli.main(["report"]) == 1
    assert "is not one of this version (KeyError)" in capsys.readouterr().err


def test_report_while_the_checks_run(settings, run_dir, capsys):
    """Before the first check has ended there is nothing to show, and that is said. Found by tests/fuzz."""
    cli.main(["startup", "--level", "fast"])
    found = json.loads((run_dir / "health.json").read_text())
    (run_dir / "health.json").write_text(json.dumps(found | {"state": "starting", "checks": []}))
    capsys.readouterr()
    assert cli.main(["report"]) == 1
    assert capsys.readouterr().err.startswith("error: the checks have not ended")


def test_junit(settings, run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("MODEL_DIR", str(run_dir / "none"))
    cli.main(["startup", "--level", "full"])
    assert cli.main(["report", "--junit", str(tmp_path / "junit.xml")]) == 1
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert [case.get("name") for case in suite] == NAMES
    assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
    failure = suite.find("testcase[@name='weights']/failure")
    assert failure is not None and failure.get("type") == "no-model" and "remedy:" in (failure.text or "")
    assert suite.find("testcase[@name='forward']/skipped") is not None


def test_junit_holds_any_text():
    row = CheckRow("weights", "fail", "x", 0.1, "", "bad \x00\x1b\ud800 <&>", "r")
    report = Report("full", "failed", "2026-01-01T00:00:00+00:00", 1.0, checks=[row])
    ElementTree.fromstring(show.junit(report))


def test_junit_file_that_cannot_be_written(settings, run_dir, capsys):
    cli.main(["startup", "--level", "off"])
    assert cli.main(["report", "--junit", str(run_dir / "none" / "x.xml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "line", [[], ["start"], ["startup", "--level", "half"], ["startup", "--lvl"], ["report", "--junit"]]
)
def test_unusable_arguments(line, capsys):
    assert cli.main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:") and error.count("\n") == 1


def test_a_running_job_is_left_alone(settings, run_dir, capsys):
    """No memory is taken beside it, and what health.json says of the container stays."""
    from finetune.runs.gpu_lock import job

    cli.main(["startup", "--level", "off"])
    before = (run_dir / "health.json").read_bytes()
    with job("sft"):
        assert cli.main(["startup", "--level", "full"]) == 0
        output = capsys.readouterr()
        assert "not run, because job sft uses the GPU" in output.out
        assert output.err.startswith("note: job sft is running")
        assert (run_dir / "health.json").read_bytes() == before


def lock(folder: Path) -> int | None:
    """Another process's try for the GPU: the lock's descriptor, or None where it is held."""
    descriptor = lock_file.opened(str(folder))
    if lock_file.taken(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def test_the_checks_that_touch_the_gpu_hold_the_lock_of_jobs(settings, run_dir, monkeypatch, capsys):
    free = {}
    for name in ("weights", "vram_free", "forward"):
        module = importlib.import_module(f"healthchecks.checks.{name}")

        def look(context, name=name, real=module.check):
            descriptor = lock(run_dir)
            free[name] = descriptor is not None
            if descriptor is not None:
                os.close(descriptor)
            return real(context)

        monkeypatch.setattr(module, "check", look)
    assert cli.main(["startup", "--level", "full"]) == 0
    assert free == {"weights": True, "vram_free": False, "forward": False}
    descriptor = lock(run_dir)
    assert descriptor is not None  # let go of at the end
    os.close(descriptor)


def test_a_job_that_begins_during_the_checks_keeps_gpu_and_record(settings, run_dir, monkeypatch, capsys):
    from finetune.runs.gpu_lock import job
    from healthchecks.checks import weights

    with contextlib.ExitStack() as stack:
        real = weights.check

        def begins(context):
            stack.enter_context(job("sft", total=9)).step(3)
            return real(context)

        monkeypatch.setattr(weights, "check", begins)
        assert cli.main(["startup", "--level", "full"]) == 0
        assert "not run, because job sft uses the GPU" in capsys.readouterr().out
        assert json.loads((run_dir / "job.json").read_text())["name"] == "sft"
        assert cli.main(["probe"]) == 0
        assert "sft step 3/9" in capsys.readouterr().out


def test_a_job_waits_for_the_checks_without_being_asked(settings, run_dir, monkeypatch, capsys):
    from finetune.runs.gpu_lock import job
    from healthchecks.checks import forward

    real, ended = forward.check, []
    checks = threading.Thread(target=lambda: ended.append(cli.main(["startup", "--level", "full"])))
    inside = threading.Event()

    def slow(context):
        inside.set()
        time.sleep(0.6)
        return real(context)

    monkeypatch.setattr(forward, "check", slow)
    checks.start()
    assert inside.wait(60)
    with job("sft"):
        checks.join()
        assert (run_dir / "job.json").exists()
    assert ended == [0]
    assert "sft waits for healthcheck startup to end" in capsys.readouterr().err


def test_the_record_of_a_killed_job_whose_program_still_runs_stays(settings, run_dir, capsys):
    record = {"container_start": state.container_start(), "name": "sft", "writer": {"pid": 1, "start": -1}}
    state.write(f"{run_dir}/job.json", record)
    descriptor = lock(run_dir)
    assert cli.main(["startup", "--level", "off"]) == 0
    assert (run_dir / "job.json").exists()
    assert cli.main(["startup", "--level", "full"]) == 0
    assert "not run, because job sft uses the GPU" in capsys.readouterr().out
    os.close(descriptor)


def test_a_good_run_clears_the_record_of_a_killed_job(settings, run_dir, capsys):
    record = {"container_start": state.container_start(), "name": "sft", "writer": {"pid": 1, "start": -1}}
    state.write(f"{run_dir}/job.json", record)
    cli.main(["startup", "--level", "off"])
    assert cli.main(["probe"]) == 0


def test_a_run_folder_that_cannot_be_written_is_a_warning(settings, monkeypatch, capsys):
    monkeypatch.setattr(state, "candidates", lambda: ["/proc/none"])
    assert cli.main(["startup", "--level", "off"]) == 0
    assert "warning: health.json cannot be written" in capsys.readouterr().err


# ---- on a terminal ----


def on_terminal(*command: str, **more: str) -> str:
    """What the launcher shows on a terminal 100 columns wide."""
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"} | more
    if not environment.get("NO_COLOR"):
        environment.pop("NO_COLOR", None)  # by its specification an empty one means no
    ours, theirs = pty.openpty()
    running = subprocess.Popen([LAUNCHER, *command], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    while True:
        try:
            output += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    running.wait()
    return output.decode()


def test_a_table_on_a_terminal(settings, run_dir):
    output = on_terminal("startup", "--level", "fast")
    assert "┏━" in output and "\x1b[32m" in output
    assert "weights" in output and "tokenizer" in output


def test_in_brief_a_terminal_keeps_one_line(settings, run_dir):
    output = on_terminal("startup", "--brief", "--level", "fast")
    assert "┏━" not in output and "checking: " in output
    assert re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).rstrip().splitlines()[-1].startswith("ready: 6 checks")


def test_no_color_on_a_terminal(settings, run_dir):
    output = on_terminal("startup", "--level", "fast", NO_COLOR="1")
    assert "┏━" in output
    assert "\x1b[32m" not in output and "\x1b[1;31m" not in output


def test_a_narrow_table_cuts_nothing_off(monkeypatch):
    address = "https://example.org/" + "long/" * 30
    monkeypatch.setenv("COLUMNS", "60")
    stream = io.StringIO()
    row = CheckRow("driver", "fail", "no-gpu", 0.1, "", "no GPU", f"see {address}")
    with show.Table(stream) as table:
        table.update(Report("fast", "failed", checks=[row]))
    assert "…" not in stream.getvalue()
    assert stream.getvalue().count("long/") >= 25


def test_a_dumb_terminal_gets_plain_lines(settings, run_dir):
    output = on_terminal("startup", "--level", "off", TERM="dumb")
    assert output == "ready: not checked (HEALTH_LEVEL=off)\r\n"


# ---- packages ----


def test_the_lock_is_read_with_its_markers():
    text = 'a==1 ; python_version < "3"\nb==2 \\\n    --hash=sha256:0\n    # via x\nc==3 ; python_version >= "3"\n'
    assert [requirement.name for requirement in packages.locked(text)] == ["b", "c"]


def test_packages_that_differ(context):
    context.lock_file.write_text("tokenizers==0.0.1\nno-such-package==1\n")
    with pytest.raises(Failure) as caught:
        packages.check(context)
    assert caught.value.code == "packages-differ"
    assert "(lock: 0.0.1)" in caught.value.cause and "no-such-package none" in caught.value.cause


def test_the_lock_of_a_layer_over_the_image_wins(context):
    """An image of make build SERVE=vllm has some packages older than image.lock says."""
    installed = importlib.metadata.version("tokenizers")
    context.lock_file.write_text("tokenizers==99\n")
    context.lock_file.with_name("over.lock").write_text(f"tokenizers=={installed}\n")
    assert packages.check(context).figure.startswith("1 ")
    context.lock_file.with_name("over.lock").write_text(f"tokenizers=={installed}\nno-such-package==1\n")
    with pytest.raises(Failure, match="no-such-package none"):
        packages.check(context)


def test_a_build_with_its_own_torch_says_so(context):
    pytest.importorskip("torch")
    context.lock_file.write_text("torch==0.1\nnvidia-cublas-cu12==1\ntriton==1\n")
    with pytest.raises(Failure):
        packages.check(context)
    context.torch_spec = "torch==2.13.0+cpu"
    assert "as this build asked for" in packages.check(context).figure


def test_the_real_lock_can_be_read():
    found = packages.locked((ROOT / "requirements" / "image.lock").read_text(encoding="utf-8"))
    assert {"torch", "ms-swift", "nvidia-ml-py"} <= {requirement.name for requirement in found}
    assert len(found) > 100


def test_each_level_has_its_checks_in_order():
    assert list(startup.checks_of("full")) == NAMES
    assert list(startup.checks_of("fast")) == NAMES[:6]
    assert startup.checks_of("off") == {}
