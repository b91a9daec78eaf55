"""The choice of a token: the shares that settings ask for, checked against a sorted reference and by counting."""

from __future__ import annotations

import pytest
import torch

from qwen2.serving.request import SamplingParams
from qwen2.serving.sampling import Told, choose

LOGITS = torch.tensor([2.0, -1.0, 3.0, 0.5, 2.5, -3.0, 1.0, 0.0])


def shares(settings: SamplingParams) -> torch.Tensor:
    """The distribution that is meant, by transformers' order: temperature, top-k, top-p."""
    logits = LOGITS / settings.temperature
    order = logits.argsort(descending=True)
    share = torch.softmax(logits[order], 0)
    if settings.top_k:
        share = torch.softmax(logits[order].masked_fill(torch.arange(8) >= settings.top_k, float("-inf")), 0)
    share = share * (share.cumsum(0) - share < settings.top_p)
    return torch.zeros(8).scatter(0, order, share / share.sum())


@pytest.mark.parametrize(
    "settings",
    [
        SamplingParams(1.0), SamplingParams(0.5), SamplingParams(1.0, top_p=0.8), SamplingParams(1.3, top_p=0.5),
        SamplingParams(1.0, top_k=3), SamplingParams(1.0, 0.7, 4), SamplingParams(1.0, top_p=0.01),
        SamplingParams(1.0, top_k=100), SamplingParams(2.0, 0.9, 1),
    ],
)  # fmt: skip
def test_tokens_come_as_often_as_their_share(settings):
    count = 4000
    uniform = [(number + 0.5) / count for number in range(count)]
    chosen = choose(LOGITS.repeat(count, 1), [settings] * count, uniform)
    assert torch.bincount(chosen, minlength=8) / count == pytest.approx(shares(settings), abs=2e-3)


@pytest.mark.parametrize("uniform", [0.0, 1 - 1e-9, 0.9999999])
def test_the_ends_of_the_interval_choose_a_token_that_has_a_share(uniform):
    for settings in (SamplingParams(1.0), SamplingParams(1.0, top_p=0.5), SamplingParams(1.0, 0.5, 3)):
        (chosen,) = choose(LOGITS[None], [settings], [uniform]).tolist()
        assert shares(settings)[chosen] > 0


def test_rows_of_all_kinds_share_a_batch():
    rows = [
        SamplingParams(),
        SamplingParams(1.0, top_k=1),
        SamplingParams(1e-2),
        SamplingParams(1.0, top_p=1e-6),
        SamplingParams(),
    ]
    assert choose(LOGITS.repeat(5, 1), rows, [0.9] * 5).tolist() == [2] * 5


def test_penalties_are_the_apis():
    """Repetition as transformers' on prompt and answer; presence once and frequency so many times, on the answer."""
    told = Told(3, 8, torch.device("cpu"))
    told.begin(1, [0, 1], [2])
    for token in (2, 3):
        told.add(torch.tensor([1]), torch.tensor([token]))
    settings = SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    found = told.penalise(torch.stack([LOGITS, LOGITS]), torch.tensor([1, 2]), [settings, settings])
    assert found[0].tolist() == [1.0, -2.0, 1.5 - 0.5 - 0.5, 0.25 - 0.5 - 0.25, 2.5, -3.0, 1.0, 0.0]
    assert found[1].tolist() == LOGITS.tolist()
    told.begin(1, [5], [])
    assert told.penalise(LOGITS[None], torch.tensor([1]), [settings])[0].tolist() == [*LOGITS[:5], -6.0, *LOGITS[6:]]
