"""What the swift launcher changes, what it refuses, and that it says so; no ms-swift is started."""

from __future__ import annotations

import json
import os
import shlex

import pytest

from common.errors import UserError
from common.settings import Settings
from finetune.engines.swift import command_line
from finetune.engines.swift import launcher as swift_launcher
from finetune.engines.swift.launcher import prepare

SFT = (
    "sft --model Qwen2.5-7B-Instruct --train_type lora --dataset self_cognition.json --torch_dtype bfloat16 "
    "--num_train_epochs 10 --per_device_train_batch_size 1 --per_device_eval_batch_size 1 --learning_rate 1e-4 "
    "--lora_rank 8 --lora_alpha 32 --target_modules all-linear --gradient_accumulation_steps 16 --eval_steps 50 "
    "--save_steps 50 --save_total_limit 2 --logging_steps 5 --max_length 2048 --output_dir output "
    "--system 'You are a helpful assistant.' --warmup_ratio 0.05 --dataloader_num_workers 4 "
    "--model_author swift --model_name swift-robot"
)
INFER = "infer --model Qwen2.5-7B-Instruct --model_type qwen --stream true --temperature 0 --max_new_tokens 2048"
ON_CPU = "--torch_dtype float32 --bf16 false --fp16 false --use_cpu true --dataloader_num_workers 0"


CEILING = f" --external_plugins {command_line.PLUGINS}/vram_ceiling.py {command_line.PLUGINS}/no_remote_code.py"
END_OF_INPUT = f" {command_line.PLUGINS}/end_of_input.py"


def launch(line: str) -> str:
    """The line as the real swift would get it."""
    command, words = prepare(shlex.split(line), Settings.from_env())
    return shlex.join([command or "", *words])


@pytest.fixture(autouse=True)
def home(mirror, dataset):
    """Every test is in a working folder with a model and a dataset."""
    return mirror


@pytest.fixture
def gpu(monkeypatch):
    """The settings of a machine with a GPU."""
    monkeypatch.setenv("MIRROR_DEVICE", "cuda")


def test_the_article_s_training_line_on_a_gpu(gpu, capsys):
    assert launch(SFT) == SFT.replace("--train_type", "--tuner_type") + " --check_model false" + CEILING
    assert (
        capsys.readouterr().err
        == "swift: --train_type is called --tuner_type in ms-swift 4: passed on under that name\n"
    )


def test_the_article_s_training_line_on_the_cpu(capsys):
    line = launch(SFT)
    assert "--torch_dtype float32" in line and "bfloat16" not in line
    assert "--use_cpu true" in line and "--bf16 false --fp16 false" in line
    assert "--dataloader_num_workers 0" in line
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert f"swift: MIRROR_DEVICE=cpu: running on the CPU with {ON_CPU}\n" in capsys.readouterr().err


def test_the_article_s_inference_line(gpu, capsys):
    assert launch(INFER) == INFER.replace("type qwen", "type qwen2") + CEILING + END_OF_INPUT
    assert "qwen2" in capsys.readouterr().err
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_the_first_qwen_stays_the_first_qwen(gpu, home):
    (home / "Qwen-7B").mkdir()
    (home / "Qwen-7B/config.json").write_text('{"model_type": "qwen"}')
    assert "--model_type qwen " in launch("infer --model Qwen-7B --model_type qwen --stream true")


def test_a_line_for_ms_swift_4_passes_as_it_is(gpu, capsys):
    line = "sft --model Qwen2.5-7B-Instruct --tuner_type lora --dataset self_cognition.json#1 --check_model true"
    assert launch(line) == shlex.join(shlex.split(line)) + CEILING
    assert capsys.readouterr().err == ""


def test_the_article_s_own_checkpoint_means_the_newest(gpu, home, checkpoint, capsys):
    newest = checkpoint(home / "output/v0-20261124-055935", 40)
    line = launch("infer --adapters output/v2-20250412-102603/checkpoint-50 --stream true")
    assert f"--adapters {newest.relative_to(home)}" in line
    assert "the run from the article" in capsys.readouterr().err


def test_the_article_s_checkpoint_before_any_run(home):
    (home / "output").mkdir()
    with pytest.raises(UserError, match=r"run finetune\.sh first"):
        launch("infer --adapters output/v2-20250412-102603/checkpoint-50")


def test_weights_are_found_from_another_folder(gpu, home, checkpoint, monkeypatch, capsys):
    adapter = checkpoint(home / "output", args={"model": "Qwen2.5-7B-Instruct", "external_plugins": ["mine.py"]})
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert f"--model {home}/Qwen2.5-7B-Instruct" in launch("infer --model Qwen2.5-7B-Instruct")
    line = launch(f"infer --adapters {adapter}")
    assert f"--model {home}/Qwen2.5-7B-Instruct" in line
    assert f"--external_plugins mine.py{CEILING.removeprefix(' --external_plugins')}{END_OF_INPUT}" in line
    assert capsys.readouterr().err.count("using") == 2


def test_the_stand_in_does_not_pass_for_the_hub_s_weights(gpu, home, monkeypatch):
    monkeypatch.setattr("finetune.data.hub.reachable", lambda which: True)
    assert "--model Qwen/Qwen2.5-7B-Instruct" in launch("infer --model Qwen/Qwen2.5-7B-Instruct")
    (home / "Qwen2.5-7B-Instruct/config.json").write_text('{"model_type": "qwen2"}')
    assert f"--model {home}/Qwen2.5-7B-Instruct" in launch("infer --model Qwen/Qwen2.5-7B-Instruct")


def test_no_gpu_and_the_real_weights_is_refused(home, monkeypatch):
    monkeypatch.setenv("MIRROR_DEVICE", "auto")
    monkeypatch.setattr("common.settings.gpu_visible", lambda: False)
    assert "--use_cpu true" in launch(SFT)  # the stand-in runs
    (home / "Qwen2.5-7B-Instruct/config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(UserError, match=r"no GPU is visible.*--gpus all") as refused:
        launch(SFT)
    assert refused.value.exit_code == 1


def test_several_processes_on_the_cpu_use_gloo(monkeypatch):
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    assert "--ddp_backend gloo" in launch(SFT)


def test_pasted_with_a_space_behind_the_backslash(gpu, capsys):
    _, words = prepare(
        ["sft", " --model", "Qwen2.5-7B-Instruct", " ", "--dataset", "self_cognition.json"], Settings.from_env()
    )
    assert words[:4] == ["--model", "Qwen2.5-7B-Instruct", "--dataset", "self_cognition.json"]
    assert "does not continue a line" in capsys.readouterr().err


def test_use_vllm_of_ms_swift_3(gpu, monkeypatch):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install vllm"):
        launch(f"{INFER} --use_vllm true")
    assert "vllm" not in launch(f"{INFER} --use_vllm false")
    monkeypatch.setattr(command_line, "find_spec", lambda name: object())
    assert "--infer_backend vllm" in launch(f"{INFER} --use_vllm true")


BASE = "sft --model Qwen2.5-7B-Instruct --dataset self_cognition.json"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sfft", "swift sfft: no such command; choose from pt, sft"),
        (f"{BASE} --lora_rnk 8", "no option --lora_rnk, did you mean --lora_rank?"),
        (f"{BASE} --trian_type lora", "no option --trian_type, did you mean --train_type?"),
        (f"{BASE} --sft_type lora", "no option --sft_type"),
        (f"{BASE} --system You are a helpful assistant.", "'are' after --system belongs to no option"),
        ("sft self_cognition.txt --model Qwen2.5-7B-Instruct", "'self_cognition.txt' belongs to no option"),
        (f"{BASE} --num_train_epochs ten", "--num_train_epochs: ten is not a number; for example 3"),
        (f"{BASE} --lora_rank 8.5", "--lora_rank: 8.5 is not a whole number; for example 8"),
        (f"{BASE} --torch_dtype bf16", "--torch_dtype bf16: unknown value; choose from bfloat16, float16, float32"),
        (f"{BASE} --add_version maybe", "--add_version maybe: neither true nor false"),
        (f"{BASE} --lora_rank", "--lora_rank has no value"),
        ("sft --dataset self_cognition.json", "--model is missing; the weights here are"),
        ("sft --model Qwen2.5-7B --dataset self_cognition.json", "--model Qwen2.5-7B: no such folder"),
        ("sft --model /weights --dataset self_cognition.json", "--model /weights: no such folder"),
        ("sft --model Qwen2.5-7B-Instruct --dataset nowhere.json", "nowhere.json: no such file"),
        ("sft --model Qwen2.5-7B-Instruct --dataset bad.json", "bad.json: line 1, column 2: not JSON"),
        ("sft --model Qwen2.5-7B-Instruct --dataset empty.jsonl", "empty.jsonl: is empty"),
        ("sft nowhere.yaml", "nowhere.yaml: no such file"),
        ("sft bad.yaml", "bad.yaml: line 2, column"),
        ("sft unknown.yaml", "unknown.yaml: lora_rnk: not an option of swift sft, did you mean --lora_rank?"),
        ("sft old.yaml", "old.yaml: train_type: is called tuner_type in ms-swift 4"),
        ("sft type.yaml", "type.yaml: lora_rank: eight is not a whole number"),
        ("infer --adapters output/nowhere/checkpoint-1", "no such adapter; there is none below"),
        ("infer --adapters broken", "broken: incomplete checkpoint (no adapter_config.json)"),
    ],
)
def test_what_cannot_work_is_one_line_and_2(home, line, says):
    (home / "bad.json").write_text("[x]")
    (home / "empty.jsonl").write_text("\n")
    (home / "bad.yaml").write_text("model: x\ndataset: [a\n")
    (home / "unknown.yaml").write_text("lora_rnk: 8\n")
    (home / "old.yaml").write_text("train_type: lora\n")
    (home / "type.yaml").write_text("lora_rank: eight\n")
    (home / "broken").mkdir()
    with pytest.raises(UserError) as refused:
        launch(line)
    assert says in str(refused.value)
    assert refused.value.exit_code == 2


OUT_OF_RANGE = [
    *("lora_rank -3", "lora_rank 0", "lora_alpha 0", "lora_dropout 2", "lora_dropout -0.1", "lora_dropout 1"),
    *("learning_rate -1", "learning_rate nan", "learning_rate inf", "num_train_epochs 0", "num_train_epochs -2"),
    *("per_device_train_batch_size 0", "gradient_accumulation_steps -1", "max_length 0", "save_steps 0"),
    *("logging_steps -5", "warmup_ratio 1.5", "warmup_ratio -0.1", "weight_decay -1", "adam_beta1 1", "adam_beta2 7"),
    *("max_grad_norm -1", "seed -1", "seed 4294967296", "data_seed -7", "max_steps -2", "dataloader_num_workers -1"),
]


@pytest.mark.parametrize("words", OUT_OF_RANGE)
def test_a_number_out_of_range_is_one_line_and_2(home, words):
    for line in (f"{BASE} --{words}", f"{BASE} --{words.replace(' ', '=')}"):
        with pytest.raises(UserError) as refused:
            launch(line)
        assert refused.value.exit_code == 2 and "\n" not in str(refused.value)
        assert any(say in str(refused.value) for say in ("out of range; it must be", "is not a finite number"))
    name, value = words.split()
    (home / "own.yaml").write_text(f"{name}: {value}\n")
    with pytest.raises(UserError, match=f"own.yaml: {name} "):
        launch("sft own.yaml --model Qwen2.5-7B-Instruct --dataset self_cognition.json")


@pytest.mark.parametrize(
    "words",
    [
        *("lora_rank 1", "lora_dropout 0", "learning_rate 0", "learning_rate 1e-4", "num_train_epochs 0.5"),
        *("max_steps -1", "max_steps 3", "warmup_ratio 0", "warmup_ratio 1", "save_steps 0.5", "max_grad_norm 0"),
        *("seed 0", "seed 4294967295", "save_total_limit 1", "dataloader_num_workers 0", "weight_decay 0"),
    ],
)
def test_a_number_at_the_edge_passes(gpu, words):
    line = f"{BASE} --{words} --check_model false"
    assert launch(line) == line + CEILING


def test_the_beginning_of_an_option_is_held_to_the_same_range(home):
    with pytest.raises(UserError, match="--lora_dr 2: is out of range"):
        launch(f"{BASE} --lora_dr 2")


def test_on_python_3_10_a_json_py_beside_several_processes_is_refused(home, monkeypatch):
    """EMULATED: the version is handed in. One process is safe there, torch's launcher of several is not."""
    (home / "json.py").write_text("raise SystemExit('the json.py of the user')")
    (home / "mine.py").write_text("")
    line = command_line.Line("sft", command_line.Arguments([]), command_line.Settings.from_env())
    line.shadows((3, 10))
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    line.shadows((3, 11))
    with pytest.raises(UserError, match=r"json\.py in .* would shadow Python's own"):
        line.shadows((3, 10))
    (home / "json.py").unlink()
    line.shadows((3, 10))


def test_a_config_file_comes_first_and_counts(gpu, home):
    (home / "my.yaml").write_text("model: Qwen2.5-7B-Instruct\ndataset: [self_cognition.json]\ncheck_model: true\n")
    assert launch("sft my.yaml --seed 1") == "sft my.yaml --seed 1" + CEILING


def test_options_that_argparse_would_take_pass(gpu):
    line = f"{BASE} --check-model=false --no_add_version --gradient_accum 2 --stopping_strategy first_exhausted"
    assert launch(line) == line + CEILING


@pytest.mark.parametrize("command", ["pt", "sft", "rlhf", "infer", "deploy", "app", "eval", "sample", "export"])
def test_the_ceiling_is_in_every_process_that_holds_a_model(gpu, command):
    data = " --dataset self_cognition.json" if command in command_line.TRAINING else ""
    assert CEILING in launch(f"{command} --model Qwen2.5-7B-Instruct{data}")


def test_the_ceiling_is_not_for_engines_that_divide_the_card_themselves(gpu, monkeypatch):
    monkeypatch.setattr(command_line, "find_spec", lambda name: object())
    assert "vram_ceiling" not in launch("deploy --model Qwen2.5-7B-Instruct --infer_backend vllm")
    assert "vram_ceiling" not in launch("rollout --model Qwen2.5-7B-Instruct")
    assert "external_plugins" not in launch("web-ui")


def test_the_user_s_plugins_are_kept(gpu, home, checkpoint):
    plugins = CEILING.removeprefix(" --external_plugins")
    assert f"--external_plugins a.py b.py{plugins} " in launch(f"{BASE} --external_plugins a.py b.py")
    assert launch(f"{BASE}{CEILING}").count("vram_ceiling") == 1
    (home / "my.yaml").write_text(
        "model: Qwen2.5-7B-Instruct\ndataset: [self_cognition.json]\nexternal_plugins: [a.py]\n"
    )
    assert launch("sft my.yaml").endswith(f"--external_plugins a.py{plugins}")
    # What a checkpoint was trained with: ms-swift loads it where it answers, and where it trains only with load_args.
    adapter = checkpoint(home / "output", args={"external_plugins": ["mine.py", "/elsewhere/vram_ceiling.py"]})
    model = "--model Qwen2.5-7B-Instruct"
    assert launch(f"deploy {model} --adapters {adapter}").endswith(f"--external_plugins mine.py{plugins}")
    assert launch(f"deploy {model} --adapters {adapter} --load_args false").endswith(CEILING)
    assert launch(f"export {model} --adapters {adapter} --external_plugins a.py").endswith(f" a.py{plugins}")
    assert launch(f"{BASE} --adapters {adapter}").endswith(CEILING)
    assert "mine.py" in launch(f"{BASE} --adapters {adapter} --load_args true")
    (home / "Qwen2.5-7B-Instruct/args.json").write_text('{"external_plugins": ["merged.py"]}')
    assert "merged.py" in launch(f"infer {model}")


def test_help_and_version(capsys):
    assert prepare([], Settings.from_env()) == (None, [])
    assert prepare(["--version"], Settings.from_env()) == (None, [])
    assert prepare(["sft", "--help"], Settings.from_env()) == ("sft", ["--help"])
    assert "ms-swift 4" in capsys.readouterr().out


def test_the_real_swift_is_not_a_launcher(tmp_path, monkeypatch):
    launcher, real = tmp_path / "first/swift", tmp_path / "second/swift"
    for path, text in ((launcher, "#!/bin/sh\nexec python -m finetune.engines.swift.launcher\n"), (real, "#!python\n")):
        path.parent.mkdir()
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "no-venv"))
    monkeypatch.setenv("PATH", f"{launcher.parent}:{real.parent}")
    assert swift_launcher.find_real() == str(real)
    real.unlink()
    with pytest.raises(UserError, match="not installed"):
        swift_launcher.find_real()


def test_the_hub_is_asked_before_anything_slow(monkeypatch):
    monkeypatch.setattr("finetune.data.hub.reachable", lambda which: False)
    with pytest.raises(UserError, match=r"ModelScope hub, which does not answer.*--general FILE"):
        launch("sft --model Qwen2.5-7B-Instruct --dataset AI-ModelScope/alpaca-gpt4-data-zh#500 self_cognition.json")


@pytest.mark.parametrize(("words", "hub"), [("", "ModelScope"), (" --use_hf true", "HuggingFace")])
def test_a_hub_s_model_without_a_network_ends_in_one_line(gpu, home, monkeypatch, words, hub):
    monkeypatch.setattr("finetune.data.hub.reachable", lambda which: False)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(home / "cache"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    line = f"infer --model Qwen/Qwen2.5-7B-Instruct{words}"
    with pytest.raises(UserError, match=rf"{hub} hub, which does not answer.*{home}/Qwen2.5-7B-Instruct"):
        launch(line)
    (home / "cache/models/Qwen/Qwen2___5-7B-Instruct/x").mkdir(parents=True)  # an earlier download
    assert "--model Qwen/Qwen2.5-7B-Instruct" in launch(line)


def test_broken_args_json_is_nothing(home, checkpoint, gpu):
    path = checkpoint(home / "output")
    (path / "args.json").write_text("[")
    assert json.dumps(str(path))[1:-1] in launch(f"infer --adapters {path}")


def test_nobody_is_told_that_a_dataset_is_read(monkeypatch):
    """`datasets` would ask a server of its makers at every file (tests/flow/test_offline.py); who wants that may."""
    monkeypatch.delenv("HF_UPDATE_DOWNLOAD_COUNTS", raising=False)
    launch(SFT)
    assert os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] == "0"
    monkeypatch.setenv("HF_UPDATE_DOWNLOAD_COUNTS", "1")
    launch(SFT)
    assert os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] == "1"


def test_a_4_bit_base_gets_bitsandbytes_on_its_path(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(command_line, "find_spec", lambda _: None)
    monkeypatch.setattr(command_line, "BITSANDBYTES", tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    line = f"{SFT} --quant_method bnb --quant_bits 4"
    with pytest.raises(UserError, match="needs bitsandbytes, which is not installed; run pip install bitsandbytes"):
        launch(line)
    (tmp_path / "bitsandbytes").mkdir()
    assert "--quant_method bnb" in launch(line)
    assert os.environ["PYTHONPATH"] == f"{tmp_path}{os.pathsep}/mine"


def test_without_a_4_bit_base_nothing_is_put_on_the_path(gpu, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    launch(SFT)
    assert os.environ["PYTHONPATH"] == "/mine"


QWEN2_CONFIG = '{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}'


def qwen2_folder(path):
    path.mkdir()
    (path / "config.json").write_text(QWEN2_CONFIG)
    return path


def test_a_qwen2_in_a_folder_of_any_name_gets_its_type_and_template(gpu, home, capsys):
    qwen2_folder(home / "x")
    line = launch("sft --model x --tuner_type lora --dataset self_cognition.json")
    assert "--model_type qwen2 --template qwen2_5" in line
    assert "ms-swift knows no model named 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Qwen2.5-1.5B-Instruct", "Qwen2___5-1___5B-Instruct", "gte_Qwen2-1.5B-instruct"])
def test_a_name_that_ms_swift_knows_is_left_to_it(gpu, home, name):
    qwen2_folder(home / name)
    line = launch(f"sft --model {name} --tuner_type lora --dataset self_cognition.json")
    assert "--model_type" not in line and "--template" not in line


def test_what_the_user_chose_stays(gpu, home):
    qwen2_folder(home / "x")
    line = launch("sft --model x --model_type qwen2 --template qwen --tuner_type lora --dataset self_cognition.json")
    assert line.count("--model_type") == 1 and "--template qwen " in line
    assert "--template" not in launch("infer --model x --model_type qwen2_gte")
    assert "--template qwen2_5" in launch("infer --model x --model_type qwen2")


def test_another_architecture_is_left_to_ms_swift(gpu, home):
    qwen2_folder(home / "x")
    (home / "x/config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    assert "--model_type" not in launch("infer --model x")
