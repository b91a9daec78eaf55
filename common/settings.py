"""The settings that every command gets through the environment; read by the finetune modules and the launchers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.i18n import _

DEVICES = ("auto", "cuda", "cpu")
# Files that the driver adds to a container: the control device of Linux or of WSL2.
GPU_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg")


@dataclass(frozen=True)
class Settings:
    """The settings as read from the environment once; see `from_env` for names and defaults."""

    model_dir: Path
    output_dir: Path
    device: str  # auto, cuda or cpu, as requested; `wants_cpu` decides
    vram_ceiling_gib: float  # GiB; 0 lifts the ceiling

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read MODEL_DIR, OUTPUT_DIR, MIRROR_DEVICE and VRAM_CEILING_GIB; an empty value counts as unset.

        Raises UserError, which names the variable, if its value cannot be used.
        """
        env = os.environ if environ is None else environ
        device = (env.get("MIRROR_DEVICE") or "auto").lower()
        if device not in DEVICES:
            raise UserError(
                _("MIRROR_DEVICE={device}: unknown device; set it to one of {names}").format(
                    device=device, names=", ".join(DEVICES)
                )
            )
        ceiling = env.get("VRAM_CEILING_GIB") or "22"
        try:
            gib = float(ceiling)
        except ValueError:
            gib = -1.0
        if not 0 <= gib < float("inf"):
            raise UserError(
                _("VRAM_CEILING_GIB={ceiling}: not a number of GiB; set 22 for a 24 GB card, 0 for no ceiling").format(
                    ceiling=ceiling
                )
            )
        return cls(
            model_dir=Path(env.get("MODEL_DIR") or "/root/Qwen2.5-7B-Instruct"),
            output_dir=Path(env.get("OUTPUT_DIR") or "/root/output"),
            device=device,
            vram_ceiling_gib=gib,
        )

    @property
    def wants_cpu(self) -> bool:
        """Whether to run on the CPU: `MIRROR_DEVICE=cpu`, or `auto` without a visible GPU."""
        return self.device == "cpu" or (self.device == "auto" and not gpu_visible())


def gpu_visible() -> bool:
    """Whether this container has a GPU. Looks only at device files: no torch, no driver call, no wait."""
    return any(os.path.exists(name) for name in GPU_DEVICE_FILES)
