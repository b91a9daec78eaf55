"""The input and output of every check; startup.py creates one Context for each run of the checks."""

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
    """A check failed: what is wrong (cause), what to do (remedy), and a code for programs and tests."""

    def __init__(self, code: str, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.code, self.cause, self.remedy = code, " ".join(cause.split()), " ".join(_(remedy).split())


@dataclass
class Outcome:
    """The result of a check; all but a pass have a code, and a warning has a cause and a remedy."""

    figure: str  # the finding in a few words, for the table
    status: str = "pass"  # pass, warn or skip; startup.py turns a Failure into fail
    code: str = ""
    cause: str | None = None
    remedy: str | None = None


@dataclass
class Context:
    """Settings, and what earlier checks found out for later ones."""

    model_dir: Path = Path("/root/Qwen2.5-7B-Instruct")
    output_dir: Path = Path("/root/output")
    device: str = "auto"  # auto, cuda or cpu: as requested
    ceiling_gib: float = 22.0  # 0: no ceiling
    checksum: bool = False
    lock_file: Path = ROOT / "requirements" / "image.lock"
    official_sums: Path = ROOT / "weights" / "SHA256SUMS"
    torch_spec: str = ""  # the torch that the build installed instead of the lock's, if any
    shm_dir: Path = Path("/dev/shm")
    system_root: Path = Path("/")  # root of /proc, /sys and /dev: tests create their own
    cuda_visible_devices: str | None = None
    progress: Callable[[str, int, int], None] = lambda label, done, total: None
    torch: Callable[[], Any] = field(default=lambda: __import__("torch"))
    nvml: Callable[[], Any] = field(default=lambda: __import__("pynvml"))
    model: Callable[[], Any] | None = None  # the caller's bfloat16 model on the GPU, which `forward` then uses

    gpu: Gpu | None = None  # set by `driver`: the GPU that will be CUDA device 0
    sums_match: bool = False  # set by `weights`: the shards' sha256, computed or recorded, are official
    peak: tuple[int, int] | None = None  # set by `forward`: peak bytes of CUDA memory (allocated, reserved)
    left: tuple[int, int] | None = None  # set by `forward`: bytes (allocated, reserved) after the release

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Context:
        """Read the settings from the environment; an empty value counts as unset. UserError names the variable."""
        env = os.environ if environ is None else environ
        settings = Settings.from_env(env)
        context = cls(torch_spec=env.get("MIRROR_TORCH_SPEC", ""), cuda_visible_devices=env.get("CUDA_VISIBLE_DEVICES"))
        context.model_dir, context.output_dir = settings.model_dir, settings.output_dir
        context.device, context.ceiling_gib = settings.device, settings.vram_ceiling_gib
        # For a machine without the image, with other packages: its own lock (bench/health_startup.sh).
        context.lock_file = Path(env.get("MIRROR_LOCK") or context.lock_file)
        return context

    @property
    def kind(self) -> ModelKind:
        """Whether the weights are a test model's, by a key in config.json."""
        return kind_of(self.model_dir)

    @property
    def weight_bytes(self) -> int:
        """Size in bytes of all safetensors files in the model folder; 0 if there are none."""
        try:
            return sum(path.stat().st_size for path in self.model_dir.glob("*.safetensors"))
        except OSError:
            return 0


def gib(number: float) -> str:
    """Bytes as GiB with one or two decimals."""
    value = number / GIB
    return f"{value:.2f} GiB" if value < 10 else f"{value:.1f} GiB"
