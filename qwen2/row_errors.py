"""Errors for dataset rows that cannot be trained on; raised by rows.py and shown by finetune's checks."""

from __future__ import annotations

from typing import Any

from common.i18n import N_, _

KINDS = {
    bool: N_("true or false"),
    int: N_("a number"),
    float: N_("a number"),
    str: N_("a text"),
    list: N_("a list"),
    dict: N_("an object"),
}


class RowError(ValueError):
    """Why a row cannot be trained on: the field ('' for the row itself), what is wrong, and what to do."""

    def __init__(self, field: str, what: str, remedy: str) -> None:
        said = {"missing": _("is missing"), "empty": _("is empty")}.get(what, what)
        super().__init__(_("{field} {what}; {remedy}").format(field=field or _("the row"), what=said, remedy=remedy))
        self.field, self.what, self.remedy = field, what, remedy


def kind(value: Any) -> str:
    """The name of a JSON value's type, for messages."""
    if value is None:
        return "null"
    name = KINDS.get(type(value))
    return _(name) if name else type(value).__name__


def is_not(value: Any, wanted: str) -> str:
    """`is a number, not a text`: the type of a value, and the type it should have, one of KINDS."""
    return _("is {kind}, not {wanted}").format(kind=kind(value), wanted=_(wanted))
