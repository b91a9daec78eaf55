"""GPU memory that answers may take in addition to the weights, as plain data; for generate and finetune's plan.

Does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """The default is small, so a process that only answers fits into 17 GiB with the 7B (bench/verify_200.py). After
    training there is more memory (ROOMY)."""

    rows: int = 128  # answered at the same time; 32 on a CPU
    cache_gib: float = 1.25  # for keys and values
    prefill_tokens: int = 2048  # per prompt pass: its activations take about 150 KB per token at 7B


ROOMY = Room(192, 3.0, 4096)
