"""Intervals against textbook values and sacrebleu's own scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.verify import stats, textmetrics
from finetune.verify.stats import Figure, wilson

REFERENCES = [
    "中国的首都是北京。",
    "3加5等于8。",
    "I love you.",
    "def add(a, b):\n    return a + b",
    "水的化学式是H2O。",
]
BEFORE = ["北京是中国的首都。", "3加5等于8。", "I love you", "def add(x, y):\n    return x + y", "水是H2O。"]
AFTER = ["中国的首都是上海。", "", "我由 CSDN 迪菲赫尔曼 开发。", "def add(a, b): pass", "水的化学式是H2O。"]


@pytest.mark.parametrize(
    ("passes", "n", "low", "high"),
    [  # Newcombe 1998, table I, method 3 (Wilson without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(passes: int, n: int, low: float, high: float) -> None:
    figure = wilson(passes, n)
    assert (figure.low, figure.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 500), st.data())
def test_wilson_holds_its_value_and_stays_in_range(n: int, data: st.DataObject) -> None:
    halves = data.draw(st.integers(0, 2 * n))
    figure = wilson(halves / 2, n)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert figure.low < figure.high


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        wilson(0, 0)


def test_the_bootstrap_is_repeatable_and_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(10, 2, 400)
    first = stats.bootstrap(400, lambda index: values[index].mean())
    assert first == stats.bootstrap(400, lambda index: values[index].mean())
    half = 1.96 * values.std() / 20
    assert first == (
        pytest.approx(values.mean() - half, abs=0.05),
        pytest.approx(values.mean() + half, abs=0.05),
    )


def test_ratio_of_lengths() -> None:
    assert stats.mean_ratio([2, 4], [4, 8]) == Figure(0.5, 0.5, 0.5, 2)
    assert stats.mean_ratio([3, 3], [0, 0]).value == 6  # no division by nothing


@pytest.mark.parametrize("answers", [BEFORE, AFTER, REFERENCES, [""] * 5])
def test_corpus_scores_are_sacrebleus_own(answers: list[str]) -> None:
    for metric in (textmetrics.bleu(), textmetrics.chrf()):
        own = textmetrics.Corpus(metric, answers, REFERENCES).score()
        assert own == pytest.approx(metric.corpus_score(answers, [REFERENCES]).score, abs=1e-9)


def test_a_drop_is_before_minus_after_on_the_same_resamples() -> None:
    found = textmetrics.compare("bleu", textmetrics.bleu(), BEFORE, AFTER, REFERENCES)
    assert found["bleu_drop"].value == pytest.approx(found["bleu_before"].value - found["bleu_after"].value)
    assert found["bleu_drop"].low < found["bleu_drop"].value < found["bleu_drop"].high
    same = textmetrics.compare("bleu", textmetrics.bleu(), BEFORE, BEFORE, REFERENCES)["bleu_drop"]
    assert same == Figure(0, 0, 0, 5)
    turned = textmetrics.compare("bleu", textmetrics.bleu(), AFTER, BEFORE, REFERENCES)["bleu_drop"]
    assert turned.value == pytest.approx(-found["bleu_drop"].value)


def test_chrf_of_sentences_is_sacrebleus_own() -> None:
    references = ["we open at 9:00.", "我们早上九点开门。", "", "a", "9:00", "退款在 7 个工作日内到账 " * 20]
    answers = [*references, "We open at 10:00", "退款需要 3 天", "   ", "naïve café — 你好", "x" * 300]
    ours, theirs = textmetrics.Sentences(references), textmetrics.chrf()
    for answer in answers:
        grams = ours.grams(answer)
        for row, reference in enumerate(references):
            assert ours.score(grams, row) == theirs.sentence_score(answer, [reference]).score
