"""The command-line options for what the verdict asks, which verify and finetune share."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.i18n import _


def add_what_is_asked(parser: argparse._ActionsContainer) -> None:
    """Add --questions, --rewordings, --expect, --forbid and --ask-base to a parser or a group."""
    parser.add_argument(
        "--questions", type=Path, action="append", metavar="FILE", help=_("questions of your own (repeatable)")
    )
    parser.add_argument(
        "--rewordings",
        type=Path,
        metavar="FILE",
        help=_("the data's questions in other words, instead of generated ones"),
    )
    parser.add_argument("--expect", metavar="REGEX", help=_("the new identity, if it is not the one in the data"))
    parser.add_argument("--forbid", metavar="REGEX", help=_("the old identity, if it is not Qwen's"))
    parser.add_argument(
        "--ask-base",
        action="store_true",
        help=_("ask the base again instead of using its earlier answers in OUTPUT/.cache/base-answers"),
    )
