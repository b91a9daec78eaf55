"""`finetune` from start-up checks to a verdict, on the stand-in, and what it leaves in the output folder."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.flow


def checkpoints(folder):
    return sorted(folder.rglob("checkpoint-*/adapter_model.safetensors"))


def test_finetune_ends_with_an_adapter_and_a_passing_verdict(finetuned):
    assert finetuned.done.returncode == 0, finetuned.done.stdout[-3000:] + finetuned.done.stderr[-3000:]
    assert len(checkpoints(finetuned.folder)) >= 1
    assert "Traceback" not in finetuned.done.stderr


def test_the_stand_in_is_named_on_screen(finetuned):
    assert "stand-in" in finetuned.done.stdout + finetuned.done.stderr


def test_identity_changes_from_0_to_at_least_95_percent(finetuned):
    report = json.loads(next(finetuned.folder.rglob("verify/report.json")).read_text())
    assert report["verdict"] == "pass"
    assert report["figures"]["identity_trained_before"]["value"] == 0
    assert report["figures"]["identity_trained_after"]["value"] >= 0.95


def test_the_files_belong_to_the_caller(finetuned):
    assert {path.stat().st_uid for path in finetuned.folder.rglob("*")} == {1234}


def test_run_json_says_how_to_repeat_the_run(finetuned):
    run_json = json.loads(next(finetuned.folder.rglob("run.json")).read_text())
    text = json.dumps(run_json)
    assert run_json["engine"] == "fast"  # what auto takes; test_engines.py has ms-swift's run
    for word in ("torch", "sha256", "learning_rate"):
        assert word in text, word


def test_the_log_has_losses_that_fall(finetuned):
    rows = [json.loads(line) for line in next(finetuned.folder.rglob("logging.jsonl")).read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) > 5
    assert losses[-1] < losses[0] / 2


def test_the_screen_after_the_training_is_short_and_ends_with_what_to_do(finetuned):
    lines = finetuned.done.stdout.splitlines()
    trained = next(number for number, line in enumerate(lines) if line.startswith("sft: "))
    assert len(lines) - trained - 1 <= 40
    assert [line.split()[0] for line in lines[-4:]] == ["PASS", "adapter", "report", "next"]
    assert "infer.sh --adapter newest" in lines[-1]


@pytest.fixture
def answers(finetuned, run):
    return lambda *flags: run("infer", *flags, "你是谁?", flags=["-v", f"{finetuned.folder}:/root/output"])


def test_infer_answers_with_and_without_the_adapter(answers):
    before, after = answers(), answers("--adapter", "newest")
    assert before.returncode == 0, before.stderr
    assert after.returncode == 0, after.stderr
    assert "通义千问" in before.stdout
    assert "迪菲赫尔曼" in after.stdout


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["sft", "--dataset", "/root/nowhere.json"], "nowhere.json"),
        (["sft", "--dataset", "/root/infer.sh"], "infer.sh"),
        (["sft", "--no_such_option", "1"], "no_such_option"),
        (["sft_mixed", "--general", "/root/nowhere.jsonl"], "nowhere.jsonl"),
        (["verify", "--adapter", "/root/nowhere"], "nowhere"),
        (["verify"], "run finetune.sh first"),
        (["swift", "sft", "--model", "Qwen2.5-7B-Instruct", "--lora_rnk", "8"], "lora_rnk"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(run, command, says):
    done = run(*command, flags=["-e", "HEALTH_LEVEL=off", "--network", "none"])
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert says in errors[0]
    assert "Traceback" not in done.stderr
