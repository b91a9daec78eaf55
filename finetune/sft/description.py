"""A frozen description of a run, and what follows from it. Nothing is read or printed here."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.model_kind import ModelKind
from common.settings import Settings
from finetune.data.findings import FileReport
from finetune.data.source import DatasetSource
from finetune.engines import choose
from finetune.engines.fast.workers import Workers
from finetune.engines.swift import config_file, options
from finetune.engines.swift.arguments import Arguments

ONE_PROCESS = Workers()
NOT_CHOSEN = choose.EngineChoice(choose.SWIFT, "")


@dataclass(frozen=True)
class SftRun:
    """The config, a test model's own values, the user's options, and the data they name.

    prepare.py creates one; each step of the preparation returns another with more fields filled in.
    """

    name: str  # sft or sft_mixed
    config_path: Path
    config: dict[str, Any]  # the options in it
    own: dict[str, Any]  # values that override those: a test model's, the plan's split of the batch
    args: Arguments  # the user's options, which override both; never changed in place (with_option)
    settings: Settings
    model_dir: Path
    model_kind: ModelKind
    node_rank: int = 0
    columns: tuple[str, str] | None = None
    data: tuple[tuple[DatasetSource, FileReport | None], ...] = ()  # --dataset, then --val_dataset
    choice: choose.EngineChoice = NOT_CHOSEN
    workers: Workers = ONE_PROCESS  # of the fast lane
    folder: Path = Path()
    checkpoint: Path | None = None  # to resume from
    resumed: tuple[str, ...] = ()  # checkpoints that the run was resumed from
    wait: bool = False  # while another job holds the GPU
    reword: int = 0  # rewordings of each question to train on
    mix: int = 0  # general questions to train on beside the data, as the base answers them
    auto: bool = False  # --num_train_epochs auto, until the number is chosen
    epochs: dict[str, Any] | None = None  # run.json's record of that choice
    adapter_to: Path | None = None  # the file that receives the finished adapter's path

    @property
    def kind(self) -> str:
        """The name of the run's folder if the user gives none."""
        return "mixed" if self.name == "sft_mixed" else "run"

    @property
    def workspace(self) -> Path:
        """The folder for relative names in configs/x.yaml: the parent of configs."""
        return self.config_path.resolve().parent.parent

    @property
    def is_helping(self) -> bool:
        """Whether this is a node above 0: only node 0 writes checkpoints and run.json."""
        return self.node_rank > 0 and (self.workers.nodes > 1 or not self.choice.is_fast)

    @property
    def evaluates(self) -> bool:
        """Whether rows are held out of training and evaluated."""
        options = self.options()
        strategy = options.get("eval_strategy") or options.get("save_strategy")
        return strategy != "no" and bool(options.get("val_dataset") or options.get("split_dataset_ratio"))

    @property
    def loads_best(self) -> bool:
        """Whether the run ends with the checkpoint of the best evaluation instead of the last one."""
        return bool(self.options().get("load_best_model_at_end"))

    @property
    def device(self) -> str:
        """The device on which the fast lane computes."""
        return "cpu" if self.settings.wants_cpu else "cuda"

    def with_option(self, name: str, *values: str) -> SftRun:
        """The run with an option as if the user had set it."""
        args = self.args.copy()
        args.set(name, *values)
        return replace(self, args=args)

    def value(self, name: str) -> Any:
        """An option's value: the user's, the stand-in's, or the config file's; None if none sets it."""
        given = self.args.get(name)
        if given is not None:
            return given
        return self.own.get(name, self.config.get(name))

    def options(self) -> dict[str, Any]:
        """All options by name, with typed values: the file's, the stand-in's own, the user's."""
        types = options.options_of("sft")
        found = {
            name: typed(types.get(name), [value]) if isinstance(value, str) else value
            for name, value in (self.config | self.own).items()
        }
        for item in self.args.given:
            found[item.name] = typed(types.get(item.name), item.values)
        return found

    def sources(self) -> tuple[list[DatasetSource], list[DatasetSource]]:
        """The data of --dataset, and those of --val_dataset."""
        count = len(self.args.get("dataset") or [])
        found = [source for source, _ in self.data]
        return found[:count], found[count:]

    def own_files(self) -> list[Path]:
        """The local datasets to learn: not those that are mixed in as a sample."""
        given = self.data[: len(self.args.get("dataset") or [])]
        own = [source.path for source, _ in given if source.path and source.sample is None]
        return own or [source.path for source, _ in given if source.path]

    def columns_words(self) -> list[str]:
        """--columns again, for a run that reads the user's own file; ms-swift reads a converted one."""
        return ["--columns", ",".join(self.columns)] if self.columns and self.choice.is_fast else []

    def words(self) -> list[str]:
        """The arguments of `swift sft`: the config file, the stand-in's values, the user's options."""
        own = {key: value for key, value in self.own.items() if self.args.get(key) is None}
        return [str(self.config_path), *config_file.arguments(own), *self.args.words()]

    def merged(self) -> Arguments:
        """All options as one command line, without the config file."""
        merged = Arguments(config_file.arguments(self.config | self.own))
        for item in self.args.given:
            merged.set(item.name, *item.values)
        return merged

    def line(self) -> str:
        """The equivalent `swift sft` command line, one option per line, ready for a shell."""
        lines = ["swift sft"]
        for item in self.merged().given:
            lines.append(" ".join([f"--{item.name}", *map(shlex.quote, item.values)]))
        return " \\\n  ".join(lines)


def typed(option: options.Option | None, values: list[str]) -> Any:
    """The typed value of an option's words."""
    if option and option.kind == "list":
        return values
    text = " ".join(values)
    if option and option.kind == "int":
        return int(text)
    if option and option.kind == "float":
        return float(text)
    if option and option.kind == "bool":
        return text.lower() not in options.FALSE  # no value at all means true
    return text


def listed(value: Any) -> list[str]:
    """A config value that may be one string or a list."""
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
