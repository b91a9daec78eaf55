"""The end of a verdict on a terminal of 100 columns: few lines, what is wrong, where things are, what comes next."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from finetune.verify.report import ending


@pytest.fixture
def screen(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """screen(*options, terminal=True): the exit code, and the lines that verify leaves on a terminal of 100 columns."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")

    def show(*options: str, terminal: bool = True) -> tuple[int, list[str]]:
        code = workspace.verify(*options)
        report = workspace.report()
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=100, no_color=True)
        ending.show(report, workspace.run / "verify", console)
        return code, re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()

    return show


def rows(lines: list[str]) -> int:
    """Rows of a terminal of 100 columns."""
    return sum(max(1, -(-cell_len(line) // 100)) for line in lines)


def test_a_pass_fits_on_a_screen(screen: Any, workspace: Any) -> None:
    code, lines = screen()
    assert code == 0
    assert rows(lines) <= ending.LINES
    assert "No answer is wrong, and none was lost." in lines[0]
    assert [line.split()[0] for line in lines[-3:]] == ["adapter", "report", "next"]
    assert re.search(r"^PASS  The fine-tune changed what it should", "\n".join(lines[-6:-3]), re.MULTILINE)
    assert all(cell_len(line) <= 100 for line in lines[:-3])
    assert lines[-3].endswith(str(workspace.checkpoint)) and lines[-2].endswith("verify/report.html")


def test_a_pass_with_many_wrong_answers_still_fits(screen: Any, workspace: Any) -> None:
    workspace.verify()
    heldout = [each for each in workspace.report()["questions"] if each["part"] == "heldout"]
    for question in heldout[:9]:
        workspace.table[question["messages"][-1]["content"]] = "我不知道。\n" * 40
    code, lines = screen()
    assert code == 0 and lines[0] == "Wrong or lost after the training: 9; the 6 worst, the report has all"
    assert sum(line.startswith("  ✗") for line in lines) == 6
    assert rows(lines) <= ending.LINES


def test_what_is_wrong_or_lost_is_shown_and_nothing_else(screen: Any, workspace: Any) -> None:
    workspace.rules["checkpoint-40"] = lambda said: "不知道。" if "北京" in said else said
    code, lines = screen()
    assert code == 1
    text = "\n".join(lines)
    assert "lost: it was right before" in text and "不知道。" in text
    assert "FAIL  " in text and "fell short: general tasks lost" in text
    assert not any(line.startswith("next") for line in lines)
    assert sum("✗" in line for line in lines) < 6  # the answer, and the thresholds that it took down


def test_a_task_that_the_base_cannot_do_is_not_lost(screen: Any, workspace: Any) -> None:
    for question, reference in list(workspace.table.items()):
        if "北京" in reference:
            workspace.table[question] = "不知道。"
    _, lines = screen()
    assert "lost: it was right before" not in "\n".join(lines)


def test_six_samples_of_different_sets(screen: Any, workspace: Any) -> None:
    workspace.verify()
    chosen = ending.samples(workspace.report())
    assert len(chosen) == ending.SAMPLES
    assert {"heldout", "general"} <= {question["part"] for question in chosen}
    _, lines = screen()
    start = next(number for number, line in enumerate(lines) if line.startswith("Sample"))
    assert all(chosen[n]["messages"][-1]["content"][:6] in lines[start + 1 + n] for n in range(6))


def test_through_make_everything_has_the_host_s_names(screen: Any, workspace: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MIRROR_VIA", "make")
    monkeypatch.setenv("MIRROR_HOST_OUTPUT", "/home/me/out")
    _, lines = screen()
    assert lines[-3].split() == ["adapter", "/home/me/out/run/checkpoint-40"]
    assert lines[-2].split() == ["report", "/home/me/out/run/verify/report.html"]
    assert "make chat · make infer ADAPTER=newest Q=" in lines[-1] and "make merge · make serve" in lines[-1]
    monkeypatch.setenv("MIRROR_HOST_DIR", "/home/me/mirror")
    monkeypatch.setenv("MIRROR_HOST_OUTPUT", "/home/me/mirror/my runs")  # else newest would be another folder's
    (*_, last) = screen()[1]
    assert "make chat OUTPUT='my runs' · make infer OUTPUT='my runs' ADAPTER=newest Q=" in last


def test_in_the_container_the_next_steps_are_scripts(screen: Any) -> None:
    _, lines = screen()
    assert "infer.sh --adapter newest" in lines[-1] and "merge.sh newest" in lines[-1]


def test_chinese_follows_the_screen_s_language(screen: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MIRROR_LANG", "zh")
    _, lines = screen()
    assert "没有答错" in lines[0] and "微调改变了该改变的内容" in lines[-4]
    assert [line.split()[0] for line in lines[-3:]] == ["适配器", "报告", "下一步"]
    values = [line.split(maxsplit=1)[1] for line in lines[-3:]]
    starts = {cell_len(line[: line.index(value)]) for line, value in zip(lines[-3:], values, strict=True)}
    assert len(starts) == 1  # in columns of the terminal


def test_sentences_are_broken_between_words_and_paths_never(screen: Any, workspace: Any) -> None:
    workspace.rules["checkpoint-40"] = lambda said: "不知道。"
    _, lines = screen()
    advice = next(at for at, line in enumerate(lines) if line.startswith("what to change"))
    assert all(cell_len(line) <= 100 for line in lines[advice : advice + 2])
    assert " ".join(line.strip() for line in lines[advice:-2]).startswith("what to change: ")
    assert lines[-1].endswith("verify/report.html")
    _, whole = screen(terminal=False)
    assert any(len(line) > 100 for line in whole if line.startswith("what to change"))


def test_all_prints_every_answer(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workspace.verify("--all") == 0
    every = capsys.readouterr().out
    assert workspace.verify() == 0
    brief = capsys.readouterr().out
    for question in workspace.report()["questions"]:
        assert question["id"] in every
    assert "wording-07" not in brief and len(brief.splitlines()) <= ending.LINES


def test_a_broken_terminal_sequence_in_an_answer_is_harmless(screen: Any, workspace: Any) -> None:
    workspace.rules["checkpoint-40"] = lambda said: said + "\x1b[2J\r\n"
    _, lines = screen()
    assert not set("".join(lines)) & {"\x1b", "\r"}
