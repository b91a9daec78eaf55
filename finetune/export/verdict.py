"""What does a 4- or 5-bit file lose? Asks adapter and file the verdict's questions; commands/export.py calls it.

The adapter takes the place of the base in verify: `before` is the adapter's figure, `after` the file's. The thresholds
are verify's own: a file passes if it would pass as an adapter. General tasks and BLEU are compared with the adapter's
answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.i18n import _
from finetune.export.proof import Part
from finetune.runs.progress_bar import Bar
from finetune.verify import config, selection
from finetune.verify.engine import Engine
from finetune.verify.figures import Asked
from finetune.verify.report import data
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.runinfo import Run
from finetune.verify.session import AFTER, BEFORE, Session, wordings

# The options of verify that decide which questions are asked; none of them is set here.
DEFAULTS: dict[str, Any] = dict.fromkeys(
    ("dataset", "columns", "questions", "expect", "forbid", "alpaca", "alpaca_file", "lang")
)


class Verdict:
    """The questions for both, chosen before anything is loaded, and their scores."""

    def __init__(self, run: Run | None, base: Path, system: str, scratch: Path) -> None:
        """Choose the questions.

        Args:
            run: The run, whose verdict has the questions; None (a merged folder) asks general tasks only.
            base: The folder of the base.
            system: The training's system prompt.
            scratch: A folder for the rewordings, if the run has none.

        Raises:
            UserError: A questions file or the run's data cannot be read or judged.
        """
        cfg = config.read(config.default_path())
        is_known = run is not None
        if run is None:
            cfg, run = replace(cfg, dataset=None), Run(base)
        self.selected = selection.select(cfg, argparse.Namespace(**DEFAULTS), run)
        has = (run.folder / rewordings_file.NAME).is_file()
        said = wordings(self.selected, None, run.folder if has else scratch, None)
        # Answers by adapters of folds cannot be asked again: those adapters were deleted.
        self.asks: list[Asked] = [each for each in self.selected.asks(said.rewordings, system) if not each.given]
        if not is_known:
            self.asks = [each for each in self.asks if not each.question.is_identity]
        self.cfg = cfg

    @property
    def in_english(self) -> bool:
        """Whether the data are in English: the model then may know no Chinese."""
        return self.selected.found is not None and self.selected.found.language == "en"

    def ask(self, engine: Engine, adapter: Any, is_file: bool, name: str, bar: Bar) -> None:
        """Ask the adapter or the file, and score its answers.

        Args:
            engine: Answers the questions.
            adapter: What the engine is to answer with; None for the file.
            is_file: Whether the answers are the file's.
            name: Who answers, for the bar.
            bar: Shows the answers done.
        """
        side = AFTER if is_file else BEFORE
        asking = Session(engine, {side: adapter}, {side: name}, self.cfg.max_new_tokens, bar)
        asking.answer(self.asks, self.cfg.old_identity, self.selected.found.judge if self.selected.found else None)

    def part(self) -> Part:
        """The verdict as a part of the proof, with every answer that the adapter has right and the file has wrong."""
        held = self.selected.thresholds(self.cfg)
        found = data.verdict(self.asks, held)
        right = [[bool(each.scored[side].ok) for each in self._decided()] for side in (BEFORE, AFTER)]
        count = len(right[0])
        part = Part(
            "verdict",
            _(
                "{verdict}; {count} answers; of the {judged} that can be right or wrong, the adapter has "
                "{adapter} right and the file {file}"
            ).format(
                verdict=found["verdict"], count=len(self.asks), judged=count, adapter=sum(right[0]), file=sum(right[1])
            ),
        )
        part.lost = [_("lost: {each}").format(each=_shown(each)) for each in self.lost()]
        if found["verdict"] != "pass":
            part.faults = [str(each) for each in found["failures"]] or [_("no threshold has a question")]
        return part

    def _decided(self) -> list[Asked]:
        return [each for each in self.asks if each.scored[BEFORE].ok is not None]

    def lost(self) -> Sequence[Asked]:
        """The questions that the adapter answers right and the file answers wrong."""
        return [each for each in self._decided() if each.scored[BEFORE].ok and not each.scored[AFTER].ok]


def _shown(asked: Asked) -> str:
    before, after = (asked.scored[side] for side in (BEFORE, AFTER))
    return _("{question!r}: adapter {adapter!r}, file {file!r} ({reason})").format(
        question=asked.question.text[:60], adapter=before.text[:60], file=after.text[:60], reason=after.reason
    )
