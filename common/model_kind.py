"""The kind of weights in a folder: a model made for tests is labelled on every screen; used by all commands.

A test model is recognised by a key in its config.json that no official one has: `"mirror_standin": true` for the
stand-in, `"mirror_model": NAME` for others (standin/ makes them).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.i18n import N_, _
from common.json_files import json_object


@dataclass(frozen=True)
class ModelKind:
    """`name` is what files record. The other texts are for people, and empty for ordinary weights."""

    name: str  # standin, smollm2 or other; configs/NAME.yaml holds its settings
    short: str = ""
    title: str = ""
    what: str = ""
    repository: str = ""  # source of the original

    @property
    def is_for_tests(self) -> bool:
        """Whether it is a test model: it runs on a CPU unasked, and must not pass for a Qwen2.5."""
        return bool(self.title)

    def notice(self, model_dir: str | Path) -> str:
        """The line to print wherever it is used."""
        return _("{title}: {folder} is {what}").format(title=_(self.title), folder=model_dir, what=_(self.what))

    def mark(self) -> str | None:
        """The sentence for a report's figures; None for ordinary weights."""
        return f"{self.title}: these figures are of {self.what}" if self.is_for_tests else None


OTHER = ModelKind("other")
STANDIN = ModelKind(
    "standin",
    N_("stand-in"),
    N_("stand-in weights"),
    N_("a tiny model for tests and machines without a GPU, not Qwen2.5-7B"),
)
SMOLLM2 = ModelKind(
    "smollm2",
    "SmolLM2",
    "SmolLM2-135M-Instruct",
    N_("a real but small English model for tests, not a Qwen2.5"),
    "HuggingFaceTB/SmolLM2-135M-Instruct",
)


def named(name: str) -> ModelKind:
    """The kind for a name recorded in a file."""
    return next((kind for kind in (STANDIN, SMOLLM2) if kind.name == name), OTHER)


def kind_of(model_dir: str | Path) -> ModelKind:
    """The kind of a model folder.

    A folder without a readable config.json is `other`; the loader reports what is wrong with it.
    """
    config = json_object(Path(model_dir) / "config.json")
    if config.get("mirror_standin") is True:
        return STANDIN
    return named(str(config.get("mirror_model")))
