"""The options read from ms-swift's source are those that it has."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.engines.swift import options as swift_options

ROOT = Path(__file__).parents[5]
SFT = swift_options.options_of("sft")


@pytest.mark.parametrize("command", swift_options.ARGUMENTS)
def test_every_command_has_options(command):
    assert len(swift_options.options_of(command)) > (3 if command == "web-ui" else 100)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tuner_type", "text"),
        ("dataset", "list"),
        ("target_modules", "list"),
        ("learning_rate", "float"),
        ("lora_rank", "int"),
        ("add_version", "bool"),
        ("bf16", "bool"),
        ("torch_dtype", "choice"),
        ("max_length", "int"),
        # inherited from transformers
        ("use_cpu", "bool"),
        ("gradient_accumulation_steps", "int"),
        ("warmup_ratio", "float"),
    ],
)
def test_kinds(name, kind):
    assert SFT[name].kind == kind


def test_choices():
    assert SFT["torch_dtype"].choices == ("bfloat16", "float16", "float32", "None")


def test_what_ms_swift_4_no_longer_has():
    assert "train_type" not in SFT
    assert "use_vllm" not in swift_options.options_of("infer")


def test_a_near_miss_is_suggested():
    assert swift_options.suggestion("lora_rnk", SFT) == ", did you mean --lora_rank?"
    assert swift_options.suggestion("zzz", SFT) == ""


def test_an_unreadable_package_checks_nothing(monkeypatch):
    monkeypatch.setitem(swift_options.ARGUMENTS, "sft", "NoSuchClass")
    assert swift_options.options_of("sft") == {}


def test_nothing_is_imported():
    code = (
        "import sys; from finetune.engines.swift.options import options_of; options_of('sft'); options_of('infer')\n"
        "print([name for name in ('swift', 'torch', 'transformers', 'yaml') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """What `docker build` writes, beside a source that must not be asked."""
    monkeypatch.setattr(swift_options, "WRITTEN", tmp_path / "options.json")
    runpy.run_path(str(ROOT / "image/list_options.py"), run_name="__main__")
    monkeypatch.setattr(swift_options, "options_in_source", lambda command: {"read": "from the source"})
    return tmp_path / "options.json"


def test_what_the_build_writes_is_what_the_source_says(written, monkeypatch):
    found = {command: swift_options.options_of(command) for command in swift_options.ARGUMENTS}
    monkeypatch.undo()
    assert found == {command: swift_options.options_in_source(command) for command in swift_options.ARGUMENTS}


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"packages": [], "options": {}}', '{"packages": 1}'])
def test_without_a_file_that_can_be_used_the_source_is_read(written, text):
    written.unlink() if text is None else written.write_text(text)
    assert swift_options.options_of("sft") == {"read": "from the source"}


@pytest.mark.parametrize("package", ["ms_swift", "transformers"])
def test_other_packages_than_those_of_the_build_are_read_anew(written, package):
    held = json.loads(written.read_text())
    held["packages"] = [f"{package}-0.dist-info" if name.startswith(package) else name for name in held["packages"]]
    assert "0.dist-info" in str(held["packages"])
    written.write_text(json.dumps(held))
    assert swift_options.options_of("sft") == {"read": "from the source"}
