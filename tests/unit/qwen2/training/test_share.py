"""How the rows of a step are shared among processes: every row once, tokens even, dropout and scale the step's own."""

from __future__ import annotations

import random

import pytest

from qwen2.training import batches, memory
from qwen2.training.settings import TrainSettings
from tests.unit.qwen2.training.test_qwen2_train import SHAPE


@pytest.mark.parametrize("size", [2, 3, 8])
def test_every_row_is_taken_once_and_tokens_are_even(size: int) -> None:
    draw = random.Random(size)
    for _ in range(50):
        tokens = [draw.randint(1, 600) for _ in range(40)]
        members = draw.sample(range(40), draw.randint(1, 32))
        parts = batches.share(members, tokens, size)
        assert len(parts) == size and sorted(row for part in parts for row in part) == sorted(members)
        loads = [sum(tokens[row] for row in part) for part in parts]
        assert max(loads) <= sum(loads) / size + max(tokens[row] for row in members)
        for part in parts:  # the step's order
            assert part == [row for row in members if row in part]


def test_a_step_of_several_processes_is_that_of_one() -> None:
    draw = random.Random(1)
    rows = [([1] * length, [-100] + [1] * (length - 1)) for length in (draw.randint(2, 90) for _ in range(21))]
    whole = batches.plan_steps(rows, 8, 8, 42, None, None)
    parts = [batches.plan_steps(rows, 8, 8, 42, None, 100, rank, 3) for rank in range(3)]
    for number, step in enumerate(whole):
        (micro,) = step.micros
        wanted = dict(zip(micro.rows, micro.numbers, strict=True))
        found = {}
        for share in parts:
            assert (share[number].labels, share[number].tokens) == (step.labels, step.tokens)
            for part in share[number].micros:
                found |= dict(zip(part.rows, part.numbers, strict=True))
        assert found == wanted  # each row's tokens have the numbers, and so the dropout, that they have in one piece
    last = [share[2].micros for share in parts]  # five rows; a process may have none
    assert sum(len(micro.rows) for micros in last for micro in micros) == 5


def test_the_plan_counts_a_share_and_not_the_batch() -> None:
    rows = [([1] * 1000, [-100] + [1] * 999)] * 16
    settings = TrainSettings(batch_size=16)
    alone, shared = (memory.plan(SHAPE, settings, rows, 80.0, count) for count in (1, 4))
    assert shared.peak_gib < alone.peak_gib
    assert memory.plan(SHAPE, settings, rows, 22.0, 8).micro_batch_tokens is not None
