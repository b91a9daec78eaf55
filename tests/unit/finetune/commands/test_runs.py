"""`runs`: what the folders say of themselves, in a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import run_main
from finetune.commands.runs import main


def make_run(output: Path, name: str, number: int, verdict: str | None = None, **more: Any) -> Path:
    folder = output / name
    (folder / "checkpoint-20").mkdir(parents=True)
    (folder / "checkpoint-20" / "adapter_model.safetensors").write_bytes(b"\0" * 3 * 2**20)
    record = {
        "name": "sft",
        "number": number,
        "status": "done",
        "started": "2026-11-26T01:00:00+00:00",
        "datasets": [{"name": "faq.csv", "path": "/data/faq.csv", "rows": 8, "sample": None}],
        "steps": 20,
        "first_loss": 4.25,
        "final_loss": 0.125,
        "adapter": "checkpoint-20",
    }
    (folder / "run.json").write_text(json.dumps(record | more))
    if verdict:
        (folder / "verify").mkdir()
        (folder / "verify" / "report.json").write_text(json.dumps({"verdict": verdict}))
    return folder


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def test_a_table_newest_first(output, capsys):
    make_run(output, "run-b", 1, "pass")
    make_run(output, "run-a", 2, "fail")
    assert run_main(main, []) == 0
    head, newest, older = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "data", "rows", "steps", "loss", "verdict", "size"]
    assert newest.split() == ["run-a", "faq.csv", "8", "20", "4.25", "->", "0.12", "FAIL", "3", "MiB"]
    assert older.split()[0] == "run-b" and "PASS" in older


def test_a_run_that_did_not_end_says_so(output, capsys):
    folder = make_run(output, "run-a", 1, status="killed", steps=None, first_loss=None, final_loss=None)
    (folder / "logging.jsonl").write_text('{"loss": 3.5, "global_step/max_steps": "4/20"}\n')
    make_run(output, "run-b", 2)  # never judged
    assert run_main(main, []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "killed" in lines[2] and lines[1].split()[-3] == "-"


def test_the_log_tells_of_a_run_under_way(output, capsys):
    folder = make_run(output, "run-a", 1)
    record = json.loads((folder / "run.json").read_text())
    for name in ("steps", "first_loss", "final_loss"):
        del record[name]
    (folder / "run.json").write_text(json.dumps(record | {"status": "running"}))
    (folder / "logging.jsonl").write_text('{"loss": 3.5, "global_step/max_steps": "4/20"}\n')
    assert run_main(main, ["--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["steps"], run["final_loss"], run["status"]) == (4, 3.5, "running")


def test_json_has_everything_by_the_host_s_names(output, monkeypatch, capsys):
    monkeypatch.setenv("MIRROR_HOST_OUTPUT", "/home/me/out")
    make_run(output, "run-a", 1, "pass", datasets=[{"name": "a/b#500", "path": None, "rows": None, "sample": 500}])
    assert run_main(main, ["--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["folder"] == "/home/me/out/run-a"
    assert (run["rows"], run["verdict"], run["adapter"]) == (500, "pass", "checkpoint-20")
    assert run["bytes"] > 3 * 2**20


def test_an_empty_folder_and_one_that_is_not_there(output, monkeypatch, capsys):
    monkeypatch.setenv("MIRROR_VIA", "make")
    assert run_main(main, []) == 0
    assert "make finetune makes one" in capsys.readouterr().err
    assert run_main(main, [str(output / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_broken_report_is_no_verdict(output, capsys):
    folder = make_run(output, "run-a", 1, "pass")
    (folder / "verify" / "report.json").write_text("{")
    assert run_main(main, []) == 0
    assert "PASS" not in capsys.readouterr().out


def test_a_verdict_is_called_the_same_in_chinese(output, monkeypatch, capsys):
    make_run(output, "run-a", 1, "fail")
    make_run(output, "run-b", 2, "pass")
    monkeypatch.setenv("MIRROR_LANG", "zh")
    assert run_main(main, []) == 0
    said = capsys.readouterr().out
    assert "PASS" in said and "FAIL" in said and "失败" not in said
