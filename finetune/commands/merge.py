"""Merges an adapter into its base: a model folder that any program loads without the adapter; merge.sh calls it.

qwen2 merges on a GPU; in all other cases ms-swift does (`swift export --merge_lora`). This command first checks free
space, target and adapter. Afterwards it adds the files next to the weights and checks that 20 questions get the same
greedy answers. The finished folder is renamed last.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import host, sha256sums
from common.errors import DONE, FAILED, Parser, UserError, run_main
from common.i18n import _
from common.json_files import json_object
from common.model_kind import STANDIN, ModelKind, kind_of
from common.settings import Settings
from finetune.engines.swift import launcher as swift_launcher
from finetune.engines.swift import options as swift_options
from finetune.engines.swift.arguments import Arguments
from finetune.engines.swift.printed import last_line
from finetune.merge import folder, here, model_card, resources, same_answers
from finetune.runs import adapters, checkpoints, run_folder
from finetune.runs.gpu_lock import job
from finetune.verify import runinfo
from finetune.verify.config import SYSTEM, default_path
from finetune.verify.engine import check_adapter
from qwen2 import adapter_config

# Options of ms-swift that this command sets itself; the user may not give them.
OURS = (
    "adapters",
    "merge_lora",
    "output_dir",
    "device_map",
    "to_peft_format",
    "quant_method",
    "push_to_hub",
)


@dataclass(frozen=True)
class Merge:
    """One merge: what is merged, where to, and how."""

    base: Path
    adapter: Path
    target: Path
    kind: ModelKind
    dtype: str
    device: str
    system: str
    run: runinfo.Run


def parser() -> Parser:
    """This command's own options; all others are ms-swift's."""
    p = Parser(
        prog="merge.sh",
        usage="merge.sh [ADAPTER] [--output DIR] [--device auto|cuda|cpu] [--no-check] [--swift-option value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_("Merge an adapter into its base: a folder that any program loads without the adapter."),
        epilog=_(
            "The folder holds weights (safetensors), tokenizer, LICENSE, a model card and SHA256SUMS.\nExit "
            "code 0: written, and the answers are the same; 1: merging failed or an answer differs; 2: "
            "unusable input, no room.\nEvery other option is `swift export`'s: --max_shard_size 2GB, "
            "--torch_dtype float32 (not rounded, twice the size)"
        ),
    )
    p.add_argument(
        "--adapter",
        metavar="DIR|newest",
        help=_("a checkpoint or a run's folder (default: the newest); also as ADAPTER"),
    )
    p.add_argument(
        "--output", type=Path, metavar="DIR", help=_("where to (default: next to the checkpoint, NAME-merged)")
    )
    p.add_argument("--model", type=Path, metavar="DIR", help=_("the base (default: $MODEL_DIR)"))
    p.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help=_("auto: the GPU if it has room"))
    p.add_argument("--no-check", action="store_true", help=_("do not compare the answers of adapter and merged model"))
    p.add_argument("--questions", type=Path, metavar="DIR", help=_("folder of identity.yaml and general.yaml"))
    p.add_argument("--wait", action="store_true", help=_("wait while another job holds the GPU"))
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run merge; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    options, rest = parser().parse_known_args(words)
    settings = Settings.from_env()
    args = Arguments(rest)
    named = _named(args, options.adapter)
    base = options.model or settings.model_dir
    if not (base / "config.json").is_file():
        raise UserError(
            _("{base}: no config.json in it, so it is not a base model; name it with --model DIR").format(base=base)
        )
    adapter = adapters.find(named or "newest", settings.output_dir, base).absolute()
    if not options.no_check:
        adapters.require_plain(
            adapter, _("the check of the answers"), _("--no-check merges it through ms-swift, unchecked")
        )
        check_adapter(adapter, base)
    run = runinfo.of_adapter(adapter)
    checkpoint = adapter_config.checkpoint_of(adapter)
    target = (options.output or checkpoint.with_name(f"{checkpoint.name}-merged")).expanduser().absolute()
    kind = kind_of(base)
    is_standin = kind is STANDIN
    dtype = choose_dtype(args, is_standin)
    weights = resources.weights_bytes(base) * (2 if dtype == "float32" else 1)  # the base's are bfloat16
    resources.require_target(target)
    resources.require_disk(target, weights)
    extra = [item.name for item in args.given if item.name != "torch_dtype"]  # the user's options for ms-swift
    args.set("model", str(base))
    args.set("adapters", str(adapter))
    swift_launcher.prepare(["export", *args.words()], settings)  # unknown options, before anything slow
    texts = (
        None
        if options.no_check
        else same_answers.choose(options.questions or default_path().parent.parent / "questions")
    )

    device, why = _device(options, settings, weights)
    if kind.is_for_tests:
        print(kind.notice(base), file=sys.stderr)
    print(
        _("merging {adapter} into {base} on {device} ({why})").format(
            adapter=host.shown(adapter), base=base, device=device, why=why
        ),
        file=sys.stderr,
        flush=True,
    )

    # While answers are compared, SIGTERM ends the process as Ctrl-C does, and the temporary folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    merge = Merge(base, adapter, target, kind, dtype, device, run.system or SYSTEM, run)
    # Only ms-swift can honour its own options.
    is_ours = device == "cuda" and not extra and dtype == "bfloat16" and here.is_possible(base, adapter)
    asked = _write(merge, None if is_ours else args, texts, settings, options.wait)
    print(summary(target, asked))
    return DONE


def _named(args: Arguments, adapter: str | None) -> str | None:
    """The adapter that the command line names, if any.

    Raises UserError if there are several, or for an option that merge.sh sets itself.
    """
    named = swift_options.take_questions(args, swift_options.options_of("export")) + ([adapter] if adapter else [])
    if len(named) > 1:
        raise UserError(
            _("merge: {count} adapters named ({names}); one is merged at a time").format(
                count=len(named), names=", ".join(named)
            )
        )
    for name in OURS:
        if args.get(name) is not None:
            raise UserError(
                _("merge: --{name} is set by merge.sh itself; see merge.sh --help for --adapter and --output").format(
                    name=name
                )
            )
    return named[0] if named else None


def _device(options: argparse.Namespace, settings: Settings, weights: int) -> tuple[str, str]:
    """The device on which `weights` bytes are merged and asked, and why. Raises UserError if there is no room."""
    if options.device == "cpu":
        device, why = "cpu", "--device cpu"
    else:
        device, why = resources.choose_device(settings.wants_cpu, weights, settings.vram_ceiling_gib)
        if options.device == "cuda" and device == "cpu":
            raise UserError(
                _("merge: --device cuda: {why}; free the GPU, or leave --device out").format(why=why), FAILED
            )
    if device == "cpu":
        resources.require_memory(weights, not options.no_check)
    return device, why


def _write(
    merge: Merge, args: Arguments | None, texts: list[str] | None, settings: Settings, wait: bool
) -> list[same_answers.AnswerPair] | None:
    """Write the folder, which is renamed once everything is right.

    Args:
        merge: What is merged.
        args: The options of ms-swift's export; None: qwen2 merges in this process.
        texts: The questions to compare answers to; None: no check.
        settings: The settings in the environment.
        wait: Whether to wait while another job holds the GPU.

    Returns:
        The answers to `texts`; None without a check.
    """
    base, adapter, device, system = merge.base, merge.adapter, merge.device, merge.system
    with folder.temporary(merge.target) as place:
        model = place / merge.target.name
        answers = (
            same_answers.AdapterAnswers(texts, system, device, settings.vram_ceiling_gib) if texts is not None else None
        )
        if args is None:
            with job("merge", wait=wait or None) as held:
                here.merge(base, adapter, model, device, settings.vram_ceiling_gib, answers, held.phase)
        else:
            export(args, model, place / "log", device, wait)
        adapter_args = merge.run.settings | json_object(adapter / "args.json") | {"system": system}
        folder.complete(model, base, merge.dtype, adapter_args)
        fault = checkpoints.problem(model)
        if fault:
            raise UserError(_("merge: ms-swift left no complete model: {fault}; try again").format(fault=fault), FAILED)
        asked = None
        if answers is not None:
            asked = compare(answers, base, None if args is None else adapter, model)
            judge(asked, merge.kind is STANDIN)
        official = base / "SHA256SUMS"
        model_card.write(
            model / "README.md",
            name=merge.target.name,
            base=base,
            base_digest=sha256sums.digest(official) if official.is_file() else None,
            kind=merge.kind,
            dtype=merge.dtype,
            adapter=adapter,
            record=json_object(merge.run.folder / "run.json"),
            lora=json_object(adapter / "adapter_config.json"),
            system=system,
            versions=run_folder.versions(),
            asked=asked,
            device=device,
        )
        sha256sums.write(model)
        folder.publish(model, merge.target)
    return asked


def choose_dtype(args: Arguments, is_standin: bool) -> str:
    """The number format of the merged weights, which is also set in `args`.

    The default is bfloat16, in which the base is stored. For the stand-in, which runs on CPUs in float32, it is
    float32: the weights are not rounded.
    """
    dtype = (args.get("torch_dtype") or ["float32" if is_standin else "bfloat16"])[0]
    if dtype not in ("bfloat16", "float32"):
        raise UserError(
            _("merge: --torch_dtype {dtype}: use bfloat16, or float32 for weights that are not rounded").format(
                dtype=dtype
            )
        )
    args.set("torch_dtype", dtype)
    return dtype


def compare(
    answers: same_answers.AdapterAnswers, base: Path, adapter: Path | None, model: Path
) -> list[same_answers.AnswerPair]:
    """Ask the adapter and the merged model the same questions, and return their answers.

    It is a separate job, and waits if another one has taken the GPU since the merge.

    Args:
        answers: Asks, and keeps the adapter's answers.
        base: The base's folder.
        adapter: The adapter's folder; None: it has been asked already.
        model: The merged folder.
    """
    with job("merge", wait=True) as held:
        if adapter is not None:
            held.phase(_("asking the adapter"))
            answers.ask_adapter(base, adapter)
        held.phase(_("asking the merged model"))
        return answers.ask_merged(model)


def export(args: Arguments, model: Path, log: Path, device: str, wait: bool) -> None:
    """Run `swift export --merge_lora`.

    Args:
        args: The options; those in OURS are added.
        model: The folder to write, which does not exist yet.
        log: The file for the output, whose last line is quoted on failure.
        device: "cuda" or "cpu".
        wait: Whether to wait while another job holds the GPU.

    Raises:
        UserError: The merge failed or was stopped.
    """
    from finetune.runs.gpu_lock import run

    args.set("merge_lora", "true")
    args.set("output_dir", str(model))
    args.set("device_map", "cuda:0" if device == "cuda" else "cpu")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    command = [swift_launcher.find_real(), "export", *args.words()]
    code = run("merge", ["sh", "-c", 'exec "$@" >"$0" 2>&1', str(log), *command], wait, [], None)
    if code in (130, 143):
        raise UserError(_("merge: stopped; nothing was left behind"), code)
    if code or not model.is_dir():
        raise UserError(
            _("merge: ms-swift ended with exit code {code}: {last_line}").format(code=code, last_line=last_line(log)),
            FAILED,
        )


def judge(asked: Sequence[same_answers.AnswerPair], is_standin: bool) -> None:
    """Raises UserError (exit code 1) if the merged model answers differently; same_answers.py has the rule."""
    near_tie = 0.0 if is_standin else same_answers.NEAR_TIE
    wrong = [each for each in asked if not each.accepted(near_tie)]
    if not wrong:
        return
    worst = max(wrong, key=lambda each: each.gap or 0.0)
    raise UserError(
        _(
            "merge: {count} of {all} answers are not the adapter's, by up to {gap:.2f} logits; "
            "{question!r}: adapter {adapter!r}, merged {merged!r}; nothing was written"
        ).format(
            count=len(wrong),
            all=len(asked),
            gap=worst.gap,
            question=worst.question,
            adapter=worst.adapter[:80],
            merged=worst.merged[:80],
        ),
        FAILED,
    )


def summary(target: Path, asked: Sequence[same_answers.AnswerPair] | None) -> str:
    """What was written, in one line."""
    shards = list(target.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in shards) / resources.GIB
    text = _("merge: {target}: {count} {shards}, {size:.1f} GiB").format(
        target=host.shown(target), count=len(shards), shards=_("shard") if len(shards) == 1 else _("shards"), size=size
    )
    if asked is None:
        return _("{text}; answers not compared").format(text=text)
    differing = sum(each.gap is not None for each in asked)
    return _("{text}; {count} questions, {differing} answers differ").format(
        text=text, count=len(asked), differing=differing
    ) + (_(" (at near ties only)") if differing else "")


if __name__ == "__main__":
    sys.exit(run_main(main))
