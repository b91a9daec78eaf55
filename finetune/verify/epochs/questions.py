"""What the adapters of the epochs are asked, and what they had right; finetune/sft/epochs.py hands in the adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.content import question_key
from finetune.verify import config, questions, selection
from finetune.verify.config import VerifyConfig
from finetune.verify.engine import Engine
from finetune.verify.figures import score
from finetune.verify.judge import Judge
from finetune.verify.questions import Question
from finetune.verify.rewordings import make
from finetune.verify.rewordings.file import Rewording
from finetune.verify.session import ask_of
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


@dataclass(frozen=True)
class Questions:
    """Questions that choose: `own` of the data, `general` of none; neither is asked by verify."""

    own: list[Question]
    general: list[Question]
    judge: Judge
    cfg: VerifyConfig
    old: Any  # the pattern of the old identity, or None

    def weigh(self, engine: Any, adapter: Any, system: str) -> list[float]:
        """The negative log-likelihood of the right answers to the questions of the data, in nats a token."""
        asks = [ask_of(each, system, self.cfg.max_new_tokens) for each in self.own]
        found: list[float] = engine.nll(asks, [each.reference or "" for each in self.own], adapter)
        return found

    def ask(self, engine: Engine, adapter: Any, system: str, only_general: bool = False) -> list[bool]:
        """Whether each is answered right, those of the data first; adapter None asks the base."""
        wanted = [*([] if only_general else self.own), *self.general]
        limits = self.cfg.max_new_tokens | {"general": min(self.cfg.max_new_tokens["general"], TASK_TOKENS)}
        answers = engine.answer([ask_of(each, system, limits) for each in wanted], adapter, lambda _: None)
        pairs = zip(wanted, answers, strict=True)
        return [bool(score(question, answer, self.old, self.judge).ok) for question, answer in pairs]


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
    files = selection.read_questions(cfg, options.question_files, options.expect, options.forbid)
    english = selection.in_english(files, cfg)
    taken = {question_key(each.text) for part in (files, english) for each in part.all()}
    by_key, _ = make.for_rows(known, found.rows)
    own = ask.unseen(found, unseen) if unseen else ask.choosing(found, words, by_key, taken)
    paths = cfg.choosing_english if found.language == "en" and cfg.choosing_english else cfg.choosing
    general = [each for path in paths for each in questions.read(path).general if question_key(each.text) not in taken]
    outside, _ = ask.out_of_scope([each for each in general if each.rule], found)
    old = questions.option("--forbid", options.forbid) or cfg.old_identity
    return Questions(own, outside, found.judge, cfg, old)
