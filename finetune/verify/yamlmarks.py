"""YAML with line numbers: each value knows its line, which errors of `questions` and `config` quote."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from common import text_files
from common.errors import UserError
from common.i18n import _

# PyYAML's constructors let through the errors of int(), dict and datetime; `!!timestamp x` gives an AttributeError.
PYYAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class Node:
    """A YAML node with its file and line. Its methods return the value, or raise UserError with file and line."""

    def __init__(self, node: yaml.Node, path: Path) -> None:
        self.node, self.path = node, path

    @property
    def line(self) -> int:
        """The line, counted from 1."""
        return self.node.start_mark.line + 1

    def error(self, what: str) -> UserError:
        """A UserError `FILE:LINE: what`."""
        return UserError(f"{self.path}:{self.line}: {what}")

    def value(self) -> Any:
        """The node, with everything below it, as a plain Python value."""
        try:
            return yaml.constructor.SafeConstructor().construct_object(self.node, deep=True)  # type: ignore[no-untyped-call]
        except (*PYYAML, RecursionError) as error:
            raise self.error(_("not a usable value: {error}").format(error=error)) from None

    def mapping(self, known: Iterable[str] | None, what: str) -> dict[str, Node]:
        """The node as a mapping of keys to nodes.

        Args:
            known: The valid keys; None: any.
            what: The name of the mapping in errors.

        Raises:
            UserError: The node is no mapping, or a key is unknown or occurs twice.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(_("{what} must be a mapping of keys to values").format(what=what))
        found: dict[str, Node] = {}
        allowed = None if known is None else list(known)
        for key_node, value_node in self.node.value:
            key, at = str(key_node.value), Node(key_node, self.path)
            if key in found:
                raise at.error(_("the key {key!r} occurs twice").format(key=key))
            if allowed is not None and key not in allowed:
                near = difflib.get_close_matches(key, allowed, 1)
                hint = (
                    _("did you mean {near!r}?").format(near=near[0])
                    if near
                    else _("the known keys are {allowed}").format(allowed=", ".join(allowed))
                )
                raise at.error(_("unknown key {key!r} in {what}; {hint}").format(key=key, what=what, hint=hint))
            found[key] = Node(value_node, self.path)
        return found

    def items(self, what: str) -> list[Node]:
        """The node as a list of nodes; `what` is its name in errors."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(_("{what} must be a list").format(what=what))
        return [Node(child, self.path) for child in self.node.value]

    def text(self, what: str) -> str:
        """The node as a string that is not blank. Unquoted numbers and words such as `yes` stay as written."""
        if not isinstance(self.node, yaml.ScalarNode) or not self.node.value.strip():
            raise self.error(_("{what} must be a non-empty text").format(what=what))
        return str(self.node.value)

    def number(self, what: str, low: float, high: float) -> float:
        """The node as a number from `low` to `high`; `what` is its name in errors."""
        value = self.value()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.error(
                _("{what} must be a number from {low:g} to {high:g}").format(what=what, low=low, high=high)
            )
        return value


def load(path: Path, what: str) -> Node:
    """The root node of a YAML file.

    Args:
        path: The file.
        what: What kind of file it is, for errors.

    Raises:
        UserError: The file is missing, unreadable, not YAML, or empty.
    """
    try:
        text = text_files.read(path, "utf-8-sig")
    except FileNotFoundError:
        raise UserError(_("{path}: no such {what}; check the path").format(path=path, what=what)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else _("it is not UTF-8 text")
        raise UserError(
            _("{path}: cannot read the {what}: {reason}").format(path=path, what=what, reason=reason)
        ) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(
            _("{path}{line}: not YAML: {reason}").format(
                path=path, line=line, reason=getattr(error, "problem", None) or error
            )
        ) from None
    except RecursionError:
        raise UserError(
            _("{path}: nested too deeply; docs/verify.md shows what belongs in it").format(path=path)
        ) from None
    if node is None:
        raise UserError(
            _("{path}: the {what} is empty; docs/verify.md shows what belongs in it").format(path=path, what=what)
        )
    return Node(node, path)
