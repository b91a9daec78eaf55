"""Computes the coordinates of the loss curve, which the HTML template draws as an inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 32


def plot(losses: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]] = ()) -> dict[str, Any] | None:
    """Points and ticks of the curves in the coordinates of the SVG; None if there are fewer than two finite losses.

    Args:
        losses: (step, loss) of the training.
        held_out: (step, loss) of the evaluations.
    """
    points = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    others = [(step, loss) for step, loss in held_out if math.isfinite(loss)]
    if len(points) < 2:
        return None
    steps, values = [p[0] for p in points], [p[1] for p in points]
    highest = max(value for _, value in [*points, *others])
    tick = _tick(highest)
    top = tick * max(1, math.ceil(highest / tick - 1e-9))
    first, last = min(step for step, _ in [*points, *others]), max(step for step, _ in [*points, *others])

    def x(step: float) -> float:
        return round(LEFT + (step - first) / max(last - first, 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM), 1)

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "bottom": HEIGHT - BOTTOM,
        "points": " ".join(f"{x(step)},{y(value)}" for step, value in points),
        "held_out": [{"x": x(step), "y": y(value)} for step, value in others],
        "y_ticks": [{"y": y(tick * n), "text": f"{tick * n:.3g}"} for n in range(round(top / tick) + 1)],
        "x_ticks": [{"x": x(step), "text": str(step)} for step in sorted({first, (first + last) // 2, last})],
        "first": f"{values[0]:.3f}",
        "last": f"{values[-1]:.3f}",
        "end": {"x": x(steps[-1]), "y": y(values[-1])},
        "steps": last,
    }


def _tick(highest: float) -> float:
    """A round distance between ticks, 1, 2 or 5 times a power of ten, which gives three to eight ticks."""
    if highest <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(highest / 3))
    return max(unit * step for step in (1, 2, 5) if unit * step <= highest / 3 * 1.0001)
