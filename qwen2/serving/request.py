"""Requests to the engine and its replies, as plain data: the endpoint's process handles them without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen2.sampling import Sampling

STOP, LENGTH = "stop", "length"


@dataclass(frozen=True)
class SamplingParams(Sampling):
    """Sampling settings. `logprobs`: None for none, else the number of alternatives besides the chosen token."""

    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: int | None = None

    @property
    def penalised(self) -> bool:
        """Whether a penalty is set, which makes earlier tokens count."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    @property
    def plain(self) -> bool:
        """Whether it is greedy decoding without penalties and log-probabilities."""
        return self.temperature == 0 and not self.penalised and self.logprobs is None


@dataclass(frozen=True)
class Request:
    """A prompt to continue by at most `limit` tokens. `adapter`: its number, 0 for the base. `seed` None: any seed."""

    id: int
    prompt: Sequence[int]
    limit: int
    adapter: int = 0
    settings: SamplingParams = SamplingParams()
    seed: int | None = None


@dataclass(frozen=True)
class NextToken:
    """A token of a request; `finish`: why the answer ends with it. An eos token is not passed on."""

    id: int
    token: int | None
    finish: str | None = None
    logprob: tuple[float, list[tuple[int, float]]] | None = None  # of the token; the most likely tokens with theirs
