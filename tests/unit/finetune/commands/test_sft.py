"""sft.sh's Python: what is run, where, and what run.json says; ms-swift is a stub that writes a checkpoint."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from common.errors import UserError, run_main
from finetune.commands import sft as train
from finetune.data import tokens
from finetune.plan import gpu_memory
from finetune.plan.swift import plan_swift
from finetune.runs import run_folder
from qwen2.config import Config
from tests.ordinary_user import closed_folder, ordinary_user

STUB_SWIFT = """#!{python}
# A stub of ms-swift: it takes the words of a training line and leaves what a training leaves, without a model.
import json, os, shutil, sys
from pathlib import Path
words = sys.argv[1:]
out = Path(words[len(words) - 1 - words[::-1].index("--output_dir") + 1])
(out / "stub.json").write_text(json.dumps({{"words": words, "cuda": os.environ.get("CUDA_VISIBLE_DEVICES")}}))
if os.environ.get("STUB_CODE"):
    sys.exit(int(os.environ["STUB_CODE"]))
rows = [{{"loss": 2.5, "global_step/max_steps": "1/4", "memory(GiB)": 17.5}},
        {{"loss": 0.5, "global_step/max_steps": "4/4", "memory(GiB)": 18.25}},
        {{"train_loss": 1.5, "global_step/max_steps": "4/4"}}]
(out / "logging.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows) + '{{"loss": ')
shutil.copytree({checkpoint!r}, out / "checkpoint-4")
"""


@pytest.fixture
def workspace(mirror, dataset, checkpoint, monkeypatch):
    """A workspace with a config, a stub of ms-swift, and a working folder elsewhere."""
    (mirror / "configs").mkdir()
    (mirror / "configs/sft.yaml").write_text(
        "model: Qwen2.5-7B-Instruct\ntuner_type: lora\ndataset: [self_cognition.json]\ntorch_dtype: bfloat16\n"
        "learning_rate: 1e-4\nnum_train_epochs: 10\noutput_dir: output\nadd_version: false\n"
    )
    (mirror / "configs/sft_mixed.yaml").write_text(
        "model: Qwen2.5-7B-Instruct\ndataset: [AI-ModelScope/alpaca-gpt4-data-zh#500, self_cognition.json]\n"
    )
    stub = mirror / "stub-swift"
    stub.write_text(STUB_SWIFT.format(python=sys.executable, checkpoint=str(checkpoint(mirror / "made"))))
    stub.chmod(0o755)
    monkeypatch.setenv("ENGINE", "swift")
    monkeypatch.setattr("finetune.engines.swift.launcher.find_real", lambda: str(stub))
    elsewhere = mirror / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return mirror


def sft(workspace: Path, *words: str, name: str = "sft") -> int:
    """sft.sh WORDS."""
    return train.main([name, "--config", str(workspace / f"configs/{name}.yaml"), *words])


def the_run(workspace: Path) -> Path:
    """The only run's folder."""
    (folder,) = (workspace / "output").iterdir()
    return folder


def seen(folder: Path) -> list[str]:
    """The words that ms-swift got."""
    return json.loads((folder / "stub.json").read_text())["words"]


def last(words: list[str], option: str) -> str:
    """The value that counts of an option given more than once."""
    return words[len(words) - 1 - words[::-1].index(option) + 1]


def test_a_run_leaves_run_json_and_a_line(workspace, capsys):
    assert sft(workspace) == 0
    folder = the_run(workspace)
    assert folder.name.startswith("run-20")
    record = json.loads((folder / "run.json").read_text())
    assert {key: record[key] for key in ("schema", "name", "engine", "status", "exit_code", "adapter", "steps")} == {
        "schema": 1,
        "name": "sft",
        "engine": "ms-swift",
        "status": "done",
        "exit_code": 0,
        "adapter": "checkpoint-4",
        "steps": 4,
    }
    assert (record["first_loss"], record["final_loss"], record["mean_loss"], record["peak_gib"]) == (
        2.5,
        0.5,
        1.5,
        18.25,
    )
    assert record["settings"]["learning_rate"] == 1e-4 or record["settings"]["learning_rate"] == "1e-4"
    assert record["settings"]["torch_dtype"] == "float32"  # what ran on the CPU, not what was asked for
    assert record["datasets"] == [
        {
            "name": "self_cognition.json",
            "path": str(workspace / "self_cognition.json"),
            "rows": 2,
            "sample": None,
            "sha256": record["datasets"][0]["sha256"],
        }
    ]
    assert len(record["datasets"][0]["sha256"]) == 64
    assert record["weights"]["standin"] is True
    assert record["versions"]["ms-swift"] and record["versions"]["python"]
    captured = capsys.readouterr()
    assert captured.out.startswith("sft: 4 steps, 0.0 min, loss 2.50 -> 0.50, peak 18.2 GiB; adapter ")
    assert captured.out.strip().endswith(f"{folder}/checkpoint-4")
    assert "stand-in weights" in captured.err


def test_the_config_s_names_are_of_the_workspace_and_the_user_s_of_the_working_folder(workspace):
    assert sft(workspace) == 0
    words = seen(the_run(workspace))
    assert words[:2] == ["sft", str(workspace / "configs/sft.yaml")]
    assert last(words, "--dataset") == str(workspace / "self_cognition.json")
    assert last(words, "--model") == str(workspace / "Qwen2.5-7B-Instruct")
    with pytest.raises(UserError, match=r"self_cognition.json: no such file.*elsewhere"):
        sft(workspace, "--dataset", "self_cognition.json")
    assert sft(workspace, "--dataset", "../self_cognition.json#1") == 0


def test_the_user_s_options_win(workspace):
    assert sft(workspace, "--num_train_epochs", "3", "--learning-rate=2e-4") == 0
    words = seen(the_run(workspace))
    assert last(words, "--num_train_epochs") == "3"
    assert "--learning-rate=2e-4" in words
    record = json.loads((the_run(workspace) / "run.json").read_text())
    assert record["settings"]["num_train_epochs"] == 3 and record["settings"]["learning_rate"] == 2e-4


def test_the_stand_in_s_values_are_named_and_lose_to_the_user_s(workspace, capsys):
    (workspace / "configs/standin.yaml").write_text("learning_rate: 5e-3\nnum_train_epochs: 20\n")
    assert sft(workspace, "--num_train_epochs", "2") == 0
    words = seen(the_run(workspace))
    assert last(words, "--learning_rate") == "5e-3"
    assert last(words, "--num_train_epochs") == "2"
    assert "stand-in settings (configs/standin.yaml): learning_rate 5e-3\n" in capsys.readouterr().err
    (workspace / "Qwen2.5-7B-Instruct/config.json").write_text('{"model_type": "qwen2"}')
    assert "stand-in" not in shlex.join(seen_after(workspace))


def seen_after(workspace: Path) -> list[str]:
    """The words of one more run, with the real weights."""
    assert sft(workspace, "--run", "real") == 0
    words = seen(workspace / "output/real")
    assert "5e-3" not in words
    return words


def test_show_prints_a_line_for_a_shell_and_runs_nothing(workspace, capsys):
    assert sft(workspace, "--show", "--system", "Say 'no'.") == 0
    line = capsys.readouterr().out
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:2] == ["swift", "sft"]
    assert last(words, "--system") == "Say 'no'."
    assert last(words, "--num_train_epochs") == "10"
    assert words.count("--dataset") == 1
    assert not (workspace / "output").exists()


def test_every_run_has_its_own_folder(workspace, capsys):
    assert sft(workspace) == sft(workspace) == 0
    assert len(list((workspace / "output").iterdir())) == 2
    assert sft(workspace, "--run", "faq") == 0
    with pytest.raises(UserError, match=r"output/faq: holds an older run \(checkpoint-4\)"):
        sft(workspace, "--run", "faq")
    with pytest.raises(UserError, match="not a folder name"):
        sft(workspace, "--run", "a/b")
    with pytest.raises(UserError, match="leave one out"):
        sft(workspace, "--run", "a", "--output_dir", "b")
    assert sft(workspace, "--output_dir", "mine") == 0
    assert Path("mine/checkpoint-4").is_dir()


def test_a_refused_line_leaves_no_folder(workspace):
    with pytest.raises(UserError, match="no option --lora_rnk"):
        sft(workspace, "--lora_rnk", "8")
    assert not (workspace / "output").exists()


@pytest.mark.parametrize("engine", ["fast", "swift", "auto"])
@pytest.mark.parametrize(
    "words", ["--lora_rank -3", "--lora_dropout 2", "--learning_rate -1", "--num_train_epochs 0", "--seed eleven"]
)
def test_a_number_that_cannot_be_ends_with_2_before_anything_loads(workspace, capsys, monkeypatch, engine, words):
    monkeypatch.setenv("ENGINE", engine)
    monkeypatch.setattr("finetune.sft.prepare._with_data", lambda run: pytest.fail("the data were read first"))
    assert run_main(lambda: sft(workspace, *words.split())) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "internal"))]
    assert len(error) == 1 and all(word in error[0] for word in words.split())
    assert not (workspace / "output").exists()


@pytest.mark.parametrize("code", [1, 7])
def test_a_failed_run_is_1_or_its_own_code_and_says_so(workspace, capsys, monkeypatch, code):
    monkeypatch.setenv("STUB_CODE", str(code))
    assert sft(workspace) == code
    assert json.loads((the_run(workspace) / "run.json").read_text())["status"] == "failed"
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: sft: ms-swift ended with exit code {code}") and "no checkpoint" in error


def test_a_stopped_run_says_by_what(workspace, capsys, monkeypatch):
    monkeypatch.setenv("STUB_CODE", "143")
    assert sft(workspace) == 143
    assert json.loads((the_run(workspace) / "run.json").read_text())["status"] == "stopped"
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: sft: stopped by SIGTERM at step 0; no checkpoint was written"
    )


def test_mixed_without_a_network_and_with_a_file(workspace, monkeypatch, capsys):
    monkeypatch.setattr("finetune.data.hub.reachable", lambda which: False)
    with pytest.raises(UserError, match="--general FILE"):
        sft(workspace, name="sft_mixed")
    Path("general.jsonl").write_text('{"instruction": "1+1?", "input": "", "output": "2"}\n')
    assert sft(workspace, "--general", "general.jsonl", name="sft_mixed") == 0
    (folder,) = (workspace / "output").iterdir()
    assert folder.name.startswith("mixed-20")
    words = seen(folder)
    index = words.index("--dataset")
    assert words[index + 1 : index + 3] == [
        f"{workspace}/elsewhere/general.jsonl#500",
        str(workspace / "self_cognition.json"),
    ]
    with pytest.raises(UserError, match="leave one out"):
        sft(workspace, "--general", "general.jsonl", "--dataset", "x", name="sft_mixed")
    with pytest.raises(UserError, match="names none first"):
        sft(workspace, "--general", "general.jsonl")


def test_bad_rows_are_found_before_a_folder_is_made(workspace):
    (workspace / "self_cognition.json").write_text('[{"instruction": "a", "output": ""}]')
    with pytest.raises(UserError, match=r"self_cognition.json: row 1, output: empty; write the answer"):
        sft(workspace)
    assert not (workspace / "output").exists()


def test_the_adapter_s_path_goes_to_a_file(workspace):
    assert sft(workspace, "--adapter-to", "adapter.txt") == 0
    assert Path("adapter.txt").read_text() == f"{the_run(workspace)}/checkpoint-4\n"


def test_a_folder_that_cannot_be_written():
    with closed_folder() as closed, ordinary_user(), pytest.raises(UserError, match="cannot be written"):
        run_folder.make_folder(closed / "output", "", "run")


def test_a_file_where_the_output_folder_should_be(tmp_path):
    (tmp_path / "output").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_folder.make_folder(tmp_path / "output", "", "run")


def test_a_table_in_another_encoding_is_converted_into_the_run_s_folder(workspace, capsys):
    Path("faq.csv").write_bytes('问题,答案\n怎么退款?,"打开订单,\n点退款。"\n'.encode("gb18030"))
    assert sft(workspace, "--dataset", "faq.csv#1") == 0
    folder = the_run(workspace)
    assert last(seen(folder), "--dataset") == f"{folder}/dataset-1.jsonl#1"
    (line,) = (folder / "dataset-1.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["messages"] == [
        {"role": "user", "content": "怎么退款?"},
        {"role": "assistant", "content": "打开订单,\n点退款。"},
    ]
    assert json.loads((folder / "run.json").read_text())["datasets"][0]["name"] == "faq.csv#1"
    assert "faq.csv as JSONL" in capsys.readouterr().err


def test_columns_of_a_table_may_be_named(workspace):
    Path("faq.csv").write_text("x,y\nq,a\n")
    with pytest.raises(UserError, match="--columns x,y"):
        sft(workspace, "--dataset", "faq.csv")
    assert sft(workspace, "--dataset", "faq.csv", "--columns", "x,y") == 0
    assert "--columns" not in seen(the_run(workspace))
    assert sft(workspace, "--columns", '{"a": "query"}', "--run", "swifts") == 0
    assert last(seen(workspace / "output/swifts"), "--columns") == '{"a": "query"}'


def test_warnings_are_counted_and_do_not_stop_a_run(workspace, capsys):
    rows = [{"instruction": "a", "input": "", "output": text} for text in ("b", "c", "b\x07")]
    (workspace / "self_cognition.json").write_text(json.dumps(rows))
    assert sft(workspace) == 0
    assert (
        "data: 3 rows, warnings: 2 two answers, 1 control character (check-data lists them)\n"
        in capsys.readouterr().err
    )


SHAPE = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "eos_token_id": 151645,
}


@pytest.fixture
def on_a_card(workspace, official_tokenizer_dir, monkeypatch):
    """The workspace on a GPU: a stub of the card (24 GB, 21 GiB free) and a config.json of the 7B shape."""
    model = workspace / "Qwen2.5-7B-Instruct"
    (model / "config.json").write_text(json.dumps(SHAPE))
    for path in official_tokenizer_dir.iterdir():
        shutil.copy(path, model)
    with (workspace / "configs/sft.yaml").open("a") as file:
        file.write("max_length: 2048\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 16\n")
    monkeypatch.setenv("MIRROR_DEVICE", "cuda")

    def stub_find(gpu_gib, setting_gib):
        return gpu_memory.Card("a stub of a card", 24.0, min(setting_gib or 21.0, 21.0), "a stub")

    monkeypatch.setattr("finetune.plan.gpu_memory.find", stub_find)
    return workspace


PLANNED = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "use_liger_kernel")


def planned(folder: Path) -> dict[str, str]:
    """The plan's four options as ms-swift got them."""
    words = seen(folder)
    return {name: last(words, f"--{name}") for name in PLANNED if f"--{name}" in words}


def test_on_a_gpu_ms_swift_follows_the_plan(on_a_card, capsys):
    assert sft(on_a_card) == 0
    got = planned(the_run(on_a_card))
    counter = tokens.Counter(on_a_card / "Qwen2.5-7B-Instruct", None)
    rows = json.loads((on_a_card / "self_cognition.json").read_text())
    asked = [
        [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        for row in rows
    ]
    lengths = counter.count([(messages, None) for messages in asked])
    wanted = plan_swift(Config.from_dir(on_a_card / "Qwen2.5-7B-Instruct"), lengths, 16, 21.0)
    assert got == {name: str(value) for name, value in wanted.options().items()}
    assert int(got["per_device_train_batch_size"]) * int(got["gradient_accumulation_steps"]) == 16
    assert wanted.in_one_line() in capsys.readouterr().err.splitlines()
    settings = json.loads((the_run(on_a_card) / "run.json").read_text())["settings"]
    assert {name: settings[name] for name in PLANNED} == wanted.options()


def test_what_the_user_gives_stays_and_only_the_rest_is_planned(on_a_card, monkeypatch):
    fixed: list[dict] = []

    def spy(*args, **options):
        fixed.append(options)
        return plan_swift(*args, **options)

    monkeypatch.setattr("finetune.sft.batch.plan_swift", spy)
    given = ["--per_device_train_batch_size", "2", "--gradient_checkpointing", "true", "--use_liger_kernel", "false"]
    assert sft(on_a_card, *given) == 0
    assert planned(the_run(on_a_card)) == {
        "per_device_train_batch_size": "2",
        "gradient_accumulation_steps": "16",
        "gradient_checkpointing": "true",
        "use_liger_kernel": "false",
    }
    (options,) = fixed
    assert (options["batch"], options["micro_batch"]) == (32, 2)
    assert (options["gradient_checkpointing"], options["use_liger_kernel"]) == (True, False)


def test_a_config_file_s_checkpointing_and_liger_stay(on_a_card):
    with (on_a_card / "configs/sft.yaml").open("a") as file:
        file.write("gradient_checkpointing: true\nuse_liger_kernel: false\n")
    assert sft(on_a_card) == 0
    got = planned(the_run(on_a_card))
    assert (got["gradient_checkpointing"].lower(), got["use_liger_kernel"].lower()) == ("true", "false")
    assert int(got["per_device_train_batch_size"]) * int(got["gradient_accumulation_steps"]) == 16


def test_what_does_not_fit_ends_before_a_folder_is_made(on_a_card, monkeypatch):
    monkeypatch.setenv("VRAM_CEILING_GIB", "12")
    with pytest.raises(UserError, match=r"more than the 12 there are; take .*a card of \d+ GB") as caught:
        sft(on_a_card)
    assert caught.value.exit_code == 2
    assert not (on_a_card / "output").exists()


def test_a_dataset_of_a_hub_counts_as_max_length(on_a_card, monkeypatch, capsys):
    monkeypatch.setattr("finetune.data.hub.require", lambda source: None)
    assert sft(on_a_card, "--dataset", "AI-ModelScope/alpaca-gpt4-data-zh#5", "--max_length", "1024") == 0
    assert "(longest row 1024 tokens)" in capsys.readouterr().err


def test_rows_over_max_length_are_left_out_of_the_plan(on_a_card, capsys):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a b " * 900, "output": "c"}]
    Path("long.json").write_text(json.dumps(rows))
    assert sft(on_a_card, "--dataset", "long.json", "--max_length", "100") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plan: ")]
    assert int(re.search(r"longest row (\d+) tokens", line).group(1)) <= 100


@pytest.mark.parametrize(
    "words, environ",
    [
        (["--deepspeed", "zero2"], {}),
        (["--tuner_type", "full"], {}),
        (["--packing", "true"], {}),
        ([], {"MIRROR_DEVICE": "cpu"}),
    ],
)
def test_no_plan_for_what_it_does_not_know(on_a_card, monkeypatch, capsys, words, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert sft(on_a_card, "--show", *words) == 0
    captured = capsys.readouterr()
    assert "plan:" not in captured.err
    assert "--use_liger_kernel" not in captured.out


@pytest.mark.parametrize("name", ["NPROC_PER_NODE", "NNODES"])
def test_each_of_several_processes_cuts_its_part_of_the_batch(on_a_card, monkeypatch, capsys, name):
    monkeypatch.setenv("ENGINE", "swift")
    monkeypatch.setenv(name, "2")
    assert sft(on_a_card, "--show") == 0
    captured = capsys.readouterr()
    (micro, parts) = re.search(r"plan: (\d+) rows x (\d+) micro-batches", captured.err).groups()
    assert int(micro) * int(parts) == 8  # half of 16
    words = captured.out.replace("\\\n", " ").split()
    assert words[words.index("--per_device_train_batch_size") + 1] == micro
    assert words[words.index("--gradient_accumulation_steps") + 1] == parts
    assert "--use_liger_kernel" in words


def test_a_waiting_run_is_planned_with_the_whole_card(on_a_card, monkeypatch, capsys):
    monkeypatch.setenv("VRAM_CEILING_GIB", "0")
    assert sft(on_a_card, "--show") == 0
    assert "of 21 GiB" in capsys.readouterr().err
    assert sft(on_a_card, "--show", "--wait") == 0
    assert "of 23.4 GiB" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_plan(on_a_card, monkeypatch, capsys):
    assert sft(on_a_card) == 0
    folder = the_run(on_a_card)
    before = planned(folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "stopped"}))
    for name in ("optimizer.pt", "scheduler.pt"):
        (folder / "checkpoint-4" / name).write_bytes(b"")
    monkeypatch.setattr("finetune.runs.checkpoints.state_problem", lambda path: None)
    (folder / "checkpoint-4/trainer_state.json").write_text("{}")
    monkeypatch.setenv("VRAM_CEILING_GIB", "12")  # a plan would refuse now
    monkeypatch.setenv("STUB_CODE", "1")
    assert sft(on_a_card, "--resume", str(folder)) == 1
    assert last(seen(folder), "--resume_from_checkpoint") == str(folder / "checkpoint-4")
    assert planned(folder) == before


def test_a_node_above_0_leaves_the_folder_to_node_0(workspace, monkeypatch, capsys):
    shared = workspace / "shared"
    (shared / "checkpoint-2").mkdir(parents=True)  # of node 0, which has begun
    (shared / "run.json").write_text("of node 0")
    monkeypatch.setenv("NNODES", "2")
    monkeypatch.setenv("NODE_RANK", "1")
    stub = workspace / "stub-swift"  # a stub of ms-swift on node 1: it writes no checkpoint
    stub.write_text("#!/bin/sh\nexit ${STUB_CODE:-0}\n")
    assert sft(workspace, "--output_dir", str(shared)) == 0
    assert (shared / "run.json").read_text() == "of node 0"
    assert {path.name for path in shared.iterdir()} == {"checkpoint-2", "run.json"}
    assert "node 1 ended with exit code 0" in capsys.readouterr().err
    assert sft(workspace) == 0
    assert not (workspace / "output").exists()
    monkeypatch.setenv("STUB_CODE", "3")
    assert sft(workspace, "--output_dir", str(shared)) == 3
    assert "error: sft: ms-swift ended with exit code 3" in capsys.readouterr().err
    assert (shared / "run.json").read_text() == "of node 0"


def test_a_node_above_0_converts_a_table_under_a_name_of_its_own(workspace, monkeypatch):
    Path("faq.csv").write_text("question,answer\nq,a\n")
    monkeypatch.setenv("NODE_RANK", "1")
    (workspace / "stub-swift").write_text("#!/bin/sh\nexit 0\n")
    assert sft(workspace, "--dataset", "faq.csv", "--output_dir", "shared") == 0
    assert [path.name for path in Path("shared").iterdir()] == ["dataset-1-node1.jsonl"]


@pytest.mark.parametrize(
    "words, environ, micros",
    [
        ([], {"NNODES": "2"}, 8),
        ([], {"NNODES": "2", "NPROC_PER_NODE": "4"}, 2),
        (["--gradient_accumulation_steps", "5"], {"NNODES": "2"}, 5),
        ([], {"NNODES": "3"}, 16),
        ([], {}, 16),
    ],
)
def test_several_workers_share_the_rows_of_a_step(on_a_card, monkeypatch, capsys, words, environ, micros):
    monkeypatch.setenv("MIRROR_DEVICE", "cpu")  # there, the batch is not cut for a card
    monkeypatch.setenv("ENGINE", "swift")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert sft(on_a_card, *words) == 0
    record = json.loads((the_run(on_a_card) / "run.json").read_text())
    assert int(record["settings"]["gradient_accumulation_steps"]) == micros
    said = capsys.readouterr().err
    assert ("batch: " in said) == (micros in (8, 2))
    assert ("note: 3 workers do not divide 16 micro-batches: a step has 48 rows" in said) == ("3" in environ.values())


def test_a_max_length_that_leaves_no_row_is_refused(on_a_card):
    with pytest.raises(
        UserError, match=r"no row is left to train on: the shortest has \d+ tokens, and --max_length is 20"
    ):
        sft(on_a_card, "--max_length", "20")
    assert not (on_a_card / "output").exists()
