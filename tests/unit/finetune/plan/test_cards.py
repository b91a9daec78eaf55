"""Estimates for cards that are not here: held to what was measured on the H100, and to what is published."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from common.errors import run_main
from finetune.commands import plan as cli
from finetune.plan import cards
from finetune.plan.planned_run import REAL_SHAPE, PlannedRun
from tests.unit.finetune.plan.test_plan_command import model, rows  # noqa: F401 - a fixture

JOB = PlannedRun(
    shape=REAL_SHAPE,
    lengths=[46] * 48,
    rows=48,
    batch=16,
    epochs=10,
    rank=8,
    dropout=0.05,
    targets=["all-linear"],
    quant_bits=None,
    max_length=2048,
    max_steps=-1,
    data="",
    model="",
)


def by_name(found: list[cards.Estimate]) -> dict[str, cards.Estimate]:
    return {each.card.name: each for each in found}


def test_the_h100_s_estimate_is_what_was_measured_there() -> None:
    """45.1 ms a step of 16 rows x 46 tokens (docs/performance.md), 40 steps; the plan's tokens are whole tiles."""
    found = by_name(cards.estimates(JOB))["H100 80 GB"]
    assert found.engine == cards.FAST
    assert found.hours * 3600 / JOB.steps == pytest.approx(0.0451, rel=0.1)


def test_a_slower_card_takes_as_much_longer_as_its_flops_say() -> None:
    found = by_name(cards.estimates(JOB))
    ratio = found["RTX 3090"].hours / found["RTX 4090"].hours
    assert ratio == pytest.approx(165.2 / 71.0, rel=0.05)
    assert found["RTX 4090"].hours < found["RTX 4090 D"].hours < found["RTX 3090"].hours


def test_long_rows_fit_a_card_of_16_gb_somehow_and_have_an_hour() -> None:
    """2,000 rows of 800 tokens: the question that had no answer."""
    long = replace(JOB, lengths=[800] * 2000, rows=2000, epochs=3)
    found = by_name(cards.estimates(long))["RTX 4080 16 GB"]
    assert found.engine in (cards.SWIFT, cards.FOUR_BIT)
    assert found.peak_gib <= 14.7 and 0.3 < found.hours < 30


def test_a_4_bit_base_costs_its_unpacking_by_the_bandwidth() -> None:
    packed = by_name(cards.estimates(JOB, [cards.FOUR_BIT]))
    assert {each.engine for each in packed.values()} == {cards.FOUR_BIT}
    plain = by_name(cards.estimates(JOB, [cards.SWIFT]))
    assert packed["RTX 3090"].hours > plain["RTX 3090"].hours
    assert packed["RTX 3090"].peak_gib < plain["RTX 3090"].peak_gib


def test_what_fits_nowhere_is_said() -> None:
    huge = replace(JOB, shape=replace(REAL_SHAPE, num_layers=2000))
    assert {each.engine for each in cards.estimates(huge)} == {None}


@pytest.mark.parametrize(
    ("hours", "told"), [(0.0001, "1 s"), (0.02, "72 s"), (0.2, "12 min"), (1.4, "84 min"), (2.36, "2.4 h")]
)
def test_a_duration_is_as_rough_as_it_is_known(hours: float, told: str) -> None:
    assert cards.duration(hours) == told


def test_the_screen_and_json_mark_estimates(model: Any, capsys: Any) -> None:  # noqa: F811
    assert run_main(cli.main, []) == 0
    out = capsys.readouterr().out
    for card in cards.CARDS:
        assert card.name in out
    assert "about: estimates, from the H100's measured times" in out
    assert run_main(cli.main, ["--json", "--engine", "swift"]) == 0
    listed = json.loads(capsys.readouterr().out)["known_cards"]
    assert [each["card"]["name"] for each in listed if each["measured"]] == ["H100 80 GB"]
    assert all(each["engine"] in (cards.SWIFT, cards.FOUR_BIT) for each in listed)
