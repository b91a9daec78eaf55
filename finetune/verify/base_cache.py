"""Caches the base's answers below OUTPUT_DIR/.cache: a second verdict on the same base asks only new questions.

The base's greedy answers do not change between runs, and they take a quarter of the time of `finetune` on the 7B. The
key of an answer contains everything that determines it: the weights, the code of qwen2, torch, the device, and the
question with its system prompt, tools and limit. A verdict never fails because of the disk: an answer that cannot be
written or read is asked for again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.verify.engine import Answer, Ask, Engine, Progress, Qwen2Engine

FOLDER = Path(".cache") / "base-answers"
LARGEST = 64 * 2**20  # bytes of a file, about 100,000 answers; a larger file is deleted and begun again
FILES = 8  # files that are kept, one per base, device and version; the oldest are deleted
SAMPLES, SAMPLE_BYTES = 32, 4096  # pieces of each file in the model folder that are hashed, evenly spread


def over(engine: Engine, model_dir: Path, output_dir: Path) -> Engine:
    """The engine with a cache of the base's answers; engines other than Qwen2Engine are returned as they are.

    Args:
        engine: The engine that answers.
        model_dir: The base that it has loaded.
        output_dir: OUTPUT_DIR, below which the answers are kept.
    """
    if not isinstance(engine, Qwen2Engine):
        return engine
    return CachedBase(engine, BaseCache(output_dir / FOLDER / f"{fingerprint(engine, model_dir)}.jsonl"))


def forget(output_dir: Path) -> None:
    """Delete all cached answers below OUTPUT_DIR: the base is then asked again."""
    for path in (output_dir / FOLDER).glob("*.jsonl"):
        with contextlib.suppress(OSError):
            path.unlink()


class BaseCache:
    """A file of answers, one JSON object per line. Incomplete lines are ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, Any]] = dict(_lines(path))

    def add(self, new: dict[str, dict[str, Any]]) -> None:
        """Append records by their keys. It is a single write, so the lines of two processes do not mix."""
        if not new:
            return
        self.known |= new
        text = "".join(json.dumps({"key": key} | value, ensure_ascii=False) + "\n" for key, value in new.items())
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size > LARGEST:
                self.path.unlink()
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, ("\n" + text).encode())  # the newline ends a line that was cut by a full disk
            finally:
                os.close(handle)
            by_age = sorted(self.path.parent.glob("*.jsonl"), key=lambda each: each.stat().st_mtime)
            for old in by_age[:-FILES]:
                old.unlink()


class CachedBase:
    """An engine that asks the base only what is not in the cache. Adapters are always asked."""

    def __init__(self, engine: Qwen2Engine, cache: BaseCache) -> None:
        self.engine, self.cache = engine, cache
        self.name, self.device, self.dtype = engine.name, engine.device, engine.dtype
        self.taken = 0  # answers that came from the cache

    def memory(self) -> dict[str, float] | None:
        """As the engine's."""
        return self.engine.memory()

    def adapter(self, path: Path) -> Any:
        """As the engine's."""
        return self.engine.adapter(path)

    def answer(self, asks: Sequence[Ask], adapter: Any, progress: Progress) -> list[Answer]:
        """Answers in order; adapter None is the base."""
        if adapter is not None:
            return self.engine.answer(asks, adapter, progress)
        keys = [_key("answer", ask.key()) for ask in asks]
        self.taken += sum(key in self.cache.known for key in keys)

        def ask_for(places: Sequence[int]) -> list[dict[str, Any]]:
            return [asdict(each) for each in self.engine.answer([asks[place] for place in places], None, progress)]

        return [Answer(each["text"], each["tokens"], each["cut"]) for each in self._filled(keys, ask_for, progress)]

    def nll(self, asks: Sequence[Ask], references: Sequence[str], adapter: Any) -> list[float]:
        """As Qwen2Engine.nll, in nats per token; adapter None is the base."""
        if adapter is not None:
            return self.engine.nll(asks, references, adapter)
        keys = [_key("nll", (*ask.key(), text)) for ask, text in zip(asks, references, strict=True)]

        def ask_for(places: Sequence[int]) -> list[dict[str, Any]]:
            wanted = [asks[place] for place in places], [references[place] for place in places]
            return [{"nll": value} for value in self.engine.nll(*wanted, None)]

        return [each["nll"] for each in self._filled(keys, ask_for)]

    def _filled(
        self,
        keys: Sequence[str],
        ask_for: Callable[[Sequence[int]], list[dict[str, Any]]],
        progress: Progress = lambda _: None,
    ) -> list[dict[str, Any]]:
        kept = {key: self.cache.known[key] for key in keys if key in self.cache.known}
        missing = [place for place, key in enumerate(keys) if key not in kept]
        progress(len(kept))
        if missing:
            new = {keys[place]: value for place, value in zip(missing, ask_for(missing), strict=True)}
            self.cache.add(new)
            kept |= new
        return [kept[key] for key in keys]


def fingerprint(engine: Qwen2Engine, model_dir: Path) -> str:
    """A hash of what determines an answer besides its question: weights, code, torch, device; 16 hexadecimal digits."""
    import torch

    import qwen2

    found = hashlib.sha256()
    for part in (torch.__version__, engine.device, engine.dtype):
        found.update(f"{part}\n".encode())
    if engine.device == "cuda":
        found.update(torch.cuda.get_device_name().encode())
    code = Path(qwen2.__file__).parent
    for path in sorted(code.rglob("*.py")):
        found.update(f"{path.relative_to(code)}\n".encode() + path.read_bytes())
    for path in sorted(each for each in model_dir.iterdir() if each.is_file()):
        state = path.stat()
        found.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
        with path.open("rb") as file:
            for place in range(SAMPLES):
                file.seek(state.st_size * place // SAMPLES)
                found.update(file.read(SAMPLE_BYTES))
    return found.hexdigest()[:16]


def _key(kind: str, what: Any) -> str:
    return hashlib.sha256(json.dumps([kind, what], ensure_ascii=False).encode()).hexdigest()[:32]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.split("\n"):
        try:
            found = json.loads(line)
            key = found.pop("key")
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
        if _is_whole(found):
            yield key, found


def _is_whole(found: dict[str, Any]) -> bool:
    if set(found) == {"nll"}:
        return isinstance(found["nll"], float)
    kinds = {"text": str, "tokens": int, "cut": bool}
    return set(found) == set(kinds) and all(isinstance(found[name], kind) for name, kind in kinds.items())
