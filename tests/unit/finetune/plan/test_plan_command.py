"""The plan command: what it reads, what it prints, how it ends; the card by --gpu and by NVML."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import UserError, run_main
from finetune.commands import plan as cli
from finetune.plan import fast, gpu_memory, planned_run

ROOT = Path(__file__).resolve().parents[4]
GIB = 2**30


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The 7B model's config.json with a tokenizer of one token for each word, and no GPU."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "Qwen2.5-7B-Instruct"
    folder.mkdir()
    config = json.loads((ROOT / "standin/official/config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    monkeypatch.setenv("MODEL_DIR", str(folder))
    monkeypatch.delenv("VRAM_CEILING_GIB", raising=False)
    monkeypatch.setattr(gpu_memory, "gpu_visible", lambda: False)
    monkeypatch.chdir(tmp_path)
    return folder


def rows(path, *sizes):
    """A dataset with answers of so many words."""
    data = [
        {"instruction": f"question {n}", "input": "", "output": f"{n} " + "word " * size}
        for n, size in enumerate(sizes)
    ]
    path.write_text("\n".join(map(json.dumps, data)))
    return str(path)


def test_json_of_the_default_is_the_fifty_rows(model, capsys):
    assert run_main(cli.main, ["--json", "--gpu", "24"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["rows"], data["batch"], data["steps"]) == (50, 16, 40)
    plan = data["engines"]["ms-swift"]
    assert plan["fits"] and plan["per_device_train_batch_size"] * plan["gradient_accumulation_steps"] == 16
    assert plan["peak_gib"] < 22 and data["card"]["ceiling_gib"] == 22
    assert list(data["cards"]) == ["12", "16", "24", "48", "80"]
    assert not data["cards"]["12"]["fits"] and "qlora" in data["cards"]["12"]["why"]
    assert data["engines"]["fast lane"]["recompute"] in ("none", "swiglu", "layer")


def test_the_table_names_every_card(model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    assert run_main(cli.main, ["--gpu", "24", "--engine", "swift"]) == 0
    out = capsys.readouterr().out
    for words in (
        "40 steps, up to 16 rows a step",
        "ms-swift",
        "12 GB",
        "16 GB",
        "24 GB",
        "48 GB",
        "80 GB",
        "does not fit",
    ):
        assert words in out
    assert "fast lane" not in out


def test_the_last_line_says_whether_it_fits_and_a_4_bit_base_is_no_matter_of_room(model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    assert run_main(cli.main, ["--gpu", "24"]) == 0
    assert re.fullmatch(r"it fits: fast lane takes \d+\.\d of 22 GiB", capsys.readouterr().out.splitlines()[-1])
    assert run_main(cli.main, ["--gpu", "16", "--config", str(ROOT / "workspace/configs/sft_qlora.yaml")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^fast lane +not with a 4-bit base *$", out, re.MULTILINE)
    assert re.fullmatch(r"it fits: ms-swift takes \d+\.\d of 14\.7 GiB", out.splitlines()[-1])


@pytest.fixture
def standin(model, monkeypatch):
    """The stand-in in the model's place: another shape, the same tokenizer."""
    config = json.loads((model / "config.json").read_text())
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    (model / "config.json").write_text(json.dumps(config | small | {"mirror_standin": True}))
    monkeypatch.setenv("COLUMNS", "150")
    return model


def test_the_stand_in_s_image_plans_the_7b(model, capsys, request):
    words = ["--gpu", "16", "--engine", "swift", "--json"]
    run_main(cli.main, words)
    real = json.loads(capsys.readouterr().out)
    request.getfixturevalue("standin")
    run_main(cli.main, words)
    found = json.loads(capsys.readouterr().out)
    assert real.pop("model") == "Qwen2.5-7B-Instruct, 28 layers of 3584"
    assert found.pop("model").startswith("Qwen2.5-7B-Instruct, by its shape: the weights here are the stand-in")
    assert found == real
    assert planned_run.Config.from_dir(ROOT / "standin/official") == planned_run.REAL_SHAPE


def test_the_table_says_that_the_stand_in_is_not_planned_and_how_many_steps_its_own_run_takes(standin, capsys):
    assert run_main(cli.main, ["--gpu", "24", "--engine", "swift"]) == 0
    head, data = capsys.readouterr().out.splitlines()[:2]
    assert "the weights here are the stand-in, whose own run takes 80 steps (configs/standin.yaml)" in head
    assert data.endswith("; 40 steps, up to 16 rows a step")


def test_steps_are_those_that_the_run_takes(model, tmp_path):
    """max_steps counts, and ms-swift fills a batch up to 16 where the accumulation is not given."""
    file = tmp_path / "configs" / "own.yaml"
    file.parent.mkdir()
    rows(tmp_path / "own.jsonl", *range(50))
    for text, batch, steps in (
        ("per_device_train_batch_size: 4\nnum_train_epochs: 3\n", 16, 12),
        ("per_device_train_batch_size: 32\nnum_train_epochs: 3\n", 32, 6),
        ("per_device_train_batch_size: 3\nnum_train_epochs: 1\n", 18, 3),
        ("max_steps: 7\nnum_train_epochs: 3\n", 16, 7),
    ):
        file.write_text("dataset: own.jsonl\n" + text)
        found = planned_run.read(file, model, None, None)
        assert (found.batch, found.steps) == (batch, steps), text


@pytest.mark.parametrize(
    "line", ["lora_rank: 0", "num_train_epochs: -1", "per_device_train_batch_size: 0", "max_length: .inf"]
)
def test_a_number_out_of_range_in_the_config_is_one_line(model, tmp_path, capsys, line):
    (tmp_path / "own.yaml").write_text(f"dataset: x.jsonl\n{line}\n")
    rows(tmp_path / "x.jsonl", 3)
    assert run_main(cli.main, ["--config", str(tmp_path / "own.yaml"), "--dataset", str(tmp_path / "x.jsonl")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and line.split(":")[0] in error


def test_the_fast_lane_s_plan_counts_what_is_trained(model, capsys, tmp_path):
    peaks = []
    for targets in ("[all-linear]", "[q_proj, k_proj, v_proj, o_proj]"):
        (tmp_path / "own.yaml").write_text(f"dataset: x.jsonl\ntarget_modules: {targets}\n")
        data = rows(tmp_path / "x.jsonl", 3, 40)
        words = ["--config", str(tmp_path / "own.yaml"), "--dataset", data, "--engine", "fast", "--json", "--gpu", "24"]
        assert run_main(cli.main, words) == 0
        peaks.append(json.loads(capsys.readouterr().out)["engines"]["fast lane"]["peak_gib"])
    assert 0.30 < peaks[0] - peaks[1] < 0.40


def test_torch_is_not_imported_for_ms_swift(model):
    code = (
        "import sys; from finetune.commands.plan import main; main(['--engine', 'swift', '--json']); "
        "sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_nothing_fits_is_exit_1_and_one_line(model, capsys):
    assert run_main(cli.main, ["--gpu", "12", "--engine", "swift"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: plan: ") and error.count("\n") == 1 and "sft_qlora.yaml" in error


def test_rows_over_max_length_are_left_out_and_said(model, tmp_path):
    data = rows(tmp_path / "rows.jsonl", 5, 6, 500)
    found = planned_run.read(ROOT / "workspace/configs/sft.yaml", model, [data], 100)
    assert found.rows == 2 and max(found.lengths) <= 100
    assert "1 rows are longer than max_length 100" in found.notes[0]


def test_a_sample_of_a_file_counts_its_own_rows(model, tmp_path):
    data = rows(tmp_path / "rows.jsonl", *range(20))
    assert planned_run.read(ROOT / "workspace/configs/sft.yaml", model, [f"{data}#40"], None).rows == 40


def test_a_hub_dataset_is_planned_at_max_length(model):
    found = planned_run.read(
        ROOT / "workspace/configs/sft.yaml", model, ["AI-ModelScope/alpaca-gpt4-data-zh#500"], None
    )
    assert (found.rows, found.lengths) == (500, [2048])
    assert "not fetched yet" in found.notes[0]


def test_all_rows_too_long_is_a_line(model, tmp_path, capsys):
    data = rows(tmp_path / "rows.jsonl", 500)
    assert run_main(cli.main, ["--dataset", data, "--max_length", "50", "--engine", "swift"]) == 1
    assert "no rows to train on" in capsys.readouterr().err


def test_the_configs_own_options_count(model, tmp_path):
    file = tmp_path / "configs" / "own.yaml"
    file.parent.mkdir()
    rows(tmp_path / "own.jsonl", 3, 4)
    file.write_text(
        "dataset: own.jsonl\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 3\nlora_rank: 4\n"
        "target_modules: [q_proj, v_proj]\nquant_bits: 4\nnum_train_epochs: 2\nmax_length: 77\n"
    )
    found = planned_run.read(file, model, None, None)
    assert (found.batch, found.rank, found.targets, found.quant_bits) == (6, 4, ["q_proj", "v_proj"], 4)
    assert (found.epochs, found.max_length, found.rows, found.steps) == (2, 77, 2, 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gpu", "0"], "--gpu 0"),
        (["--gpu", "nan"], "--gpu nan"),
        (["--gpu", "x"], "invalid float"),
        (["--max_length", "0"], "max_length 0"),
        (["--dataset", "none.jsonl"], "none.jsonl"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
def test_unusable_input_is_exit_2_and_one_line(model, capsys, words, says):
    assert run_main(cli.main, words) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_no_model_folder(model, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "nowhere"))
    assert run_main(cli.main, []) == 2
    assert "config.json" in capsys.readouterr().err


# ---- the card


class Nvml:
    """A stub of pynvml: the GPUs it is given."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus):
        self.gpus = gpus

    def __getattr__(self, name):
        return lambda *_: None

    def nvmlSystemGetCudaDriverVersion_v2(self):
        return 12080

    def nvmlSystemGetDriverVersion(self):
        return "570.1"

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.gpus[index]

    def nvmlDeviceGetMemoryInfo(self, gpu):
        return SimpleNamespace(total=gpu[0] * GIB, free=gpu[1] * GIB)

    def nvmlDeviceGetMigMode(self, gpu):
        return (0, 0)

    def nvmlDeviceGetName(self, gpu):
        return gpu[2]

    def nvmlDeviceGetUUID(self, gpu):
        return f"GPU-{gpu[2]}"

    def nvmlDeviceGetCudaComputeCapability(self, gpu):
        return (9, 0)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        return []


@pytest.mark.parametrize(("free", "setting", "expected"), [(79, 22, 22), (79, 0, 78.4), (10, 22, 9.4), (0.1, 22, 0)])
def test_free_memory_and_the_ceiling(free, setting, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = gpu_memory.find(None, setting, lambda: Nvml((80, free, "H100")))
    assert found.name == "H100" and found.ceiling_gib == pytest.approx(expected)


def test_the_visible_gpu_counts(monkeypatch):
    both = lambda: Nvml((80, 79, "first"), (24, 23, "second"))  # noqa: E731
    for value, name in (("1", "second"), ("1,0", "second"), ("GPU-sec", "second"), ("", "first")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert gpu_memory.find(None, 22, both).name == name


def test_no_gpu_is_assumed_to_be_24_gb_and_said(monkeypatch):
    monkeypatch.setattr(gpu_memory, "gpu_visible", lambda: False)
    found = gpu_memory.find(None, 22)
    assert (found.gib, found.ceiling_gib) == (24, 22) and "assumed" in found.name


def test_a_named_card(monkeypatch):
    assert gpu_memory.find(12, 22).ceiling_gib == 11
    assert gpu_memory.find(80, 0).ceiling_gib == 73.3
    large = gpu_memory.find(80, 22)
    assert large.ceiling_gib == 22 and "VRAM_CEILING_GIB=73.3" in large.why
    with pytest.raises(UserError):
        gpu_memory.find(-1, 22)


def test_the_fast_lane_says_why_it_cannot(model):
    shape, _ = planned_run.shape_of(model)
    assert "more than the ceiling" in fast.plan_fast(shape, [2048], 16, 10)
    found = fast.plan_fast(shape, [46] * 50, 16, 22)
    assert found.micro_batch_tokens is None and 0 < found.peak_gib <= 22 and found.seconds_per_step > 0


def test_the_launcher_runs_from_a_folder_with_a_users_json_py(model, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [str(ROOT / "entrypoint/bin/plan"), "--engine", "swift", "--json"],
        env=clean | {"MIRROR_ROOT": str(ROOT), "MIRROR_PYTHON": sys.executable},
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["schema"] == 1


def test_a_table_with_other_headings_is_planned_with_its_columns_named(model, tmp_path, capsys):
    table = tmp_path / "faq.csv"
    table.write_text("客户问,标准答复\n几点开门,九点\n几点关门,六点\n", encoding="utf-8")
    assert run_main(cli.main, ["--gpu", "24", "--engine", "swift", "--dataset", str(table)]) == 2
    assert "--columns 客户问,标准答复" in capsys.readouterr().err
    columns = ["--columns", "客户问,标准答复"]
    assert run_main(cli.main, ["--gpu", "24", "--engine", "swift", "--dataset", str(table), *columns]) == 0
    assert "2 rows" in "".join(capsys.readouterr())
