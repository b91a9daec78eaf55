"""One fine-tuning run from a config file: check the data, make the run's folder, run ms-swift, write run.json.

sft.sh and sft_mixed.sh call it, with their YAML and what the user wrote behind the script's name.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from finetune import checkpoints, config, runs, standin, swift_launcher, swift_options
from finetune.dataset import hub
from finetune.dataset.__main__ import parse_columns
from finetune.dataset.check import FileReport, Options, default_heldout, in_one_line, require, sha256
from finetune.dataset.convert import convert
from finetune.dataset.source import Source
from finetune.errors import DONE, FAILED, Parser, UserError, run_main
from finetune.settings import Settings
from finetune.swift_args import Arguments, tidy

ENGINE = "ms-swift"
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def parser(name: str) -> Parser:
    """The options of ours; all others are ms-swift's."""
    p = Parser(
        prog=f"{name}.sh",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__.split("\n", 1)[0],
        epilog="""Every other option is ms-swift's, and wins over the file: --num_train_epochs 3 --dataset my.json
(`swift sft --help` lists them all; the config file explains those of the article).

Every run gets a folder of its own below $OUTPUT_DIR (/root/output), named by its start: run.json (settings, versions,
data), logging.jsonl, checkpoint-N/ (the adapter). No run is ever written into the folder of another. infer.sh and
verify.sh take the newest by themselves. With --output_dir DIR the run goes to DIR, which must not hold one yet.""",
    )
    p.add_argument("--config", type=Path, metavar="FILE", help="another YAML file of options")
    p.add_argument("--show", action="store_true", help="print the equivalent `swift sft` line and run nothing")
    p.add_argument("--run", default="", metavar="NAME", help="the run folder's name below $OUTPUT_DIR")
    p.add_argument("--wait", action="store_true", help="wait while another job holds the GPU")
    p.add_argument("--general", metavar="FILE", help=general_help(name))
    p.add_argument("--adapter-to", type=Path, metavar="FILE", help="write the finished adapter's path to FILE")
    return p


def general_help(name: str) -> str:
    """--general is for the mixed run alone."""
    return "a local file for the 500 general rows, in place of the hub's" if name == "sft_mixed" else argparse.SUPPRESS


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit code. The first word is the script's name: `sft` or `sft_mixed`."""
    name, *words = sys.argv[1:] if argv is None else argv
    words, _ = tidy(words)
    options, rest = parser(name).parse_known_args(words)
    if options.config is None:
        raise UserError(f"{name}: no --config; run {name}.sh, which names its own")
    settings = Settings.from_env()
    plan = Plan(name, options.config, Arguments(rest), settings, options.general)
    if options.show:
        plan.place(settings.output_dir / (options.run or time.strftime(f"{plan.kind}-%Y%m%d-%H%M%S")))
        print(plan.line())
        return DONE
    plan.make_folder(options.run)
    try:
        plan.convert_data()
        _, words = swift_launcher.prepare(["sft", *plan.words()], settings, data_checked=True)
    except UserError:
        plan.discard_folder()
        raise
    return run(plan, words, options)


class Plan:
    """What a run is to do: the config, the stand-in's own values, what the user wrote, and the data they name."""

    def __init__(self, name: str, file: Path, args: Arguments, settings: Settings, general: str | None = None) -> None:
        self.name, self.file, self.args, self.settings = name, file, args, settings
        self.kind = "mixed" if name == "sft_mixed" else "run"
        if args.leading:
            raise UserError(
                f"{name}: {args.leading[0]!r} belongs to no option; options begin with --, see {name}.sh --help"
            )
        self.config = config.load(file)
        self.workspace = file.resolve().parent.parent  # relative names in configs/x.yaml are of the folder above
        self.model_dir = self.find_model()
        self.standin = standin.is_standin(self.model_dir)
        # Values that a stand-in needs, because so small a model does not move at the real one's learning rate.
        own = file.parent / "standin.yaml"
        self.own = config.load(own) if self.standin and own.is_file() else {}
        if self.standin:
            self.say_standin()
        if general is not None:
            self.replace_general(general)
        self.columns = self.take_columns()
        self.data = self.check_data()
        self.folder = Path()

    def value(self, name: str) -> Any:
        """An option's value: the user's, the stand-in's, or the config file's; None when nobody gives one."""
        given = self.args.get(name)
        if given is not None:
            return given
        return self.own.get(name, self.config.get(name))

    def find_model(self) -> Path:
        """The user's --model, or the weights of the image; what the config names is those."""
        given = self.args.get("model")
        return Path(given[0]) if given and Path(given[0]).is_dir() else self.settings.model_dir

    def say_standin(self) -> None:
        """Name the stand-in on screen, and the values that it changes."""
        print(standin.notice(self.model_dir), file=sys.stderr)
        changed = [f"{key} {value}" for key, value in self.own.items() if self.args.get(key) is None]
        if changed:
            print(f"stand-in settings (configs/standin.yaml): {', '.join(changed)}", file=sys.stderr)

    def replace_general(self, general: str) -> None:
        """Take a local file for the hub's part of the mixed data, with the same number of rows."""
        if self.args.get("dataset") is not None:
            raise UserError(f"{self.name}: --general and --dataset both name the data; leave one out")
        specs = _list(self.config.get("dataset"))
        first, _, count = specs[0].partition("#") if specs else ("", "", "")
        if "/" not in first:
            raise UserError(
                f"{self.name}: --general takes the place of a hub dataset, and {self.file} names none first"
            )
        sample = f"#{count}" if count and "#" not in Path(general).name else ""
        own = [str(self.workspace / spec) for spec in specs[1:]]
        self.args.set("dataset", f"{general}{sample}", *own)

    def check_data(self) -> list[tuple[Source, FileReport | None]]:
        """Every dataset checked, the hub's only for being within reach. UserError when one is unfit."""
        found = []
        options = self.check_options()
        for name in ("dataset", "val_dataset"):
            given = self.args.get(name)
            specs = given if given is not None else _list(self.own.get(name, self.config.get(name)))
            checked = require(specs, None if given is not None else self.workspace, options)
            for source, _ in checked:
                if source.is_hub:
                    hub.require(source)
            if checked:
                self.args.set(name, *(s.with_path(s.path.resolve()) if s.path else s.spec for s, _ in checked))
            found += checked
        if not found:
            raise UserError(f"{self.name}: no dataset; name a file with --dataset")
        reports = [report for _, report in found if report]
        if reports:
            print(f"data: {in_one_line(reports)}", file=sys.stderr)
        return found

    def take_columns(self) -> tuple[str, str] | None:
        """--columns QUESTION,ANSWER is ours; ms-swift has an option of that name, too, whose value is a JSON object."""
        given = self.args.get("columns")
        if not given or given[0].lstrip().startswith("{"):
            return None
        self.args.remove("columns")
        return parse_columns(",".join(given))

    def check_options(self) -> Options:
        """How the data is looked at: as this run will use it."""
        system, length = self.value("system"), str(self.value("max_length") or "")
        return Options(
            columns=self.columns,
            model_dir=self.model_dir if (self.model_dir / "tokenizer.json").is_file() else None,
            system=" ".join(_list(system)) if system is not None else None,
            max_length=int(length) if length.isdecimal() else 0,
            heldout=default_heldout(),
        )

    def convert_data(self) -> None:
        """Write files that ms-swift does not read as they are (tables, other encodings, mixed rows) as JSONL."""
        for name in ("dataset", "val_dataset"):
            words = self.args.get(name) or []
            for source, report in self.data:
                if not source.path or not report or report.plain:
                    continue
                old = source.with_path(source.path.resolve())
                if old not in words:
                    continue
                new = self.folder / f"{name}-{words.index(old) + 1}.jsonl"
                writer, _ = convert([source.path], new, Options(columns=self.columns))
                print(f"data: {source.path} as JSONL: {new} ({writer.rows} rows)", file=sys.stderr)
                words = [source.with_path(new) if word == old else word for word in words]
            if words:
                self.args.set(name, *words)

    def make_folder(self, run_name: str) -> None:
        """The run's folder: the user's --output_dir, or a new one below $OUTPUT_DIR."""
        given = self.args.get("output_dir")
        if given and run_name:
            raise UserError(f"{self.name}: --run and --output_dir both name the folder; leave one out")
        if given:
            folder = Path(given[0]).expanduser().resolve()
            runs.claim(folder)
        else:
            folder = runs.make_folder(self.settings.output_dir.resolve(), run_name, self.kind)
        self.place(folder)

    def place(self, folder: Path) -> None:
        """Make the folder part of the command line, with the weights' folder."""
        self.folder = folder
        if self.args.get("output_dir") is None:
            self.args.set("output_dir", str(folder))
        if self.args.get("model") is None:
            self.args.set("model", str(self.model_dir))

    def discard_folder(self) -> None:
        """Take a run folder away again in which nothing was run."""
        for path in self.folder.glob("*dataset-*.jsonl"):
            path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def words(self) -> list[str]:
        """The words behind `swift sft`: the config file, the stand-in's values, the user's options."""
        own = {key: value for key, value in self.own.items() if self.args.get(key) is None}
        return [str(self.file), *config.arguments(own), *self.args.words()]

    def merged(self) -> Arguments:
        """All options in one, without the config file."""
        merged = Arguments(config.arguments(self.config | self.own))
        for item in self.args.given:
            merged.set(item.name, *item.values)
        return merged

    def line(self) -> str:
        """The equivalent `swift sft` command line, an option a line, ready for a shell."""
        lines = ["swift sft"]
        for item in self.merged().given:
            lines.append(" ".join([f"--{item.name}", *map(shlex.quote, item.values)]))
        return " \\\n  ".join(lines)


def run(plan: Plan, words: list[str], options: argparse.Namespace) -> int:
    """Run ms-swift as the job that holds the GPU, and write run.json before and after. Returns the exit code."""
    from finetune.job import run as run_job

    command = [swift_launcher.find_real(), "sft", *words]
    record = describe(plan, words)
    runs.write(plan.folder, record)
    begin = time.monotonic()
    try:
        code = run_job(plan.name, command, options.wait, [plan.folder], None)
    except UserError:  # another job holds the GPU
        (plan.folder / "run.json").unlink()
        plan.discard_folder()
        raise
    record["seconds"] = round(time.monotonic() - begin, 1)
    record["exit_code"] = code
    record |= runs.progress(plan.folder)
    adapter = find_adapter(plan.folder)
    stopped = code in (128 + number for number in STOPPING)
    record["status"] = "done" if code == DONE and adapter else "stopped" if stopped else "failed"
    record["adapter"] = str(adapter.relative_to(plan.folder)) if adapter else None
    runs.write(plan.folder, record)
    if record["status"] != "done":
        kept = f"the newest checkpoint is {adapter}" if adapter else "no checkpoint was written"
        if stopped:
            why = f"stopped by {signal.Signals(code - 128).name} at step {record.get('steps', 0)}"
        elif code:
            why = f"ms-swift ended with exit code {code}, its last lines above say why"
        else:
            why = "ms-swift ended without a checkpoint, its last lines above say why"
        print(f"error: {plan.name}: {why}; {kept}", file=sys.stderr)
        return code or FAILED
    if options.adapter_to:
        options.adapter_to.write_text(f"{adapter}\n", encoding="utf-8")
    print(summary(plan.name, record, adapter))
    return DONE


def describe(plan: Plan, words: list[str]) -> dict[str, Any]:
    """run.json before the first step: what is needed to do the run again."""
    types = swift_options.options_of("sft")
    settings: dict[str, Any] = plan.config | plan.own
    for item in Arguments(words).given:
        settings[item.name] = typed(types.get(item.name), item.values)
    datasets = [
        {
            "name": source.spec,
            "path": str(source.path.resolve()) if source.path else None,
            "rows": report.rows if report else None,
            "sample": source.sample,
            "sha256": sha256(source.path) if source.path else None,
        }
        for source, report in plan.data
    ]
    return {
        "schema": 1,
        "name": plan.name,
        "engine": ENGINE,
        "status": "running",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": plan.line(),
        "settings": settings,
        "datasets": datasets,
        "weights": {"path": str(plan.model_dir), "standin": plan.standin, "sha256sums": weights_digest(plan.model_dir)},
        "versions": runs.versions(),
    }


def typed(option: swift_options.Option | None, values: list[str]) -> Any:
    """An option's words as the value that they stand for."""
    if option and option.kind == "list":
        return values
    text = " ".join(values)
    if option and option.kind == "int":
        return int(text)
    if option and option.kind == "float":
        return float(text)
    if option and option.kind == "bool":
        return text.lower() not in ("no", "false", "f", "n", "0")  # no word at all means true
    return text


def weights_digest(model_dir: Path) -> str | None:
    """The digest of the folder's SHA256SUMS, which stands for all its files; hashing 15 GB takes a minute."""
    path = model_dir / "SHA256SUMS"
    return sha256(path) if path.is_file() else None


def find_adapter(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    try:
        return checkpoints.newest(folder)
    except UserError:
        return None


def summary(name: str, record: dict[str, Any], adapter: Path | None) -> str:
    """The run in one line."""
    parts = [f"{record['steps']} steps"] if "steps" in record else []
    parts.append(f"{record['seconds'] / 60:.1f} min")
    if "final_loss" in record:
        parts.append(f"loss {record['first_loss']:.2f} -> {record['final_loss']:.2f}")
    if "peak_gib" in record:
        parts.append(f"peak {record['peak_gib']:.1f} GiB")
    return f"{name}: {', '.join(parts)}; adapter {adapter}"


def _list(value: Any) -> list[str]:
    """A config value that may be one text or a list of them."""
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


if __name__ == "__main__":
    sys.exit(run_main(main))
