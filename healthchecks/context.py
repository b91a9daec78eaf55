"""What every check is given and what it gives back; startup.py makes one Context for a run of the checks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.i18n import _
from common.model_kind import ModelKind, kind_of
from common.settings import Settings

if TYPE_CHECKING:
    from healthchecks.nvml import Gpu

GIB = 1 << 30
ROOT = Path(__file__).resolve().parent.parent


class Failure(Exception):
    """A check failed: what is wrong (cause), what to do (remedy), and a code by which programs and tests know it."""

    def __init__(self, code: str, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.code, self.cause, self.remedy = code, " ".join(cause.split()), " ".join(_(remedy).split())


@dataclass
class Outcome:
    """What a check that did not fail has to say; a warning and a skip have a code, and a warning a remedy."""

    figure: str  # what was seen, in a few words, for the table
    status: str = "pass"  # pass, warn or skip
    code: str = ""
    cause: str | None = None
    remedy: str | None = None


@dataclass
class Context:
    """Settings, and what earlier checks found out for later ones."""

    model_dir: Path = Path("/root/Qwen2.5-7B-Instruct")
    output_dir: Path = Path("/root/output")
    device: str = "auto"  # auto, cuda or cpu: as asked for
    ceiling_gib: float = 22.0  # 0: no ceiling
    checksum: bool = False
    lock_file: Path = ROOT / "requirements" / "image.lock"
    official_sums: Path = ROOT / "weights" / "SHA256SUMS"
    torch_spec: str = ""  # what the build put instead of the lock's torch, if anything
    shm_dir: Path = Path("/dev/shm")
    system_root: Path = Path("/")  # where /proc, /sys and /dev are: tests lay out machines of their own
    cuda_visible_devices: str | None = None
    progress: Callable[[str, int, int], None] = lambda label, done, total: None
    torch: Callable[[], Any] = field(default=lambda: __import__("torch"))
    nvml: Callable[[], Any] = field(default=lambda: __import__("pynvml"))
    model: Callable[[], Any] | None = None  # the caller's own bfloat16 model on the GPU, which `forward` then uses

    gpu: Gpu | None = None  # set by `driver`: the GPU that CUDA device 0 will be
    sums_match: bool = False  # set by `weights`: the shards' sha256, computed or recorded, are the official ones
    peak: tuple[int, int] | None = None  # set by `forward`: peak bytes of CUDA memory (allocated, reserved)
    left: tuple[int, int] | None = None  # set by `forward`: bytes (allocated, reserved) after the release

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Context:
        """Read the settings of the environment; an empty value counts as not set. UserError names the variable."""
        env = os.environ if environ is None else environ
        settings = Settings.from_env(env)
        context = cls(torch_spec=env.get("MIRROR_TORCH_SPEC", ""), cuda_visible_devices=env.get("CUDA_VISIBLE_DEVICES"))
        context.model_dir, context.output_dir = settings.model_dir, settings.output_dir
        context.device, context.ceiling_gib = settings.device, settings.vram_ceiling_gib
        # For a machine without the image, whose packages are another set: a lock of its own (bench/health_startup.sh).
        context.lock_file = Path(env.get("MIRROR_LOCK") or context.lock_file)
        return context

    @property
    def kind(self) -> ModelKind:
        """Whether the weights are a model made for tests, by a key of config.json."""
        return kind_of(self.model_dir)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all safetensors files in the model folder; 0 when there are none."""
        try:
            return sum(path.stat().st_size for path in self.model_dir.glob("*.safetensors"))
        except OSError:
            return 0


def gib(number: float) -> str:
    """Bytes as GiB with one or two digits after the point."""
    value = number / GIB
    return f"{value:.2f} GiB" if value < 10 else f"{value:.1f} GiB"
