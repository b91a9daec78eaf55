"""ms-swift's time per micro-batch on an H100, for choosing between plans; called by swift.py.

A micro-batch takes its kernels' launch time or its arithmetic, whichever is longer. Constants are for the 7B shape
(docs/plan.md says which are measured). They rank plans on other GPUs, but do not predict times there.
"""

from __future__ import annotations

from qwen2.config import Config

# (checkpointing, liger) -> launch seconds, microseconds per token, at the 7B shape on an H100
MEASURED = {
    (False, False): (0.220, 114.0),
    (False, True): (0.260, 98.0),
    (True, False): (0.340, 154.0),
    (True, True): (0.390, 130.0),
}
LAYERS, WEIGHTS = 28, 7.07e9  # of that shape: launch time and arithmetic scale with them


def weights_scale(shape: Config) -> float:
    """The weights of a shape, its head's included, relative to the 7B's, on which the times were measured."""
    return (shape.linear_parameters + shape.vocab_size * shape.hidden_size) / WEIGHTS


def micro_batch_seconds(shape: Config, tokens: int, checkpointing: bool, liger: bool, slower: float = 1.0) -> float:
    """Seconds of forward and backward for that many tokens, padding included; `slower` scales the arithmetic."""
    launching, micros = MEASURED[checkpointing, liger]
    return max(launching * shape.num_layers / LAYERS, micros * slower * 1e-6 * tokens * weights_scale(shape))
