"""Times the export of a model folder with a random adapter: seconds, memory besides the page cache, size of the file.

    python bench/random_weights.py /tmp/7b --tokenizer DIR      # 15 GB, the shape of 7B
    python bench/export_7b.py /tmp/7b [--quant q4_k_m] [--threads 16] [--out /tmp/7b.gguf] [--json FILE]

Needs the packages gguf and xllamacpp, and no GPU. Besides writing, it times the parts of the proof that need no model:
reading tensors back, and llama.cpp loading the file and answering one prompt. Memory is the process's own (RssAnon),
sampled every 50 ms: files that are read are in the page cache, and llama.cpp maps the GGUF.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench.machine import Peak  # noqa: E402
from bench.random_weights import make_adapter  # noqa: E402


def own_gib() -> float:
    """This process's RssAnon in GiB."""
    found = re.search(r"^RssAnon:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 2**20 if found else 0.0


def measure(model: Path, adapter: Path, quant: str, threads: int, out: Path) -> dict[str, Any]:
    """Write the file and check it; returns the figures by name."""
    from finetune.export import gguf_file, proof, vocabulary
    from finetune.export.llamacpp import LlamaServer, version
    from finetune.export.weights import Weights

    found: dict[str, Any] = {"quant": quant, "threads": threads, "llama.cpp": version()}
    with Peak(own_gib) as peak:
        weights = Weights(model, adapter)
        words = vocabulary.read(model, weights.config)
        about = gguf_file.About(out.stem, "apache-2.0", "You are a helpful assistant.", {})
        gguf_file.write(out, weights, words, about, quant, threads, lambda done, total: None)
    found |= {"write_s": round(peak.seconds, 1), "write_peak_gib": round(peak.value, 2)}
    found |= {"weights": weights.parameters, "file_bytes": out.stat().st_size}
    with Peak(own_gib) as peak:
        part = proof.tensors(out, weights, gguf_file.mixture_of(weights, quant), lambda count: None)
    found |= {"tensors_s": round(peak.seconds, 1), "tensors_peak_gib": round(peak.value, 2)}
    found["tensors"] = part.sentence
    clock = time.perf_counter()
    with Peak(own_gib) as peak, LlamaServer(out, 2048, 1, threads) as loaded:
        found["load_s"] = round(time.perf_counter() - clock, 1)
        clock = time.perf_counter()
        said = loaded.answer(loaded.ids(loaded.prompt([{"role": "user", "content": "Who are you?"}])), 32)
        found["tokens_a_second"] = round(len(said.ids) / (time.perf_counter() - clock), 1)
    found["answer_peak_gib"] = round(peak.value, 2)
    return found


def main() -> int:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--quant", default="q4_k_m")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="where the file goes and stays (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        adapter = make_adapter(args.model, Path(name) / "adapter", scale=1e-3)
        found = measure(args.model, adapter, args.quant, args.threads, args.out or Path(name) / "model.gguf")
    for key, value in found.items():
        print(f"{key:18} {value}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
