"""The entry point without a container: which command runs, when it is refused, hooks, home, log lines.

`healthcheck` is a small script here whose exit code each test sets. Real containers are in tests/image.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).resolve().parents[3] / "entrypoint"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@dataclass
class House:
    """A made-up container: entry point, workspace, PATH."""

    root: Path
    environment: dict[str, str]

    def run(self, *command: str, **more: object) -> subprocess.CompletedProcess[str]:
        line = [str(self.root / "entrypoint" / "entrypoint.sh"), *command]
        more.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=20, **more)


@pytest.fixture
def house(tmp_path: Path) -> House:
    """The entry point, three scripts (`sft` takes its options to stdout), and a healthcheck that ends with $HEALTH."""
    for part in ("entrypoint.sh", "log.sh", "start.d", "read_ahead.py"):
        (tmp_path / "entrypoint").mkdir(exist_ok=True)
        (tmp_path / "entrypoint" / part).symlink_to(ENTRYPOINT / part)
    script(tmp_path / "entrypoint" / "bin" / "plan", "# Says what fits the card.\necho planned")
    script(tmp_path / "root" / "sft.sh", '# Fine-tunes the model.\necho "sft $*"; exit 3')
    script(tmp_path / "root" / "check.sh", "# Looks at the data.\n# health: off\necho checked")
    script(tmp_path / "root" / "light.sh", "# Needs no forward pass.\n# health: fast\necho light")
    (tmp_path / "root" / "notes.sh").write_text("not executable")
    script(tmp_path / "bin" / "healthcheck", 'echo "healthcheck $*"; exit "${HEALTH:-0}"')
    return House(
        tmp_path,
        {
            "PATH": f"{tmp_path}/bin:{tmp_path}/entrypoint/bin:/usr/bin:/bin",
            "MIRROR_ENTRYPOINT_DIR": str(tmp_path / "entrypoint"),
            "MIRROR_WORKSPACE": str(tmp_path / "root"),
            "MIRROR_RUN_DIR": str(tmp_path / "run"),
            "HOME": str(tmp_path / "root"),
            "HEALTH_LEVEL": "full",
        },
    )


@pytest.mark.parametrize("name", ["sft", "sft.sh", "./sft.sh", "{root}/sft.sh"])
def test_a_scripts_name_runs_the_script_after_the_checks(house, name):
    done = house.run(name.format(root=house.root / "root"), "--num_train_epochs", "3 4")
    assert done.returncode == 3
    assert done.stdout == "sft --num_train_epochs 3 4\n"
    assert "healthcheck startup --brief --level full" in done.stderr


def test_a_script_is_refused_after_a_failed_check(house):
    house.environment["HEALTH"] = "1"
    done = house.run("sft")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ERROR[" in done.stderr and "sft.sh was not started" in done.stderr and "HEALTH_LEVEL=off" in done.stderr


def test_unusable_settings_refuse_with_2(house):
    house.environment["HEALTH"] = "2"
    assert house.run("sft").returncode == 2
    assert house.run("true").returncode == 0


def test_any_other_command_starts_all_the_same(house):
    house.environment["HEALTH"] = "1"
    done = house.run("sh", "-c", "echo inside; exit 5")
    assert (done.returncode, done.stdout) == (5, "inside\n")
    assert "WARNING[" in done.stderr and "sh starts all the same" in done.stderr


@pytest.mark.parametrize(
    ("command", "asked", "level"),
    [
        ("sft", "full", "full"),
        ("sft", "fast", "fast"),
        ("sft", "off", "off"),
        ("light", "full", "fast"),
        ("light", "off", "off"),
        ("check", "full", "off"),
        ("check", "fast", "off"),
        ("plan", "full", "full"),
        ("sft", None, "full"),
        ("sft", "half", "half"),  # for healthcheck to complain about
    ],
)
def test_a_script_can_ask_for_fewer_checks_and_never_for_more(house, command, asked, level):
    house.environment.pop("HEALTH_LEVEL")
    if asked is not None:
        house.environment["HEALTH_LEVEL"] = asked
    assert f"healthcheck startup --brief --level {level}\n" in house.run(command).stderr


@pytest.mark.parametrize(
    "words", [("sft", "--help"), ("sft", "-h"), ("light", "--x", "1", "--help"), ("look",), ("look", "file.json")]
)
def test_help_and_what_looks_at_no_model_are_not_checked(house, words):
    """Not even where a check would fail: `docker run IMAGE infer --help` with Docker's own 64 MiB of /dev/shm."""
    script(house.root / "entrypoint" / "bin" / "look", "# Looks at data.\n# health: none\necho looked")
    house.environment["HEALTH"] = "1"
    done = house.run(*words)
    assert "healthcheck" not in done.stderr and "not started" not in done.stderr
    assert done.stdout.split()[0] in ("sft", "light", "looked")


def test_help_behind_two_dashes_is_a_word(house):
    assert "healthcheck startup" in house.run("sft", "--", "--help").stderr


@pytest.mark.parametrize("name", ["plan", "check-data", "runs"])
def test_tools_without_a_model_ask_for_no_checks(name):
    assert "# health: none" in (ENTRYPOINT / "bin" / name).read_text().splitlines()[:12]


def test_healthcheck_as_a_command_is_that_and_no_more(house):
    done = house.run("healthcheck", "startup", "--json")
    assert done.stdout == "healthcheck startup --json\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command", ["nosuchcommand", "--foo", "notes", "../sft.sh", "", "sft; rm -rf /", "$(id)", "a\nb", "/"]
)
def test_an_unknown_command_is_127_with_the_list_of_commands(house, command):
    done = house.run(command)
    assert done.returncode == 127
    assert done.stdout == ""
    assert "healthcheck startup" not in done.stderr  # said before the checks take their seconds
    for name in ("sft", "plan", "healthcheck", "Fine-tunes the model."):
        assert name in done.stderr


@pytest.mark.parametrize("command", ["help", "--help", "-h"])
def test_help(house, command):
    done = house.run(command)
    assert done.returncode == 0
    assert "Fine-tunes the model." in done.stdout and "Says what fits the card." in done.stdout
    assert "notes" not in done.stdout


def test_commands_from_a_pipe(house):
    done = subprocess.run(
        [house.root / "entrypoint" / "entrypoint.sh"],
        env=house.environment,
        input="echo from the pipe\n",
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout == "from the pipe\n"


def test_without_command_and_terminal_it_stays(house):
    running = subprocess.Popen(
        [house.root / "entrypoint" / "entrypoint.sh"],
        env=house.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr
    assert "staying up" in running.stderr.readline()
    assert "healthcheck startup" in running.stderr.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.5)
    running.terminate()
    assert running.wait(5) == -15


# ---- hooks ----


@pytest.fixture
def hook(house) -> Callable[..., Path]:
    folder = house.root / "entrypoint" / "start.d"
    folder.unlink()
    folder.mkdir()

    def add(name: str, text: str, mode: int = 0o644) -> Path:
        (folder / name).write_text(text)
        (folder / name).chmod(mode)
        return folder / name

    return add


def test_hooks_run_in_order_and_sourced_ones_may_export(house, hook):
    hook("10-first.sh", "export SEEN=first")
    hook("20-second", '#!/bin/sh\necho "second after $SEEN"', 0o755)
    hook("30-third.sh", 'SEEN="$SEEN third"')
    done = house.run("sh", "-c", 'echo "$SEEN"')
    assert done.stdout.splitlines() == ["second after first", "first third"]


def test_a_failing_hook_is_named_and_the_start_goes_on(house, hook):
    sourced, run = hook("10-bad.sh", "false"), hook("20-bad", "#!/bin/sh\nexit 9", 0o755)
    done = house.run("echo", "here")
    assert done.returncode == 0
    assert "here" in done.stdout
    assert f"hook {sourced} failed (exit 1)" in done.stderr
    assert f"hook {run} failed (exit 9)" in done.stderr


def test_a_hook_that_is_neither_is_passed_over_with_a_word(house, hook):
    path = hook("10-data.txt", "x")
    assert f"hook {path} is neither" in house.run("true").stderr


def test_no_hooks(house, hook):
    assert house.run("true").returncode == 0


# ---- home, name and run folder ----


@pytest.mark.parametrize("home", ["/", "", "/proc/none"])
def test_a_home_that_cannot_be_used_is_replaced(house, home):
    house.environment["HOME"] = home
    done = house.run("sh", "-c", 'cd "$HOME" && touch it && rm it && stat -c "%a %u" . && echo "$HOME"')
    assert done.returncode == 0
    mode, path = done.stdout.splitlines()
    assert mode == f"700 {os.getuid()}"
    assert path.startswith("/tmp/home-")


def test_a_good_home_stays(house):
    assert house.run("sh", "-c", 'echo "$HOME"').stdout == f"{house.root}/root\n"


def test_run_folder_falls_back_to_tmp(house):
    house.environment["MIRROR_RUN_DIR"] = "/proc/none"
    assert house.run("sh", "-c", 'echo "$MIRROR_RUN_DIR"').stdout == "/tmp/mirror\n"


# ---- sourced, and log lines ----


def test_sourcing_gives_functions_and_does_nothing(house):
    code = 'source "$MIRROR_ENTRYPOINT_DIR/entrypoint.sh" && declare -F main mirror_script && mirror_script sft'
    done = subprocess.run(["bash", "-c", code], env=house.environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["main", "mirror_script", f"{house.root}/root/sft.sh"]
    assert done.stderr == ""


def test_log_lines_have_level_and_time(house):
    code = 'source "$MIRROR_ENTRYPOINT_DIR/log.sh"; mirror_note one two; mirror_warn three; mirror_error four'
    done = subprocess.run(["bash", "-c", code], env=house.environment, capture_output=True, text=True)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split("[")[0] for line in lines] == ["INFO", "WARNING", "ERROR"]
    assert lines[0].endswith("] one two") and len(lines[0]) == len("INFO[00:00:00] one two")


@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_only_on_a_terminal_that_wants_it(house, extra, coloured):
    ours, theirs = pty.openpty()
    code = 'source "$MIRROR_ENTRYPOINT_DIR/log.sh"; mirror_error no'
    environment = house.environment | {"TERM": "xterm"} | extra
    subprocess.run(["bash", "-c", code], env=environment, stderr=theirs, check=True)
    os.close(theirs)
    assert (b"\x1b[31mERROR\x1b[0m" in os.read(ours, 1000)) is coloured
    os.close(ours)


# ---- reading ahead ----


@pytest.mark.parametrize(
    ("command", "setting", "reads"),
    [
        (("sft",), {}, True),
        (("sh", "-c", "true"), {}, True),
        (("plan",), {}, False),
        (("help",), {}, False),
        (("sft",), {"MIRROR_READ_AHEAD": "0"}, False),
    ],
)
def test_the_weights_are_read_while_the_container_starts(house, command, setting, reads):
    """A `python` that notes how it is called: before anything else, and by no command that loads no model."""
    note = house.root / "note"
    house.environment |= setting | {"MODEL_DIR": "/models/x", "MIRROR_PYTHON": str(house.root / "bin" / "python")}
    script(house.root / "bin" / "python", f'echo "$*" >"{note}.new" && mv "{note}.new" "{note}"')
    house.run(*command)
    for _ in range(100 if reads else 5):
        if note.exists():
            break
        time.sleep(0.05)
    assert note.exists() == reads
    if reads:
        assert note.read_text() == f"-I -S {house.root}/entrypoint/read_ahead.py /models/x\n"


def test_reading_ahead_is_no_child_of_the_job(house):
    """The job would have to wait for it, or leave a zombie."""
    house.environment["MIRROR_PYTHON"] = str(script(house.root / "bin" / "python", "sleep 2"))
    done = house.run("sh", "-c", "cat /proc/$$/task/$$/children")
    assert done.stdout.strip().split()[1:] == []  # cat itself is one


@pytest.mark.parametrize(
    ("variables", "chinese"),
    [
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"MIRROR_LANG": "zh"}, True),
        ({"MIRROR_LANG": "en", "LANG": "zh_CN.UTF-8"}, False),
        ({"LC_ALL": "C.UTF-8", "LANG": "zh_CN.UTF-8"}, False),
        ({"LANG": "zhuang"}, False),
    ],
)
def test_the_entry_point_speaks_the_language_of_the_commands(house, variables, chinese):
    for name in ("MIRROR_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        house.environment.pop(name, None)
    house.environment |= {"HEALTH": "1", **variables}
    refused, listed = house.run("sft"), house.run("help")
    assert ("没有启动，因为有启动检查没有通过" in refused.stderr) is chinese
    assert ("was not started" in refused.stderr) is not chinese
    assert ("用法：docker run" in listed.stdout) is chinese


def test_its_chinese_has_full_width_marks():
    from tests.unit.chinese import half_width

    texts = re.findall(r'"([^"\n]*[\u3400-\u9fff][^"\n]*)"', (ENTRYPOINT / "entrypoint.sh").read_text(encoding="utf-8"))
    assert len(texts) > 8
    assert [wrong for text in texts for wrong in half_width(text)] == []
