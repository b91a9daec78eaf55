"""Exports an adapter, merged and quantized, as one GGUF file for Ollama, llama.cpp and LM Studio; export.sh calls it.

Base and adapter are merged and quantized piece by piece as they are read. Then the file is checked with llama.cpp:
token ids, stop words, tensors and answers. The finished folder is renamed last.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import host, sha256sums
from common.errors import DONE, FAILED, Parser, UserError, run_main
from common.i18n import _
from common.json_files import json_object
from common.model_kind import kind_of
from common.settings import Settings
from finetune.merge import folder, model_card, resources, same_answers
from finetune.runs import adapters, run_folder
from finetune.runs.progress_bar import Bar
from finetune.verify import runinfo
from finetune.verify.config import SYSTEM, default_path
from finetune.verify.engine import Qwen2Engine, check_adapter
from qwen2 import adapter_config

if TYPE_CHECKING:
    from finetune.export.gguf_file import Importance
    from finetune.export.proof import Part
    from finetune.export.verdict import Verdict
    from finetune.export.vocabulary import Vocabulary
    from finetune.export.weights import Weights
    from finetune.verify.sets.rows import DataRow

QUANTS = ("q4_k_m", "q5_k_m", "q8_0", "f16")
NEAR_EXACT = ("q8_0", "f16")  # their answers must match, as in merge; the others are asked the verdict's questions
CONTEXT = 4096  # tokens of a prompt and its answer in the proof
PARALLEL = 4


def parser() -> Parser:
    """The command line."""
    p = Parser(
        prog="export.sh",
        usage="export.sh [ADAPTER] [--quant q4_k_m|q5_k_m|q8_0|f16] [--imatrix rows] [--output DIR] [--no-check]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_("Export an adapter, merged and quantized, as one GGUF file for Ollama, llama.cpp and LM Studio."),
        epilog=_(
            "The folder holds the GGUF, a Modelfile for Ollama, a card with the proof, LICENSE and "
            "SHA256SUMS.\nExit code 0: written and proved; 1: the proof or, for q4_k_m and q5_k_m, the "
            "verdict failed; 2: unusable input, no room.\nA merged folder (merge.sh) is exported by naming it "
            "in place of an adapter."
        ),
    )
    p.add_argument(
        "--imatrix",
        choices=("rows",),
        help=_("quantize by an importance matrix of the training's own rows (q4_k_m, q5_k_m)"),
    )
    p.add_argument(
        "adapter", nargs="?", help=_("a checkpoint, a run's folder or a merged folder (default: the newest)")
    )
    p.add_argument("--adapter", dest="adapter_option", metavar="DIR|newest", help=_("the same, as an option"))
    p.add_argument("--format", choices=("gguf",), default="gguf", help=_("the only one; docs/export.md says why"))
    p.add_argument("--quant", type=str.lower, choices=QUANTS, default="q4_k_m", help=_("the format of the weights"))
    p.add_argument(
        "--output", type=Path, metavar="DIR", help=_("where to (default: next to the checkpoint, NAME-gguf-QUANT)")
    )
    p.add_argument("--model", type=Path, metavar="DIR", help=_("the base (default: $MODEL_DIR)"))
    p.add_argument("--system", metavar="TEXT", help=_("the system prompt it gets (default: the training's)"))
    p.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help=_("where the adapter is asked"))
    p.add_argument("--threads", type=int, metavar="N", help=_("CPU threads (default: all that this process may use)"))
    p.add_argument(
        "--no-check",
        action="store_true",
        help=_("do not ask for answers; token ids, stop words and tensors are still checked"),
    )
    p.add_argument("--questions", type=Path, metavar="DIR", help=_("folder of identity.yaml and general.yaml"))
    p.add_argument("--wait", action="store_true", help=_("wait while another job holds the GPU"))
    return p


@dataclass
class Export:
    """What is exported, where to and how; checked before anything slow starts."""

    options: argparse.Namespace
    settings: Settings
    base: Path
    adapter: Path | None
    run: runinfo.Run | None
    target: Path
    system: str
    threads: int
    device: str
    rows: Sequence[DataRow]  # the rows of --imatrix; empty without it

    @property
    def quant(self) -> str:
        """A key of mixture.QUANTS."""
        return str(self.options.quant)

    @property
    def file(self) -> str:
        """The name of the GGUF file."""
        tuned = "-finetuned" if self.adapter else ""
        return f"{self.base.name}{tuned}-{self.quant.upper()}.gguf"


def main(argv: Sequence[str] | None = None) -> int:
    """Run export; returns the exit code."""
    options = parser().parse_args(argv)
    settings = Settings.from_env()
    work = prepare(options, settings)
    # SIGTERM ends the process as Ctrl-C does, and the temporary folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return run(work)


def prepare(options: argparse.Namespace, settings: Settings) -> Export:
    """Check arguments, adapter, target, disk and memory, before anything slow.

    Raises UserError for the first fault.
    """
    if options.adapter and options.adapter_option:
        raise UserError(_("export: an adapter is named twice; give it once, with --adapter or without"))
    if options.threads is not None and options.threads < 1:
        raise UserError(_("export: --threads {threads}: must be at least 1").format(threads=options.threads))
    if options.imatrix and options.quant in NEAR_EXACT:
        raise UserError(
            _("export: --imatrix is for K-quants; {quant} rounds each weight by itself: leave it out").format(
                quant=options.quant
            )
        )
    base = options.model or settings.model_dir
    named = options.adapter_option or options.adapter or "newest"
    adapter, run = None, None
    folder = Path(named) if str(named) == "newest" else host.inside(named)
    if (folder / "config.json").is_file() and not (folder / adapter_config.CONFIG_FILE).is_file():
        base = folder
    elif not (base / "config.json").is_file():
        raise UserError(
            _("{base}: no config.json in it, so it is not a base model; name it with --model DIR").format(base=base)
        )
    else:
        adapter = adapters.find(named, settings.output_dir, base).absolute()
        merged = host.call("merge", "--no-check", adapter=named)
        adapters.require_plain(
            adapter, "export", _("merge it first ({merged}), export that folder").format(merged=merged)
        )
        check_adapter(adapter, base)
        run = runinfo.of_adapter(adapter)
    rows = _rows(run) if options.imatrix else []
    base = base.absolute()
    checkpoint = adapter_config.checkpoint_of(adapter) if adapter else base
    target = options.output or checkpoint.with_name(f"{checkpoint.name}-gguf-{options.quant}")
    target = target.expanduser().absolute()
    resources.require_target(target)
    system = options.system if options.system is not None else _system(base, run)
    weights = resources.weights_bytes(base)
    device, _other = (
        ("cpu", "")
        if options.device == "cpu"
        else resources.choose_device(settings.wants_cpu, weights, settings.vram_ceiling_gib)
    )
    if options.device == "cuda" and device == "cpu":
        raise UserError(_("export: --device cuda: no GPU with room for the base answers; leave --device out"), FAILED)
    if device == "cpu" and (options.imatrix or not options.no_check):
        resources.require_memory_to_ask(weights)
    threads = options.threads or len(os.sched_getaffinity(0))
    return Export(options, settings, base, adapter, run, target, system, threads, device, rows)


def _rows(run: runinfo.Run | None) -> Sequence[DataRow]:
    """The rows of --imatrix."""
    from finetune.export import imatrix

    if run is None:
        raise UserError(
            _("export: --imatrix rows: a merged folder does not say what it was trained on; name the adapter")
        )
    return imatrix.data_of(run, default_path().resolve().parent.parent)


def _system(base: Path, run: runinfo.Run | None) -> str:
    """The training's system prompt: from the run or a merged folder's args.json, else that of configs/sft.yaml."""
    kept = json_object(base / "args.json").get("system") if run is None else run.system
    return str(kept) if kept else SYSTEM


def run(work: Export) -> int:
    """Write the file, check it, and rename the folder; returns the exit code."""
    from rich.console import Console

    from finetune.export import card, gguf_file, modelfile, vocabulary
    from finetune.export.verdict import Verdict
    from finetune.export.weights import Weights
    from finetune.runs.gpu_lock import job

    weights = Weights(work.base, work.adapter)
    words = vocabulary.read(work.base, weights.config)
    stops = [words.tokens[each] for each in weights.config.eos_ids]
    text = modelfile.text(work.file, work.system, stops, model_card.licence_of(work.base))
    size = gguf_file.size_of(weights, work.quant)
    resources.require_disk(work.target, size, _("a {quant} of this model").format(quant=work.quant.upper()))
    kind = kind_of(work.base)
    if kind.is_for_tests:
        print(kind.notice(work.base), file=sys.stderr)
    with folder.temporary(work.target) as place, job("export", wait=work.options.wait or None) as held:
        made = place / work.target.name
        made.mkdir()
        asked = None if work.options.no_check else Verdict(work.run, work.base, work.system, place)
        (made / modelfile.NAME).write_text(text, encoding="utf-8")
        shutil.copyfile(_licence(work.base), made / "LICENSE")
        with Bar(Console(stderr=True), size, held.step, "MiB") as bar:
            importance = weigh(work, bar) if work.rows else {}
            write(work, made / work.file, weights, words, bar, importance)
            parts = prove(work, made, weights, asked, bar)
        failed = [part for part in parts if not part.ok and part.name != "verdict"]
        if failed:
            found = "; ".join(part.sentence for part in failed)
            raise UserError(_("export: the file is faulty: {found}; nothing was written").format(found=found), FAILED)
        record = json_object(work.run.folder / "run.json") if work.run else {}
        lora = json_object(work.adapter / adapter_config.CONFIG_FILE) if work.adapter else {}
        about = card.Made(
            made / work.file, work.quant, work.base, work.adapter, kind, work.system, record, lora,
            versions(), parts,
        )  # fmt: skip
        card.write(made / "README.md", about)
        sha256sums.write(made)
        folder.publish(made, work.target)
    for part in parts:
        print(f"{'' if part.ok else _('FAILED ')}{part.name}: {part.looked_at}")
        for each in [*part.faults, *part.lost]:
            print(f"  {each}")
    print(
        _("export: {target}: {size:.2f} GiB, {quant}").format(
            target=host.shown(work.target / work.file), size=size / resources.GIB, quant=work.quant.upper()
        )
    )
    return DONE if all(part.ok for part in parts) else FAILED


def weigh(work: Export, bar: Bar) -> Importance:
    """The importance matrix of --imatrix."""
    from finetune.export import imatrix

    ceiling = work.settings.vram_ceiling_gib
    return imatrix.of_rows(work.rows, work.base, work.adapter, work.system, work.device, ceiling, bar)


def write(work: Export, path: Path, weights: Weights, words: Vocabulary, bar: Bar, importance: Importance) -> None:
    """Write the GGUF file.

    Args:
        work: The export.
        path: The file.
        weights: The base and the adapter.
        words: The vocabulary.
        bar: Shows the progress, in MiB of the base's weights.
        importance: As `weigh` returns it; empty without --imatrix.
    """
    from finetune.export import gguf_file, modelfile

    about = gguf_file.About(path.stem, model_card.licence(work.base), work.system, dict(modelfile.SAMPLING))
    mib = 2**20
    bar.restart(weights.nbytes // mib, "MiB")
    bar.phase(_("merging and quantizing to {quant}").format(quant=work.quant.upper()))
    gguf_file.write(
        path, weights, words, about, work.quant, work.threads, lambda done, _: bar.advance(done // mib - bar.done),
        importance,
    )  # fmt: skip


def prove(work: Export, made: Path, weights: Weights, asked: Verdict | None, bar: Bar) -> list[Part]:
    """The parts of the proof, in order. If token ids, stop words or tensors are wrong, no answers are compared.

    Args:
        work: The export.
        made: The folder with the file.
        weights: The base and the adapter.
        asked: The verdict; None with --no-check.
        bar: Shows the progress.
    """
    from finetune.export import gguf_file, proof
    from finetune.export.llamacpp import LlamaServer
    from qwen2.chat import Tokenizer

    tokenizer = Tokenizer(work.base)
    file, eos = made / work.file, weights.config.eos_ids
    bar.phase(_("reading the file back"))
    parts = [proof.tensors(file, weights, gguf_file.mixture_of(weights, work.quant), lambda _: None)]
    context = min(CONTEXT, weights.config.max_positions)
    with LlamaServer(file, context, 1, work.threads) as model:
        bar.phase(_("asking llama.cpp for token ids"))
        parts += [proof.ids(model, tokenizer, work.system), proof.stops(model, tokenizer, eos, made, work.system)]
    if asked is None or not all(part.ok for part in parts):
        return parts
    if work.quant in NEAR_EXACT:
        return [*parts, same(work, file, tokenizer, weights, asked.in_english, bar)]
    return [*parts, judged(work, file, tokenizer, weights, asked, bar)]


def same(work: Export, file: Path, tokenizer: Any, weights: Weights, english: bool, bar: Bar) -> Part:
    """Ask the adapter and the file merge's 20 questions, and compare their answers.

    Args:
        work: The export.
        file: The GGUF file.
        tokenizer: The base's tokenizer.
        weights: The base and the adapter.
        english: Whether the questions are English.
        bar: Shows the progress.
    """
    from finetune.export import proof
    from finetune.export.llamacpp import LlamaServer

    texts = same_answers.choose(work.options.questions or default_path().parent.parent / "questions", english)
    asked = same_answers.AdapterAnswers(texts, work.system, work.device, work.settings.vram_ceiling_gib)
    bar.phase(_("asking the adapter ({count} answers)").format(count=len(texts)))
    asked.ask_adapter(work.base, work.adapter)
    prompts = [tokenizer.encode_chat([{"role": "user", "content": text}], work.system) for text in texts]
    bar.phase(_("asking the file ({count} answers)").format(count=len(texts)))
    with LlamaServer(file, min(CONTEXT, weights.config.max_positions), PARALLEL, work.threads) as model:
        said = model.answers(prompts, [same_answers.NEW_TOKENS] * len(prompts), lambda _: None)
        found = proof.compare(model, tokenizer, texts, prompts, asked.before, said, weights.config.eos_ids)
    return proof.answers(found, same_answers.NEAR_TIE)


def judged(work: Export, file: Path, tokenizer: Any, weights: Weights, asked: Verdict, bar: Bar) -> Part:
    """Ask the adapter and the file the verdict's questions; the parameters are those of `same`, `asked` the verdict."""
    from finetune.export.gguf_engine import GgufEngine
    from finetune.export.llamacpp import LlamaServer

    engine = Qwen2Engine(work.base, work.device, work.settings.vram_ceiling_gib)
    bar.restart(2 * len(asked.asks), "answers")
    asked.ask(engine, engine.adapter(work.adapter) if work.adapter else None, False, _("the adapter"), bar)
    same_answers.release(engine)
    with LlamaServer(file, min(CONTEXT, weights.config.max_positions), PARALLEL, work.threads) as model:
        file_engine = GgufEngine(model, tokenizer, weights.config.eos_ids, work.quant)
        asked.ask(file_engine, None, True, _("the file"), bar)
    return asked.part()


def _licence(base: Path) -> Path:
    found = base / "LICENSE"
    if not found.is_file():
        raise UserError(_("{base}: no LICENSE in it; download the model folder again").format(base=base))
    return found


def versions() -> dict[str, str]:
    """The versions of the programs that made and checked the file."""
    from finetune.export import llamacpp

    found = {"llama.cpp": llamacpp.version(), "gguf": importlib.metadata.version("gguf")}
    mirror = run_folder.versions().get("mirror")
    return found | ({"mirror": mirror} if mirror else {})


if __name__ == "__main__":
    sys.exit(run_main(main))
