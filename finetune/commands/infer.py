"""Ask the model, with or without an adapter, one question or many, through `swift infer`; infer.sh calls it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common.errors import FAILED, Parser, UserError, run_main
from common.model_kind import kind_of
from common.settings import Settings
from finetune.engines.swift import config_file
from finetune.engines.swift import launcher as swift_launcher
from finetune.engines.swift import options as swift_options
from finetune.engines.swift.arguments import Arguments
from finetune.engines.swift.printed import last_line
from finetune.runs import adapters


def parser() -> Parser:
    """The options of ours; all others are ms-swift's."""
    p = Parser(
        prog="infer.sh",
        usage="infer.sh [--adapter DIR|newest] [QUESTION...] [--gguf FILE] [--swift-option value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__.split("\n", 1)[0],
        epilog="""Without a question it is a conversation; `clear` forgets what was said, `exit` or Ctrl-D ends it.
With questions, each is answered by itself, and nothing but the answers goes to stdout.
Every other option is ms-swift's, and wins over the config file: --temperature 0.7 --max_new_tokens 100""",
    )
    p.add_argument("--config", type=Path, metavar="FILE", help="another YAML file of options")
    p.add_argument(
        "--adapter",
        metavar="DIR|newest",
        help="a checkpoint or a run's folder, or the newest below $OUTPUT_DIR; without it the base model answers",
    )
    p.add_argument("--gguf", type=Path, metavar="FILE", help="ask a file of export.sh, by llama.cpp on the CPU")
    p.add_argument("--wait", action="store_true", help="wait while another job holds the GPU")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit code."""
    options, rest = parser().parse_known_args(argv)
    if options.config is None:
        raise UserError("infer: no --config; run infer.sh, which names its own")
    settings = Settings.from_env()
    args = Arguments(rest)
    if options.gguf:
        return ask_file(options, rest)
    questions = swift_options.take_questions(args, swift_options.options_of("infer"))
    if any(not question.strip() for question in questions):
        raise UserError('infer: an empty question; write one, such as "你是谁?", or none for a conversation')
    if args.get("model") is None:
        args.set("model", str(settings.model_dir))
    model = Path((args.get("model") or [""])[0])
    if options.adapter:
        args.set("adapters", str(adapters.find(options.adapter, settings.output_dir, model)))
    if (kind := kind_of(model)).is_for_tests:
        print(kind.notice(model), file=sys.stderr)
    # Checked as a whole: `swift infer` takes the config first.
    config_file.load(options.config)
    if questions:
        return answer(questions, options, args, settings)
    return converse(options, args, settings)


def ask_file(options: argparse.Namespace, words: list[str]) -> int:
    """Questions, or a conversation, answered by llama.cpp from a GGUF file; it needs no GPU and takes no lock."""
    from finetune.export import chat

    strange = next((word for word in words if word.startswith("-")), None)
    if options.adapter or strange:
        raise UserError(
            f"infer: --gguf takes questions alone, and no {'--adapter' if options.adapter else strange}: the file has "
            "its adapter, system prompt and template in it"
        )
    if any(not word.strip() for word in words):
        raise UserError('infer: an empty question; write one, such as "你是谁?", or none for a conversation')
    return chat.run(options.gguf, words)


def converse(options: argparse.Namespace, args: Arguments, settings: Settings) -> int:
    """A conversation at the terminal: ms-swift's own, as a job that may wait for its user for ever."""
    from finetune.runs.gpu_lock import run

    _, words = swift_launcher.prepare(["infer", str(options.config), *args.words()], settings)
    return run("infer", [swift_launcher.find_real(), "infer", *words], options.wait, [], 0)


def answer(questions: list[str], options: argparse.Namespace, args: Arguments, settings: Settings) -> int:
    """Ask each question by itself; the answers go to stdout. What ms-swift prints is kept for the case of a failure."""
    from finetune.runs.gpu_lock import run

    with tempfile.TemporaryDirectory(prefix="infer-") as name:
        folder = Path(name)
        asked, answered, log = folder / "questions.jsonl", folder / "answers.jsonl", folder / "log"
        rows = [{"messages": [{"role": "user", "content": question}]} for question in questions]
        asked.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        args.set("val_dataset", str(asked))
        args.set("result_path", str(answered))
        args.set("stream", "false")
        _, words = swift_launcher.prepare(["infer", str(options.config), *args.words()], settings)
        print(f"loading {(args.get('model') or [''])[0]} ...", file=sys.stderr, flush=True)
        quiet = ["sh", "-c", 'exec "$@" >"$0" 2>&1', str(log), swift_launcher.find_real(), "infer", *words]
        code = run("infer", quiet, options.wait, [], None)
        answers = read_answers(answered)
        if code or len(answers) != len(questions):
            raise UserError(f"infer: ms-swift ended with exit code {code}: {last_line(log)}", code or FAILED)
        for question, text in zip(questions, answers, strict=True):
            print(text if len(questions) == 1 else f"{question}\n{text}\n")
    return 0


def read_answers(path: Path) -> list[str]:
    """The answers in a result file of `swift infer`, in the order of the questions."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [str(row.get("response", "")) for row in rows]


if __name__ == "__main__":
    sys.exit(run_main(main))
