"""The fast lane's rows, their order, ids and labels, held to ms-swift's own load_dataset and template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from finetune.data.source import parse
from finetune.engines.fast import rows as fast_rows
from qwen2.chat import Tokenizer

SYSTEM = "You are a helpful assistant."


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """a.jsonl of 23 alpaca rows, b.json of 7 of another layout, c.jsonl of 5 with several turns."""
    a = [{"instruction": f"问题 {n}", "input": "x" * (n % 3), "output": f"答案 {n} " * (n + 1)} for n in range(23)]
    b = [{"query": f"q{n}", "response": f"r{n}"} for n in range(7)]
    c = [
        {"messages": [{"role": role, "content": f"{role} {n} {turn}"} for turn in (1, 2) for role in TURN]}
        for n in range(5)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in a))
    (tmp_path / "b.json").write_text(json.dumps(b))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in c))
    return tmp_path


TURN = ("user", "assistant")


@pytest.mark.parametrize(
    "specs",
    [
        ["a.jsonl"],
        ["a.jsonl#5"],
        ["b.json#20"],  # more than it holds: whole repeats, then a part
        ["b.json#14"],  # whole repeats alone
        ["a.jsonl#9", "b.json"],
        ["c.jsonl", "a.jsonl#30", "b.json#3"],
    ],
    ids="+".join,
)
@pytest.mark.parametrize("data_seed", [42, 7])
def test_rows_order_ids_and_labels_are_ms_swift_s(
    files: Path, tokenizer: Tokenizer, template: Any, specs: list[str], data_seed: int
) -> None:
    from swift.dataset import load_dataset

    paths = [str(files / spec) for spec in specs]
    theirs, _ = load_dataset(paths, seed=data_seed, shuffle=True, load_from_cache_file=False)
    wanted = [template.encode(row) for row in theirs]
    found = fast_rows.encode([parse(path) for path in paths], tokenizer, SYSTEM, 0, data_seed)
    assert len(found.rows) == len(wanted)
    for (ids, labels), row in zip(found.rows, wanted, strict=True):
        assert ids == row["input_ids"], tokenizer.decode(ids, False)
        assert labels == row["labels"]


@pytest.mark.parametrize("specs", [["a.jsonl"], ["a.jsonl#9", "b.json"], ["b.json#20", "a.jsonl#30"]], ids="+".join)
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_the_rows_held_out_are_ms_swift_s(
    files: Path, tokenizer: Tokenizer, template: Any, specs: list[str], ratio: float
) -> None:
    from swift.dataset import load_dataset

    paths = [str(files / spec) for spec in specs]
    options = {"seed": 42, "shuffle": True, "load_from_cache_file": False}
    theirs = load_dataset(paths, split_dataset_ratio=ratio, **options)
    found = fast_rows.encode([parse(path) for path in paths], tokenizer, SYSTEM, 0, 42, split=ratio)
    for ours, wanted in zip((found.rows, found.held_out), theirs, strict=True):
        assert [ids for ids, _ in ours] == [template.encode(row)["input_ids"] for row in wanted]


def test_val_dataset_is_held_out_in_its_order_as_ms_swift_takes_it(
    files: Path, tokenizer: Tokenizer, template: Any
) -> None:
    from swift.dataset import load_dataset

    paths = [str(files / spec) for spec in ("a.jsonl#9", "b.json")]
    _, theirs = load_dataset(paths, split_dataset_ratio=1.0, shuffle=False, seed=42, load_from_cache_file=False)
    source, held_out = parse(str(files / "c.jsonl")), [parse(path) for path in paths]
    found = fast_rows.encode([source], tokenizer, SYSTEM, 0, 42, val_sources=held_out)
    assert [ids for ids, _ in found.held_out] == [template.encode(row)["input_ids"] for row in theirs]
    assert found.in_one_line().endswith(", 16 held out and evaluated")


def test_too_few_rows_to_hold_any_out_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text('{"query": "q", "response": "r"}\n')
    with pytest.raises(UserError, match="would hold out all of its 1 rows; add rows, or leave it out"):
        fast_rows.encode([parse(str(path))], tokenizer, SYSTEM, 0, 42, split=0.5)


def test_long_rows_are_left_out_as_ms_swift_leaves_them_out(files: Path, tokenizer: Tokenizer, template: Any) -> None:
    from swift.dataset import load_dataset
    from swift.template import MaxLengthError

    path = str(files / "a.jsonl")
    source = [parse(path)]
    every = fast_rows.encode(source, tokenizer, SYSTEM, 0, 42).rows
    limit = sorted(len(ids) for ids, _ in every)[11]
    found = fast_rows.encode(source, tokenizer, SYSTEM, limit, 42)
    assert found.rows == [row for row in every if len(row[0]) <= limit]
    assert found.too_long == len(every) - len(found.rows) > 0
    assert found.in_one_line().endswith(f", {found.too_long} longer than max_length left out")
    theirs, _ = load_dataset([path], seed=42, shuffle=True, load_from_cache_file=False)
    kept = []
    template.max_length = limit
    try:
        for row in theirs:
            try:
                kept.append(template.encode(row)["input_ids"])
            except MaxLengthError:
                continue
    finally:
        template.max_length = None
    assert [ids for ids, _ in found.rows] == kept
    with pytest.raises(UserError, match="all 23 rows are longer than max_length 3; raise it"):
        fast_rows.encode(source, tokenizer, SYSTEM, 3, 42)


def test_a_broken_row_is_named_with_file_and_number(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"query": "q", "response": "r"}\n{"query": "q"}\n')
    with pytest.raises(UserError, match=r"bad.jsonl: row 2: .*no answer.*check-data") as caught:
        fast_rows.encode([parse(str(path))], tokenizer, None, 0, 42)
    assert caught.value.exit_code == 2
    path.write_text('{"query": "q", "response": "r"}\n{"query": \n')
    with pytest.raises(UserError, match=r"bad.jsonl: .*2"):
        fast_rows.encode([parse(str(path))], tokenizer, None, 0, 42)
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        fast_rows.encode([parse(str(path))], tokenizer, None, 0, 42)
