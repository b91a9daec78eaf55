"""Typed access to the fields of a request, and the error for unusable ones; request.py and messages.py call it."""

from __future__ import annotations

import json
import math
from typing import Any


class Refused(Exception):
    """A request that cannot be answered.

    Args:
        message: What is wrong and what to do.
        param: The field, for the API's `param`.
        status: The HTTP status.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.status = message, param, status


class Fields:
    """Typed access to a body's fields. A wrong type is a 422, as web frameworks report it, a wrong value a 400."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def text(self, name: str) -> str | None:
        """A text; None if it is missing."""
        value = self.data.get(name)
        return None if value is None else text_of(value, name)

    def flag(self, name: str) -> bool:
        """True or false; false if it is missing."""
        value = self.data.get(name, False)
        if not isinstance(value, bool):
            raise wrong_type(name, value, "true or false")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number in [low, high]; None if it is missing."""
        value = self.data.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong_type(name, value, "a number")
        if not low <= value <= high or not math.isfinite(value):
            raise Refused(f"{name}: {shown(value)} is out of range: it must be from {low:g} to {high:g}", name)
        return float(value)

    def whole(self, name: str, low: int, high: int, more: str = "") -> int | None:
        """A whole number in [low, high]; None if it is missing. `more` is added to the error if it is out of range."""
        value = self.data.get(name)
        if value is None:
            return None
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, value, "a whole number")
        if not low <= value <= high:
            raise Refused(f"{name}: {shown(value)} is out of range: it must be from {low} to {high}{more}", name)
        return value


def text_of(value: Any, place: str) -> str:
    """The value, which must be a text. `place` is its path in the body. Raises Refused if it is not one."""
    if not isinstance(value, str):
        raise wrong_type(place, value, "a text")
    return require_text(value, place)


def require_text(text: str, place: str) -> str:
    """Raises Refused if the text holds half a surrogate pair, which JSON can express and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(
            f"{place}: holds half a surrogate pair, which is not text: send whole characters", place
        ) from None
    return text


def wrong_type(place: str, value: Any, wanted: str) -> Refused:
    """The error for a value of the wrong type. `place` is its path in the body, `wanted` the right type in words."""
    return Refused(f"body.{place}: {shown(value)}: it must be {wanted}", place, 422)


def shown(value: Any) -> str:
    """A value for a message: shortened, and valid UTF-8."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):  # Python refuses to print integers of thousands of digits
        text = "a number of thousands of digits"
    return clean(text if len(text) <= 80 else f"{text[:77]}...")


def clean(text: str) -> str:
    """The text with a `?` for every half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
