"""merge.sh's Python on a tiny random model: what is refused, what is written, what a wrong merge does.

ms-swift is a stub that adds scale * B A to the weights in plain torch; the real one is in
tests/flow/test_after_training.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.model_kind import OTHER, SMOLLM2
from finetune.commands import merge as cli
from finetune.merge import folder, model_card, resources, same_answers
from tests.ordinary_user import closed_folder, ordinary_user
from tests.unit.qwen2.tiny import make_tiny, random_adapter

ROOT = Path(__file__).parents[4]
STUB_SWIFT = """#!{python}
# A stub of ms-swift: it merges by hand; STUB_SCALE multiplies the scale, STUB_CODE ends it, STUB_WAIT keeps it.
import json, os, sys, time
from pathlib import Path
words = sys.argv[1:]
Path({words!r}).write_text(json.dumps(words))
value = lambda name: words[words.index(name) + 1]
out = Path(value("--output_dir"))
if os.environ.get("STUB_CODE"):
    print("RuntimeError: a cause")
    sys.exit(int(os.environ["STUB_CODE"]))
from safetensors.torch import load_file, save_file
adapter, base = Path(value("--adapters")), Path(value("--model"))
assert not out.exists()
out.mkdir()
if os.environ.get("STUB_WAIT"):
    (out / "model.safetensors").write_bytes(b"half")
    time.sleep(60)
config = json.loads((adapter / "adapter_config.json").read_text())
scale = config["lora_alpha"] / config["r"] * float(os.environ.get("STUB_SCALE", "1"))
lora = load_file(adapter / "adapter_model.safetensors")
tensors = {{}}
for shard in sorted(base.glob("*.safetensors")):
    tensors |= load_file(shard)
if value("--torch_dtype") == "float32":
    tensors = {{name: tensor.float() for name, tensor in tensors.items()}}
for name in list(lora):
    if ".lora_A." in name:
        stem = name.split(".lora_A.")[0].removeprefix("base_model.model.")
        delta = lora[name.replace(".lora_A.", ".lora_B.")].float() @ lora[name].float()
        weight = tensors[stem + ".weight"]
        tensors[stem + ".weight"] = (weight.float() + scale * delta).to(weight.dtype)
save_file(tensors, out / "model.safetensors", metadata={{"format": "pt"}})
(out / "config.json").write_text('{{"swift": "own"}}')
(out / "chat_template.jinja").write_text("")
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory, official_tokenizer_dir) -> Path:
    """A tiny random model with the official tokenizer, marked as a stand-in."""
    path = make_tiny(
        tmp_path_factory.mktemp("base") / "Qwen2.5-7B-Instruct", vocab_size=152064, max_position_embeddings=512
    )
    for file in official_tokenizer_dir.iterdir():
        shutil.copy(file, path)
    (path / "LICENSE").write_text("Apache License\n")
    (path / "config.json").write_text(
        json.dumps(json.loads((path / "config.json").read_text()) | {"mirror_standin": True})
    )
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base) -> Path:
    """A run's checkpoint: an adapter whose B is not zero, and a run.json that says how it came about."""
    adapter = random_adapter(base, ["q_proj", "o_proj", "down_proj"], 0.3)
    run = tmp_path_factory.mktemp("runs") / "run-1"
    adapter.save(run / "checkpoint-7")
    record = {
        "engine": "ms-swift",
        "started": "2026-11-24T10:00:00+00:00",
        "steps": 7,
        "first_loss": 2.5,
        "final_loss": 0.25,
        "settings": {"learning_rate": 1e-3, "system": "Be kind.", "model": "/home/somebody/secret"},
        "datasets": [{"name": "/home/somebody/faq.csv", "rows": 3, "sha256": "ab" * 32}],
        "versions": {"ms-swift": "4.6.0"},
    }
    (run / "run.json").write_text(json.dumps(record))
    (run / "checkpoint-7/args.json").write_text(
        json.dumps({"system": "Be kind.", "template": "qwen2_5", "output_dir": "/home/somebody/out"})
    )
    return run / "checkpoint-7"


@pytest.fixture
def merge(mirror, base, trained, monkeypatch):
    """merge(*words): merge.sh on a copy of the checkpoint in the output folder, with a stub of ms-swift."""
    shutil.copytree(trained.parent, mirror / "output/run-1")
    monkeypatch.setenv("MODEL_DIR", str(base))
    stub = mirror / "stub-swift"
    stub.write_text(STUB_SWIFT.format(python=sys.executable, words=str(mirror / "words.json")))
    stub.chmod(0o755)
    monkeypatch.setattr("finetune.engines.swift.launcher.find_real", lambda: str(stub))
    handler = signal.getsignal(signal.SIGTERM)
    yield lambda *words: cli.main(["--questions", str(ROOT / "workspace/questions"), *map(str, words)])
    signal.signal(signal.SIGTERM, handler)


def left_behind(mirror: Path) -> set[str]:
    """What stands beside the checkpoint of the run."""
    return {path.name for path in (mirror / "output/run-1").iterdir()} - {"checkpoint-7", "run.json"}


def test_the_newest_adapter_becomes_a_standalone_folder(merge, mirror, base, capsys):
    assert merge() == 0
    made = mirror / "output/run-1/checkpoint-7-merged"
    assert {path.name for path in made.iterdir()} == {
        *("LICENSE", "README.md", "SHA256SUMS", "args.json", "config.json", "generation_config.json", "merges.txt"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json"),
    }
    for name in ("generation_config.json", "tokenizer.json", "LICENSE"):
        assert (made / name).read_bytes() == (base / name).read_bytes(), name
    was, now = (json.loads((place / "config.json").read_text()) for place in (base, made))
    assert now == {key: value for key, value in was.items() if key != "dtype"} | {"torch_dtype": "float32"}
    assert capsys.readouterr().out == f"merge: {made}: 1 shard, 0.1 GiB; 20 questions, 0 answers differ\n"
    words = json.loads((mirror / "words.json").read_text())
    assert words[0] == "export" and words[words.index("--device_map") + 1] == "cpu"
    assert left_behind(mirror) == {"checkpoint-7-merged"}
    assert (made / "model.safetensors").stat().st_mode & 0o777 == (made / "README.md").stat().st_mode & 0o777


def test_the_card_says_where_the_model_came_from_and_names_no_folder_of_this_machine(merge, mirror):
    assert merge("--output", mirror / "out/my-model") == 0
    card = (mirror / "out/my-model/README.md").read_text()
    for text in ("# my-model", "Be kind.", "faq.csv, 3 rows, sha256 `" + "ab" * 32, "ms-swift 4.6.0",
                 "run-1/checkpoint-7", "7 steps, loss 2.50 -> 0.25", "0 answers differ", "Apache-2.0"):  # fmt: skip
        assert text in card, text
    assert "/home/" not in card
    kept = json.loads((mirror / "out/my-model/args.json").read_text())
    assert kept == {"model_type": "qwen2", "system": "Be kind.", "template": "qwen2_5", "tuner_type": "full"}


def test_the_sums_prove_the_folder(merge, mirror):
    assert merge("--no-check") == 0
    made = mirror / "output/run-1/checkpoint-7-merged"
    lines = (made / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == len(list(made.iterdir())) - 1
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((made / name).read_bytes()).hexdigest() == digest


def test_a_wrong_merge_is_found_and_leaves_nothing(merge, mirror, monkeypatch):
    monkeypatch.setenv("STUB_SCALE", "0.25")
    with pytest.raises(
        UserError, match=r"merge: \d+ of 20 answers are not the adapter's, by up to .* adapter .* merged"
    ) as failed:
        merge()
    assert failed.value.exit_code == 1
    assert left_behind(mirror) == set()


def test_rounding_may_exchange_near_equal_tokens_of_other_weights_than_the_stand_in_s(
    merge, mirror, base, monkeypatch, capsys
):
    """Random weights are all near ties, so that rounding to bfloat16 changes answers: accepted there, and counted."""
    model = shutil.copytree(base, mirror / "other/Qwen2.5-7B-Instruct")
    (model / "config.json").write_text((model / "config.json").read_text().replace('"mirror_standin": true', '"x": 1'))
    assert merge("--model", model, "--device", "cpu") == 0
    assert re.search(r"20 questions, \d+ answers differ \(at near ties only\)$", capsys.readouterr().out)
    card = (mirror / "output/run-1/checkpoint-7-merged/README.md").read_text()
    assert (mirror / "output/run-1/checkpoint-7-merged/config.json").read_bytes() == (
        model / "config.json"
    ).read_bytes()
    assert "each at a near tie" in card and "base_model: Qwen/Qwen2.5-7B-Instruct" in card


@pytest.mark.parametrize(
    ("name", "kind", "licence", "head"),
    [
        ("Qwen2.5-3B-Instruct", OTHER, "Qwen RESEARCH LICENSE", "license: other\nlibrary_name: transformers\n"),
        ("Qwen2.5-3B-Instruct", OTHER, "Qwen RESEARCH LICENSE", "base_model: Qwen/Qwen2.5-3B-Instruct\n"),
        ("SmolLM2-135M-Instruct", SMOLLM2, "Apache License", "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n"),
        ("SmolLM2-135M-Instruct", SMOLLM2, "Apache License", "**Made from SmolLM2-135M-Instruct**: a real but small"),
        ("my-model", OTHER, "Apache License", "A LoRA adapter merged into my-model: bfloat16 weights"),
    ],
)
def test_the_card_names_the_base_that_it_was(tmp_path, name, kind, licence, head):
    (tmp_path / name).mkdir()
    (tmp_path / name / "LICENSE").write_text(licence)
    given = {"name": "x", "base": tmp_path / name, "base_digest": None, "kind": kind, "dtype": "bfloat16"}
    given |= {"adapter": tmp_path / "run/checkpoint-1", "record": {}, "lora": {}, "system": "", "versions": {}}
    model_card.write(tmp_path / "card.md", **given, asked=None, device="cpu")
    card = (tmp_path / "card.md").read_text()
    assert head in card and "Alibaba" not in card
    assert "base_model" in card or name == "my-model"


def test_no_check_is_said_in_the_card(merge, mirror, monkeypatch):
    monkeypatch.setenv("STUB_SCALE", "0.25")
    assert merge("--no-check") == 0
    assert "| check | skipped (--no-check) |" in (mirror / "output/run-1/checkpoint-7-merged/README.md").read_text()


def test_ms_swift_s_failure_is_one_line(merge, mirror, monkeypatch):
    monkeypatch.setenv("STUB_CODE", "3")
    with pytest.raises(UserError, match="exit code 3: RuntimeError: a cause") as failed:
        merge()
    assert failed.value.exit_code == 1
    assert left_behind(mirror) == set()


def nothing_was_started(mirror: Path) -> bool:
    """ms-swift was not called, and nothing stands beside the checkpoint."""
    return not (mirror / "words.json").exists() and left_behind(mirror) == set()


def test_no_room_on_the_disk(merge, mirror, base, monkeypatch):
    weights = 2 * resources.weights_bytes(base)  # in float32
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=weights + resources.DISK_MARGIN - 1))
    with pytest.raises(UserError, match=r"no room: the merged model needs 0.3 GiB and 0.3 GiB are free") as refused:
        merge()
    assert refused.value.exit_code == 2 and nothing_was_started(mirror)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=weights + resources.DISK_MARGIN))
    assert merge("--no-check") == 0


def test_no_room_in_memory(merge, mirror, base, monkeypatch):
    monkeypatch.setattr(resources, "free_memory", lambda: int(3 * resources.weights_bytes(base)))
    with pytest.raises(UserError, match=r"the check on the CPU .*--no-check"):
        merge()
    assert nothing_was_started(mirror)
    assert merge("--no-check") == 0
    monkeypatch.setattr(resources, "free_memory", lambda: 2 * resources.weights_bytes(base))
    with pytest.raises(UserError, match="merging on the CPU needs"):
        merge("--no-check", "--output", mirror / "other")


def test_a_target_in_use(merge, mirror):
    target = mirror / "output/run-1/checkpoint-7-merged"
    target.mkdir()
    (target / "mine").write_text("keep")
    with pytest.raises(UserError, match="exists and is not empty") as refused:
        merge()
    assert refused.value.exit_code == 2 and (target / "mine").read_text() == "keep"
    with pytest.raises(UserError, match="exists and is not a folder"):
        merge("--output", target / "mine")
    (target / "mine").unlink()
    assert merge("--no-check") == 0  # an empty folder is no model


def test_a_target_that_cannot_be_written(merge, mirror, monkeypatch):
    require_target = resources.require_target

    def as_an_ordinary_user(target):
        with ordinary_user():
            require_target(target)

    monkeypatch.setattr(resources, "require_target", as_an_ordinary_user)
    with closed_folder() as closed, pytest.raises(UserError, match="cannot be written by this user"):
        merge("--output", closed / "model")
    assert nothing_was_started(mirror)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: (path / "adapter_model.safetensors").unlink(), "no complete checkpoint"),
        (lambda path: os.truncate(path / "adapter_model.safetensors", 2000), "cut short"),
        (lambda path: (path / "adapter_config.json").write_text("{"), "adapter_config.json is broken"),
        (lambda path: (path / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16}'), "adapter"),
    ],
)
def test_an_adapter_that_is_not_whole(merge, mirror, damage, says):
    damage(mirror / "output/run-1/checkpoint-7")
    with pytest.raises(UserError, match=says) as refused:
        merge()
    assert refused.value.exit_code == 2 and nothing_was_started(mirror)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "no such adapter"),
        (["--model", "."], "no config.json"),
        (["a", "--adapter", "b"], "2 adapters named"),
        (["a", "b"], "one is merged at a time"),
        (["--torch_dtype", "float16"], "use bfloat16, or float32"),
        (["--output_dir", "x"], "set by merge.sh itself"),
        (["--max_shard_sise", "1GB"], "did you mean --max_shard_size"),
        (["--device", "tpu"], "invalid choice"),
        (["--device", "cuda"], "free the GPU"),
    ],
)
def test_what_cannot_be_used(merge, mirror, words, says):
    with pytest.raises(UserError, match=says):
        merge(*words)
    assert nothing_was_started(mirror)


def test_the_base_itself_is_no_adapter(merge, mirror, base):
    with pytest.raises(UserError, match=r"a full model, not an adapter|no complete checkpoint"):
        merge("--adapter", base)


def start(mirror: Path, base: Path, **environment: str) -> subprocess.Popen[str]:
    """merge.sh in a process of its own that waits within ms-swift's stub."""
    code = (
        "import sys; from finetune.engines.swift import launcher; from common.errors import run_main; "
        f"launcher.find_real = lambda: {str(mirror / 'stub-swift')!r}; "
        "from finetune.commands.merge import main; sys.exit(run_main(main, sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--no-check", "--questions", str(ROOT / "workspace/questions")],
        env=os.environ | {"STUB_WAIT": "1", "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list((mirror / "output/run-1").glob(".*.partial-*/*/model.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


def test_a_killed_merge_leaves_nothing_that_looks_whole_and_the_next_one_tidies_up(merge, mirror, base):
    process = start(mirror, base)
    group = json.loads((mirror / "run/job.json").read_text())["group"]
    process.kill()
    process.wait()
    (left,) = left_behind(mirror)
    assert left.startswith(".checkpoint-7-merged.partial-")
    os.killpg(group, signal.SIGKILL)  # the stub itself, which holds the job lock
    assert merge("--no-check", "--wait") == 0
    assert left_behind(mirror) == {"checkpoint-7-merged"}


def test_a_stopped_merge_leaves_nothing(merge, mirror, base):
    process = start(mirror, base)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "error: merge: stopped" in errors and "Traceback" not in errors
    assert left_behind(mirror) == set()


def test_another_s_temporary_folder_is_left_alone_while_it_lives(tmp_path):
    with folder.temporary(tmp_path / "model") as first:
        with folder.temporary(tmp_path / "model") as second:
            assert first != second and first.is_dir()
        assert first.is_dir() and not second.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gap", "is_standin", "accepted"),
    [(None, True, True), (0.1, True, False), (0.1, False, True), (same_answers.NEAR_TIE + 0.01, False, False)],
)
def test_the_rule_for_an_answer_that_differs(gap, is_standin, accepted):
    asked = [same_answers.AnswerPair("q", "a", "a" if gap is None else "b", gap)]
    if accepted:
        cli.judge(asked, is_standin)
    else:
        with pytest.raises(UserError, match="1 of 1 answers"):
            cli.judge(asked, is_standin)


def test_twenty_different_questions_half_of_them_about_identity():
    chosen = same_answers.choose(ROOT / "workspace/questions")
    assert len(set(chosen)) == same_answers.QUESTIONS
    assert "中国的首都是哪里?" in chosen


def test_the_gap_is_what_the_merged_model_prefers_its_own_token_by(base):
    import torch

    compare = same_answers.AdapterAnswers(["你是谁?"], "s", "cpu", 0.0)
    engine = same_answers.Qwen2Engine(base, "cpu")
    (greedy,) = compare._ask(engine, None)
    prompt = compare._prompt(engine, "你是谁?")
    logits = engine.model.forward(torch.tensor([prompt + greedy[:1]]))[0, -1].float()
    other = int(logits.topk(2).indices[1])
    gap = compare._gap(engine, "你是谁?", [greedy[0], other], greedy)
    assert gap == pytest.approx(float(logits.max() - logits[other]), abs=1e-4)
    assert gap > 0
    ended = compare._gap(engine, "你是谁?", greedy[:1], greedy)
    assert ended == pytest.approx(float(logits.max() - logits[list(engine.model.config.eos_ids)].max()), abs=1e-4)
