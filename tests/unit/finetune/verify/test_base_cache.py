"""The base's kept answers: the same as asked, never another model's, never in the way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from finetune.verify import base_cache
from finetune.verify.engine import Ask, Qwen2Engine
from tests.unit.finetune.verify.test_verify_engine import ask, make_adapter, make_base

ASKS = [ask("who are you"), ask("hello", 4), ask("你是谁？")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


class Counted(Qwen2Engine):
    """The engine, and how many answers it was asked for."""

    asked = 0

    def answer(self, asks: Any, adapter: Any, progress: Any) -> Any:
        self.asked += len(asks)
        return super().answer(asks, adapter, progress)

    def nll(self, asks: Any, references: Any, adapter: Any) -> Any:
        self.asked += len(asks)
        return super().nll(asks, references, adapter)


def opened(base: Path, output: Path) -> tuple[Any, Counted]:
    engine = Counted(base, "cpu")
    return base_cache.over(engine, base, output), engine


def answers(engine: Any, asks: list[Ask], adapter: Any = None) -> list[Any]:
    return engine.answer(asks, adapter, lambda _: None)


def test_a_second_verdict_asks_the_base_only_what_is_new(base: Path, tmp_path: Path) -> None:
    first, _engine = opened(base, tmp_path)
    told = answers(first, ASKS)
    second, engine = opened(base, tmp_path)
    seen: list[int] = []
    assert second.answer([*ASKS, ask("something new")], None, seen.append)[:3] == told
    assert (engine.asked, second.taken, sum(seen)) == (1, 3, 4)
    assert answers(Qwen2Engine(base, "cpu"), ASKS) == told


def test_prompt_limit_and_tools_make_another_question(base: Path, tmp_path: Path) -> None:
    first, _engine = opened(base, tmp_path)
    answers(first, [ask("hello", 4)])
    second, engine = opened(base, tmp_path)
    messages = ({"role": "user", "content": "hello"},)
    answers(second, [ask("hello", 5), Ask(messages, "Another prompt.", 4), Ask(messages, "", 4, [{"type": "x"}])])
    assert engine.asked == 3


def test_adapters_are_always_asked(base: Path, tmp_path: Path) -> None:
    first, _engine = opened(base, tmp_path)
    bare = answers(first, ASKS)
    second, engine = opened(base, tmp_path)
    trained = second.adapter(make_adapter(tmp_path / "trained", base, 0.5))
    assert answers(second, ASKS, trained) != bare
    assert engine.asked == 3
    assert answers(second, ASKS) == bare


def test_likelihoods_are_kept_by_reference(base: Path, tmp_path: Path) -> None:
    first, _engine = opened(base, tmp_path)
    told = first.nll(ASKS, ["one", "two", "three"], None)
    second, engine = opened(base, tmp_path)
    assert second.nll(ASKS, ["one", "two", "three"], None) == told
    assert engine.asked == 0
    second.nll(ASKS, ["one", "two", "four"], None)
    assert engine.asked == 1


@pytest.mark.parametrize("change", ["weights", "date", "file"])
def test_another_base_has_answers_of_its_own(tmp_path: Path, change: str) -> None:
    base = make_base(tmp_path / "base")
    first, _engine = opened(base, tmp_path)
    answers(first, ASKS)
    shard = base / "model.safetensors"
    state = shard.stat()
    if change == "weights":  # of the same size and date, as two builds of an image have them
        data = bytearray(shard.read_bytes())
        header = int.from_bytes(data[:8], "little") + 8
        for place in range(header, len(data), 2):
            data[place] ^= 1
        shard.write_bytes(data)
        os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "date":
        os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    else:
        (base / "generation_config.json").write_text("{}")
    second, engine = opened(base, tmp_path)
    answers(second, ASKS)
    assert engine.asked == 3


def test_torn_lines_are_asked_again(base: Path, tmp_path: Path) -> None:
    first, _engine = opened(base, tmp_path)
    told = answers(first, ASKS)
    path = first.cache.path
    lines = path.read_text(encoding="utf-8").strip("\n").split("\n")
    wrong = json.dumps({"key": json.loads(lines[1])["key"], "text": 7, "tokens": 1, "cut": False})
    path.write_text("\n".join(["[]", lines[0], wrong, lines[2][: len(lines[2]) // 2]]), encoding="utf-8")
    second, engine = opened(base, tmp_path)
    assert answers(second, ASKS) == told
    assert engine.asked == 2
    third, engine = opened(base, tmp_path)
    assert answers(third, ASKS) == told
    assert engine.asked == 0


def test_a_folder_that_cannot_be_written_costs_only_time(base: Path, tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("a file in the way")
    for _turn in range(2):
        engine, counted = opened(base, tmp_path)
        answers(engine, ASKS)
        assert counted.asked == 3


def test_forgotten_answers_are_asked_again(base: Path, tmp_path: Path) -> None:
    first, _engine = opened(base, tmp_path)
    answers(first, ASKS)
    base_cache.forget(tmp_path)
    second, engine = opened(base, tmp_path)
    answers(second, ASKS)
    assert engine.asked == 3


def test_a_file_that_grew_too_large_starts_again_and_old_files_go(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / base_cache.FOLDER
    folder.mkdir(parents=True)
    for number in range(base_cache.FILES + 2):
        path = folder / f"{number}.jsonl"
        path.write_text("{}\n")
        os.utime(path, (number, number))
    engine, _counted = opened(base, tmp_path)
    answers(engine, ASKS)
    assert len(list(folder.glob("*.jsonl"))) == base_cache.FILES
    assert not (folder / "0.jsonl").exists()
    monkeypatch.setattr(base_cache, "LARGEST", 10)
    answers(engine, [ask("the last")])
    assert len(base_cache.BaseCache(engine.cache.path).known) == 1
