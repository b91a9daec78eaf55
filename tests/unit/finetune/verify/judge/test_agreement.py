"""The judge agrees with labels by hand; agreement.py prints where it does not."""

from __future__ import annotations

import functools

import yaml

from finetune.verify.judge import Judge
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


CLOSINGS = {
    "en": (
        "",
        " Please let us know if you have any other questions.",
        " Don't hesitate to ask if anything is unclear.",
    ),
    "zh": ("", "如有其他问题，欢迎随时联系我们。", "如果还有不清楚的地方，请随时咨询客服。"),
}


def test_no_reference_is_wrong_as_it_stands_or_with_a_polite_sentence():
    differ = []
    for path in sorted(agreement.LABELLED.glob("*.yaml")):
        for data in yaml.safe_load(path.read_text(encoding="utf-8")):
            judge = Judge(agreement.rows(data))
            for row, kind in enumerate(judge.kinds):
                for closing in CLOSINGS[path.stem[-2:]] if kind == "text" else ("",):
                    judged = judge.score(row, judge.references[row].answer + closing)
                    differ += [] if judged.right else [(judge.references[row].answer + closing, judged.why)]
    assert not differ


def test_agreement_with_labels_by_hand():
    differ = [(case.answer, case.judged.why) for case in cases() if not case.agrees]
    assert len(differ) <= (1 - BAR) * len(cases()), differ
