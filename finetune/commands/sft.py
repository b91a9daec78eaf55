"""One fine-tuning run from a config file: checks the data, makes the run's folder, trains, writes run.json.

sft.sh and sft_mixed.sh call it with their YAML file and the user's options.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.errors import Parser, leave, run_main
from common.i18n import _
from finetune.engines.swift.arguments import tidy
from finetune.sft.start import start


def parser(name: str) -> Parser:
    """This command's own options; all others are ms-swift's."""
    p = Parser(
        prog=f"{name}.sh",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_("One fine-tuning run from a config file: check the data, train, write run.json."),
        epilog=_(
            "Every other option is ms-swift's, and wins over the file: --num_train_epochs 3 --dataset "
            "my.json\n(`swift sft --help` lists them all; the config file explains those of the article). "
            "--num_train_epochs auto asks the\nadapter of each epoch, and keeps the earliest that is as good "
            "as the best and loses nothing general (docs/verify.md).\n\nENGINE=auto|fast|swift chooses who "
            "trains. The fast lane does in seconds what ms-swift does in a minute, for\nLoRA and "
            "Qwen2; auto takes it where it honours every option given, and says in a line which engine runs "
            "and why. Of\nseveral GPUs as many train as pay for their start; NPROC_PER_NODE=2 asks "
            "for two.\n\nEvery run gets a folder of its own below $OUTPUT_DIR (/root/output), named by its "
            "start: run.json (settings, versions,\ndata), logging.jsonl, checkpoint-N/ (the adapter). No run "
            "is ever written into the folder of another. infer.sh and\nverify.sh take the newest by "
            "themselves. With --output_dir DIR the run goes to DIR, which must not hold one yet."
        ),
    )
    p.add_argument("--config", type=Path, metavar="FILE", help=_("another YAML file of options"))
    p.add_argument("--show", action="store_true", help=_("print the equivalent `swift sft` line and run nothing"))
    p.add_argument("--run", default="", metavar="NAME", help=_("the run folder's name below $OUTPUT_DIR"))
    p.add_argument("--wait", action="store_true", help=_("wait while another job holds the GPU"))
    p.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help=_("continue a run that was stopped, from its newest complete checkpoint (default: the newest run)"),
    )
    p.add_argument("--general", metavar="FILE", help=general_help(name))
    reword = _("also train on N rewordings of each question, which the base writes first (rewordings.yaml in the run)")
    mix = _("also train on N general questions with the base's own answers, to keep its abilities")
    for option, text in (("--reword", reword), ("--mix", mix)):
        p.add_argument(option, type=int, default=0, metavar="N", help=text)
    p.add_argument("--adapter-to", type=Path, metavar="FILE", help=_("write the finished adapter's path to FILE"))
    return p


def general_help(name: str) -> str:
    """The help of --general, which only the mixed run has."""
    return (
        _("a local file for the 500 general rows, instead of the hub's") if name == "sft_mixed" else argparse.SUPPRESS
    )


def main(argv: list[str] | None = None) -> int:
    """Run a training; returns the exit code. The first word of `argv` is the script's name, `sft` or `sft_mixed`."""
    name, *words = sys.argv[1:] if argv is None else argv
    words, _other = tidy(words)
    options, rest = parser(name).parse_known_args(words)
    return start(name, options, rest)


if __name__ == "__main__":
    leave(run_main(main))
