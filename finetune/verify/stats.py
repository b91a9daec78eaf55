"""Figures with 95 % intervals: Wilson's for shares, a paired bootstrap for everything else; `figures` calls it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution
RESAMPLES = 1000
SEED = 20250412


@dataclass(frozen=True)
class Figure:
    """A measured value, the ends of its 95 % interval, and the number of questions."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """As in report.json, rounded to six decimals: a rounding error must not look like a difference."""
        return {key: value if key == "n" else round(value, 6) for key, value in asdict(self).items()}


def wilson(passes: float, n: int) -> Figure:
    """A share with its Wilson score interval (Wilson 1927), which is accurate near 0 and 1, where these figures are.

    Args:
        passes: The number of right questions. A question that is asked under two system prompts and is right under one
            counts as a half.
        n: The number of questions, not of answers: the two answers to one question are not independent.

    Raises:
        ValueError: n is not positive.
    """
    if n <= 0:
        raise ValueError("a share of nothing has no value")
    p = passes / n
    spread = 1 + Z95**2 / n
    middle = (p + Z95**2 / (2 * n)) / spread
    half = Z95 / spread * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return Figure(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), n)


def bootstrap(n: int, score: Callable[[Sequence[int]], float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of a score over resamples with replacement. The seed is fixed.

    Args:
        n: The number of questions.
        score: Takes n indices of questions. To compare two systems on the same resamples, it returns their difference
            (a paired bootstrap, Koehn 2004).
    """
    import numpy as np

    draws = np.random.default_rng(SEED).integers(0, n, size=(RESAMPLES, n))
    scores = [score(draw) for draw in draws]
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def mean(values: Sequence[float]) -> Figure:
    """The mean of one value per question, with a bootstrap interval, which is paired if the values are differences."""
    import numpy as np

    all_values = np.asarray(values, dtype=float)
    interval = bootstrap(len(values), lambda index: float(all_values[index].mean()))
    return Figure(float(all_values.mean()), *interval, len(values))


def mean_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Figure:
    """The ratio of the sums of two values over the same questions, with a bootstrap interval."""
    import numpy as np

    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)

    def ratio(index: Sequence[int] | slice) -> float:
        return float(top[index].sum() / max(bottom[index].sum(), 1.0))

    return Figure(ratio(slice(None)), *bootstrap(len(top), ratio), len(top))
