"""Parses a --dataset argument: a local file or a dataset on a hub, with optional subsets and sample size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.i18n import N_, _

# A name with such an ending is a file even if it does not exist: `data/faq.json` is not a hub id.
FILE_SUFFIXES = {".json", ".jsonl", ".csv", ".tsv", ".xlsx", ".xls", ".txt", ".parquet", ".arrow", ".ndjson"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUBS = {"hf": "HuggingFace", "ms": "ModelScope"}
MOUNT = N_("a container sees a file of the host only where it is mounted (docker run -v, make finetune DATASET=FILE)")


@dataclass(frozen=True)
class DatasetSource:
    """One --dataset argument, parsed as ms-swift does: `[hf::|ms::]NAME[:subset/subset][#sample]`."""

    spec: str
    path: Path | None = None
    hub_id: str | None = None
    hub: str | None = None  # "hf" or "ms" if the argument names the hub
    subsets: tuple[str, ...] = ()
    sample: int | None = None  # the number of rows that are drawn; None: all

    @property
    def is_hub(self) -> bool:
        """Whether the rows come from a hub, in which case they cannot be checked here."""
        return self.path is None

    def with_path(self, path: Path) -> str:
        """The argument with `path` instead of its name: for a converted file or an absolute path."""
        return str(path) if self.sample is None else f"{path}#{self.sample}"


def parse(spec: str, base: Path | None = None) -> DatasetSource:
    """Parse one --dataset argument.

    Args:
        spec: The argument.
        base: The folder of relative file names; None: the working folder.

    Raises:
        UserError: The sample size is not a number, or the name is neither a file here nor a hub id.
    """
    folder = base or Path()

    def local(name: str) -> Path | None:
        path = folder / Path(name).expanduser()
        try:
            return path if path.exists() else None
        except OSError as error:  # no permission to enter a folder, or a name that is too long
            raise UserError(
                _("{path}: cannot be read ({strerror}); check the name, and who may read it").format(
                    path=path, strerror=error.strerror
                )
            ) from error

    if not spec.strip():
        raise UserError(_("--dataset: empty; name a file, such as self_cognition.json, or a dataset of a hub"))
    if path := local(spec):
        return DatasetSource(spec, path=path)
    name, hub = spec, None
    if "::" in spec:
        prefix, name = spec.split("::", 1)
        hub = prefix.lower()
        if hub not in HUBS:
            raise UserError(
                _("{spec}: unknown hub {prefix}; write hf:: or ms:: before the id, or nothing").format(
                    spec=spec, prefix=prefix
                )
            )
    name, sample = _sample(spec, name)
    if hub is None and (path := local(name)):
        return DatasetSource(spec, path=path, sample=sample)
    stem, _other, subset = name.partition(":")
    if hub is None and _looks_like_a_file(name):
        raise UserError(
            _("{name}: no such file; check the name, or the working folder ({folder}); {mount}").format(
                name=name, folder=folder.resolve(), mount=_(MOUNT)
            )
        )
    if not HUB_ID.fullmatch(stem):
        raise UserError(
            _("{name}: no such file, and not a hub id of the form OWNER/NAME either; check the name").format(name=name)
        )
    subsets = tuple(part.strip() for part in subset.split("/") if part.strip())
    return DatasetSource(spec, hub_id=stem, hub=hub, subsets=subsets, sample=sample)


def _sample(spec: str, name: str) -> tuple[str, int | None]:
    """Split `NAME#500` into name and sample size. Raises UserError if the size is not a positive number."""
    stem, mark, tail = name.rpartition("#")
    if not mark:
        return name, None
    if not tail.isdecimal() or int(tail) == 0:
        raise UserError(
            _("{spec}: '#{tail}' is not a number of rows; write NAME#500 for 500 rows, or NAME for all").format(
                spec=spec, tail=tail
            )
        )
    return stem, int(tail)


def _looks_like_a_file(name: str) -> bool:
    path = Path(name)
    return name.startswith(("/", "./", "../", "~")) or path.suffix.lower() in FILE_SUFFIXES


def parse_columns(text: str) -> tuple[str, str]:
    """The two names in `QUESTION,ANSWER`. Raises UserError if the text has another form."""
    names = [name.strip() for name in text.replace("\uff0c", ",").split(",")]
    if len(names) != 2 or not all(names):
        raise UserError(
            _("--columns {text}: name two columns, the question's and the answer's: --columns 问题,答案").format(
                text=text
            )
        )
    return names[0], names[1]
