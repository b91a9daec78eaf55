"""What the adapters of the epochs are asked, and what they had right; finetune/sft/epochs.py hands in the adapters."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.content import question_key
from finetune.verify import config, questions, selection
from finetune.verify.config import VerifyConfig
from finetune.verify.engine import Ask, Engine
from finetune.verify.figures import TRAINING, Asked, score
from finetune.verify.judge import Judge
from finetune.verify.questions import Question
from finetune.verify.rewordings import make
from finetune.verify.rewordings.file import Rewording
from finetune.verify.session import limit_of
from finetune.verify.sets import ask
from finetune.verify.sets.survey import Survey

TASK_TOKENS = 48  # of an answer to a general task: each is one fact, and every epoch's adapter is asked them all


@dataclass(frozen=True)
class VerdictOptions:
    """What the user says of the verdict, as far as it decides what is asked."""

    config_file: Path | None = None
    question_files: tuple[Path, ...] = ()
    expect: str | None = None
    forbid: str | None = None

    def config(self, kind: str) -> VerifyConfig:
        """configs/verify.yaml, or the file that replaces it."""
        return config.read(config.for_kind(self.config_file or config.default_path(), kind))


class Questions:
    """Questions that choose: `own` of the data, `general` of none; neither is asked by verify."""

    def __init__(
        self, own: Sequence[Question], general: Sequence[Question], judge: Judge, cfg: VerifyConfig, old: Any
    ) -> None:
        self.own, self.general, self.judge, self.cfg, self.old = list(own), list(general), judge, cfg, old

    def weigh(self, engine: Any, adapter: Any, system: str) -> list[float]:
        """The negative log-likelihood of the right answers to the questions of the data, in nats a token."""
        asks = [
            Ask(each.messages, each.system if each.system is not None else system, 1, each.tools) for each in self.own
        ]
        found: list[float] = engine.nll(asks, [each.reference or "" for each in self.own], adapter)
        return found

    def ask(self, engine: Engine, adapter: Any, system: str, only_general: bool = False) -> list[bool]:
        """Whether each is answered right, those of the data first; adapter None asks the base."""
        wanted = [*([] if only_general else self.own), *self.general]
        asked = [Asked(each, TRAINING, each.system if each.system is not None else system) for each in wanted]
        limits = self.cfg.max_new_tokens | {"general": min(self.cfg.max_new_tokens["general"], TASK_TOKENS)}
        asks = [
            Ask(each.question.messages, each.system, limit_of(each.question, limits), each.question.tools)
            for each in asked
        ]
        answers = engine.answer(asks, adapter, lambda _: None)
        scored = [
            score(each.question, answer, self.old, self.judge) for each, answer in zip(asked, answers, strict=True)
        ]
        return [bool(each.ok) for each in scored]


def gather(
    found: Survey,
    known: Sequence[Rewording],
    words: Sequence[int],
    unseen: Sequence[int],
    options: VerdictOptions,
    kind: str,
) -> Questions:
    """The questions that choose.

    Args:
        found: The data.
        known: The run's rewordings.
        words: Places of rows that are asked in other words.
        unseen: Places of rows that the adapters did not see.
        options: What the user says of the verdict.
        kind: The name of the model's kind (common.model_kind).
    """
    cfg = options.config(kind)
    asked = argparse.Namespace(questions=list(options.question_files), expect=options.expect, forbid=options.forbid)
    files = selection.read_questions(cfg, asked)
    english = selection.in_english(files, cfg)
    taken = {question_key(each.text) for part in (files, english) for each in part.all()}
    by_key, _ = make.for_rows(known, found.rows)
    own = ask.unseen(found, unseen) if unseen else ask.choosing(found, words, by_key, taken)
    paths = cfg.choosing_english if found.language == "en" and cfg.choosing_english else cfg.choosing
    general = [each for path in paths for each in questions.read(path).general if question_key(each.text) not in taken]
    outside, _ = ask.out_of_scope([each for each in general if each.rule], found)
    old = questions.option("--forbid", options.forbid) or cfg.old_identity
    return Questions(own, outside, found.judge, cfg, old)
