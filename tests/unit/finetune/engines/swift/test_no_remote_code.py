"""The plugin no_remote_code with the real ms-swift: Python code in a model's folder is not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.finetune.real_swift import make_home, start

EVIL = """
from pathlib import Path

from transformers import Qwen2Config

Path(__file__).with_name("ran").touch()
Path("ran").touch()


class EvilConfig(Qwen2Config):
    model_type = "MODEL_TYPE"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, official_tokenizer_dir) -> Path:
    return make_home(tmp_path_factory.mktemp("home"), official_tokenizer_dir)


def plant(home: Path, model_type: str) -> None:
    """Code in addition to the weights, and a config.json that sends transformers to it."""
    model = home / "Qwen2.5-7B-Instruct"
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": model_type, "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text(EVIL.replace("MODEL_TYPE", model_type))
    (home / "ran").unlink(missing_ok=True)


def infer(home: Path, **environ: str):
    """`swift infer` over the dataset; the cache of modules that transformers copies code to is this home's."""
    words = "--model Qwen2.5-7B-Instruct --val_dataset self_cognition.json --max_new_tokens 1 --result_path out.jsonl"
    return start(
        home, "finetune.engines.swift.launcher", "infer", *words.split(), HF_MODULES_CACHE=str(home / "mod"), **environ
    )


def test_it_is_run_where_the_user_trusts_it(home):
    """The test of the test: without the plugin ms-swift does run it, and warns."""
    plant(home, "qwen2")
    done = infer(home, MIRROR_TRUST_REMOTE_CODE="1")
    assert (home / "ran").exists(), done.stdout[-2000:] + done.stderr[-2000:]
    assert "trust_remote_code=True" in done.stdout + done.stderr


def test_a_model_that_transformers_knows_is_loaded_without_it(home):
    plant(home, "qwen2")
    done = infer(home)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert not (home / "ran").exists()
    assert "trust_remote_code=True" not in done.stdout + done.stderr


def test_a_model_that_needs_it_is_refused_in_one_line(home):
    plant(home, "evil")
    done = infer(home)
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
    assert not (home / "ran").exists()
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "MIRROR_TRUST_REMOTE_CODE=1" in errors[0], done.stderr
    assert "Traceback" not in done.stderr
