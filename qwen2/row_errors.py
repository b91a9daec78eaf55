"""What keeps a row of a dataset from being trained on, in words; rows.py raises it and finetune's checks show it."""

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
    """What keeps a row from being trained on: the field ('' for the row itself), what is wrong, and what to do."""

    def __init__(self, field: str, what: str, remedy: str) -> None:
        said = {"missing": _("is missing"), "empty": _("is empty")}.get(what, what)
        super().__init__(_("{field} {what}; {remedy}").format(field=field or _("the row"), what=said, remedy=remedy))
        self.field, self.what, self.remedy = field, what, remedy


def kind(value: Any) -> str:
    """A JSON value's type in words."""
    if value is None:
        return "null"
    name = KINDS.get(type(value))
    return _(name) if name else type(value).__name__


def is_not(value: Any, wanted: str) -> str:
    """`is a number, not a text`: what a value is, and what it should be, one of KINDS."""
    return _("is {kind}, not {wanted}").format(kind=kind(value), wanted=_(wanted))
