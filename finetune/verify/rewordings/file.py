"""rewordings.yaml: the rewordings of each row, to be read, corrected and given again with --rewordings FILE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from common import text_files
from common.errors import UserError
from common.i18n import _
from finetune.data.content import question_key
from finetune.verify.yamlmarks import Node, load

NAME = "rewordings.yaml"
VERSION = 1
BASE, RULES, HAND = MAKERS = ("base", "rules", "hand")
HEAD = """\
# The questions of the dataset in other words. Read and correct them, and give them again: verify.sh --rewordings FILE
#
# question  the dataset's own, which says what row this is; leave it as it is
# ask       what verify asks; no row of the training may hold these
# train     what the training was given besides the row (sft.sh --reword N); verify never asks these
# choose    what chose the number of epochs (--num_train_epochs auto); neither trained on nor asked by verify
# near      near misses: questions like this one that no row of the data answers; verify asks them, too, and counts an
#           answer with the facts of a row as wrong. Take out those that a row does answer
# made      who made those under ask: base (the model before the training), rules (simple ones), or hand; one word for
#           all of them, or a list
"""
KEYS = ("question", "ask", "train", "choose", "near", "made")


@dataclass
class Rewording:
    """The other words of one question."""

    question: str
    ask: list[str] = field(default_factory=list)
    train: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)  # of each in `ask`; what is missing was made by hand
    choose: list[str] = field(default_factory=list)
    near: list[str] = field(default_factory=list)  # near misses: like the question, but no row answers them

    def makers(self) -> list[str]:
        """Who made each of `ask`."""
        known = [name if name in MAKERS else HAND for name in self.made]
        if len(set(known)) == 1:
            return known[:1] * len(self.ask)
        return [*known, *[HAND] * len(self.ask)][: len(self.ask)]


def write(path: Path, rewordings: Iterable[Rewording]) -> None:
    """Write the file, by rename. Raises UserError if it cannot be written."""
    rows = []
    for each in rewordings:
        made = each.makers()
        rows.append(
            {
                "question": each.question,
                "ask": each.ask,
                **({"train": each.train} if each.train else {}),
                **({"choose": each.choose} if each.choose else {}),
                **({"near": each.near} if each.near else {}),
                "made": made[0] if len(set(made)) == 1 else made,
            }
        )
    text = yaml.safe_dump({"version": VERSION, "rows": rows}, allow_unicode=True, sort_keys=False, width=120)
    text_files.replace(path, [HEAD + text])


def read(path: Path) -> list[Rewording]:
    """Read the file. UserError `FILE:LINE: ...` for what it does not know or cannot use."""
    root = load(path, _("rewordings file")).mapping(("version", "rows"), _("a rewordings file"))
    if "version" in root and root["version"].value() != VERSION:
        raise root["version"].error(
            _("version must be {version}; this release knows no other layout").format(version=VERSION)
        )
    if "rows" not in root:
        raise UserError(
            _("{path}: no rows; write a list of {{question: ..., ask: [...]}} under rows").format(path=path)
        )
    found: dict[str, Rewording] = {}
    for node in root["rows"].items("rows"):
        keys = node.mapping(KEYS, _("a row"))
        if "question" not in keys:
            raise node.error(_("a row needs its question, exactly as in the dataset"))
        question = keys["question"].text("question")
        if question_key(question) in found:
            raise keys["question"].error(_("this question occurs twice; merge the two entries"))
        lists = {name: _texts(keys[name], name) if name in keys else [] for name in KEYS[1:]}
        found[question_key(question)] = Rewording(question, **lists)
    return list(found.values())


def _texts(node: Node, what: str) -> list[str]:
    if node.value() is None:
        return []
    if what == "made" and isinstance(node.value(), str):
        return [node.text(what)]
    return [each.text(what) for each in node.items(what)]
