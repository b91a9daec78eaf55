"""Reads a YAML or JSON file of options, as in `swift sft FILE`; used by the scripts and the swift launcher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import text_files
from common.errors import UserError
from common.i18n import _

SUFFIXES = (".yaml", ".yml", ".json")


def load(path: str | Path) -> dict[str, Any]:
    """The options in a file, as {name: value}. Raises UserError with line and column if it is not such a file."""
    file = Path(path)
    try:
        text = text_files.read(file)
    except FileNotFoundError as error:
        raise UserError(
            _("{file}: no such file; name a YAML file of options, such as configs/sft.yaml").format(file=file)
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            _("{file}: byte {byte}: not UTF-8 text; save the file in UTF-8").format(file=file, byte=error.start + 1)
        ) from error
    except OSError as error:
        raise UserError(
            _("{file}: cannot be read ({reason}); name a YAML file of options").format(file=file, reason=error.strerror)
        ) from error
    try:
        data = _json(file, text) if file.suffix == ".json" else _yaml(file, text)
    except RecursionError:
        raise UserError(_("{file}: nested too deeply; write one `name: value` a line").format(file=file)) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(_("{file}: holds no options; write one `name: value` a line").format(file=file))
    for name, value in data.items():
        if not isinstance(name, str):
            raise UserError(
                _("{file}: {name!r}: an option's name is a word; write `name: value`").format(file=file, name=name)
            )
        if value is None:
            raise UserError(
                _("{file}: {name}: has no value; write `{name}: VALUE`, or remove the line").format(
                    file=file, name=name
                )
            )
    return data


def arguments(options: dict[str, Any]) -> list[str]:
    """The options as command-line words, as ms-swift builds them (swift/cli/main.py, parse_yaml_args)."""
    words: list[str] = []
    for name, value in options.items():
        words.append(f"--{name}")
        if isinstance(value, list):
            words += [str(item) for item in value]
        elif isinstance(value, dict):
            words.append(json.dumps(value, ensure_ascii=False))
        else:
            words.append(str(value))
    return words


def _json(file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            _("{file}: line {line}, column {column}: not JSON, {reason}; correct it").format(
                file=file, line=error.lineno, column=error.colno, reason=error.msg
            )
        ) from error


def _yaml(file: Path, text: str) -> Any:
    import yaml  # not of the standard library, so only where a file is read

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # An unclosed element is noticed at the end of the file; point to where it started.
        unended = error.context_mark is not None and "<stream end>" in (error.problem or "")
        mark = error.context_mark if unended else error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        what = error.problem or "broken"
        raise UserError(
            _("{file}: {place}: not YAML, {what}; write `name: value`, with quotes around a text").format(
                file=file, place=place, what=what
            )
        ) from error
    except yaml.YAMLError as error:
        raise UserError(
            _("{file}: not YAML, {error}; write one `name: value` a line").format(file=file, error=error)
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:  # `!!int x`, `2001-99-99`
        raise UserError(
            _("{file}: holds a value that does not fit its type ({error}); put quotes around it").format(
                file=file, error=error
            )
        ) from error
