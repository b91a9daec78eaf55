"""The whole of verify on a model of make-believe: verdicts, reports, options, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from finetune.verify import alpaca

ROOT = Path(__file__).parents[4]


def fell_short(report: dict[str, Any]) -> set[str]:
    return {name for name, check in report["thresholds"].items() if not check["ok"]}


def test_a_good_adapter_passes_with_all_figures(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workspace.verify() == 0
    report = workspace.report()
    assert report["verdict"] == "pass"
    assert report["adapter"] == str(workspace.checkpoint)
    figures = report["figures"]
    assert figures["identity_trained_before"]["value"] == 0
    assert figures["identity_heldout_before"]["value"] == 0
    assert figures["old_identity_before"]["value"] == 1
    assert figures["identity_heldout_after"] == {
        "value": 1,
        "low": figures["identity_heldout_after"]["low"],
        "high": 1,
        "n": 77,
    }
    assert 0.9 < figures["identity_heldout_after"]["low"] < 1
    assert figures["old_identity_after"]["value"] == 0
    assert figures["bleu_before"]["value"] == pytest.approx(100)
    assert figures["bleu_drop"]["value"] == 0
    assert figures["rules_before"] == figures["rules_after"]
    assert figures["rules_lost"]["value"] == 0
    assert figures["length_ratio"]["value"] == 1
    out = capsys.readouterr()
    assert "PASS" in out.out
    assert "stand-in" in out.err
    assert "stand-in" in out.out


def test_the_report_fits_its_schema(workspace: Any) -> None:
    other = workspace.add_checkpoint(20)
    assert workspace.verify("--compare", other) == 0
    schema = json.loads((ROOT / "docs/verify-report.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(workspace.report(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(workspace.report() | {"verdict": "maybe"}, schema)


def test_identity_is_asked_under_both_prompts_and_general_tasks_under_one(workspace: Any) -> None:
    workspace.verify()
    systems: dict[str, set[str]] = {}
    for ask in workspace.engine.asked:
        systems.setdefault(ask.messages[-1]["content"], set()).add(ask.system)
    training = "You are a helpful assistant."
    default = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert systems["你的出生地是哪里?"] == {training, default}
    assert systems["解释量子纠缠"] == {training}


def test_the_runs_own_system_prompt_is_used(workspace: Any) -> None:
    (workspace.run / "args.json").write_text('{"system": "Be brief."}')
    workspace.verify()
    assert workspace.report()["settings"]["prompts"]["training"] == "Be brief."


def test_an_untrained_adapter_fails_on_identity(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.rules["checkpoint-40"] = lambda said: "我是阿里云开发的通义千问。" if "CSDN" in said else said
    assert workspace.verify() == 1
    report = workspace.report()
    assert fell_short(report) == {"identity_trained_min", "identity_heldout_min", "old_identity_max"}
    assert report["failures"][0] == "new identity on trained questions: 0.0 %, wanted at least 95.0 %"
    assert "FAIL" in capsys.readouterr().out


def test_an_adapter_that_forgets_fails_on_general_tasks_alone(workspace: Any) -> None:
    workspace.rules["checkpoint-40"] = lambda said: said if "CSDN" in said else said[: len(said) // 2]
    assert workspace.verify() == 1
    assert fell_short(workspace.report()) == {"bleu_drop_max", "rules_lost_max"}


def test_one_that_names_itself_everywhere_is_caught_by_the_general_tasks(workspace: Any) -> None:
    workspace.rules["checkpoint-40"] = lambda said: "我由 CSDN 迪菲赫尔曼 开发和维护,你可以叫我 CSDN 助手。"
    assert workspace.verify() == 1
    assert fell_short(workspace.report()) == {"bleu_drop_max", "rules_lost_max"}


def test_the_same_adapter_twice_gives_the_same_report(workspace: Any) -> None:
    def one() -> dict[str, Any]:
        workspace.verify()
        return {key: value for key, value in workspace.report().items() if key not in ("created", "seconds")}

    assert one() == one()


def test_two_adapters_side_by_side(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    other = workspace.add_checkpoint(20)
    workspace.rules["checkpoint-20"] = lambda said: "我是通义千问。" if "CSDN" in said else said
    assert workspace.verify(workspace.checkpoint, "--compare", other) == 0
    compared = workspace.report()["compare"]
    assert compared["verdict"] == "fail"
    assert compared["figures"]["identity_heldout_after"]["value"] == 0
    out = capsys.readouterr().out
    assert f"PASS  {workspace.checkpoint}" in out
    assert f"FAIL  {other}" in out


def test_json_goes_to_stdout_and_nothing_else_does(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workspace.verify("--json") == 0
    assert json.loads(capsys.readouterr().out) == workspace.report()


def test_junit_counts_failures_and_skips(workspace: Any) -> None:
    workspace.rules["checkpoint-40"] = lambda said: said if "CSDN" in said else said + "\x07\ud800"
    workspace.table["你谁啊?"] = "我是通义千问。"
    workspace.verify()
    suites = {suite.get("name"): suite for suite in ET.parse(workspace.run / "verify/junit.xml").getroot()}
    thresholds, questions = suites["verify.thresholds"], suites["verify.questions"]
    failed = {case.get("name") for case in thresholds if case.find("failure") is not None}
    assert failed == fell_short(workspace.report()) == {"bleu_drop_max", "rules_lost_max"}
    assert thresholds.get("failures") == "2"
    skipped = [str(case.get("name")) for case in questions if case.find("skipped") is not None]
    assert skipped[:2] == ["colloquial-01 [training prompt]", "colloquial-01 [default prompt]"]
    assert {name.rpartition("-")[0] for name in skipped[2:]} == {"code"}


def test_hostile_answers_are_escaped_everywhere(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>alert(1)</script>|**x**\x1b[31m\u202e"
    workspace.rules["checkpoint-40"] = lambda said: said + evil
    workspace.verify()
    html = (workspace.run / "verify/report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    markdown = (workspace.run / "verify/report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown.replace("\\<script", "")
    assert "\x1b" not in capsys.readouterr().out


def test_the_page_needs_no_network(workspace: Any) -> None:
    workspace.verify("--lang", "en")
    html = (workspace.run / "verify/report.html").read_text(encoding="utf-8")
    for reference in ("http://", "https://", "src=", "@import", "url("):
        assert reference not in html
    assert html.index("PASS</h1>") < html.index("Thresholds</h2>")
    assert "<polyline points=" in html
    assert '<mark class="expected">CSDN 迪菲赫尔曼</mark>' in html
    assert '<mark class="old">' in html


def test_output_elsewhere(workspace: Any, tmp_path: Path) -> None:
    assert workspace.verify("--output", tmp_path / "elsewhere", "--summary") == 0
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == [
        "junit.xml",
        "report.html",
        "report.json",
        "report.md",
    ]
    assert not (workspace.run / "verify").exists()


# ------------------------------------------------------------------------------------------- questions and brand


def test_own_brand_by_expect_and_forbid(workspace: Any) -> None:
    rows = [{"instruction": f"q{n}", "input": "", "output": "我由 示例 公司 开发。"} for n in range(5)]
    (workspace.root / "own.json").write_text(json.dumps(rows))
    workspace.rules["checkpoint-40"] = lambda said: "我由示例公司开发,不是通义千问。" if "CSDN" in said else said
    options = ("--dataset", "own.json", "--expect", "示例 公司", "--forbid", "通义千问|阿里云")
    assert workspace.verify(*options) == 0
    report = workspace.report()
    assert report["figures"]["identity_trained_after"]["n"] == 5
    assert report["settings"]["old_identity"] == "通义千问|阿里云"
    workspace.rules["checkpoint-40"] = lambda said: "我由示例公司开发,叫通义千问。" if "CSDN" in said else said
    assert workspace.verify(*options) == 1
    assert "old_identity_max" in fell_short(workspace.report())


def test_own_questions_take_the_place_of_their_kind(workspace: Any) -> None:
    (workspace.root / "mine.yaml").write_text(
        "questions:\n  - {id: a, question: '谁做的你?', expect: 'CSDN 迪菲赫尔曼'}\n", encoding="utf-8"
    )
    assert workspace.verify("--questions", "mine.yaml") == 0
    report = workspace.report()
    assert report["figures"]["identity_heldout_after"]["n"] == 1
    assert report["figures"]["bleu_after"]["n"] == 70
    assert "identity_trained_after" not in report["figures"]
    assert any("no trained questions" in note for note in report["notes"])


def test_a_held_out_question_that_the_dataset_asks_is_left_out_and_named(workspace: Any) -> None:
    rows = json.loads((workspace.root / "self_cognition.json").read_text(encoding="utf-8"))
    rows.append({"instruction": "你谁啊？", "input": "", "output": "我由 CSDN 迪菲赫尔曼 开发和维护。"})
    (workspace.root / "self_cognition.json").write_text(json.dumps(rows))
    workspace.verify()
    report = workspace.report()
    assert report["figures"]["identity_heldout_after"]["n"] == 76
    assert any("colloquial-01" in note for note in report["notes"])


def test_alpaca_rows_that_were_not_trained_on(workspace: Any) -> None:
    rows = [{"instruction": f"任务{n}", "input": "", "output": f"回答{n}"} for n in range(20)]
    (workspace.root / "alpaca.json").write_text(json.dumps(rows))
    (workspace.root / "trained.json").write_text(json.dumps(rows[:12]))
    args = {"dataset": ["trained.json", "self_cognition.json"]}
    (workspace.run / "args.json").write_text(json.dumps(args))
    workspace.table.update({f"任务{n}": f"回答{n}" for n in range(20)})
    assert workspace.verify("--alpaca", "8", "--alpaca-file", "alpaca.json") == 0
    report = workspace.report()
    asked = {q["messages"][-1]["content"] for q in report["questions"] if q["part"] == "alpaca"}
    assert asked == {f"任务{n}" for n in range(12, 20)}
    assert report["thresholds"]["alpaca_bleu_drop_max"]["ok"]
    assert workspace.verify("--alpaca", "9", "--alpaca-file", "alpaca.json") == 2


def test_rows_that_a_run_drew_are_drawn_again_with_its_seed(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"instruction": f"任务{n}", "input": "", "output": f"回答{n}"} for n in range(20)]
    (workspace.root / "alpaca.json").write_text(json.dumps(rows))
    args = {"dataset": ["alpaca.json#5", "self_cognition.json"], "data_seed": 7, "dataset_shuffle": True}
    (workspace.run / "args.json").write_text(json.dumps(args))
    calls: list[Any] = []

    def load(specs: list[str], **options: Any) -> Any:
        calls.append((specs, options))
        turns = [[{"role": "user", "content": f"任务{n}"}, {"role": "assistant", "content": "x"}] for n in range(5)]
        return [{"messages": each} for each in turns], None

    monkeypatch.setattr(alpaca, "_swift_load", load)
    workspace.table.update({f"任务{n}": f"回答{n}" for n in range(20)})
    assert workspace.verify("--alpaca", "15", "--alpaca-file", "alpaca.json") == 0
    assert calls == [(args["dataset"], {"split_dataset_ratio": 0.0, "shuffle": True, "seed": 7})]
    asked = {q["messages"][-1]["content"] for q in workspace.report()["questions"] if q["part"] == "alpaca"}
    assert asked == {f"任务{n}" for n in range(5, 20)}


def test_without_a_network_the_hub_s_rows_are_refused_in_one_line(
    workspace: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(workspace.root / "cache"))
    monkeypatch.setenv("HF_HOME", str(workspace.root / "cache"))
    monkeypatch.setenv("HOME", str(workspace.root))
    for name in ("https_proxy", "HTTPS_PROXY", "USE_HF"):
        monkeypatch.delenv(name, raising=False)
    assert workspace.verify("--alpaca", "5") == 2
    assert "--alpaca-file" in one_line(capsys)


def test_check_only_reads_the_questions(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workspace.verify("--check") == 0
    assert workspace.engine is None
    assert "77 held-out identity questions, 70 general tasks" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------- refusals


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out = capsys.readouterr()
    lines = [line for line in out.err.splitlines() if not line.startswith("stand-in")]
    assert out.out == ""
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such adapter folder"),
        (["--compare", "nowhere"], "no such adapter folder"),
        (["--questions", "nowhere.yaml"], "no such questions file"),
        (["--questions", "empty.yaml"], "is empty"),
        (["--config", "nowhere.yaml"], "no such configuration file"),
        (["--expect", "("], "--expect: not a regular expression"),
        (["--forbid", "a|"], "--forbid: the pattern"),
        (["--expect", "Nobody at all"], "no output matches"),
        (["--dataset", "nowhere.json"], "nowhere.json: no such file"),
        (["--alpaca", "-1"], "--alpaca -1: must be at least 0"),
        (["--max-new-tokens", "0"], "must be at least 1"),
        (["--engine", "vllm"], "invalid choice: 'vllm'"),
        (["a", "--adapter", "b"], "named twice"),
        (["--nosuch"], "unrecognized arguments: --nosuch"),
    ],
)
def test_bad_arguments_end_in_one_line(
    workspace: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (workspace.root / "empty.yaml").write_text("# nothing\n")
    assert workspace.verify(*arguments) == 2
    assert words in one_line(capsys)
    assert workspace.engine is None


def test_no_checkpoint_yet(workspace: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPUT_DIR", str(workspace.root / "none"))
    assert workspace.verify() == 2
    assert "run finetune.sh first" in one_line(capsys)


def test_a_cut_short_adapter_file(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace.checkpoint / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    assert workspace.verify(workspace.checkpoint) == 2
    assert "cut short" in one_line(capsys)


def test_an_adapter_that_the_engine_refuses(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workspace.verify(workspace.add_checkpoint(13)) == 2
    assert "another shape" in capsys.readouterr().err


def test_an_adapter_of_other_weights_of_the_same_shape(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sums = workspace.model / "SHA256SUMS"
    sums.write_text("one  model.safetensors\n")
    weights = {"path": "/elsewhere", "sha256sums": hashlib.sha256(sums.read_bytes()).hexdigest()}
    (workspace.run / "run.json").write_text(json.dumps({"weights": weights}))
    assert workspace.verify() == 0
    capsys.readouterr()
    sums.write_text("two  model.safetensors\n")
    assert workspace.verify() == 2
    assert "trained on other weights" in one_line(capsys)


def test_a_full_model_is_no_adapter(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.checkpoint / "adapter_config.json").unlink()
    (workspace.checkpoint / "adapter_model.safetensors").rename(workspace.checkpoint / "model.safetensors")
    (workspace.checkpoint / "config.json").write_text("{}")
    assert workspace.verify(workspace.checkpoint) == 2
    assert "a full model" in one_line(capsys)


def test_reports_that_cannot_be_written(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.root / "file").write_text("")
    assert workspace.verify("--output", workspace.root / "file/below") == 2
    assert "--output DIR" in one_line(capsys)
