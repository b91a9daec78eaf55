"""Sampling settings as plain data; used by generate and the serving engine. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from common.i18n import _


@dataclass(frozen=True)
class Sampling:
    """Sampling settings. The filters apply in transformers' order: penalty, temperature, top-k, top-p.

    Raises:
        ValueError: A value is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.repetition_penalty <= 0:
            raise ValueError(
                _("sampling: temperature and top_k must be at least 0, top_p in (0, 1], repetition_penalty above 0")
            )
