"""Greedy and sampled decoding on the CPU, held to transformers' generate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qwen2.generate import Decoder, generate
from qwen2.lora import Adapter
from qwen2.model import Model
from qwen2.sampling import Sampling
from tests.unit.qwen2.tiny import EOS


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randint(12, 199, (n,), generator=generator).tolist() for n in (3, 17, 1, 9, 9, 30, 5)]


def reference_answers(reference: Any, new: int, **more: Any) -> list[list[int]]:
    answers = []
    for prompt in prompts():
        row = reference.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=new,
            do_sample=False, eos_token_id=EOS, pad_token_id=0, **more,
        )[0, len(prompt) :].tolist()  # fmt: skip
        answers.append(row[:-1] if row[-1] in EOS else row)
    return answers


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_greedy_equals_transformers(tiny_model: Model, reference: Any, batch_size: int | None) -> None:
    wanted = reference_answers(reference, 24)
    assert {len(a) for a in wanted} != {24}, "some answer must end early, or the eos is not tested"
    assert generate(tiny_model, prompts(), 24, batch_size=batch_size) == wanted


def test_repetition_penalty_equals_transformers(tiny_model: Model, reference: Any) -> None:
    wanted = reference_answers(reference, 24, repetition_penalty=1.3)
    assert wanted != reference_answers(reference, 24)
    assert generate(tiny_model, prompts(), 24, repetition_penalty=1.3) == wanted


def test_adapter_changes_the_answers_and_leaves_the_base_alone(tiny_model: Model) -> None:
    adapter = Adapter(tiny_model.config, 8, 64)
    adapter.initialize(0)
    for name, view in adapter.named():
        if "lora_B" in name:
            view.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    adapter.touch()
    before = generate(tiny_model, prompts(), 12)
    assert generate(tiny_model, prompts(), 12, adapter=adapter) != before
    assert generate(tiny_model, prompts(), 12) == before


def test_sampling_is_seeded_and_independent_of_the_batching(tiny_model: Model) -> None:
    settings = {"temperature": 1.5, "top_p": 0.9, "top_k": 50, "seed": 3}
    first = generate(tiny_model, prompts(), 12, **settings)
    assert generate(tiny_model, prompts(), 12, batch_size=2, **settings) == first
    assert generate(tiny_model, prompts(), 12, **settings | {"seed": 4}) != first
    assert generate(tiny_model, prompts(), 12, temperature=1e-4, seed=3) == generate(tiny_model, prompts(), 12)
    assert generate(tiny_model, prompts(), 12, temperature=2.0, top_k=1) == generate(tiny_model, prompts(), 12)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.6), (6, 0.7)])
def test_sampled_frequencies_follow_the_filtered_distribution(tiny_model: Model, top_k: int, top_p: float) -> None:
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    rows = 4000
    logits = torch.randn(tiny_model.config.vocab_size, generator=torch.Generator().manual_seed(1)) * 3
    warpers = LogitsProcessorList([TemperatureLogitsWarper(1.2)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    wanted = torch.softmax(warpers(torch.zeros(1, 1, dtype=torch.long), logits[None].clone()), -1)[0]
    decoder = Decoder(tiny_model, rows, 16, 1, Sampling(1.2, top_p, top_k), None)
    uniform = torch.stack([decoder._numbers(0, row) for row in range(rows)])
    picked = torch.bincount(decoder._pick(logits.expand(rows, -1), uniform, None), minlength=len(logits)) / rows
    assert not picked[wanted == 0].any()
    assert (picked - wanted).abs().max() < 0.03


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 3}, {"repetition_penalty": 1.3}])
def test_slots_that_are_free_take_the_prompts_that_wait(tiny_model: Model, sampling: dict[str, Any]) -> None:
    """Long and short answers in two slots: each as it would be alone, at its own limit."""
    limits = [24, 1, 7, 0, 24, 3, 12]
    for batch_size in (2, 3, 7):
        found = generate(tiny_model, prompts(), limits, batch_size=batch_size, **sampling)
        if "temperature" not in sampling:
            alone = [generate(tiny_model, [p], n, **sampling)[0] for p, n in zip(prompts(), limits, strict=True)]
            assert found == alone
        assert found == generate(tiny_model, prompts(), limits, **sampling)
        assert [len(answer) <= limit for answer, limit in zip(found, limits, strict=True)] == [True] * 7
    whole = generate(tiny_model, prompts(), 24, **sampling)
    assert [answer[:limit] for answer, limit in zip(whole, limits, strict=True)] == found


def test_a_long_prompt_does_not_lengthen_everybody_s_cache(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    plain = Decoder.__init__

    def noted(self: Any, model: Any, rows: int, length: int, *rest: Any) -> None:
        lengths.append(length)
        plain(self, model, rows, length, *rest)

    monkeypatch.setattr(Decoder, "__init__", noted)
    monkeypatch.setattr("qwen2.generate.SHORT", 16)
    long = [*prompts(), [5] * 200]
    assert generate(tiny_model, long, 4)[:7] == generate(tiny_model, prompts(), 4)
    assert lengths == [204, 34, 34]  # the last one is of the second call


def test_progress_and_limits(tiny_model: Model) -> None:
    seen: list[tuple[int, int]] = []
    generate(tiny_model, prompts(), 2, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (7, 7) and [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert generate(tiny_model, [], 5) == []
    with pytest.raises(ValueError, match="positions"):
        generate(tiny_model, [[5] * 250], 10)
    with pytest.raises(ValueError, match="empty"):
        generate(tiny_model, [[]], 10)
    with pytest.raises(ValueError, match="top_p"):
        generate(tiny_model, [[5]], 10, top_p=0.0)
