"""Which engine is chosen, for what is shipped and for each kind of obstacle; docs/engines.md is held to the table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from finetune.data.source import DatasetSource
from finetune.engines import choose as engine_choice
from finetune.engines.choose import SWIFT, EngineChoice, choose
from finetune.engines.swift import config_file
from finetune.engines.swift.options import options_of
from finetune.sft.description import typed
from qwen2.training.settings import TrainSettings

ROOT = Path(__file__).parents[4]
CONFIGS = ROOT / "workspace/configs"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder as far as the choice looks into it."""
    return with_config(tmp_path / "model")


def with_config(folder: Path, **values: Any) -> Path:
    """A config.json of Qwen2's shape with other values."""
    shape = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64, "intermediate_size": 128}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512, "eos_token_id": 1}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape | values))
    return folder


def ask(model_dir: Path, asked: str = "auto", /, on_cpu: bool = False, **options: Any) -> EngineChoice:
    sources = options.pop("sources", [DatasetSource("a.json", path=Path("a.json"))])
    return choose(asked, options, model_dir, sources, on_cpu)


def shipped(*names: str) -> dict[str, Any]:
    """All options of these files, the later ones win, with the types that sft.sh gives them."""
    types = options_of("sft")
    merged: dict[str, Any] = {}
    for name in names:
        merged |= config_file.load(CONFIGS / name)
    return {k: typed(types.get(k), [v]) if isinstance(v, str) else v for k, v in merged.items()}


@pytest.mark.parametrize(
    ("files", "batch", "epochs", "rate"),
    [
        (("sft.yaml",), 16, 10, 1e-4),
        (("sft.yaml", "standin.yaml"), 16, 20, 1e-3),
        (("sft_mixed.yaml",), 16, 1, 1e-4),
        (("sft_mixed.yaml", "standin.yaml"), 16, 20, 1e-3),
    ],
)
def test_every_option_that_is_shipped_is_honoured(
    model: Path, files: Any, batch: int, epochs: int, rate: float
) -> None:
    found = ask(model, "fast", **shipped(*files))
    assert found.is_fast and found.max_length == 2048
    assert found.system == "You are a helpful assistant."
    settings = TrainSettings(**found.train)
    assert (settings.batch_size, settings.num_train_epochs, settings.learning_rate) == (batch, epochs, rate)
    assert (settings.lora_rank, settings.lora_alpha, settings.save_total_limit) == (8, 32, 2)
    assert found.in_one_line() == "engine: the fast lane, because ENGINE=fast asks for it"
    assert "honours every option" in ask(model, "auto", **shipped(*files)).in_one_line()


OBSTACLES: list[tuple[dict[str, Any], str]] = [
    ({"tuner_type": "full"}, "--tuner_type full"),
    ({"quant_method": "bnb"}, "--quant_method"),
    ({"deepspeed": "zero2"}, "--deepspeed"),
    ({"val_dataset_shuffle": True}, "--val_dataset_shuffle True"),
    ({"eval_strategy": "best"}, "--eval_strategy best"),
    ({"eval_steps": 0.5}, "--eval_steps 0.5"),
    ({"metric_for_best_model": "rouge-l"}, "--metric_for_best_model rouge-l"),
    ({"early_stop_interval": 0}, "--early_stop_interval 0"),
    ({"save_strategy": "no"}, "--save_strategy no"),
    ({"num_train_epochs": -1}, "--num_train_epochs -1"),
    ({"lora_rank": 0}, "--lora_rank 0"),
    ({"lora_dropout": 1.0}, "--lora_dropout 1.0"),
    ({"save_steps": 0.1}, "--save_steps 0.1"),
    ({"learning_rate": -1.0}, "--learning_rate -1.0"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "--target_modules q_proj embed_tokens"),
    ({"lr_scheduler_type": "polynomial"}, "--lr_scheduler_type polynomial"),
    ({"torch_dtype": "float16"}, "--torch_dtype float16"),
    ({"truncation_strategy": "right"}, "--truncation_strategy right"),
    ({"optim": "muon"}, "--optim muon"),
    ({"report_to": ["wandb"]}, "--report_to wandb"),
    ({"system": "prompt.txt"}, "--system prompt.txt"),
    ({"max_length": 0}, "--max_length 0"),
    ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size 0"),
    ({"dataset_shuffle": False}, "--dataset_shuffle False"),
    ({"fp16": True}, "--fp16 True"),
    ({"split_dataset_ratio": 1.0}, "--split_dataset_ratio 1.0"),
    ({"template": "chatml"}, "--template chatml"),
]


@pytest.mark.parametrize(("options", "named"), OBSTACLES, ids=[named for _, named in OBSTACLES])
def test_every_kind_of_obstacle_is_named(model: Path, options: dict[str, Any], named: str) -> None:
    found = ask(model, **options)
    assert found.engine == SWIFT
    assert found.in_one_line() == f"engine: ms-swift, because of {named}"
    with pytest.raises(UserError, match=re.escape(named)) as caught:
        ask(model, "fast", **options)
    assert caught.value.exit_code == 2


def test_fast_with_obstacles_lists_them_all(model: Path) -> None:
    options = {"tuner_type": "full", "deepspeed": "zero3", "learning_rate": 1e-4}
    with pytest.raises(UserError, match="--tuner_type full; --deepspeed; leave that out, or set ENGINE=swift"):
        ask(model, "fast", **options)
    assert ask(model, **options).why == "because of --tuner_type full (and 1 more)"
    assert ask(model, "swift", **options).why == "because ENGINE=swift asks for it"


def test_an_unknown_engine_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match="ENGINE=turbo: unknown engine; set it to auto, fast or swift") as caught:
        ask(model, "turbo")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["NPROC_PER_NODE", "NNODES"])
def test_several_processes_are_the_fast_lane_s_too(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    assert ask(model).is_fast


def test_other_models_are_ms_swift_s(tmp_path: Path) -> None:
    other = with_config(tmp_path / "a", architectures=["Qwen3ForCausalLM"])
    assert "Qwen3ForCausalLM" in ask(other).why and not ask(other).is_fast
    quantized = with_config(tmp_path / "b", quantization_config={"quant_method": "awq"})
    assert "quantized" in ask(quantized).why and not ask(quantized).is_fast
    scaled = with_config(tmp_path / "c", rope_scaling={"type": "yarn", "factor": 4.0})
    assert "its positions are scaled (yarn)" in ask(scaled).why and not ask(scaled).is_fast
    assert "no config.json" in ask(tmp_path / "nowhere").why
    (tmp_path / "b/config.json").write_text("[1]")
    assert "does not hold a JSON object" in ask(tmp_path / "b").why


def test_a_hub_s_dataset_is_ms_swift_s(model: Path) -> None:
    hub = DatasetSource("AI-ModelScope/alpaca-gpt4-data-zh#500", hub_id="AI-ModelScope/alpaca-gpt4-data-zh", sample=500)
    assert ask(model, sources=[hub]).why == f"because of {hub.spec}, a dataset of a hub"


def test_the_batch_is_the_product_of_its_parts(model: Path) -> None:
    def batch(**options: int) -> int:
        return ask(model, **options).train["batch_size"]

    assert batch(per_device_train_batch_size=2, gradient_accumulation_steps=4) == 8
    # ms-swift fills up to 16 where gradient_accumulation_steps is not given
    assert batch() == 16
    assert batch(per_device_train_batch_size=3) == 18
    assert batch(per_device_train_batch_size=32) == 32


def test_values_that_are_taken_over(model: Path) -> None:
    found = ask(
        model, target_modules=["v_proj", "q_proj"], lr_scheduler_type="linear", report_to="none", use_rslora=True
    )
    assert found.is_fast and not found.tensorboard
    assert found.train["target_modules"] == ("q_proj", "v_proj")
    assert found.train["use_rslora"] is True and found.train["lr_scheduler_type"] == "linear"
    assert ask(model, on_cpu=True, torch_dtype="float32").is_fast  # on a CPU everything is float32
    assert not ask(model, on_cpu=False, torch_dtype="float32").is_fast


def test_every_name_is_an_option_of_ms_swift_and_every_number_one_of_the_fast_lane() -> None:
    known = set(options_of("sft"))
    ours = engine_choice.WITHOUT_EFFECT | engine_choice.NUMBERS | engine_choice.FLAGS | set(engine_choice.TAKERS)
    # of ms-swift 3, and --columns, which train takes as its own
    assert ours - known <= {"train_type", "columns"}
    assert set(TrainSettings.__dataclass_fields__) >= engine_choice.NUMBERS | engine_choice.FLAGS


def test_the_document_names_every_option() -> None:
    text = (ROOT / "docs/engines.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `--")]
    named = {name for row in rows for name in re.findall(r"`--(\w+)", row.split("|")[1])}
    assert named == (
        engine_choice.WITHOUT_EFFECT | engine_choice.NUMBERS | engine_choice.FLAGS | set(engine_choice.TAKERS)
    )
