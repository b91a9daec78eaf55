"""Asks the model one or more questions, or talks to it, with or without an adapter; infer.sh calls it.

The fast lane answers if it supports all options (talk/fast.py), else `swift infer` does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import host
from common.errors import DONE, FAILED, Parser, UserError, run_main
from common.i18n import _
from common.json_files import json_object
from common.model_kind import kind_of
from common.settings import Settings
from finetune.engines.fast.loaded_model import Lane
from finetune.engines.swift import config_file
from finetune.engines.swift import launcher as swift_launcher
from finetune.engines.swift import options as swift_options
from finetune.engines.swift.arguments import Arguments
from finetune.engines.swift.command_line import Line
from finetune.engines.swift.printed import last_line
from finetune.plan import answering
from finetune.runs import adapters, checkpoints
from finetune.runs.progress_bar import Bar
from finetune.sft import gpus
from finetune.talk import fast, terminal
from finetune.verify import runinfo


def parser() -> Parser:
    """This command's own options; all others are ms-swift's."""
    p = Parser(
        prog="infer.sh",
        usage="infer.sh [--adapter DIR|newest] [QUESTION...] [--gguf FILE] [--swift-option value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_("Ask the model, with or without an adapter, one question or many, or talk to it."),
        epilog=_(
            "Without a question it is a conversation; `clear` forgets what was said, `exit` or Ctrl-D ends "
            "it.\nWith questions, each is answered by itself, and nothing but the answers goes to stdout.\n"
            "Every other option is ms-swift's, and wins over the config file: --temperature 0.7 "
            "--max_new_tokens 100"
        ),
    )
    p.add_argument("--config", type=Path, metavar="FILE", help=_("another YAML file of options"))
    p.add_argument(
        "--adapter",
        metavar="DIR|newest",
        help=_("a checkpoint or a run's folder, or the newest below $OUTPUT_DIR; without it the base model answers"),
    )
    p.add_argument(
        "--gguf", type=Path, metavar="FILE", help=_("ask a GGUF file of export.sh, with llama.cpp on the CPU")
    )
    p.add_argument("-v", "--verbose", action="store_true", help=_("say which engine answers, and show its log"))
    p.add_argument("--wait", action="store_true", help=_("wait while another job holds the GPU"))
    return p


def main(argv: list[str] | None = None) -> int:
    """Run infer; returns the exit code."""
    options, rest = parser().parse_known_args(argv)
    if options.config is None:
        raise UserError(_("infer: no --config; run infer.sh, which names its own"))
    settings = Settings.from_env()
    args = Arguments(rest)
    if options.gguf:
        return ask_file(options, rest)
    questions = swift_options.take_questions(args, swift_options.options_of("infer"))
    _require_words(questions)
    named_model = args.get("model") is not None
    if not named_model:
        args.set("model", str(settings.model_dir))
    model = Path((args.get("model") or [""])[0])
    adapter = None
    if options.adapter:
        adapter = adapters.find(options.adapter, settings.output_dir, model, tell=bool(questions))
        args.set("adapters", str(adapter))
    elif not named_model and args.get("adapters") is None and next(iter(checkpoints.find(settings.output_dir)), None):
        asked = host.call("infer", adapter="newest")
        print(_("the base model answers; {asked} asks the fine-tuned one").format(asked=asked), file=sys.stderr)
    if (kind := kind_of(model)).is_for_tests:
        print(kind.notice(model), file=sys.stderr)
    # `swift infer` reads the config file too, before the options.
    file = config_file.load(options.config)
    Line("infer", args.copy(), settings, lambda remark: None).check()  # reports mistakes at once
    several = _several()
    cards = 1 if settings.wants_cpu or several else answering.cards_to_hold(model, settings.vram_ceiling_gib)
    wanted = by_fast_lane(args, file, model, adapter, cards)
    if isinstance(wanted, str) and not several and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        gpus.show_swift(cards)
    if options.verbose:
        engine = _("ms-swift, because of {why}").format(why=wanted) if isinstance(wanted, str) else _("the fast lane")
        print(_("engine: {engine}").format(engine=engine), file=sys.stderr)
    if not isinstance(wanted, str):
        return fast_lane(wanted, questions, options, settings)
    if questions:
        return answer(questions, options, args, settings)
    return converse(args, adapter or model, options, settings)


def _require_words(questions: list[str]) -> None:
    if any(not question.strip() for question in questions):
        raise UserError(_('infer: an empty question; write one, such as "你是谁?", or none for a conversation'))


def by_fast_lane(
    args: Arguments, file: dict[str, Any], model: Path, adapter: Path | None, cards: int
) -> fast.Wish | str:
    """What the fast lane needs to answer, or the reason why ms-swift answers.

    Args:
        args: The options for ms-swift.
        file: The options in the config file.
        model: The model's folder.
        adapter: The adapter of --adapter, if any.
        cards: The number of GPUs that are needed to hold the base.
    """
    if os.environ.get("ENGINE") == "swift":
        return "ENGINE=swift"
    if _several():
        return "NPROC_PER_NODE"
    given = args.get("adapters")
    if given and not adapter:
        return "--adapters"
    if cards > 1:
        return _("a base that is too large for one GPU")
    # merge.sh records the system prompt in the args.json of a merged model.
    system = runinfo.of_adapter(adapter).system if adapter else json_object(model / "args.json").get("system")
    return fast.wish(args, file, model, adapter, system)


def _several() -> bool:
    return os.environ.get("NPROC_PER_NODE", "1") not in ("", "1")


def fast_lane(wanted: fast.Wish, questions: list[str], options: argparse.Namespace, settings: Settings) -> int:
    """Answer questions, or talk, with this project's own Qwen2. The job never times out while the user is silent.

    Args:
        wanted: What the fast lane needs to answer.
        questions: The questions; none: a conversation.
        options: The command's own options.
        settings: The settings in the environment.
    """
    from rich.console import Console

    from finetune.runs.gpu_lock import job

    lane = Lane(wanted.model, "cpu" if settings.wants_cpu else "cuda", settings.vram_ceiling_gib)
    with job("infer", wait=options.wait or None, stale_s=0):
        with Bar(Console(stderr=True), 0) as bar:
            lane.load(bar)
            answers = fast.TalkModel(lane, wanted)
        if not questions:
            terminal.converse(named(wanted.adapter or wanted.model), answers.stream)
        for question in questions:
            if len(questions) > 1:
                print(question)
            terminal.show(answers.stream([{"role": "user", "content": question}]))
            if len(questions) > 1:
                print()
    return DONE


def named(path: Path) -> str:
    """The name in the first line of a conversation: run-…/checkpoint-80, or the model's name."""
    return f"{path.parent.name}/{path.name}" if (path / "adapter_config.json").is_file() else path.name


def ask_file(options: argparse.Namespace, words: list[str]) -> int:
    """Answer questions, or talk, with llama.cpp and a GGUF file. It needs neither the GPU nor its lock."""
    from finetune.export import chat

    strange = next((word for word in words if word.startswith("-")), None)
    if options.adapter or strange:
        raise UserError(
            _(
                "infer: --gguf takes only questions, no {option}: the file contains its adapter, system "
                "prompt and template"
            ).format(option="--adapter" if options.adapter else strange)
        )
    _require_words(words)
    return chat.run(options.gguf, words)


def converse(args: Arguments, who: Path, options: argparse.Namespace, settings: Settings) -> int:
    """Talk with ms-swift. The job never times out while the user is silent. -v shows the log of ms-swift.

    Args:
        args: The options for ms-swift.
        who: The folder of the adapter or the model, for the first line.
        options: The command's own options.
        settings: The settings in the environment.
    """
    from finetune.runs.gpu_lock import run

    command = _swift(options, args, settings)
    if options.verbose:
        return run("infer", command, options.wait, [], 0)
    print(_("Talking to {who}; exit leaves, clear forgets what was said").format(who=named(who)), file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="infer-") as name:
        log = Path(name, "log")
        code = run("infer", ["sh", "-c", 'exec "$@" 2>"$0"', str(log), *command], options.wait, [], 0)
        if code and code not in (130, 143):
            raise _ended(code, log)
    return code


def _swift(options: argparse.Namespace, args: Arguments, settings: Settings) -> list[str]:
    """The `swift infer` command line."""
    _command, words = swift_launcher.prepare(["infer", str(options.config), *args.words()], settings)
    return [swift_launcher.find_real(), "infer", *words]


def _ended(code: int, log: Path) -> UserError:
    """The error if ms-swift failed; it quotes the end of its log."""
    return UserError(
        _("infer: ms-swift ended with exit code {code}: {last_line}").format(code=code, last_line=last_line(log)),
        code or FAILED,
    )


def answer(questions: list[str], options: argparse.Namespace, args: Arguments, settings: Settings) -> int:
    """Answer each question by itself with ms-swift, on stdout. Its log is quoted only on failure.

    Args:
        questions: The questions.
        options: The command's own options.
        args: The options for ms-swift.
        settings: The settings in the environment.
    """
    from finetune.runs.gpu_lock import run

    with tempfile.TemporaryDirectory(prefix="infer-") as name:
        folder = Path(name)
        asked, answered, log = folder / "questions.jsonl", folder / "answers.jsonl", folder / "log"
        rows = [{"messages": [{"role": "user", "content": question}]} for question in questions]
        asked.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        args.set("val_dataset", str(asked))
        args.set("result_path", str(answered))
        args.set("stream", "false")
        command = _swift(options, args, settings)
        print(_("loading {model} ...").format(model=(args.get("model") or [""])[0]), file=sys.stderr, flush=True)
        code = run("infer", ["sh", "-c", 'exec "$@" >"$0" 2>&1', str(log), *command], options.wait, [], None)
        answers = read_answers(answered)
        if code or len(answers) != len(questions):
            raise _ended(code, log)
        for question, text in zip(questions, answers, strict=True):
            print(text if len(questions) == 1 else f"{question}\n{text}\n")
    return 0


def read_answers(path: Path) -> list[str]:
    """The answers in a result file of `swift infer`, in the order of the questions."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [str(json.loads(line).get("response", "")) for line in lines]


if __name__ == "__main__":
    sys.exit(run_main(main))
