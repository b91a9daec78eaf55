"""BLEU and chrF of answers against reference answers, before and after, and their paired drops; `figures` calls it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from finetune.verify.stats import Figure, bootstrap

COUNTED = 512  # references whose n-grams are kept: a few hundred KB each where they are long


def bleu() -> Any:
    """sacrebleu's BLEU as this project uses it: each Chinese character is a token, one reference."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="zh")


def chrf() -> Any:
    """sacrebleu's chrF (character 6-grams, beta 2)."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


class Sentences:
    """chrF of sentences against references, as `sentence_score` gives it; the n-grams of a text are counted once.

    It takes sacrebleu's own steps one by one; a test holds it to `sentence_score`, so that a new sacrebleu cannot
    change it silently.
    """

    def __init__(self, references: Sequence[str]) -> None:
        self._metric = chrf()
        self._grams = functools.lru_cache(COUNTED)(lambda row: self.grams(references[row]))

    def grams(self, text: str) -> list[Any]:
        """The counted n-grams of a text, by their length."""
        (found,) = self._metric._extract_reference_info([self._metric._preprocess_segment(text)])["ref_ngrams"]
        return list(found)

    def score(self, grams: list[Any], row: int) -> float:
        """chrF (0 to 100) of a text, given by its n-grams, against one reference."""
        metric = self._metric
        pairs = zip(grams, self._grams(row), strict=True)
        stats = [number for ours, theirs in pairs for number in metric._get_match_statistics(ours, theirs)]
        return float(metric._compute_score_from_stats(stats).score)


class Corpus:
    """Sentence statistics of one system's answers, from which the score of any resample follows by addition.

    sacrebleu's own significance tests do the same with the same two methods; a test holds `score()` against
    `corpus_score`, so a new sacrebleu cannot change this silently.
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
    """`NAME_before`, `NAME_after` and `NAME_drop` (before minus after, in points of 0 to 100).

    The interval of the drop is paired: both systems are scored on the same resample of the questions.
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
