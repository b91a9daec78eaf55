"""BLEU and chrF of answers before and after the training, and the paired drops; `figures` calls it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from finetune.verify.stats import Figure, bootstrap

COUNTED = 512  # references whose n-grams are cached; a long one takes a few hundred KB


def bleu() -> Any:
    """sacrebleu's BLEU with each Chinese character as a token."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="zh")


def chrf() -> Any:
    """sacrebleu's chrF (character 6-grams, beta 2)."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


class Sentences:
    """chrF of sentences, as sacrebleu's `sentence_score`, but the n-grams of each text are counted only once.

    It calls sacrebleu's internal steps. A test compares it with `sentence_score`, in case a new sacrebleu changes them.
    """

    def __init__(self, references: Sequence[str]) -> None:
        self._metric = chrf()
        self._grams = functools.lru_cache(COUNTED)(lambda row: self.grams(references[row]))

    def grams(self, text: str) -> list[Any]:
        """The n-gram counts of a text, by n-gram length."""
        (found,) = self._metric._extract_reference_info([self._metric._preprocess_segment(text)])["ref_ngrams"]
        return list(found)

    def score(self, grams: list[Any], row: int) -> float:
        """chrF, 0 to 100, of a text given by its n-grams, against the reference with index `row`."""
        metric = self._metric
        pairs = zip(grams, self._grams(row), strict=True)
        stats = [number for ours, theirs in pairs for number in metric._get_match_statistics(ours, theirs)]
        return float(metric._compute_score_from_stats(stats).score)


class Corpus:
    """Statistics of each of a system's answers; the score of any resample follows from their sum.

    sacrebleu's significance tests work in the same way, with the same two methods. A test compares `score()` with
    `corpus_score`, in case a new sacrebleu changes them.
    """

    def __init__(self, metric: Any, answers: Sequence[str], references: Sequence[str]) -> None:
        import numpy as np

        self.metric = metric
        self.rows = np.asarray(metric._extract_corpus_statistics(list(answers), [list(references)]), dtype=float)

    def score(self, index: Any = slice(None)) -> float:
        """The corpus score, 0 to 100, of the answers at `index`."""
        return float(self.metric._compute_score_from_stats(self.rows[index].sum(axis=0).tolist()).score)


def compare(
    name: str, metric: Any, before: Sequence[str], after: Sequence[str], references: Sequence[str]
) -> dict[str, Figure]:
    """The score before and after the training, and the drop between them.

    Args:
        name: The beginning of the figures' names.
        metric: `bleu()` or `chrf()`.
        before: The base's answers.
        after: The adapter's answers to the same questions.
        references: The reference answers.

    Returns:
        NAME_before, NAME_after and NAME_drop (before minus after), in points of 0 to 100. The interval of the drop is
        paired: both systems are scored on the same resamples.
    """
    n = len(references)
    old, new = Corpus(metric, before, references), Corpus(metric, after, references)
    return {
        f"{name}_before": Figure(old.score(), *bootstrap(n, old.score), n),
        f"{name}_after": Figure(new.score(), *bootstrap(n, new.score), n),
        f"{name}_drop": Figure(
            old.score() - new.score(), *bootstrap(n, lambda index: old.score(index) - new.score(index)), n
        ),
    }
