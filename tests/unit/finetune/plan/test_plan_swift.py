"""plan_swift: what holds for every data set, card and batch, and what a user reads when nothing fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from finetune.plan import memory
from finetune.plan.memory import LargestMicroBatch, LoraSpec
from finetune.plan.planned_run import REAL_SHAPE as SHAPE
from finetune.plan.swift import CARDS_GIB, card_ceiling, fitting_length, plan_swift, with_margin, worst
from qwen2.config import PROJECTIONS

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=60)
BATCH = st.integers(1, 40)
CEILING = st.floats(1, 100)
RANK = st.integers(1, 64)
TARGET = st.lists(st.sampled_from(PROJECTIONS), min_size=1, max_size=7, unique=True)


def planned(lengths, batch, ceiling, **more):
    """The plan, or None where nothing fits."""
    try:
        return plan_swift(SHAPE, lengths, batch, ceiling, **more)
    except UserError as error:
        assert "take" in str(error)
        return None


@given(LENGTHS, BATCH, CEILING, RANK, TARGET)
@settings(max_examples=150, deadline=None)
def test_product_is_the_batch_and_the_peak_is_under_the_ceiling(lengths, batch, ceiling, rank, targets):
    plan = planned(lengths, batch, ceiling, rank=rank, targets=targets)
    if plan is None:
        everything = memory.peak_gib(SHAPE, LoraSpec(rank, targets), worst(lengths, 1), True, True)
        plain = memory.peak_gib(SHAPE, LoraSpec(rank, targets), worst(lengths, 1), True, False)
        adapter = LoraSpec(rank, targets)
        assert min(with_margin(peak, SHAPE, adapter, True) for peak in (everything, plain)) > ceiling
        return
    assert plan.per_device_train_batch_size * plan.gradient_accumulation_steps == batch
    micro = worst(lengths, plan.per_device_train_batch_size)
    peak = memory.peak_gib(SHAPE, LoraSpec(rank, targets), micro, plan.gradient_checkpointing, plan.use_liger_kernel)
    assert plan.peak_gib == round(peak, 2)
    assert with_margin(peak, SHAPE, LoraSpec(rank, targets), plan.gradient_checkpointing) <= ceiling
    assert plan.seconds_per_step > 0


@given(LENGTHS, BATCH, CEILING, st.floats(0, 60))
@settings(max_examples=100, deadline=None)
def test_more_memory_is_never_slower(lengths, batch, ceiling, more):
    less, plan = planned(lengths, batch, ceiling), planned(lengths, batch, ceiling + more)
    if less is not None:
        assert plan is not None
        cost = {True: 1 / 0.95, False: 1.0}  # liger has to be worth it
        assert (
            plan.seconds_per_step * cost[plan.use_liger_kernel]
            <= less.seconds_per_step * cost[less.use_liger_kernel] * 1.000001
        )


@given(st.integers(1, 4096), st.integers(1, 16), st.booleans(), st.booleans(), st.integers(1, 500))
def test_peak_grows_with_tokens_and_rows(width, rows, checkpointing, liger, more):
    def peak(width, rows):
        micro = LargestMicroBatch(width, rows, kept=width * rows, padded=rows > 1)
        return memory.peak_gib(SHAPE, LoraSpec(), micro, checkpointing, liger)

    assert peak(width + more, rows) > peak(width, rows)
    assert peak(width, rows + 1) > peak(width, rows)


@given(st.integers(1, 2048), st.integers(1, 8), st.booleans())
def test_checkpointing_and_liger_save(width, rows, padded):
    micro = LargestMicroBatch(width, rows, kept=width * rows, padded=padded)
    peaks = {
        (c, lig): memory.peak_gib(SHAPE, LoraSpec(), micro, c, lig) for c in (False, True) for lig in (False, True)
    }
    assert peaks[True, True] <= peaks[False, True] <= peaks[False, False]
    assert peaks[True, False] <= peaks[False, False]


def test_weights_of_the_7b_model():
    # 7,615,616,512 parameters in bfloat16; rank 8 on all linears: 20,185,088 in float32 with gradient and two moments
    expected = (7_615_616_512 * 2 + 20_185_088 * 16) / 2**30
    assert memory.fixed_gib(SHAPE, LoraSpec()) == pytest.approx(expected, abs=1e-9)


def test_fewer_targets_and_four_bits_take_less():
    micro = LargestMicroBatch(512, 4, 2048, False)
    peaks = [
        memory.peak_gib(SHAPE, adapter, micro, False, False)
        for adapter in (LoraSpec(), LoraSpec(targets=PROJECTIONS[:4]), LoraSpec(bits=8), LoraSpec(bits=4))
    ]
    assert peaks[1] < peaks[0]
    assert peaks[3] < peaks[2] < peaks[0]


def test_the_last_batch_cannot_be_larger_than_the_data():
    assert worst([46, 40], 16) == LargestMicroBatch(46, 2, 92, True)
    assert worst([46, 46, 46], 2) == LargestMicroBatch(46, 2, 92, False)
    assert worst([46, 40], 1) == LargestMicroBatch(46, 1, 46, False)


def test_what_the_user_fixed_stays():
    plan = plan_swift(SHAPE, [46] * 50, 16, 60, micro_batch=4, gradient_checkpointing=True, use_liger_kernel=False)
    assert plan.options() == {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "gradient_checkpointing": True,
        "use_liger_kernel": False,
    }


def test_one_line_says_all():
    line = plan_swift(SHAPE, [46] * 50, 16, 22).in_one_line()
    assert line.startswith("plan: ") and "\n" not in line
    for words in (" x ", "gradient checkpointing o", "liger o", " of 22 GiB", "46 tokens"):
        assert words in line


def test_nothing_fits_names_length_four_bits_and_card():
    with pytest.raises(UserError) as caught:
        plan_swift(SHAPE, [32000], 1, 16)
    assert caught.value.exit_code == 2
    shorter = fitting_length(SHAPE, 16, LoraSpec())
    assert 128 <= shorter < 32000
    assert f"--max_length {shorter}" in str(caught.value)
    assert "VRAM_CEILING_GIB=" in str(caught.value)
    plan_swift(SHAPE, [shorter], 1, 16)  # what it names fits
    with pytest.raises(UserError):
        plan_swift(SHAPE, [shorter + 64], 1, 16)


def test_small_cards_are_sent_to_four_bits():
    with pytest.raises(UserError, match=r"sft_qlora\.yaml") as caught:
        plan_swift(SHAPE, [57] * 50, 16, card_ceiling(12))
    assert "--max_length" not in str(caught.value)  # the weights alone are too large: no length would fit
    plan = plan_swift(SHAPE, [57] * 50, 16, card_ceiling(12), quant_bits=4)
    assert plan.peak_gib < 11


def test_the_named_card_fits():
    with pytest.raises(UserError) as caught:
        plan_swift(SHAPE, [2048], 1, 10)
    card = next(card for card in CARDS_GIB if f"a card of {card} GB" in str(caught.value))
    plan_swift(SHAPE, [2048], 1, card_ceiling(card))


def test_options_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="leave out --per_device_train_batch_size"):
        plan_swift(SHAPE, [2048], 16, 22, micro_batch=16, gradient_checkpointing=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lengths": []}, "no rows"),
        ({"batch": 0}, "a batch of 0 rows is not possible"),
        ({"ceiling_gib": 0}, "no GPU memory left"),
        ({"ceiling_gib": float("nan")}, "no GPU memory left"),
        ({"micro_batch": 3}, "do not divide"),
        ({"targets": ["lm_head"]}, "knows all-linear"),
    ],
)
def test_unusable_input(change, words):
    given_ = {"lengths": [46], "batch": 16, "ceiling_gib": 22} | change
    with pytest.raises(UserError, match=words):
        plan_swift(SHAPE, **given_)


def test_a_smaller_model_needs_less():
    small = replace(SHAPE, num_layers=14, hidden_size=1792)
    micro = LargestMicroBatch(512, 2, 1024, True)
    assert memory.peak_gib(small, LoraSpec(), micro, True, True) < memory.peak_gib(SHAPE, LoraSpec(), micro, True, True)


def test_card_ceilings():
    assert [card_ceiling(card) for card in CARDS_GIB] == [11, 14.7, 22, 44, 73.3]
