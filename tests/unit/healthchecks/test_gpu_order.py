"""The card that the checks and the plan look at is the one that trains, on a host with unlike cards; with STUBS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import gpu_order
from common.errors import run_main
from finetune.plan import gpu_memory
from healthchecks import cli, nvml
from healthchecks.checks import driver
from tests.unit.healthchecks.stub_nvml import GIB, StubNvml

ROOT = Path(__file__).resolve().parents[3]


class UnlikeCards(StubNvml):
    """A STUB of NVML: by PCI bus, an L4 and then an H100."""

    cards = (("NVIDIA L4", 24, 300.0), ("NVIDIA H100", 80, 990.0))  # name, GiB, teraflops

    def __init__(self) -> None:
        super().__init__()
        self.count = 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.cards[handle][0]

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=self.cards[handle][1] * GIB, free=self.cards[handle][1] * GIB)


def cuda_devices() -> list[str]:
    """A STUB of what CUDA does (CUDA C Programming Guide): the fastest is first unless told otherwise."""
    cards = list(UnlikeCards.cards)
    if os.environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST") == "FASTEST_FIRST":
        cards.sort(key=lambda card: -card[2])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [cards[int(n)][0] for n in (visible.split(",") if visible else range(len(cards)))]


@pytest.mark.parametrize("given", [None, "FASTEST_FIRST", "PCI_BUS_ID", ""])
@pytest.mark.parametrize("visible", [None, "0", "1", "1,0"])
def test_checks_plan_and_training_mean_the_same_card(
    given: str | None, visible: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("CUDA_DEVICE_ORDER", given), ("CUDA_VISIBLE_DEVICES", visible)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", os.environ.get("CUDA_DEVICE_ORDER", ""))  # given back at the end
    if given is None:
        del os.environ["CUDA_DEVICE_ORDER"]
        assert cuda_devices()[0] != driver.chosen(nvml.read(UnlikeCards()), visible).name or visible == "0,0"
    trains = []
    assert run_main(lambda: trains.append(cuda_devices()[0])) == 0  # as every command is run
    checked = driver.chosen(nvml.read(UnlikeCards()), visible).name
    planned = gpu_memory.find(None, 22, UnlikeCards).name
    assert trains == [checked] == [planned]
    assert ("taken as PCI_BUS_ID" in capsys.readouterr().err) == (given == "FASTEST_FIRST")


def test_the_checks_themselves_and_the_image_have_that_order(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    cli.main(["startup", "--level", "off"])
    assert os.environ[gpu_order.NAME] == gpu_order.ORDER
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in (ROOT / "Dockerfile").read_text()


def test_what_a_command_starts_has_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, subprocess, sys; from common.errors import run_main; "
        "run_main(lambda: print(subprocess.check_output(['printenv', 'CUDA_DEVICE_ORDER'], text=True)))"
    )
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "PCI_BUS_ID"
