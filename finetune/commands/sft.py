"""One fine-tuning run from a config file: check the data, make the run's folder, run the engine, write run.json.

sft.sh and sft_mixed.sh call it, with their YAML and what the user wrote behind the script's name.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from common import sha256sums
from common.errors import DONE, FAILED, Parser, UserError, leave, run_main
from common.model_kind import STANDIN, kind_of
from common.settings import Settings
from finetune.data import hub
from finetune.data.check import FileReport, Options, default_heldout, in_one_line, require
from finetune.data.convert import convert
from finetune.data.source import Source, parse_columns
from finetune.engines import choose as engine_choice
from finetune.engines.choose import Choice
from finetune.engines.fast import rows as fast_rows
from finetune.engines.fast.loaded_model import Lane, begin_import
from finetune.engines.fast.train import Ended, Request
from finetune.engines.fast.train import train as train_fast
from finetune.engines.swift import config_file
from finetune.engines.swift import launcher as swift_launcher
from finetune.engines.swift import options as swift_options
from finetune.engines.swift.arguments import Arguments, tidy
from finetune.plan import gpu_memory
from finetune.plan.swift import plan_swift
from finetune.runs import checkpoints, run_folder
from finetune.runs.gpu_lock import STOPPING, job, waits
from finetune.runs.gpu_lock import run as run_job
from finetune.runs.stop_signals import Stop
from finetune.verify import preparation
from finetune.verify.engine import Qwen2Engine
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.session import base_answers
from finetune.verify.sets import rows as data_rows
from finetune.verify.sets import survey, unseen
from qwen2.config import PROJECTIONS, Config

# Options of ms-swift that change what a step keeps in memory, in ways that finetune/plan does not count.
UNPLANNED = (
    *("deepspeed", "fsdp", "device_map", "packing", "padding_free", "streaming", "sequence_parallel_size"),
    *("use_dora", "modules_to_save", "target_regex", "target_parameters", "attn_impl", "use_galore", "optimizer"),
)


def parser(name: str) -> Parser:
    """The options of ours; all others are ms-swift's."""
    p = Parser(
        prog=f"{name}.sh",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__.split("\n", 1)[0],
        epilog="""Every other option is ms-swift's, and wins over the file: --num_train_epochs 3 --dataset my.json
(`swift sft --help` lists them all; the config file explains those of the article).

ENGINE=auto|fast|swift chooses who trains. The fast lane does in seconds what ms-swift does in a minute, for one GPU,
LoRA and Qwen2; auto takes it where it honours every option given, and says in a line which engine runs and why.

Every run gets a folder of its own below $OUTPUT_DIR (/root/output), named by its start: run.json (settings, versions,
data), logging.jsonl, checkpoint-N/ (the adapter). No run is ever written into the folder of another. infer.sh and
verify.sh take the newest by themselves. With --output_dir DIR the run goes to DIR, which must not hold one yet.""",
    )
    p.add_argument("--config", type=Path, metavar="FILE", help="another YAML file of options")
    p.add_argument("--show", action="store_true", help="print the equivalent `swift sft` line and run nothing")
    p.add_argument("--run", default="", metavar="NAME", help="the run folder's name below $OUTPUT_DIR")
    p.add_argument("--wait", action="store_true", help="wait while another job holds the GPU")
    p.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run that was stopped, from its newest whole checkpoint (default: the newest run)",
    )
    p.add_argument("--general", metavar="FILE", help=general_help(name))
    p.add_argument(
        "--reword",
        type=int,
        default=0,
        metavar="N",
        help="also train on N rewordings of each question, which the base writes first (rewordings.yaml in the run)",
    )
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
    plan = prepare(name, options, rest)
    return DONE if plan is None else run(plan, options, prepare_data(plan, options))


def prepare(name: str, options: argparse.Namespace, rest: list[str]) -> Plan | None:
    """The plan of a run, checked, with its engine and folder; None when only the line was to be shown."""
    if options.config is None:
        raise UserError(f"{name}: no --config; run {name}.sh, which names its own")
    settings = Settings.from_env()
    if not options.show and os.environ.get("ENGINE") != "swift":
        begin_import("cpu" if settings.wants_cpu else "cuda")
    if not options.show and not _count("NODE_RANK"):
        run_folder.tell_of_killed(settings.output_dir.resolve(), f"{name}.sh")
    if options.reword and _count("NNODES") > 1:
        raise UserError("--reword: not on several nodes, whose data must be the same; give the rewordings as --dataset")
    if options.reword < 0 or options.reword > 8:
        raise UserError(f"--reword {options.reword}: must be from 0 to 8 rewordings of each question")
    if options.resume is not None:
        if options.reword:
            raise UserError(f"{name} --resume: --reword is not possible, a run goes on with its own rows; leave it out")
        return resumed(name, options, rest, settings)
    plan = Plan(name, options.config, Arguments(rest), settings, options.general)
    plan.choose_engine(os.environ.get("ENGINE") or "auto")
    plan.require_rows()
    plan.share_the_batch()
    plan.fit_the_card(waits(options.wait or None))
    if options.show:
        plan.place(settings.output_dir / (options.run or time.strftime(f"{plan.kind}-%Y%m%d-%H%M%S")))
        print(plan.line())
        return None
    plan.make_folder(options.run)
    return plan


class Plan:
    """What a run is to do: the config, the stand-in's own values, what the user wrote, and the data they name."""

    def __init__(self, name: str, file: Path, args: Arguments, settings: Settings, general: str | None = None) -> None:
        self.name, self.file, self.args, self.settings = name, file, args, settings
        self.kind = "mixed" if name == "sft_mixed" else "run"
        if args.leading:
            raise UserError(
                f"{name}: {args.leading[0]!r} belongs to no option; options begin with --, see {name}.sh --help"
            )
        self.config = config_file.load(file)
        self.workspace = file.resolve().parent.parent  # relative names in configs/x.yaml are of the folder above
        self.model_dir = self.find_model()
        self.model_kind = kind_of(self.model_dir)
        # Values that a test model needs, because so small a model does not move at the real one's learning rate.
        own = file.parent / f"{self.model_kind.name}.yaml"
        self.own = config_file.load(own) if self.model_kind.is_for_tests and own.is_file() else {}
        if name != "sft":
            self.own.pop("dataset", None)  # which is the plain run's
        if self.model_kind.is_for_tests:
            self.say_kind()
        if general is not None:
            self.replace_general(general)
        self.columns = self.take_columns()
        self.check_words()
        self.data = self.check_data()
        self.folder = Path()
        self.choice = Choice(engine_choice.SWIFT, "")
        self.checkpoint: Path | None = None  # to go on from
        self.resumed: list[str] = []  # checkpoints that the run was resumed from

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

    def say_kind(self) -> None:
        """Name a test model on screen, and the values that it changes."""
        kind = self.model_kind
        print(kind.notice(self.model_dir), file=sys.stderr)
        changed = [f"{key} {value}" for key, value in self.own.items() if self.args.get(key) is None]
        if changed:
            print(f"{kind.short} settings (configs/{kind.name}.yaml): {', '.join(changed)}", file=sys.stderr)

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

    def columns_words(self) -> list[str]:
        """--columns again, for a run that reads the user's own file; ms-swift reads a converted one."""
        return ["--columns", ",".join(self.columns)] if self.columns and self.choice.is_fast else []

    def check_words(self) -> None:
        """Unknown options, and values that cannot be, before the data are read, which may take a while."""
        line = swift_launcher.Line("sft", Arguments(self.words()), self.settings, lambda remark: None)
        line.read_config()
        line.rename()
        line.check_options()

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

    def choose_engine(self, asked: str, why: str = "") -> None:
        """Check every option, and take the engine that honours them all; one line says which, and why.

        `why` is a resumed run's own reason for the engine that it goes on with.
        """
        remarks: list[str] = []
        words = Arguments([*self.words(), "--model", str(self.model_dir)])
        swift_launcher.Line("sft", words, self.settings, remarks.append).check()
        sources = [source for source, _ in self.data]
        self.choice = engine_choice.choose(
            asked, self.options(), self.model_dir, sources, on_cpu=self.settings.wants_cpu, resumed=why
        )
        if self.choice.is_fast:  # ms-swift's launcher makes them itself
            for remark in remarks:
                swift_launcher.tell(remark)
        print(self.choice.in_one_line(), file=sys.stderr)

    @property
    def is_helping(self) -> bool:
        """Whether this is a node above 0: checkpoints (ms-swift) and run.json (we) are written on node 0 alone."""
        return not self.choice.is_fast and _count("NODE_RANK") > 0

    def require_rows(self) -> None:
        """UserError when max_length leaves no row of the data to train on; ms-swift would say so in a traceback."""
        limit = int(self.options().get("max_length") or 0)
        reports = [report for _, report in self.data]
        if not limit or any(report is None or report.sampled or not report.lengths for report in reports):
            return
        lengths = [length for report in reports if report for length in report.lengths]
        if lengths and min(lengths) > limit:
            raise UserError(
                f"{self.name}: no row is left to train on: the shortest has {min(lengths)} tokens, and --max_length is "
                f"{limit}; raise it, or shorten the rows"
            )

    def share_the_batch(self) -> None:
        """With several workers, divide the micro-batches of a step among them, so that a step has the same rows.

        Nothing is changed where the user gave gradient_accumulation_steps, or the workers do not divide it.
        """
        workers = max(1, _count("NNODES")) * max(1, _count("NPROC_PER_NODE"))
        if workers == 1 or self.choice.is_fast or self.args.get("gradient_accumulation_steps") is not None:
            return
        options = self.options()
        size = int(options.get("per_device_train_batch_size", 1))
        micros = int(options.get("gradient_accumulation_steps", 1))
        if micros % workers:
            print(
                f"note: {workers} workers do not divide {micros} micro-batches: a step has {size * micros * workers} "
                f"rows, where one worker's has {size * micros}; --gradient_accumulation_steps sets it",
                file=sys.stderr,
            )
            return
        self.own |= {"gradient_accumulation_steps": micros // workers}
        print(
            f"batch: {workers} workers x {size} x {micros // workers} rows a step, as many as on one",
            file=sys.stderr,
        )

    def fit_the_card(self, waits: bool = False) -> None:
        """Cut ms-swift's batch as finetune/plan finds it fastest under the ceiling; what the user gave stays.

        UserError with the remedies when nothing fits. Nothing is changed where the plan does not know the run: no GPU,
        several processes, another model than Qwen2, no LoRA, options in UNPLANNED. `waits`: another job may hold the
        card now, so that its whole memory counts in place of what is free.
        """
        if self.choice.is_fast or self.model_kind is STANDIN or self.settings.wants_cpu:
            return
        if any(_count(name) > 1 for name in ("NPROC_PER_NODE", "NNODES")):
            return
        options = self.options()
        targets = _list(options.get("target_modules", "all-linear"))
        known = options.get("tuner_type", "lora") == "lora" and options.get("torch_dtype", "bfloat16") == "bfloat16"
        if not known or any(options.get(name) for name in UNPLANNED) or not {*targets} <= {"all-linear", *PROJECTIONS}:
            return
        lengths = self.lengths()
        try:
            shape = Config.from_dir(self.model_dir)
        except ValueError:
            return
        if lengths is None:
            return
        size = int(options.get("per_device_train_batch_size", 1))
        cut = any(
            self.args.get(name) is not None for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
        )
        plan = plan_swift(
            shape,
            lengths,
            batch=size * int(options.get("gradient_accumulation_steps", 1)),
            ceiling_gib=ceiling_gib(self.settings, waits),
            rank=int(options.get("lora_rank", 8)),
            targets=targets,
            quant_bits=int(options.get("quant_bits") or 0) or None,
            micro_batch=size if cut else None,
            gradient_checkpointing=options.get("gradient_checkpointing"),
            use_liger_kernel=options.get("use_liger_kernel"),
        )
        self.own |= plan.options()
        print(plan.in_one_line(), file=sys.stderr)

    def lengths(self) -> list[int] | None:
        """Tokens of the rows to train on, those over max_length left out; None when nothing says how long they are."""
        limit = int(self.options().get("max_length") or 0)
        found: list[int] = []
        for _, report in self.data[: len(self.args.get("dataset") or [])]:
            if report:
                found += [length for length in report.lengths if not limit or length <= limit]
            if report is None or report.sampled or not report.lengths:  # a row may be as long as it is allowed to be
                if not limit:
                    return None
                found.append(limit)
        return found

    def options(self) -> dict[str, Any]:
        """All options by name, with values of their types: the file's, the stand-in's own, the user's."""
        types = swift_options.options_of("sft")
        found = {
            name: typed(types.get(name), [value]) if isinstance(value, str) else value
            for name, value in (self.config | self.own).items()
        }
        for item in self.args.given:
            found[item.name] = typed(types.get(item.name), item.values)
        return found

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
                rank = f"-node{_count('NODE_RANK')}" if self.is_helping else ""
                self.folder.mkdir(parents=True, exist_ok=True)
                new = self.folder / f"{name}-{words.index(old) + 1}{rank}.jsonl"
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
            if not self.is_helping:
                run_folder.claim(folder)
        elif self.is_helping:
            folder = self.settings.output_dir.resolve() / (run_name or time.strftime(f"{self.kind}-%Y%m%d-%H%M%S"))
        else:
            folder = run_folder.make_folder(self.settings.output_dir.resolve(), run_name, self.kind)
        self.place(folder)

    def place(self, folder: Path) -> None:
        """Make the folder part of the command line, with the weights' folder."""
        self.folder = folder
        if self.args.get("output_dir") is None:
            self.args.set("output_dir", str(folder))
        if self.args.get("model") is None:
            self.args.set("model", str(self.model_dir))

    def own_files(self) -> list[Path]:
        """The local datasets that are to be learned: not those of which a sample is drawn, which are mixed in."""
        given = self.data[: len(self.args.get("dataset") or [])]
        own = [source.path for source, _ in given if source.path and source.sample is None]
        return own or [source.path for source, _ in given if source.path]

    def add_rows(self, path: Path) -> None:
        """Train on the rows of a further file."""
        words = self.args.get("dataset") or []
        self.data[len(words) : len(words)] = require([str(path)], None, self.check_options())
        self.args.set("dataset", *words, str(path))

    def replace_own_files(self, path: Path) -> None:
        """Train on the rows of a file in place of all of `own_files`."""
        gone = {str(own.resolve()) for own in self.own_files()}
        kept = [word for word in self.args.get("dataset") or [] if word not in gone]
        self.data = [each for each in self.data if not each[0].path or str(each[0].path.resolve()) not in gone]
        self.args.set("dataset", *kept)
        self.add_rows(path)

    def keep_rows(self) -> None:
        """Keep the rows that verify will judge, where they are the user's own: their file may be elsewhere by then."""
        files = [path for path in self.own_files() if not path.resolve().is_relative_to(self.workspace)]
        if files and not (self.folder / unseen.ROWS).exists():
            found = data_rows.read(self.own_files(), self.columns)
            preparation.keep_rows(self.folder, data_rows.draw(found, survey.JUDGED_MAX))

    def lane(self) -> Lane:
        """The fast lane's model for this plan, not loaded yet."""
        return Lane(self.model_dir, "cpu" if self.settings.wants_cpu else "cuda", self.settings.vram_ceiling_gib)

    def discard_folder(self) -> None:
        """Take a new run's folder away again in which nothing was run; node 0's is left alone by the others."""
        if self.is_helping or self.checkpoint is not None or (self.folder / "run.json").exists():
            return
        made = ("*dataset-*.jsonl", unseen.ROWS, unseen.UNSEEN, unseen.TRAINING, unseen.REWORDED, rewordings_file.NAME)
        for path in (found for pattern in made for found in self.folder.glob(pattern)):
            path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def same_data(self, record: dict[str, Any]) -> None:
        """UserError when a dataset is no longer the one that run.json recorded."""
        recorded = {item.get("path"): item.get("sha256") for item in record.get("datasets", [])}
        for source, _ in self.data:
            if source.path and recorded.get(str(source.path.resolve())) not in (None, sha256sums.digest(source.path)):
                raise UserError(f"{source.path}: was changed since the run began; start a new run, or restore it")

    def words(self) -> list[str]:
        """The words behind `swift sft`: the config file, the stand-in's values, the user's options."""
        own = {key: value for key, value in self.own.items() if self.args.get(key) is None}
        return [str(self.file), *config_file.arguments(own), *self.args.words()]

    def merged(self) -> Arguments:
        """All options in one, without the config file."""
        merged = Arguments(config_file.arguments(self.config | self.own))
        for item in self.args.given:
            merged.set(item.name, *item.values)
        return merged

    def line(self) -> str:
        """The equivalent `swift sft` command line, an option a line, ready for a shell."""
        lines = ["swift sft"]
        for item in self.merged().given:
            lines.append(" ".join([f"--{item.name}", *map(shlex.quote, item.values)]))
        return " \\\n  ".join(lines)


def resumed(name: str, options: argparse.Namespace, rest: list[str], settings: Settings) -> Plan:
    """The plan of a run that was stopped, with its own options, data and engine, and the checkpoint to go on from."""
    if rest:
        raise UserError(f"{name} --resume: {rest[0]} is not possible, a run goes on with its own options; leave it out")
    folder = Path(options.resume).resolve() if options.resume else run_folder.newest(settings.output_dir)
    record = run_folder.load(folder)
    if record.get("status") == "done":
        raise UserError(f"{folder}: is finished ({record.get('adapter')}); sft starts a new run")
    words = record.get("words")
    if not isinstance(words, list) or record.get("name") != name:
        raise UserError(f"{folder}: not a run of {name}.sh that can be resumed; start a new one")
    args = Arguments([str(word) for word in words])
    model = (args.get("model") or [""])[0]
    digest = (record.get("weights") or {}).get("sha256sums")
    if model and digest and Path(model).is_dir() and weights_digest(Path(model)) not in (None, digest):
        raise UserError(f"{folder}: was trained on other weights than {model} holds now; start a new run")
    plan = Plan(name, options.config, args, settings)
    plan.same_data(record)
    plan.folder, plan.checkpoint = folder, run_folder.resumable(folder)
    plan.resumed = [*record.get("resumed", []), plan.checkpoint.name]
    asked = "fast" if record.get("engine") == engine_choice.FAST else "swift"
    plan.choose_engine(asked, str(record.get("engine_why") or "because the run began with it"))
    print(f"resume: {folder} from {plan.checkpoint.name}", file=sys.stderr)
    return plan


def run(plan: Plan, options: argparse.Namespace, lane: Lane | None = None, stop: Stop | None = None) -> int:
    """Run the chosen engine as the job that holds the GPU, and write run.json before and after. The exit code.

    `lane` and `stop` are those of a caller that goes on after the training.
    """
    with contextlib.ExitStack() as stack:
        if not plan.is_helping:
            stack.enter_context(run_folder.held(plan.folder))
        if plan.choice.is_fast and stop is None:
            stop = stack.enter_context(Stop())
        return _run(plan, options, lane, stop)


def prepare_data(plan: Plan, options: argparse.Namespace) -> Lane | None:
    """Keep what verify will judge in the run's folder, and add rewordings to the training where they are asked for.

    The lane that wrote them goes on to train, where the fast lane does; else the weights' memory is given back.
    """
    if plan.checkpoint is not None or plan.is_helping:
        return None
    lane = None
    try:
        plan.keep_rows()
        if options.reword:
            found = preparation.look(plan.own_files(), plan.columns, kind=plan.model_kind.name)
            lane = plan.lane()
            with Stop(), job(plan.name, wait=options.wait or None):
                base = (
                    None
                    if plan.model_kind is STANDIN
                    else base_answers(Qwen2Engine(lane.model_dir, lane.device, lane=lane))
                )
                path = preparation.reword(found, None, plan.folder, base, options.reword)
            if path is not None:
                plan.add_rows(path)
    except (UserError, SystemExit):  # SystemExit: a stop signal
        plan.discard_folder()
        raise
    if lane is not None and not plan.choice.is_fast:
        lane.release()
        return None
    return lane


def _run(plan: Plan, options: argparse.Namespace, lane: Lane | None, stop: Stop | None) -> int:
    begin = time.monotonic()
    try:
        if stop is not None:
            record, ended = run_fast(plan, options.wait, lane, stop)
        else:
            record, ended = run_swift(plan, options.wait)
    except UserError:
        plan.discard_folder()
        raise
    except SystemExit:  # a stop signal before the first step of the fast lane
        plan.discard_folder()
        print(f"error: {plan.name}: stopped before the first step, so nothing is lost", file=sys.stderr)
        raise
    record["seconds"] = round(time.monotonic() - begin, 1)
    if plan.is_helping:
        node = f"node {_count('NODE_RANK')} ended with exit code {ended.code}; node 0 writes checkpoints and run.json"
        print(f"error: {plan.name}: {ended.why}" if ended.why else f"{plan.name}: {node}", file=sys.stderr)
        return ended.code
    if stop is not None:
        stop.at_once = lambda number: f"error: {plan.name}: ended at once; what was trained is in {plan.folder}"
    try:
        return finish(plan, options, record, ended)
    finally:
        if ended.drawing is not None and stop is not None:
            ended.drawing.finish(stop)


def finish(plan: Plan, options: argparse.Namespace, record: dict[str, Any], ended: Ended) -> int:
    """Write down how the engine ended, and say it: nothing that comes later can change it. The exit code."""
    record["exit_code"] = ended.code
    record |= run_folder.progress(plan.folder)
    checkpoints.seal(plan.folder)
    adapter = trained_adapter(plan.folder)
    stopped = ended.code in (128 + number for number in STOPPING)
    record["status"] = "done" if ended.code == DONE and adapter else "stopped" if stopped else "failed"
    record["adapter"] = str(adapter.relative_to(plan.folder)) if adapter else None
    try:
        run_folder.write(plan.folder, record)
    except UserError as error:
        if record["status"] == "done":
            raise
        print(f"note: {error}", file=sys.stderr)  # what ended the run comes below, and is often the same
    if record["status"] != "done":
        why = ended.why
        if stopped and not why:
            why = f"stopped by {signal.Signals(ended.code - 128).name} at step {record.get('steps', 0)}"
        why = why or "it ended without a checkpoint, its last lines above say why"
        print(f"error: {plan.name}: {why}; {kept(adapter)}", file=sys.stderr)
        return ended.code or FAILED
    assert adapter is not None
    if options.adapter_to:
        options.adapter_to.write_text(f"{adapter}\n", encoding="utf-8")
    print(summary(plan.name, record, adapter), flush=True)
    return DONE


def kept(adapter: Path | None) -> str:
    """What is left of a run that did not end, for the screen."""
    return f"the newest checkpoint is {adapter}, --resume goes on" if adapter else "no checkpoint was written"


def end_at_once(plan: Plan, record: dict[str, Any], before: dict[str, Any] | None, number: int) -> str:
    """The record of a run that a second stop signal ends within its step, and the line that says what is kept.

    `before` is the record that a resumed run had: it comes back where no step was made.
    """
    adapter = trained_adapter(plan.folder)
    now = record | run_folder.progress(plan.folder) | {"status": "stopped", "exit_code": 128 + number}
    now["adapter"] = str(adapter.relative_to(plan.folder)) if adapter else None
    if before is None or now["adapter"] != before.get("adapter"):
        run_folder.write(plan.folder, now)
    else:
        run_folder.write(plan.folder, before)
    return f"error: {plan.name}: ended at once by a second {signal.Signals(number).name}; {kept(adapter)}"


def run_swift(plan: Plan, wait: bool) -> tuple[dict[str, Any], Ended]:
    """ms-swift in a process of its own: (run.json, how it ended)."""
    if plan.checkpoint is None:
        plan.convert_data()
    words = plan.words()
    if plan.checkpoint is not None:
        words += ["--resume_from_checkpoint", str(plan.checkpoint)]
        checkpoints.unseal(plan.folder, checkpoints.step(plan.checkpoint))
    _, words = swift_launcher.prepare(["sft", *words], plan.settings, data_checked=True)
    record = describe(plan, words)
    with record_of(plan, record):
        line = [swift_launcher.find_real(), "sft", *words]
        code = run_job(plan.name, line, wait, [plan.folder], None, keyboard=False)
    failed = code and code not in (128 + number for number in STOPPING)
    return record, Ended(code, f"ms-swift ended with exit code {code}, its last lines above say why" if failed else "")


def run_fast(plan: Plan, wait: bool, lane: Lane | None, stop: Stop) -> tuple[dict[str, Any], Ended]:
    """The fast lane in this process: (run.json, how it ended)."""
    choice = plan.choice
    lane = lane or plan.lane()
    rows = encode(plan, lane)
    record = describe(plan, [])
    request = Request(plan.name, plan.folder, choice, rows, args_json(plan, record), resume=plan.checkpoint, wait=wait)
    with record_of(plan, record) as before:
        stop.at_once = lambda number: end_at_once(plan, record, before, number)
        ended = train_fast(lane, request, stop)
    if ended.figures:
        record["figures"] = dict(ended.figures)
    return record, ended


def encode(plan: Plan, lane: Lane, skip: Callable[[Any], bool] | None = None) -> fast_rows.Rows:
    """The plan's rows as ids, but those for which `skip` is true."""
    choice = plan.choice
    sources = [source for source, _ in plan.data]
    seed = int(choice.train.get("data_seed", 42))
    length = choice.max_length or Config.from_dir(plan.model_dir).max_positions
    return fast_rows.encode(sources, lane.tokenizer, choice.system, length, seed, plan.columns, skip)


@contextlib.contextmanager
def record_of(plan: Plan, record: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
    """run.json while the engine runs. What was there before it, which is yielded, comes back where no step was made.

    That is a UserError: another job holds the GPU, the weights cannot be loaded; or a stop signal while they load.
    """
    if plan.is_helping:
        yield None
        return
    before = run_folder.load(plan.folder) if plan.checkpoint else None
    run_folder.write(plan.folder, record)
    try:
        yield before
    except UserError:
        if before is None:
            (plan.folder / "run.json").unlink()
        else:
            run_folder.write(plan.folder, before)
        raise
    except SystemExit as end:
        run_folder.write(plan.folder, before or record | {"status": "stopped", "exit_code": end.code})
        raise


def ceiling_gib(settings: Settings, waits: bool) -> float:
    """The GiB that a run is planned with: VRAM_CEILING_GIB, or what the card has free (all of it, if the run waits)."""
    found = gpu_memory.find(None, settings.vram_ceiling_gib)
    if not waits:
        return found.ceiling_gib
    whole = round(found.gib - gpu_memory.CONTEXT_GIB, 2)
    return min(settings.vram_ceiling_gib or whole, whole)


def args_json(plan: Plan, record: dict[str, Any]) -> dict[str, Any]:
    """What `swift infer --adapters` and verify read from a checkpoint's args.json."""
    options = {name: value for name, value in record["settings"].items() if name != "output_dir"}
    return options | {
        "model": str(plan.model_dir),
        "model_type": "qwen2",
        "task_type": "causal_lm",
        "tuner_type": "lora",
        "torch_dtype": "float32" if plan.settings.wants_cpu else "bfloat16",
        "system": plan.choice.system,
        "swift_version": record["versions"].get("ms-swift"),
        "output_dir": str(plan.folder),
    }


def describe(plan: Plan, words: list[str]) -> dict[str, Any]:
    """run.json before the first step: what is needed to do the run again."""
    settings = plan.options()
    types = swift_options.options_of("sft")
    for item in Arguments(words).given:  # what the launcher of ms-swift changes, too
        settings[item.name] = typed(types.get(item.name), item.values)
    datasets = [
        {
            "name": source.spec,
            "path": str(source.path.resolve()) if source.path else None,
            "rows": report.rows if report else None,
            "sample": source.sample,
            "sha256": sha256sums.digest(source.path) if source.path else None,
        }
        for source, report in plan.data
    ]
    return {
        "schema": 1,
        "name": plan.name,
        "number": run_folder.next_number(plan.folder),
        "engine": plan.choice.engine,
        "engine_why": plan.choice.why,
        "status": "running",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": plan.line(),
        "words": [*plan.merged().words(), *plan.columns_words()],
        **({"resumed": plan.resumed} if plan.resumed else {}),
        "settings": settings,
        "datasets": datasets,
        "weights": {
            "path": str(plan.model_dir),
            "standin": plan.model_kind is STANDIN,
            "kind": plan.model_kind.name,
            "sha256sums": weights_digest(plan.model_dir),
        },
        "versions": run_folder.versions(),
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
    return sha256sums.digest(path) if path.is_file() else None


def trained_adapter(folder: Path) -> Path | None:
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


def _count(name: str) -> int:
    """A number in the environment, such as NODE_RANK; 0 when it is not set."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def _list(value: Any) -> list[str]:
    """A config value that may be one text or a list of them."""
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


if __name__ == "__main__":
    leave(run_main(main))
