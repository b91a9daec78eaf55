"""export.sh's Python on a tiny model with llama.cpp: what it writes, what it refuses, and what a stop leaves behind."""

from __future__ import annotations

import errno
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
from gguf import GGUFReader

from common import sha256sums
from common.errors import UserError, run_main
from finetune.commands import export as cli
from finetune.commands import infer
from finetune.export import gguf_file, modelfile
from finetune.merge import resources
from tests.unit.qwen2.tiny import make_tiny, random_adapter

ROOT = Path(__file__).parents[4]
WORDS = ["--questions", str(ROOT / "workspace/questions"), "--threads", "1"]


@pytest.fixture
def export(mirror, base, trained, monkeypatch):
    """export(*words): export.sh on a copy of the checkpoint in the output folder; the exit code."""
    shutil.copytree(trained.parent, mirror / "output/run-1")
    monkeypatch.setenv("MODEL_DIR", str(base))
    handler = signal.getsignal(signal.SIGTERM)
    yield lambda *words: run_main(lambda: cli.main([*WORDS, *map(str, words)]))
    signal.signal(signal.SIGTERM, handler)


def beside(mirror: Path) -> set[str]:
    """What stands beside the checkpoint of the run."""
    return {path.name for path in (mirror / "output/run-1").iterdir()} - {"checkpoint-7", "run.json"}


def test_without_answers_the_rest_is_proved_and_the_folder_is_whole(export, mirror, capfd):
    assert export("--quant", "q8_0", "--no-check") == 0
    made = mirror / "output/run-1/checkpoint-7-gguf-q8_0"
    name = "Qwen2.5-7B-Instruct-finetuned-Q8_0.gguf"
    names = {"LICENSE", "Modelfile", "README.md", "SHA256SUMS", name}
    assert {path.name for path in made.iterdir()} == names and beside(mirror) == {made.name}
    out = capfd.readouterr().out
    for line in ("tensors: 27 tensors", "ids: 40 conversations", "stops: an answer ends at <|im_end|> and at"):
        assert line in out
    assert sha256sums.changed(made, names - {"SHA256SUMS"}) is None
    text = (made / "Modelfile").read_text()
    assert modelfile.faults(text, name, "你是客服。", ["<|im_end|>", "<|endoftext|>"]) == []
    card = (made / "README.md").read_text()
    assert sha256sums.digest(made / name) in card and "/home/somebody" not in card
    for said in ("license: apache-2.0", "run-1/checkpoint-7", "faq.csv, 3 rows", "llama.cpp 0.", "ollama create"):
        assert said in card
    assert infer.main(["--config", "none", "--gguf", str(made / name), "你是谁?"]) == 0
    assert capfd.readouterr().out.strip()


def test_the_proof_is_told_in_chinese_and_the_file_by_its_name_on_the_host(export, mirror, capfd, monkeypatch):
    monkeypatch.setenv("MIRROR_LANG", "zh")
    monkeypatch.setenv("OUTPUT_DIR", str(mirror / "output"))
    monkeypatch.setenv("MIRROR_HOST_OUTPUT", "/home/me/我的 结果")
    assert export("--quant", "q8_0", "--no-check") == 0
    *proof, last = capfd.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in proof] == ["tensors", "ids", "stops"]
    assert all(re.search("[一-鿿]", line) and not re.search("rows|merged|give|ends at", line) for line in proof)
    assert "/home/me/我的 结果/run-1/checkpoint-7-gguf-q8_0/" in last


def test_a_merged_folder_is_exported_by_itself(export, mirror, base, capfd):
    assert export(base, "--no-check", "--quant", "f16", "--output", mirror / "out") == 0
    assert (mirror / "out/Qwen2.5-7B-Instruct-F16.gguf").is_file()


def test_a_file_that_fails_its_proof_is_not_written(export, mirror, capfd, monkeypatch):
    real = gguf_file.chat_template
    monkeypatch.setattr(gguf_file, "chat_template", lambda system: real(system).replace("|>user", "|>human"))
    monkeypatch.setattr(
        gguf_file, "chat_template", lambda system: real(system).replace("'<|im_start|>' +", "'<|x|>' +")
    )
    assert export("--no-check") == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "ids: the template differs from the training's" in line and line.endswith("nothing was written")
    assert beside(mirror) == set()


def test_a_verdict_that_fails_leaves_the_file_and_ends_with_1(export, mirror, monkeypatch, capfd):
    from finetune.export.proof import Part

    monkeypatch.setattr(cli, "judged", lambda *_: Part("verdict", "fail", ["learned: 10 %"], ["lost: 'a?'"]))
    monkeypatch.setattr("finetune.export.verdict.Verdict", lambda *_: object())
    assert export() == 1
    assert "FAILED verdict: fail\n  learned: 10 %\n  lost: 'a?'" in capfd.readouterr().out
    card = (mirror / "output/run-1/checkpoint-7-gguf-q4_k_m/README.md").read_text()
    assert "- **failed** verdict: fail\n  - learned: 10 %\n  - lost: 'a?'" in card


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quant", "q2_k"], "invalid choice: 'q2_k'"),
        (["--threads", "0"], "must be at least 1"),
        (["--imatrix", "rows", "--quant", "q8_0"], "leave it out"),
        (["--imatrix", "rows"], "were not found; omit --imatrix"),
        (["nowhere"], "no such adapter folder"),
        (["newest", "--adapter", "newest"], "named twice"),
        (["--system", 'say """'], "a Modelfile cannot hold"),
        (["--model", "/nowhere"], "no config.json"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(export, mirror, words, said, capfd):
    try:
        code = export(*words)
    except SystemExit as end:
        code = end.code
    err = capfd.readouterr().err
    assert code == 2 and said in err.splitlines()[-1] and beside(mirror) == set()


def test_the_training_s_rows_weigh_the_quantization(export, mirror):
    rows = mirror / "faq.json"
    rows.write_text(json.dumps([{"instruction": "几点开门?", "input": "", "output": "九点。"}]))
    record = json.loads((mirror / "output/run-1/run.json").read_text())
    record["settings"]["dataset"] = [str(rows)]
    (mirror / "output/run-1/run.json").write_text(json.dumps(record))
    name, files = "Qwen2.5-7B-Instruct-finetuned-Q4_K_M.gguf", {}
    for words in ((), ("--imatrix", "rows")):
        folder = mirror / f"out{len(words)}"
        assert export("--no-check", "--output", folder, *words) == 0
        files[words] = GGUFReader(folder / name)
    plain, weighed = files.values()
    assert weighed.fields["quantize.imatrix.entries_count"].contents() == 14  # 2 layers of 7 weights
    assert "quantize.imatrix.entries_count" not in plain.fields
    same = {one.name: (one.data == other.data).all() for one, other in zip(plain.tensors, weighed.tensors, strict=True)}
    assert same["token_embd.weight"] and same["output_norm.weight"]


def test_an_adapter_of_another_base_is_refused(export, mirror, tmp_path, capfd):
    other = make_tiny(tmp_path / "other", hidden_size=32)
    random_adapter(other, ["q_proj"], 0.1).save(mirror / "output/run-2/checkpoint-3")
    assert export(mirror / "output/run-2/checkpoint-3") == 2
    assert "another shape" in capfd.readouterr().err
    assert not list((mirror / "output/run-2").glob("*gguf*"))


def test_a_dora_is_to_be_merged_first(export, mirror, capfd):
    path = mirror / "output/run-1/checkpoint-7/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    assert export() == 2
    assert "merge.sh newest --no-check" in capfd.readouterr().err and beside(mirror) == set()


def test_an_adapter_trained_on_a_4_bit_base_is_exported_on_the_full_weights(export, mirror):
    args = {"quant_bits": 4, "quant_method": "bnb", "system": "你是客服。"}
    (mirror / "output/run-1/checkpoint-7/args.json").write_text(json.dumps(args))
    assert export("--no-check") == 0


def test_no_room_is_said_before_anything_is_written(export, mirror, monkeypatch, capfd):
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1 << 20))
    assert export("--no-check") == 2
    assert "no room: a Q4_K_M of this model needs" in capfd.readouterr().err and beside(mirror) == set()


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_disk_that_fills_up_leaves_nothing(export, mirror, monkeypatch, capfd, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gguf_file.os, call, full)
    assert export("--no-check") == 1
    assert "No space left on device" in capfd.readouterr().err.splitlines()[-1] and beside(mirror) == set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_export_leaves_nothing_that_looks_whole(export, mirror, base, number):
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    slow = "import time\nfrom finetune.export import gguf_file\nreal = gguf_file.packed\n"
    slow += "gguf_file.packed = lambda *a: (time.sleep(0.2), real(*a))[1]\n"
    slow += "import sys\nfrom common.errors import run_main\n"
    slow += "from finetune.commands.export import main\nsys.exit(run_main(main))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *WORDS, "--no-check"], env=environ, stderr=subprocess.DEVNULL, cwd=mirror
    )
    until = time.monotonic() + 120
    while not list((mirror / "output/run-1").glob(".*.partial-*/*/*.gguf")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    code = process.wait(timeout=60)
    left = beside(mirror)
    if number == signal.SIGTERM:
        assert code == 143 and left == set()
    else:
        assert left and all(name.startswith(".checkpoint-7-gguf-q4_k_m.partial-") for name in left)
        assert export("--no-check") == 0
        assert beside(mirror) == {"checkpoint-7-gguf-q4_k_m"}


def test_infer_takes_nothing_beside_a_gguf(tmp_path):
    with pytest.raises(UserError, match="--gguf takes only questions, no --temperature"):
        infer.main(["--config", "none", "--gguf", "x.gguf", "hi", "--temperature", "1"])
    (tmp_path / "x.gguf").write_bytes(b"GGML")
    with pytest.raises(UserError, match="not a GGUF file"):
        infer.main(["--config", "none", "--gguf", str(tmp_path / "x.gguf"), "hi"])
