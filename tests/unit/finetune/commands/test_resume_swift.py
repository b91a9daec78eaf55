"""ENGINE=swift killed once and resumed ends at the losses of a run that was never stopped; the real ms-swift."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.unit.finetune import fast_home

pytestmark = pytest.mark.flow


def test_sigkill_and_resume(tmp_path: Path, official_tokenizer_dir: Path) -> None:
    home = fast_home.make(tmp_path / "home", official_tokenizer_dir)
    straight, killed = tmp_path / "a/output", tmp_path / "b/output"
    done = fast_home.command(home, straight, "--max_steps", "6", ENGINE="swift")
    assert done.returncode == 0, done.stderr[-3000:]
    code = fast_home.kill_at(home, killed, 4, "--max_steps", "6", ENGINE="swift")
    assert code == -signal.SIGKILL
    folder = fast_home.the_run(killed)
    assert fast_home.record(folder)["engine"] == "ms-swift"
    assert not (folder / "checkpoint-6").exists(), "it was killed too late to show anything"
    newest = folder / "checkpoint-4"
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:-50])
    done = fast_home.command(home, killed, "--resume", ENGINE="fast")  # the run's own engine counts
    assert done.returncode == 0, done.stderr[-3000:]
    assert "checkpoint-4 is skipped: optimizer.pt is cut short" in done.stderr
    assert f"resume: {folder} from checkpoint-2" in done.stderr
    wanted = fast_home.losses(fast_home.the_run(straight))
    assert len(wanted) == 6
    assert fast_home.losses(folder)[-4:] == pytest.approx(wanted[-4:], abs=1e-6)
    record = fast_home.record(folder)
    assert (record["status"], record["adapter"], record["engine"]) == ("done", "checkpoint-6", "ms-swift")
