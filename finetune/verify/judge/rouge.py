"""ROUGE-L of an answer against its reference, in Chinese by character; the verdict's figures use it."""

from __future__ import annotations

import re

from finetune.verify.judge.text import CJK, fold

_TOKEN = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")


def rouge_tokens(text: str) -> list[str]:
    """Lower-case words and numbers, and single Chinese characters."""
    return _TOKEN.findall(fold(text).lower())


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence (Lin 2004, beta 1), 0 to 100; 0 where either has no token."""
    from rapidfuzz.distance import LCSseq

    said, wanted = rouge_tokens(answer), rouge_tokens(reference)
    if not said or not wanted:
        return 0.0
    return 200.0 * LCSseq.similarity(said, wanted) / (len(said) + len(wanted))
