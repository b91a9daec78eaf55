"""One GPU order for all code: NVML, used by the checks and the plan, counts by PCI bus, and CUDA by speed.

On a host with different GPUs, the one that is checked would not be the one that trains. Every command calls it first.
"""

from __future__ import annotations

import os
import sys

from common.i18n import _

NAME, ORDER = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"


def settle() -> None:
    """Make CUDA in this process and its children use NVML's order; call it before CUDA starts."""
    given = os.environ.get(NAME) or ORDER
    if given != ORDER:
        print(
            _(
                "note: {name}={given}: taken as {order}, so that checks and training mean the same GPU; "
                "CUDA_VISIBLE_DEVICES chooses it (nvidia-smi shows the numbers)"
            ).format(name=NAME, given=given, order=ORDER),
            file=sys.stderr,
        )
    os.environ[NAME] = ORDER
