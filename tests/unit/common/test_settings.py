"""The environment's settings and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import settings
from common.errors import UserError
from common.model_kind import OTHER, STANDIN, kind_of
from common.settings import Settings


def test_the_defaults_are_the_image_s():
    assert Settings.from_env({}) == Settings(Path("/root/Qwen2.5-7B-Instruct"), Path("/root/output"), "auto", 22.0)
    assert Settings.from_env({"MODEL_DIR": "", "VRAM_CEILING_GIB": "", "MIRROR_DEVICE": ""}) == Settings.from_env({})


def test_values_are_taken():
    found = Settings.from_env({"MODEL_DIR": "/m", "OUTPUT_DIR": "o", "MIRROR_DEVICE": "CPU", "VRAM_CEILING_GIB": "0"})
    assert found == Settings(Path("/m"), Path("o"), "cpu", 0.0)


@pytest.mark.parametrize(
    "environ",
    [
        {"MIRROR_DEVICE": "gpu"},
        {"VRAM_CEILING_GIB": "24GB"},
        {"VRAM_CEILING_GIB": "-1"},
        {"VRAM_CEILING_GIB": "nan"},
        {"VRAM_CEILING_GIB": "inf"},
    ],
)
def test_a_value_that_cannot_be_used_is_named(environ):
    ((name, value),) = environ.items()
    with pytest.raises(UserError, match=f"{name}={value}"):
        Settings.from_env(environ)


@pytest.mark.parametrize(("device", "visible", "cpu"), [
    ("cpu", True, True), ("cuda", False, False), ("auto", True, False), ("auto", False, True),
])  # fmt: skip
def test_auto_is_the_cpu_only_where_no_gpu_is(monkeypatch, device, visible, cpu):
    monkeypatch.setattr(settings, "gpu_visible", lambda: visible)
    assert Settings.from_env({"MIRROR_DEVICE": device}).wants_cpu is cpu


def test_another_test_model_says_what_it_is(tmp_path):
    (tmp_path / "config.json").write_text('{"mirror_model": "smollm2"}')
    kind = kind_of(tmp_path)
    assert kind.is_for_tests and kind.name == "smollm2" and "not a Qwen2.5" in kind.notice(tmp_path)
    assert str(kind.mark()).startswith("SmolLM2-135M-Instruct: these figures are of a real but small English model")
    (tmp_path / "config.json").write_text('{"mirror_model": "llama"}')
    assert kind_of(tmp_path) is OTHER and OTHER.mark() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"mirror_standin": true}', True), ('{"mirror_standin": 1}', False), ("{}", False), ("[]", False), ("{", False)],
)
def test_the_stand_in_is_told_by_its_config(tmp_path, text, expected):
    (tmp_path / "config.json").write_text(text)
    assert kind_of(tmp_path) is (STANDIN if expected else OTHER)
    assert kind_of(tmp_path / "missing") is OTHER
