"""The questions that choose an epoch, and how an adapter answers them; finetune/sft/epochs.py calls it per epoch."""

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

TASK_TOKENS = 48  # longest answer to a general task: each asks for one fact, and every epoch answers all of them


@dataclass(frozen=True)
class VerdictOptions:
    """The user's options for the verdict that affect the questions."""

    config_file: Path | None = None
    question_files: tuple[Path, ...] = ()
    expect: str | None = None
    forbid: str | None = None

    def config(self, kind: str) -> VerifyConfig:
        """The configuration: `config_file`, else configs/verify.yaml; `kind` is the name of the model's kind."""
        return config.read(config.for_kind(self.config_file or config.default_path(), kind))


@dataclass(frozen=True)
class Questions:
    """The questions that choose: `own` about the data, `general` tasks about nothing in it. verify asks neither."""

    own: list[Question]
    general: list[Question]
    judge: Judge
    cfg: VerifyConfig
    old: Any  # the pattern of the old identity, or None

    def weigh(self, engine: Any, adapter: Any, system: str) -> list[float]:
        """The mean negative log-likelihood of each right answer to the data's questions, in nats per token."""
        asks = [ask_of(each, system, self.cfg.max_new_tokens) for each in self.own]
        found: list[float] = engine.nll(asks, [each.reference or "" for each in self.own], adapter)
        return found

    def ask(self, engine: Engine, adapter: Any, system: str, only_general: bool = False) -> list[bool]:
        """Whether each question is answered right, first those about the data.

        Args:
            engine: Answers.
            adapter: The adapter that is asked; None: the base.
            system: The training's system prompt.
            only_general: Leave out the questions about the data.
        """
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
        words: Indices of the rows that are asked in other words.
        unseen: Indices of the rows that the adapters did not see; they are asked instead, if there are any.
        options: The user's options for the verdict.
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
