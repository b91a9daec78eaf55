"""The loss curve as numbers for an inline SVG; the HTML template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 28


def plot(losses: Sequence[tuple[int, float]]) -> dict[str, Any] | None:
    """Points, ticks and ends of the curve in the coordinates of the SVG; None when there are fewer than two losses."""
    points = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    if len(points) < 2:
        return None
    steps, values = [p[0] for p in points], [p[1] for p in points]
    top = _nice(max(values))
    first, last = min(steps), max(steps)

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
        "y_ticks": [{"y": y(top * part / 4), "text": f"{top * part / 4:.3g}"} for part in range(5)],
        "x_ticks": [{"x": x(step), "text": str(step)} for step in sorted({first, (first + last) // 2, last})],
        "first": f"{values[0]:.3f}",
        "last": f"{values[-1]:.3f}",
        "end": {"x": x(steps[-1]), "y": y(values[-1])},
        "steps": last,
    }


def _nice(value: float) -> float:
    """The next round number above: 1, 2, 2.5, 4, 5, 8 or 10 times a power of ten (their quarters are short)."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 2, 2.5, 4, 5, 8, 10) if unit * step >= value * 0.9999)
