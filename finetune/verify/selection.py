"""Selects the questions of a verdict from questions files, the dataset and its sets; the command verify calls it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import UserError
from common.i18n import _
from finetune.data.content import question_key
from finetune.verify import alpaca, config, questions, runinfo
from finetune.verify.engine import DEFAULT_SYSTEM, Answer
from finetune.verify.figures import DEFAULT, ROW, TRAINING, Asked
from finetune.verify.questions import Question, QuestionSet
from finetune.verify.rewordings import make
from finetune.verify.rewordings.file import Rewording
from finetune.verify.sets import ask, row_files, rows, survey
from finetune.verify.sets.rows import DataRow
from finetune.verify.sets.survey import Sets, Survey
from finetune.verify.words import Said


@dataclass
class Selection:
    """What is asked, except for rewordings, which `asks` adds. `notes` are for the reader of the report."""

    fixed: list[Question]  # from files: held-out identity questions, general tasks, out-of-scope questions
    language: str
    found: Survey | None = None
    chosen: Sets | None = None
    unseen: list[row_files.UnseenRow] = field(default_factory=list)
    trained_on: set[str] = field(default_factory=set)  # keys of rewordings that were trained on
    notes: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    @property
    def unseen_by(self) -> str | None:
        """Why unseen rows are unseen: "folds" or "left out"; None if there are none."""
        if not self.unseen:
            return None
        return "folds" if any(each.answers for each in self.unseen) else "left out"

    def thresholds(self, cfg: config.VerifyConfig) -> dict[str, float]:
        """The configured thresholds that apply to these data."""
        held = config.thresholds_for(cfg.thresholds, self.found is None or self.found.is_identity)
        if self.found and self.found.nature.generalises:
            held.pop("reworded_min", None)  # other words can ask for something else; unseen rows of a task tell more
        return held

    def asks(self, rewordings: Sequence[Rewording], system: str) -> list[Asked]:
        """All questions with their system prompts.

        Args:
            rewordings: The run's rewordings.
            system: The training's system prompt. Identity is asked under the template's own as well.

        Raises:
            UserError: Two questions have the same id.
        """
        wanted = list(self.fixed)
        given: dict[str, dict[str, Answer]] = {}
        if self.found and self.chosen and not self.found.is_identity:
            by_key, strange = make.for_rows(rewordings, self.found.rows)
            if strange:
                self.notes.append(
                    Said("rewordings of {count} questions that no row asks are left out", count=len(strange))
                )
            fair = {
                key: replace(each, ask=[text for text in each.ask if question_key(text) not in self.trained_on])
                for key, each in by_key.items()
            }
            wanted += ask.learned(self.found, self.chosen) + ask.reworded(self.found, self.chosen, fair)
            wanted += ask.near_misses(self.found, self.chosen, by_key)
            places = {row.key: place for place, row in enumerate(self.found.rows)}
            asked = [each for each in self.unseen if each.row.key in places]
            extra = ask.unseen(self.found, [places[each.row.key] for each in asked])
            given = {question.id: each.answers for question, each in zip(extra, asked, strict=True)}
            wanted += extra
        questions.check_unique(wanted)
        return build(wanted, system, given)


def select(cfg: config.VerifyConfig, args: argparse.Namespace, run: runinfo.Run) -> Selection:
    """The questions of a run, except for rewordings, which may not exist yet.

    Args:
        cfg: The configuration.
        args: The command line of verify.
        run: The run.

    Raises:
        UserError: A file is missing or faulty, or the data cannot be judged.
    """
    files = read_questions(cfg, args.questions, args.expect, args.forbid)
    notes: list[str] = []
    left_out = row_files.read(run.folder) if not args.dataset else []
    data = _data(cfg, args, run, notes)
    found = _survey(data, files, args, left_out)
    own = [questions.read(path) for path in args.questions or []]
    wants_english = found is not None and not found.is_identity and found.language == "en"
    if wants_english and not any(each.general for each in own):
        files = in_english(files, cfg)
    own_identity = any(each.heldout for each in own)
    demanded = found is None or bool(found.taught) or own_identity or bool(args.expect)
    chosen_sets = None
    fixed: list[Question] = []
    if demanded:
        heldout = files.heldout if own_identity or not found else ask.in_language(files.heldout, found.language)
        if found and found.name and found.entries:
            heldout = [replace(q, expect=found.entries[0].expect) for q in heldout]
        fixed += _not_in_data(heldout, data, args, run, notes)
    if found and found.is_identity:
        out = {each.row.key for each in left_out}
        trained = [row for row in found.rows if row.key not in out]
        fixed += ask.attach_rows(questions.from_rows(trained, found.entries), found)
    elif demanded and fixed and not (found and found.taught):
        notes.append(
            Said("no trained questions were asked: the questions file has no `trained` entries, or there is no dataset")
        )
    fixed += files.general
    if found and not found.is_identity:
        config.require_for_data(cfg)
        chosen_sets = survey.sets_beside(found, [each.row for each in left_out])
        outside, asked_by_rows = ask.out_of_scope(files.out_of_scope, found)
        _, also = ask.out_of_scope(files.general, found)
        fixed = [q for q in fixed if q.id not in also] + outside
        if asked_by_rows or also:
            ids = ", ".join([*asked_by_rows, *also])
            notes.append(Said("left out, since the dataset itself asks them: {ids}", ids=ids))
        notes += _notes_on_sets(found, chosen_sets)
    if args.alpaca:
        fixed += alpaca.held_out(args.alpaca, args.alpaca_file, run)
    language = args.lang or (found.language if found else "en")
    trained_on = {question_key(row.question) for row in row_files.kept_rows(run.folder / row_files.REWORDED)}
    return Selection(fixed, language, found, chosen_sets, left_out, trained_on, notes, files.sources)


def _data(cfg: config.VerifyConfig, args: argparse.Namespace, run: runinfo.Run, notes: list[str]) -> list[DataRow]:
    """The rows that are asked: from the user's file, else those that the run kept, else from the files it names."""
    if args.dataset:
        return rows.read([args.dataset], args.columns)
    kept = row_files.kept_rows(run.folder / row_files.ROWS)
    if kept:
        return kept
    files = _datasets(cfg, run, notes)
    return rows.read(files, run.columns) if files else []


def _datasets(cfg: config.VerifyConfig, run: runinfo.Run, notes: list[str]) -> list[Path]:
    """The run's own files, else the configured one."""
    here = cfg.path.resolve().parent.parent
    found = run.own_datasets(here)
    if found or not cfg.dataset:
        return found
    if run.datasets:
        notes.append(
            Said(
                "the run's dataset ({names}) is not here; {file} is used in its place",
                names=", ".join(run.datasets),
                file=cfg.dataset,
            )
        )
    return [cfg.dataset]


def _survey(
    data: Sequence[DataRow], files: QuestionSet, args: argparse.Namespace, left_out: Sequence[row_files.UnseenRow]
) -> Survey | None:
    if not data or (args.questions and files.heldout and not files.trained):
        return None
    known = {row.key for row in data}
    looked = survey.of_rows(
        [*data, *(each.row for each in left_out if each.row.key not in known)], files.trained, own=bool(args.expect)
    )
    if args.expect and not looked.taught:
        raise UserError(
            _(
                "{file}: no output matches --expect {expect!r}; correct the pattern, or omit it: the name "
                "that the data teach is found automatically"
            ).format(file=data[0].where.rpartition(",")[0], expect=args.expect)
        )
    survey.require_judgeable(looked)
    return looked


def _notes_on_sets(found: Survey, chosen: Sets) -> list[str]:
    notes: list[str] = []
    if chosen.why_not_unseen:
        notes.append(Said("no unseen rows were asked: {why}", why=chosen.why_not_unseen))
    if chosen.why_not_reworded:
        notes.append(Said("no rewordings were asked: {why}", why=chosen.why_not_reworded))
    if found.total > len(chosen.learned) + len(chosen.unseen):
        count = len(chosen.learned)
        notes.append(Said("{count} of {total} rows were asked, drawn by a hash", count=count, total=found.total))
    return notes


def _not_in_data(
    heldout: Sequence[Question], data: Sequence[DataRow], args: argparse.Namespace, run: runinfo.Run, notes: list[str]
) -> list[Question]:
    """The held-out questions that no row asks. A note names the others."""
    mixed_in = [] if args.dataset else run.local_datasets()
    also = rows.read(mixed_in, run.columns) if mixed_in else []
    known = {question_key(row.question) for row in [*data, *also]}
    seen = [q for q in heldout if len(q.messages) == 1 and question_key(q.text) in known]
    if seen:
        ids = ", ".join(q.id for q in seen)
        notes.append(Said("left out, since the dataset itself asks them: {ids}", ids=ids))
    return [q for q in heldout if q not in seen]


def read_questions(
    cfg: config.VerifyConfig,
    files: Sequence[Path] | None = None,
    expect: str | None = None,
    forbid: str | None = None,
) -> QuestionSet:
    """The questions of the configuration and of the user.

    Args:
        cfg: Names the project's files.
        files: The user's files. One with identity questions replaces those of the configuration, and one with general
            tasks the configured tasks.
        expect: --expect, the pattern of the new identity.
        forbid: --forbid, the pattern of the old one.

    Raises:
        UserError: A file is faulty, two questions share an id, or there are no questions.
    """
    own = [questions.read(path) for path in files or ()]
    has_identity = any(each.heldout for each in own)
    has_general = any(each.general for each in own)
    merged = QuestionSet()
    for each in own:
        _merge(merged, each, True, True)
    for path in cfg.questions:
        if not (has_identity and has_general):
            _merge(merged, questions.read(path), not has_identity, not has_general)
    if not merged.all():
        raise UserError(
            _("{path}: no questions; name a file under `questions`, or with --questions FILE").format(path=cfg.path)
        )
    questions.check_unique(merged.all())
    return questions.rebrand(merged, expect, forbid)


def _merge(into: QuestionSet, part: QuestionSet, identity: bool, general: bool) -> None:
    if (identity and part.heldout) or (general and part.general):
        into.sources += part.sources
    if identity:
        into.heldout += part.heldout
        into.trained += part.trained
    if general:
        into.general += part.general
        into.out_of_scope += part.out_of_scope


def in_english(files: QuestionSet, cfg: config.VerifyConfig) -> QuestionSet:
    """The questions with the configured English general tasks instead of the others, if there are any."""
    english = [questions.read(path) for path in cfg.questions_english]
    if not english:
        return files
    return replace(
        files,
        general=[q for each in english for q in each.general],
        out_of_scope=[q for each in english for q in each.out_of_scope],
        sources=[*files.sources, *(source for each in english for source in each.sources)],
    )


def build(wanted: Sequence[Question], system: str, given: Mapping[str, dict[str, Answer]]) -> list[Asked]:
    """Each identity question under the training's system prompt and the template's own; the others under the first.

    Args:
        wanted: The questions. A row's own system prompt replaces both.
        system: The training's system prompt.
        given: Answers that are known already, by the question's id.
    """
    asks = []
    for question in wanted:
        prompt, own = (TRAINING, system) if question.system is None else (ROW, question.system)
        asks.append(Asked(question, prompt, own, given=given.get(question.id, {})))
        if prompt == TRAINING and question.is_identity and question.counted and system != DEFAULT_SYSTEM:
            asks.append(Asked(question, DEFAULT, DEFAULT_SYSTEM))
    return asks
