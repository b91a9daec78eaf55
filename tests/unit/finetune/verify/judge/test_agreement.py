"""The judge agrees with labels by hand; agreement.py prints where it does not."""

from __future__ import annotations

import functools

from tests.unit.finetune.verify.judge import agreement

BAR = 0.95


@functools.cache
def cases() -> list[agreement.Case]:
    return list(agreement.cases())


def test_there_are_enough_labels_in_both_languages():
    assert len(cases()) >= 320
    for language in ("en", "zh"):
        part = [case for case in cases() if case.language == language]
        assert len(part) >= 150 and 0.3 < sum(case.right for case in part) / len(part) < 0.7


def test_agreement_with_labels_by_hand():
    differ = [(case.answer, case.judged.why) for case in cases() if not case.agrees]
    assert len(differ) <= (1 - BAR) * len(cases()), differ
