"""The serving engine on the tiny model: generate()'s tokens whatever shares the batch, and everything given back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from qwen2.generate import generate
from qwen2.model import Model
from qwen2.serving.adapters import Adapters
from qwen2.serving.pages import PAGE
from qwen2.serving.request import LENGTH, STOP, Request, SamplingParams
from qwen2.serving.scheduler import Scheduler
from tests.unit.qwen2.tiny import random_adapter

COUNT = 30


@pytest.fixture
def adapters(tiny_dir: Path) -> list[Any]:
    """Two adapters of other linears, ranks being equal."""
    kinds = (["q_proj", "down_proj"], 0.5), (["v_proj", "o_proj", "gate_proj"], 0.4)
    return [random_adapter(tiny_dir, targets, scale) for targets, scale in kinds]


def requests() -> list[Request]:
    """Half of them begin alike; base and two adapters in turn; lengths that end pages, and that do not."""
    drawn = random.Random(0)
    shared = [drawn.randrange(12, 160) for _ in range(40)]
    found = []
    for number in range(COUNT):
        own = [drawn.randrange(12, 160) for _ in range(drawn.choice((1, 7, 8, 24, 90)))]
        found.append(Request(number, (shared if number % 2 else []) + own, drawn.randrange(1, 60), number % 3))
    return found


def run(scheduler: Scheduler, asked: list[Request]) -> tuple[dict[int, list[int]], dict[int, str]]:
    """(tokens, why it ended) of each request, all asked at once."""
    for request in asked:
        scheduler.add(request)
    said: dict[int, list[int]] = {request.id: [] for request in asked}
    ends: dict[int, str] = {}
    while not scheduler.idle:
        for each in scheduler.step():
            assert each.id not in ends, "nothing is said after the end"
            if each.token is not None:
                said[each.id].append(each.token)
            if each.finish:
                ends[each.id] = each.finish
    return said, ends


def assert_all_given_back(scheduler: Scheduler) -> None:
    assert scheduler.pages.available == scheduler.pages.total and not any(scheduler.pages.uses)
    assert sorted(scheduler.free) == list(range(scheduler.batch.rows))
    assert not (scheduler.running or scheduler.reading or scheduler.waiting or scheduler.rows)


def wanted(model: Model, adapters: list[Any]) -> dict[int, list[int]]:
    """generate()'s answers, each alone."""
    own = [None, *adapters]
    return {r.id: generate(model, [r.prompt], r.limit, adapter=own[r.adapter])[0] for r in requests()}


@pytest.mark.parametrize(("rows", "pages"), [(1, 40), (8, 200), (COUNT, 400), (6, 24)])
def test_greedy_tokens_are_generates_alone_and_under_load(tiny_model, adapters, rows, pages):
    right = wanted(tiny_model, adapters)
    scheduler = Scheduler(tiny_model, Adapters(tiny_model, adapters), rows, pages)
    said, ends = run(scheduler, requests())
    assert said == right
    assert {STOP, LENGTH} == set(ends.values()) and len(ends) == COUNT
    assert all((ends[r.id] == LENGTH) == (len(said[r.id]) == r.limit) for r in requests())
    assert_all_given_back(scheduler)
    if pages == 24:
        assert scheduler.stats["taken_back"], "the cache was to be too small"


def test_a_prefix_that_many_share_is_read_once(tiny_model):
    scheduler = Scheduler(tiny_model, None, 8, 100)
    shared = list(range(20, 20 + 3 * PAGE))
    run(scheduler, [Request(number, [*shared, 100 + number], 4) for number in range(8)])
    assert scheduler.stats["prompt_tokens"] == 3 * PAGE + 8
    assert scheduler.stats["shared_tokens"] == 7 * 3 * PAGE


def test_a_conversation_goes_on_from_its_answer(tiny_model):
    scheduler = Scheduler(tiny_model, None, 2, 40)
    prompt = list(range(30, 50))
    said, _ = run(scheduler, [Request(1, prompt, 14)])
    longer = [*prompt, *said[1], 77, 78]
    run(scheduler, [Request(2, longer, 3)])
    assert scheduler.stats["shared_tokens"] == (len(prompt) + len(said[1]) - 1) // PAGE * PAGE


def test_an_adapter_does_not_read_the_bases_pages(tiny_model, adapters):
    prompt = list(range(20, 60))
    right = generate(tiny_model, [prompt], 12, adapter=adapters[0])[0]
    scheduler = Scheduler(tiny_model, Adapters(tiny_model, adapters), 2, 60)
    run(scheduler, [Request(1, prompt, 12)])
    said, _ = run(scheduler, [Request(2, prompt, 12, adapter=1)])
    assert said[2] == right and scheduler.stats["shared_tokens"] == 0


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_cancelled_requests_give_everything_back(tiny_model, after):
    scheduler = Scheduler(tiny_model, None, 4, 60)
    for number in range(12):
        scheduler.add(Request(number, list(range(20, 60 + number)), 40))
    told = [each for _ in range(after) for each in scheduler.step()]
    for number in range(0, 12, 2):
        scheduler.cancel(number)
        scheduler.cancel(number)
    left: dict[int, int] = dict.fromkeys(range(1, 12, 2), 0)
    while not scheduler.idle:
        for each in scheduler.step():
            assert each.id in left
            told.append(each)
    assert {each.id for each in told if each.finish} >= set(left)
    assert_all_given_back(scheduler)


@pytest.mark.parametrize(
    ("prompt", "says"), [([], "is empty"), (list(range(12, 192)) * 2, "larger than the max_length of 256")]
)
def test_what_cannot_be_answered_is_refused(tiny_model, prompt, says):
    with pytest.raises(ValueError, match=says):
        Scheduler(tiny_model, None, 2, 60).add(Request(1, prompt, 4))


def test_an_answer_ends_where_the_positions_do(tiny_model):
    scheduler = Scheduler(tiny_model, None, 2, 60)
    prompt = [20 + number % 100 for number in range(250)]
    said, ends = run(scheduler, [Request(1, prompt, 40)])
    assert len(said[1]) <= 6 and (ends[1] == STOP or len(said[1]) == 6)


def test_a_long_prompt_does_not_hold_the_others_up(tiny_model, monkeypatch):
    monkeypatch.setattr("qwen2.serving.scheduler.PIECE_BESIDE", 16)
    scheduler = Scheduler(tiny_model, None, 4, 60)
    scheduler.add(Request(1, [30, 31, 32], 60))
    scheduler.step()
    scheduler.add(Request(2, [20 + number % 90 for number in range(190)], 4))
    order = []
    while not scheduler.idle:
        order += [each.id for each in scheduler.step()]
    first = order.index(2) if 2 in order else len(order)
    assert order[:first].count(1) >= min(10, order.count(1)), order


def test_a_piece_copies_a_bounded_context(tiny_model, monkeypatch):
    """Many choices of one long prompt share its pages, but each reads all of them."""
    monkeypatch.setattr("qwen2.serving.scheduler.CONTEXT", 120)
    scheduler = Scheduler(tiny_model, None, 8, 200)
    prompt = [20 + number % 90 for number in range(50)]
    contexts, read = [], scheduler.batch.prefill
    monkeypatch.setattr(
        scheduler.batch,
        "prefill",
        lambda pieces, *rest: contexts.append(sum(p.start + len(p.tokens) for p in pieces)) or read(pieces, *rest),
    )
    said, ends = run(scheduler, [Request(number, prompt, 3) for number in range(8)])
    assert len(ends) == 8 and len({tuple(tokens) for tokens in said.values()}) == 1
    assert max(contexts) <= 120 and len(contexts) >= 4, contexts


# ---- settings of rows


def test_a_negative_seed_is_a_seed_of_its_own(tiny_model):
    settings = SamplingParams(2.0)
    found = [
        run(Scheduler(tiny_model, None, 1, 40), [Request(0, [30, 31, 32], 20, settings=settings, seed=seed)])[0][0]
        for seed in (-1, 1, -1)
    ]
    assert found[0] == found[2] != found[1]


def test_each_row_is_sampled_by_its_own_seed_whatever_shares_the_batch(tiny_model):
    settings = [
        SamplingParams(1.2),
        SamplingParams(0.9, 0.8, 20),
        SamplingParams(1.0, 0.9),
        SamplingParams(),
        SamplingParams(1.1, 1.0, 5),
    ]
    asked = [Request(n, [30 + n, 31, 32], 20, settings=settings[n % 5], seed=n) for n in range(15)]
    together, _ = run(Scheduler(tiny_model, None, 15, 200), asked)
    alone = {each.id: run(Scheduler(tiny_model, None, 1, 40), [each])[0][each.id] for each in asked}
    assert together == alone
    other, _ = run(Scheduler(tiny_model, None, 1, 40), [Request(0, [30, 31, 32], 20, settings=settings[0], seed=99)])
    assert other[0] != alone[0]


def test_a_seed_holds_when_the_row_gave_its_pages_back(tiny_model):
    settings = SamplingParams(1.5, repetition_penalty=1.2, frequency_penalty=0.3)
    asked = [Request(n, [30 + n, 31, 32], 60, settings=settings, seed=n) for n in range(6)]
    crowded, roomy = (Scheduler(tiny_model, None, 6, pages) for pages in (14, 100))
    crowded.eos = roomy.eos = frozenset()
    assert run(crowded, asked)[0] == run(roomy, asked)[0]
    assert crowded.stats["taken_back"] and not roomy.stats["taken_back"]


def test_repetition_penalty_is_generates(tiny_model):
    prompts = [[30, 31, 32], [40, 41], [50, 51, 52, 53]]
    right = generate(tiny_model, prompts, 24, repetition_penalty=1.3)
    asked = [
        Request(n, prompt, 24, settings=SamplingParams(repetition_penalty=1.3)) for n, prompt in enumerate(prompts)
    ]
    said, _ = run(Scheduler(tiny_model, None, 3, 40), asked)
    assert [said[n] for n in range(3)] == right != generate(tiny_model, prompts, 24)


def test_presence_and_frequency_penalties_count_the_answer_alone(tiny_model):
    def answer(**penalty: float) -> list[int]:
        scheduler = Scheduler(tiny_model, None, 1, 40)
        scheduler.eos = frozenset()
        return run(scheduler, [Request(1, [30, 31, 32] * 5, 60, settings=SamplingParams(**penalty))])[0][1]

    plain, presence, frequency = answer(), answer(presence_penalty=2.0), answer(frequency_penalty=2.0)
    assert presence[0] == plain[0] == frequency[0], "nothing of the answer is said yet"
    most = [max(map(said.count, said)) for said in (plain, presence, frequency)]
    assert most[0] > 1 and most[1:] == [1, 1], "the model's logits lie so close that two points let nothing come again"


def test_logprobs_are_the_models_own(tiny_model):
    import torch

    scheduler = Scheduler(tiny_model, None, 2, 40)
    scheduler.add(Request(1, [30, 31, 32], 5, settings=SamplingParams(logprobs=3)))
    scheduler.add(Request(2, [40, 41], 5))
    found = []
    while not scheduler.idle:
        found += scheduler.step()
    assert all(each.logprob is None for each in found if each.id == 2)
    text = [30, 31, 32]
    for each in [each for each in found if each.id == 1 and each.token is not None]:
        right = torch.log_softmax(tiny_model(torch.tensor([text]))[0, -1].float(), -1)
        value, others = each.logprob
        assert value == pytest.approx(right[each.token].item(), abs=1e-4)
        values, tokens = right.topk(3)
        assert [token for token, _ in others] == tokens.tolist()
        assert [likely for _, likely in others] == pytest.approx(values.tolist(), abs=1e-4)
        text.append(each.token)
