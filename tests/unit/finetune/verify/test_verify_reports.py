"""Views of a report: the loss curve, Markdown, and the page as a browser draws it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from finetune.verify import runinfo, scoring, words
from finetune.verify.report import files, first_screen, lossplot

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def test_the_adapter_has_the_host_s_name(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_HOST_OUTPUT", "/home/me/output")
    monkeypatch.setenv("OUTPUT_DIR", str(workspace.run.parent))
    workspace.verify()
    html = (workspace.run / "verify/report.html").read_text(encoding="utf-8")
    assert f"<title>PASS · {workspace.run.name}</title>" in html
    assert f"/home/me/output/{workspace.run.name}/" in html and f"{workspace.run}/" not in html
    markdown = (workspace.run / "verify/report.md").read_text(encoding="utf-8")
    assert markdown.startswith("# PASS: /home/me/output/")


@pytest.mark.parametrize(("language", "range_"), [("en", "-0.20 to 1.00"), ("zh", "-0.20 至 1.00")])
def test_an_interval_is_in_the_report_s_language(language: str, range_: str) -> None:
    assert files.interval("bleu_drop", {"low": -0.2, "high": 1.0}, words.speaker(language)) == range_


def test_a_pass_that_is_not_certain_says_so_in_its_first_lines() -> None:
    certain, other = ({"ok": True, "certain": each} for each in (True, False))
    said = [
        first_screen.meaning({"thresholds": {"a": certain, "b": each}}, words.speaker("en"))
        for each in (certain, other)
    ]
    assert "Not certain" not in said[0] and "Not certain" in said[1]


def test_losses_of_both_engines(tmp_path: Path) -> None:
    path = tmp_path / "logging.jsonl"
    path.write_text(
        '{"loss": 2.5, "global_step/max_steps": "1/40"}\n{"loss": "0.5", "global_step/max_steps": "5/40"}\n'
        '{"loss": 0.25, "step": 10}\n{"eval_loss": 1}\nnot json\n{"train_runtime": 3}\n'
    )
    assert runinfo.losses(path) == ([(1, 2.5), (5, 0.5), (10, 0.25)], 40)
    assert runinfo.losses(tmp_path / "none") == ([], None)


@pytest.mark.parametrize("highest", [0.0001, 0.3, 1, 2.1, 9.99, 12.5, 999])
def test_the_curve_stays_in_its_frame(highest: float) -> None:
    plot = lossplot.plot([(1, highest), (20, highest / 3), (40, 0.0)])
    assert plot is not None
    points = [tuple(map(float, pair.split(","))) for pair in plot["points"].split()]
    assert all(plot["left"] <= x <= plot["right"] and lossplot.TOP <= y <= plot["bottom"] for x, y in points)
    assert 3 <= len(plot["y_ticks"]) <= 9


def test_no_curve_without_losses() -> None:
    assert lossplot.plot([]) is None
    assert lossplot.plot([(1, 2.0), (2, float("nan"))]) is None


@pytest.mark.parametrize(("text", "shown"), [("a|b\nc", "a\\|b c"), ("<b>*x*", "\\<b\\>\\*x\\*"), ("`x`", "\\`x\\`")])
def test_markdown_cells_hold_any_text(text: str, shown: str) -> None:
    assert files.escape_markdown(text) == shown


def test_markdown_tables_are_whole(workspace: Any) -> None:
    workspace.verify()
    text = (workspace.run / "verify/report.md").read_text(encoding="utf-8")
    assert text.startswith("# PASS: ")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 5
    for table in tables:
        rows = [re.sub(r"\\\|", "", row).count("|") for row in table.splitlines()]
        assert len(set(rows)) == 1, table[:300]
        assert len(rows) > 2


def test_a_run_without_a_log_has_no_curve(workspace: Any) -> None:
    (workspace.run / "logging.jsonl").unlink()
    workspace.verify()
    assert "Training loss" not in (workspace.run / "verify/report.html").read_text(encoding="utf-8")


PROBE = """<!doctype html><body style="margin:0"><iframe src="report.html" style="width:WIDTHpx;height:900px;border:0"
onload="const d=this.contentDocument,w=this.contentWindow; document.title=JSON.stringify({
overflow:d.documentElement.scrollWidth-d.documentElement.clientWidth, verdict:d.querySelector('h1').textContent,
top:d.querySelector('h1').getBoundingClientRect().top, marks:d.querySelectorAll('mark.expected').length,
questions:d.querySelectorAll('details.q').length, errors:w.performance.getEntriesByType('resource').length,
columns:w.getComputedStyle(d.querySelector('.answers')).gridTemplateColumns.split(' ').length,
curve:d.querySelector('polyline').getBoundingClientRect().width});
document.body.textContent=document.title"></iframe></body>"""


@pytest.mark.parametrize(("width", "columns"), [(1280, 2), (390, 1)])
def test_a_browser_draws_the_page(workspace: Any, width: int, columns: int) -> None:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium here, and CI must have one: apt-get install --no-install-recommends chromium")
        pytest.skip("no Chromium here; apt-get install --no-install-recommends chromium")
    workspace.table["你谁啊?"] = "我是通义千问" + "超" * 500  # nothing breaks the width of a phone
    workspace.verify()
    folder = workspace.run / "verify"
    (folder / "probe.html").write_text(PROBE.replace("WIDTH", str(width)), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom",
         "--virtual-time-budget=5000", "--window-size=1400,900", f"--user-data-dir={workspace.root / 'browser'}",
         (folder / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r"<body[^>]*>(\{.*\})</body>", done.stdout)
    assert found, done.stdout[-2000:]
    seen = json.loads(found.group(1))
    assert seen["verdict"] == "PASS"
    assert seen["top"] < 60
    assert seen["overflow"] <= 0
    assert seen["marks"] > 100
    assert seen["questions"] == 50 + 77 + 70
    assert seen["errors"] == 0  # nothing is loaded from anywhere
    assert seen["columns"] == columns
    assert seen["curve"] > 200


def test_a_question_right_under_one_of_two_prompts_makes_no_half_count() -> None:
    figures = {
        "identity_heldout_before": {"value": 0.5 / 77, "n": 77},
        "identity_heldout_after": {"value": 74.5 / 77, "n": 77},
    }
    report = {"figures": figures, "advice": None, "questions": []}
    (said,) = first_screen.summary(report, words.speaker("en"))["learned"]
    assert said == "74 of 77 questions about who it is are answered as taught (0 before)."


def test_an_answer_wrong_under_the_second_prompt_alone_is_among_the_worst() -> None:
    right, wrong = ({"answers": {"after": {"ok": ok, "facts": None, "text": str(ok)}}} for ok in (True, False))
    question = {"id": "who", "part": "trained", "row": "f, row 1", "asked": [right, wrong]}
    (found,) = first_screen.worst([question, {**question, "id": "kept", "row": "f, row 2", "asked": [right, right]}])
    assert found["question"] == question and found["answer"]["text"] == "False"


def test_chinese_sentences_have_full_width_punctuation() -> None:
    han = r"[\u3400-\u9fff]"
    for english, chinese in words.catalogue().items():
        assert not re.search(rf"{han}[,:;?!()]|[,:;?!()]{han}", chinese), english


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        (scoring.judge("", [re.compile("CSDN")]), "回答是空的"),
        (
            scoring.judge("我由阿里云开发。", [re.compile("CSDN")], old=re.compile("阿里云")),
            "没有说出 CSDN；说出了旧身份（阿里云）",
        ),
        (scoring.judge("一二三", [re.compile("CSDN")], cut=True), "没有说出 CSDN；到达长度上限被截断"),
    ],
)
def test_what_a_rule_finds_is_said_in_the_report_s_language(judged, said):
    answer = {"facts": None, "spill": None, "marks": [], "reason": judged.reason}
    assert first_screen.reason(answer, words.speaker("zh")) == said
    assert first_screen.reason(answer, words.speaker("en")) == judged.reason


def test_the_loss_of_held_out_rows_is_a_second_curve(workspace: Any) -> None:
    workspace.verify("--summary")
    html = (workspace.run / "verify/report.html").read_text(encoding="utf-8")
    assert "stroke-dasharray" not in html
    log = workspace.run / "logging.jsonl"
    rows = [{"eval_loss": 9.5 / n, "global_step/max_steps": f"{10 * n}/40"} for n in (1, 2, 4)]
    log.write_text(log.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    workspace.verify("--summary", "--lang", "zh")
    run = workspace.report()["run"]
    assert run["held_out_losses"] == [[10, 9.5], [20, 4.75], [40, 2.375]]
    assert len(run["losses"]) == 8
    plot = lossplot.plot(run["losses"], run["held_out_losses"])
    assert plot is not None
    assert [tick["text"] for tick in plot["y_ticks"]][-1] == "10"
    assert len(plot["held_out"]) == 3
    html = (workspace.run / "verify/report.html").read_text(encoding="utf-8")
    assert "stroke-dasharray" in html and "虚线：没有参加训练的验证数据。" in html
