"""What is asked of the engine and what it says, as plain data: the endpoint's process passes it on without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen2.sampling import Sampling

STOP, LENGTH = "stop", "length"


@dataclass(frozen=True)
class SamplingParams(Sampling):
    """How tokens are chosen. `logprobs`: None for none, else so many alternatives besides the chosen token."""

    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None

    @property
    def penalised(self) -> bool:
        """Whether what has been said counts."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    @property
    def plain(self) -> bool:
        """Whether it is the likeliest token and nothing more."""
        return self.temperature == 0 and not self.penalised and self.logprobs is None


@dataclass(frozen=True)
class Request:
    """A prompt to continue by at most `limit` tokens. `adapter`: its number, 0 the base. `seed` None: any."""

    id: int
    prompt: Sequence[int]
    limit: int
    adapter: int = 0
    settings: SamplingParams = SamplingParams()
    seed: int | None = None


@dataclass(frozen=True)
class NextToken:
    """A token of a request; `finish`: why there is none after it. An eos is not handed on."""

    id: int
    token: int | None
    finish: str | None = None
    logprob: tuple[float, list[tuple[int, float]]] | None = None  # its own; the likeliest tokens with theirs
