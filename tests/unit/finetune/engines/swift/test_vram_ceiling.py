"""The ceiling on GPU memory: what the plugin asks of torch, and how a real ms-swift ends that runs out of memory."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from types import ModuleType

import pytest
import torch

from finetune.engines.swift.command_line import PLUGINS
from tests.unit.finetune.real_swift import make_home, start

GIB = 2**30


class StubCuda:
    """A stub of torch.cuda with cards of 80 and 16 GiB; notes what is set. There is no GPU where this runs."""

    totals = (80 * GIB, 16 * GIB)

    def __init__(self) -> None:
        self.fractions: dict[int, float] = {}
        self.current = 0
        self.initialized = True
        self.free = 60 * GIB
        self.peaks = [int(15.5 * GIB), GIB]

    def device_count(self) -> int:
        return len(self.totals)

    def get_device_properties(self, device: int):
        return type("Properties", (), {"total_memory": self.totals[device]})

    def set_per_process_memory_fraction(self, fraction: float, device: int) -> None:
        assert self.current == device  # torch makes it the current one, and it has to be put back
        self.fractions[device] = fraction

    def device(self, index: int):
        stub = self

        class Current:
            def __enter__(self):
                self.before, stub.current = stub.current, index

            def __exit__(self, *_):
                stub.current = self.before

        return Current()

    def is_initialized(self) -> bool:
        return self.initialized

    def max_memory_reserved(self, device: int) -> int:
        return self.peaks[device]

    memory_reserved = max_memory_reserved

    def mem_get_info(self, device: int) -> tuple[int, int]:
        return self.free, self.totals[device]


@pytest.fixture(scope="module")
def loaded() -> ModuleType:
    """The plugin as ms-swift imports it; what it changes in this process is undone."""
    from swift.arguments import BaseArguments

    hook, save = sys.excepthook, BaseArguments.save_args
    spec = importlib.util.spec_from_file_location("vram_ceiling_under_test", PLUGINS / "vram_ceiling.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.excepthook, BaseArguments.save_args = hook, save
    torch.cuda._queued_calls[:] = [call for call in torch.cuda._queued_calls if call[0] is not module.cap]


@pytest.fixture
def plugin(loaded, monkeypatch) -> ModuleType:
    """The plugin over a stub of torch.cuda, without what the environment says."""
    monkeypatch.setattr(torch, "cuda", StubCuda())
    for name in ("VRAM_CEILING_GIB", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return loaded


def test_cuda_is_not_initialised_but_the_cap_waits_for_it(loaded):
    assert not torch.cuda.is_initialized()
    assert [call for call, _ in torch.cuda._queued_calls].count(loaded.cap) == 1


@pytest.mark.parametrize(
    ("environ", "fractions"),
    [
        ({}, {0: 22 / 80}),  # the card of 16 GiB is below the ceiling anyway
        ({"VRAM_CEILING_GIB": "8"}, {0: 0.1, 1: 0.5}),
        ({"VRAM_CEILING_GIB": "8", "LOCAL_RANK": "1"}, {1: 0.5}),  # torchrun: a process has a card
        ({"VRAM_CEILING_GIB": "8", "LOCAL_RANK": "5"}, {0: 0.1, 1: 0.5}),
        ({"VRAM_CEILING_GIB": "0"}, {}),
        ({"VRAM_CEILING_GIB": "100"}, {}),
        ({"VRAM_CEILING_GIB": "many"}, {}),
    ],
)
def test_every_card_is_held_to_the_ceiling(plugin, monkeypatch, environ, fractions):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    plugin.cap()
    assert torch.cuda.fractions == pytest.approx(fractions)
    assert torch.cuda.current == 0


def test_the_line_names_peak_ceiling_and_setting(plugin, monkeypatch):
    monkeypatch.setenv("VRAM_CEILING_GIB", "16")
    assert plugin.out_of_memory_line("sft") == (
        "error: out of GPU memory at a peak of 15.5 GiB: VRAM_CEILING_GIB=16 allows no more; "
        "lower --per_device_train_batch_size or --max_length, or raise VRAM_CEILING_GIB on a larger card (0 lifts it); "
        "`plan` shows what fits; the checkpoints written so far are kept"
    )
    assert "--max_new_tokens" in plugin.out_of_memory_line("infer")
    assert "checkpoints" not in plugin.out_of_memory_line("infer")


def test_the_line_says_when_the_card_was_full_before_the_ceiling(plugin, monkeypatch):
    torch.cuda.free = GIB  # others hold the rest
    line = plugin.out_of_memory_line("sft")
    assert "of the 80.0 GiB of GPU 0 this process could have 16.5, VRAM_CEILING_GIB is 22" in line
    monkeypatch.setenv("VRAM_CEILING_GIB", "0")
    assert "take a larger card" in plugin.out_of_memory_line("sft")


def test_what_counts_as_out_of_memory(plugin):
    def chained(first: Exception, second: Exception, cause: bool) -> Exception:
        try:
            try:
                raise first
            except Exception as error:
                second.__context__ = error
                raise second from (error if cause else None)
        except Exception as error:
            return error

    out = torch.OutOfMemoryError("stub")
    assert plugin.is_out_of_memory(out)
    assert plugin.is_out_of_memory(chained(out, ValueError("state"), False))
    assert plugin.is_out_of_memory(chained(out, ValueError("state"), True))
    assert plugin.is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not plugin.is_out_of_memory(RuntimeError("shapes differ"))
    assert not plugin.is_out_of_memory(chained(KeyError("a"), ValueError("b"), True))
    loop = ValueError("a ring")
    loop.__context__ = RuntimeError("of two")
    loop.__context__.__context__ = loop
    assert not plugin.is_out_of_memory(loop)


def test_other_errors_are_shown_as_before(plugin, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(plugin, "_before", lambda *what: shown.append(what))
    error = ValueError("x")
    plugin.say(ValueError, error, None)
    assert shown == [(ValueError, error, None)] and capsys.readouterr().err == ""
    plugin.say(torch.OutOfMemoryError, torch.OutOfMemoryError("x"), None)
    assert len(shown) == 1 and capsys.readouterr().err.count("\n") == 1


# A plugin of a user's: memory runs out at the third step, as it does when a batch holds a longer row.
RUNS_OUT = """
import torch
from transformers import Trainer

_step, seen = Trainer.training_step, []

def step(self, *args, **kwargs):
    seen.append(1)
    if len(seen) == 3:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. (raised by a test)")
    return _step(self, *args, **kwargs)

Trainer.training_step = step
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory, official_tokenizer_dir):
    """A real `swift sft` of four steps that runs out of memory at the third: its home and how it ended."""
    home = make_home(tmp_path_factory.mktemp("home"), official_tokenizer_dir)
    (home / "runs_out.py").write_text(RUNS_OUT)
    words = "--model Qwen2.5-7B-Instruct --tuner_type lora --target_modules all-linear --dataset self_cognition.json"
    words += " --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --save_steps 1 --logging_steps 1"
    words += " --num_train_epochs 1 --output_dir out --add_version false --external_plugins runs_out.py"
    return home, start(home, "finetune.engines.swift.launcher", "sft", *words.split(), VRAM_CEILING_GIB="16")


def test_a_real_ms_swift_out_of_memory_ends_in_one_line_and_1(ended):
    _, done = ended
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr + done.stdout
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith("error: out of GPU memory: VRAM_CEILING_GIB=16 allows no more; lower --per_device"), last


def test_its_checkpoints_are_kept_and_can_be_used_without_the_plugin(ended):
    home, done = ended
    assert (home / "out/checkpoint-2/adapter_model.safetensors").is_file(), done.stderr[-2000:]
    for place in ("out", "out/checkpoint-2"):
        recorded = json.loads((home / place / "args.json").read_text())["external_plugins"]
        assert [os.path.basename(name) for name in recorded] == ["runs_out.py"]
