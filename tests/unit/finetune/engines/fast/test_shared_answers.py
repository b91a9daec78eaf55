"""Questions shared out among two processes (gloo, the tiny model): one's answers, in order; a lost process is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.engines.fast import shared
from finetune.verify import base_cache
from tests.unit.finetune import fast_home
from tests.unit.finetune.engines.fast.test_several_processes import runs, workers_of
from tests.unit.finetune.real_swift import ROOT

VERIFY = ("-m", "finetune.commands.verify", "--config", str(ROOT / "workspace/configs/verify.yaml"))


def test_every_piece_goes_to_one_process_and_none_has_much_more_than_another() -> None:
    costs = [500, 1, 1, 300, 200, 7, 7, 90]
    found = shared.parts(costs, 3)
    assert sorted(place for part in found for place in part) == list(range(8))
    assert all(part == sorted(part) for part in found)
    loads = [sum(costs[place] for place in part) for part in found]
    assert max(loads) == 500 and min(loads) > 290
    assert shared.parts([5], 2) == [[0], []]


@pytest.fixture(scope="module")
def trained(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder with a run of 40 steps."""
    return fast_home.finished(home, tmp_path_factory, "--num_train_epochs", "10")[0].parent


def verify(home: Path, output: Path, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *VERIFY, *more], cwd=home, env=fast_home.environ(home, output, **env),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_two_processes_give_the_answers_of_one(home: Path, trained: Path, tmp_path: Path) -> None:
    reports = {}
    for count in ("1", "2"):
        out = tmp_path / count
        base_cache.forget(trained)
        done = verify(home, trained, "--max-new-tokens", "12", "--output", str(out), NPROC_PER_NODE=count)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr  # a tiny model passes nothing
        assert ("2 processes answer, each a part of the questions" in done.stderr) == (count == "2")
        reports[count] = json.loads((out / "report.json").read_text())
    assert len(reports["1"]["questions"]) > 50
    assert reports["2"]["questions"] == reports["1"]["questions"]  # with the likelihoods of the data's answers
    assert reports["2"]["figures"] == reports["1"]["figures"]


def test_finetune_shares_out_the_verdict_among_those_that_trained(home: Path, trained: Path, tmp_path: Path) -> None:
    config = Path(VERIFY[-1]).read_text().replace("../", f"{ROOT}/workspace/").replace("general: 256", "general: 24")
    (tmp_path / "verify.yaml").write_text(config)  # the tiny model has 256 positions
    asked = str(tmp_path / "verify.yaml")
    words = ["sft", "--config", str(home / "configs/sft.yaml"), "--verify-config", asked, "--run", "job"]
    done = subprocess.run(
        [sys.executable, "-m", "finetune.commands.finetune", *words, "--num_train_epochs", "2"],
        cwd=home, env=fast_home.environ(home, tmp_path / "output", NPROC_PER_NODE="2", HEALTH_LEVEL="off"),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "4 rows a step on 2 processes" in done.stderr
    assert "2 processes answer, each a part of the questions" in done.stderr
    report = json.loads((tmp_path / "output/job/verify/report.json").read_text())
    out = str(tmp_path / "alone")
    base_cache.forget(tmp_path / "output")
    alone = verify(home, tmp_path / "output", "--config", asked, "--output", out, NPROC_PER_NODE="1")
    assert alone.returncode == 1, alone.stderr
    assert json.loads((tmp_path / "alone/report.json").read_text())["questions"] == report["questions"]


def test_a_killed_process_ends_the_verdict_with_the_cause(home: Path, trained: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, *VERIFY, "--max-new-tokens", "100", "--output", str(tmp_path / "out")],
        cwd=home, env=fast_home.environ(home, trained, NPROC_PER_NODE="2"), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("asking"):
                break
        (worker,) = workers_of(process)
        os.kill(worker, signal.SIGKILL)
        said = fast_home.said(process)
    assert process.returncode == 1
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "the questions were not all answered: process 1 of 2 was killed by SIGKILL" in error
    assert not runs(worker) and not (tmp_path / "out/report.json").exists()
