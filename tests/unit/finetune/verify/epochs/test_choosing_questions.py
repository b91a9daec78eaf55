"""The general tasks by which an epoch is chosen: each passes its own rule, and verify asks none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.content import question_key
from finetune.verify import questions, rules

FOLDER = Path(__file__).parents[5] / "workspace/questions"


@pytest.mark.parametrize("name", ["choosing.yaml", "choosing_en.yaml"])
def test_every_task_has_a_rule_that_its_reference_passes(name: str) -> None:
    found = questions.read(FOLDER / name)
    questions.check_unique(found.all())
    assert len(found.general) >= 40
    for each in found.general:
        assert each.rule is not None and each.reference is not None, each.id
        assert rules.check(each.rule, each.reference).ok, each.id


def test_verify_asks_none_of_them() -> None:
    verdict = ("identity.yaml", "general.yaml", "general_en.yaml", "english.yaml")
    asked = {question_key(each.text) for name in verdict for each in questions.read(FOLDER / name).all()}
    chosen = [each for name in ("choosing.yaml", "choosing_en.yaml") for each in questions.read(FOLDER / name).all()]
    assert not asked & {question_key(each.text) for each in chosen}
