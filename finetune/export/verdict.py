"""The verdict's questions asked of adapter and file: what does a 4- or 5-bit file lose? For the command.

The adapter takes the place that the base has in verify: a figure `before` is the adapter's, `after` the file's. The
thresholds are verify's own, so a file passes when it would pass as an adapter, and general tasks and BLEU are held
against the adapter's answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.i18n import _
from finetune.export.gguf_engine import GgufEngine
from finetune.export.proof import Part
from finetune.runs.progress_bar import Bar
from finetune.verify import config, selection
from finetune.verify.engine import Engine
from finetune.verify.figures import Asked
from finetune.verify.report import data
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.runinfo import Run
from finetune.verify.session import AFTER, BEFORE, Session, wordings

# Of verify's command line, what decides which questions are asked.
DEFAULTS: dict[str, Any] = dict.fromkeys(
    ("dataset", "columns", "questions", "expect", "forbid", "alpaca", "alpaca_file", "lang")
)


class Verdict:
    """What both are asked, chosen before anything is loaded."""

    def __init__(self, run: Run | None, base: Path, system: str, scratch: Path) -> None:
        """Choose the questions: those of the run's verdict, or general tasks where no run is known.

        Raises:
            UserError: A questions file or the run's data cannot be read or judged.
        """
        cfg = config.read(config.default_path())
        self.known = run is not None
        if run is None:
            cfg, run = replace(cfg, dataset=None), Run(base)
        self.selected = selection.select(cfg, argparse.Namespace(**DEFAULTS), run)
        has = (run.folder / rewordings_file.NAME).is_file()
        said = wordings(self.selected, None, run.folder if has else scratch, None)
        # What folds answered cannot be asked again: their adapters are gone.
        self.asks: list[Asked] = [each for each in self.selected.asks(said.rewordings, system) if not each.given]
        if not self.known:
            self.asks = [each for each in self.asks if not each.question.is_identity]
        self.cfg = cfg

    @property
    def in_english(self) -> bool:
        """Whether the data's answers are in English: then a model that knows no Chinese may have learned them."""
        return self.selected.found is not None and self.selected.found.language == "en"

    @property
    def limits(self) -> dict[str, int]:
        """The longest answers by kind, in tokens."""
        return self.cfg.max_new_tokens

    def ask(self, engine: Engine, adapter: Any, is_file: bool, name: str, bar: Bar) -> None:
        """Ask one of the two, and score its answers."""
        side = AFTER if is_file else BEFORE
        asking = Session(engine, {side: adapter}, {side: name}, self.limits, bar)
        asking.answer(self.asks, self.cfg.old_identity, self.selected.found.judge if self.selected.found else None)

    def ask_file(self, engine: GgufEngine, bar: Bar) -> None:
        """Ask the file."""
        self.ask(engine, None, True, _("the file"), bar)

    def part(self) -> Part:
        """Figures of both, and every answer that the adapter had right and the file has not."""
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
        """The questions that the adapter answers right and the file does not."""
        return [each for each in self._decided() if each.scored[BEFORE].ok and not each.scored[AFTER].ok]


def _shown(asked: Asked) -> str:
    before, after = (asked.scored[side] for side in (BEFORE, AFTER))
    return _("{question!r}: adapter {adapter!r}, file {file!r} ({reason})").format(
        question=asked.question.text[:60], adapter=before.text[:60], file=after.text[:60], reason=after.reason
    )
