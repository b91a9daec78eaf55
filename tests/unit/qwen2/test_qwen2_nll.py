"""The mean negative log-likelihood of answers, held against transformers, whatever the batching."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qwen2.nll import mean_nll

ROWS = [
    ([5, 9, 11, 3, 7], [-100, -100, -100, 3, 7]),
    ([8, 2, 30, 31, 32, 33, 6, 1], [-100, -100, 30, 31, 32, 33, 6, 1]),
    ([4, 40], [-100, 40]),
]


@pytest.mark.parametrize("tokens", [8, 16, 4096])
def test_it_is_the_loss_of_transformers(tiny_model: Any, reference: Any, tokens: int) -> None:
    wanted = []
    for ids, labels in ROWS:
        logits = reference(torch.tensor([ids])).logits[0, :-1]
        wanted.append(float(F.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100)))
    assert mean_nll(tiny_model, ROWS, batch_tokens=tokens) == pytest.approx(wanted, rel=1e-4)


def test_a_row_without_a_label_gives_nothing(tiny_model: Any) -> None:
    assert mean_nll(tiny_model, [([1, 2, 3], [-100, -100, -100]), ROWS[2]])[0] == 0
