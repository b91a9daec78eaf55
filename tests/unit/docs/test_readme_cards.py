"""The READMEs' table of cards is what `plan` says of the 50 rows today."""

from __future__ import annotations

import re
import shutil

from finetune.plan import cards
from finetune.plan.planned_run import read
from tests.unit.docs.test_readmes import CHINESE, ENGLISH, ROOT


def test_times_and_peaks_of_the_50_rows(official_tokenizer_dir, tmp_path, monkeypatch):
    model = tmp_path / "Qwen2.5-7B-Instruct"
    shutil.copytree(official_tokenizer_dir, model)
    shutil.copy(ROOT / "standin/official/config.json", model)
    monkeypatch.setenv("MODEL_DIR", str(model))
    workspace = ROOT / "workspace"
    found = read(workspace / "configs/sft.yaml", model, [str(workspace / "self_cognition.json")], None)
    estimates = cards.estimates(found)
    for readme in (ENGLISH, CHINESE):
        rows = next(table for table in readme.tables() if any("4090" in row[0] for row in table))[1:]
        assert len(rows) == len(estimates)
        for row, each in zip(rows, estimates, strict=True):
            name = re.sub(r"[,，]? *\d+ GB", "", row[0])
            assert name.strip() == re.sub(r" \d+ GB", "", each.card.name)
            numbers = re.findall(r"\d+(?:\.\d+)?", row[1])
            assert numbers[0] == re.findall(r"\d+", cards.duration(each.hours))[0], row
            assert numbers[1] == f"{each.peak_gib:.1f}", row
