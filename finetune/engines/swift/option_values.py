"""Validates the values of ms-swift's options by kind; for the launcher."""

from __future__ import annotations

from common.i18n import _
from finetune.engines.swift import ranges
from finetune.engines.swift.options import TRUTH, Option


def fault(written: str, option: Option, values: list[str], name: str) -> str | None:
    """What is wrong with an option's value, starting with the option; None if it is valid.

    Args:
        written: The option as the user wrote it, for the message.
        option: The kind of value that ms-swift expects.
        values: The words after the option; the first is checked.
        name: The option's full name, used to look up its range.
    """
    if not values:
        return (
            None if option.kind == "bool" else _("{written} has no value; write one after it").format(written=written)
        )
    value = values[0]
    if option.kind == "choice" and value not in option.choices:
        choices = ", ".join(choice for choice in option.choices if choice != "None")
        return _("{written} {value}: unknown value; choose from {choices}").format(
            written=written, value=value, choices=choices
        )
    if option.kind in ("int", "float"):
        try:
            number = int(value) if option.kind == "int" else float(value)
        except ValueError:
            why = ranges.not_a_number(name, value, option.kind)
            return _("{written}: {why}").format(written=written, why=why)
        out = ranges.fault(name, number)
        if out:
            return _("{written} {value}: {fault}").format(written=written, value=value, fault=out)
    if option.kind == "bool" and value.lower() not in TRUTH:
        return _("{written} {value}: neither true nor false").format(written=written, value=value)
    return None
