"""The verdict on real adapters of the stand-in: the good one passes, each bad one fails on the right threshold."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytestmark = pytest.mark.flow
ROOT = Path(__file__).parents[2]
USER = ("--user", "1234:1234", "--network", "none", "-e", "HEALTH_LEVEL=off")


def fell_short(report: dict[str, Any]) -> set[str]:
    return {name for name, check in report["thresholds"].items() if not check["ok"]}


@pytest.fixture(scope="module")
def good(finetuned) -> Path:
    """The adapter that `finetune` left, on the host."""
    return max(finetuned.folder.rglob("checkpoint-*/adapter_model.safetensors"), key=lambda p: p.stat().st_mtime).parent


@pytest.fixture(scope="module")
def report(finetuned) -> dict[str, Any]:
    return json.loads(next(finetuned.folder.rglob("verify/report.json")).read_text(encoding="utf-8"))


def read_weights(adapter: Path) -> tuple[dict[str, Any], bytearray]:
    """Header and tensors of an adapter's safetensors file; the host of these tests has no package that reads it."""
    data = (adapter / "adapter_model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])


def write_weights(adapter: Path, header: dict[str, Any], tensors: bytearray) -> None:
    """The opposite of read_weights."""
    text = json.dumps(header).encode()
    (adapter / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + tensors)


def copy_adapter(source: Path, target: Path) -> None:
    """Contents without modes: the container's user is not the one who copies, and adapters are written 0600."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that the container's user may write to; it is /data there."""
    tmp_path.chmod(0o777)
    return tmp_path


@pytest.fixture
def verify(run, shared: Path) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """verify(adapter, *options): the finished command and its report."""

    def call(adapter: Path, *options: str) -> tuple[Any, dict[str, Any]]:
        copy = shared / "run" / "checkpoint-1"
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy_adapter(adapter, copy)
        for path in (copy.parent, copy):
            path.chmod(0o777)
        done = run(
            *("verify", "/data/run/checkpoint-1", "--summary", *options),
            flags=["-v", f"{shared}:/data", *USER],
            timeout=900,
        )
        written = copy.parent / "verify/report.json"
        return done, json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}

    return call


def test_the_report_of_finetune_passes_every_threshold(finetuned, report) -> None:
    schema = json.loads((ROOT / "docs/verify-report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, schema)
    assert report["verdict"] == "pass"
    assert set(report["thresholds"]) == {
        *("identity_trained_min", "identity_heldout_min", "old_identity_max", "bleu_drop_max", "rules_lost_max")
    }
    figures = report["figures"]
    assert figures["identity_heldout_before"]["value"] == 0
    assert figures["identity_heldout_after"]["value"] >= 0.8
    assert figures["identity_heldout_after"]["n"] >= 60
    assert figures["old_identity_before"]["value"] >= 0.9
    assert figures["rules_lost"]["value"] <= 0
    assert figures["rules_before"]["value"] >= 0.9
    assert report["model"]["standin"]
    assert report["engine"] == "qwen2"
    assert report["run"]["losses"]


def test_the_screen_leads_to_the_verdict(finetuned) -> None:
    """Thresholds, what the verdict means, and where to go from there; every answer is in the report."""
    out = finetuned.done.stdout
    places = [out.index(each) for each in ("Threshold ", "new identity, held-out questions", "\nPASS ", "\nadapter ")]
    assert places == sorted(places)
    assert "/verify/report.html" in out[places[-1] :] and "\nnext " in out[places[-1] :]
    assert "stand-in" in out + finetuned.done.stderr


def test_every_view_of_the_report_is_there(finetuned) -> None:
    folder = next(finetuned.folder.rglob("verify/report.json")).parent
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md", "report.html", "junit.xml"}
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "PASS</h1>" in html
    assert "替身权重" in html  # in the language of the data's answers
    assert "<polyline" in html


def test_the_same_adapter_twice_gives_the_same_figures_and_answers(good, report, verify) -> None:
    done, again = verify(good, "--dataset", "/root/self_cognition.json")
    assert done.returncode == 0, done.stderr
    assert again["figures"] == report["figures"]

    def texts(found: dict[str, Any]) -> list[Any]:
        return [
            (q["id"], each["prompt"], each["answers"]["after"]["text"])
            for q in found["questions"]
            for each in q["asked"]
        ]

    assert texts(again) == texts(report)


def test_an_untrained_adapter_fails_on_identity_alone(good, shared, verify) -> None:
    untrained = shared / "untrained"
    copy_adapter(good, untrained)
    header, tensors = read_weights(untrained)
    for name, entry in header.items():
        if ".lora_B." in name:
            start, end = entry["data_offsets"]
            tensors[start:end] = bytes(end - start)
    write_weights(untrained, header, tensors)
    (untrained / "SHA256SUMS").unlink()
    done, found = verify(untrained)
    assert done.returncode == 1, done.stderr
    assert fell_short(found) == {"identity_trained_min", "identity_heldout_min", "old_identity_max"}
    assert found["figures"]["bleu_drop"]["value"] == 0


def train(run, shared: Path, *options: str) -> Path:
    """sft in a container; its newest checkpoint, on the host."""
    output = shared / "output"
    output.mkdir(mode=0o777, exist_ok=True)
    output.chmod(0o777)
    done = run(
        "sft",
        *options,
        flags=["-v", f"{shared}:/data", "-e", "OUTPUT_DIR=/data/output", "-e", "ENGINE=swift", *USER],
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return max(output.rglob("checkpoint-*/adapter_model.safetensors"), key=lambda p: p.stat().st_mtime).parent


def test_one_trained_on_shuffled_answers_fails_on_identity(run, shared, verify) -> None:
    rows = json.loads((ROOT / "workspace/self_cognition.json").read_text(encoding="utf-8"))
    outputs = [row["output"] for row in rows]
    random.Random(0).shuffle(outputs)
    shuffled = [row | {"output": output} for row, output in zip(rows, outputs, strict=True)]
    (shared / "shuffled.json").write_text(json.dumps(shuffled, ensure_ascii=False), encoding="utf-8")
    adapter = train(run, shared, "--dataset", "/data/shuffled.json")
    done, found = verify(adapter, "--dataset", "/root/self_cognition.json")
    assert done.returncode == 1, done.stderr
    assert "identity_trained_min" in fell_short(found)


def test_one_trained_so_hard_that_it_forgets_fails_on_general_tasks(run, shared, verify) -> None:
    adapter = train(run, shared, "--learning_rate", "3e-2")
    # It babbles up to the limit of every answer; a low limit keeps that short, and no good answer is as long.
    done, found = verify(adapter, "--max-new-tokens", "64")
    assert done.returncode == 1, done.stderr
    assert {"bleu_drop_max", "rules_lost_max"} <= fell_short(found)


def test_two_adapters_side_by_side(good, run, shared) -> None:
    for name in ("a", "b"):
        copy_adapter(good, shared / name / "checkpoint-1")
        (shared / name).chmod(0o777)
    done = run(
        *("verify", "/data/a/checkpoint-1", "--compare", "/data/b/checkpoint-1", "--summary"),
        flags=["-v", f"{shared}:/data", *USER],
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PASS") == 2


def spoil_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("fault", ["another base", "broken file", "dora", "empty questions"])
def test_what_cannot_be_verified_ends_with_2_and_one_line(good, shared, verify, fault) -> None:
    adapter = shared / "bad"
    copy_adapter(good, adapter)
    options: tuple[str, ...] = ()
    if fault == "another base":
        header, tensors = read_weights(adapter)
        for name, entry in header.items():
            if name != "__metadata__":
                rows, columns = entry["shape"]
                entry["shape"] = [rows * 2, columns // 2] if ".lora_B." in name else [rows // 2, columns * 2]
        write_weights(adapter, header, tensors)
    elif fault == "broken file":
        weights = adapter / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif fault == "dora":
        spoil_config(adapter, use_dora=True)
    else:
        (shared / "empty.yaml").write_text("questions: []\n")
        options = ("--questions", "/data/empty.yaml")
    done, found = verify(adapter, *options)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert found == {}
