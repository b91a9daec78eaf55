"""What answers may take of a GPU in addition to the weights, as plain data; generate and finetune's plan take it.

No torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """Little, so that a process that only answers fits into 17 GiB with the 7B (bench/verify_200.py). After training
    there is more (ROOMY)."""

    rows: int = 128  # answered at a time; 32 on a CPU
    cache_gib: float = 1.25  # of keys and values
    prefill_tokens: int = 2048  # of the prompt pass at a time: its activations are about 150 KB a token at 7B


ROOMY = Room(192, 3.0, 4096)
