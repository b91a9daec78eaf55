"""Assembles report.json, from which all other reports are made; docs/verify-report.schema.json is its schema."""

from __future__ import annotations

import datetime
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.i18n import _
from common.model_kind import STANDIN
from finetune.verify import advice
from finetune.verify.figures import ROW, Asked, Check, Scored, checks, figures, sentence
from finetune.verify.judge import Judgement
from finetune.verify.rules import printable
from finetune.verify.words import Said

if TYPE_CHECKING:
    from finetune.verify.engine import Engine
    from finetune.verify.runinfo import Run
    from finetune.verify.session import VerdictSession

SCHEMA_VERSION = 1
UPPER_BOUND = Said(
    "rules keep more of a question than customers do: the share of reworded questions answered right is an upper "
    "bound; for a figure to rely on, write some by hand and give them with --rewordings FILE"
)
PACKAGES = ("torch", "safetensors", "tokenizers", "sacrebleu", "rapidfuzz", "ms-swift", "transformers", "peft")


def assemble(job: VerdictSession, asked: Sequence[Asked], engine: Engine) -> dict[str, Any]:
    """The report, except for `seconds`.

    Args:
        job: The verdict.
        asked: The questions with their scored answers.
        engine: The engine that answered.

    Raises:
        UserError: No threshold applies, because none of the questions it needs was asked.
    """
    selected = job.selected
    thresholds = selected.thresholds(job.cfg)
    ruled = job.wordings.mostly_by_rules
    parts = verdict(asked, thresholds, ruled=ruled)
    if not parts["thresholds"]:
        raise UserError(
            _("no threshold can be checked, as none of their questions was asked; add questions with --questions")
        )
    run = about_run(job.run)
    failed = {name: check for name, check in parts["thresholds"].items() if not check["ok"]}
    other = {"adapter": str(job.other), **verdict(asked, thresholds, "other", ruled)} if job.other else None
    return {
        "schema_version": SCHEMA_VERSION,
        **parts,
        "advice": advice.line(
            failed,
            parts["figures"],
            run | {"losses": job.run.losses_of_adapter},
            bool(selected.trained_on),
            job.kind is STANDIN,
        ),
        "language": selected.language,
        "data": about_data(job),
        "confusion": confusion(job, asked),
        "engine": engine.name,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "adapter": str(job.adapter),
        "model": about_model(job, engine),
        "notes": [*selected.notes, *notes_on_rewordings(job, asked), *notes_on_the_base(engine)],
        "compare": other,
        "run": run,
        "settings": {
            "prompts": {each.prompt: each.system for each in asked if each.prompt != ROW},
            "max_new_tokens": job.limits,
            "decoding": "greedy",
            "old_identity": job.args.forbid or job.cfg.old_identity_source,
            "expect": job.args.expect or (selected.found.name if selected.found else None),
            "questions": selected.sources,
            "config": str(job.cfg.path),
        },
        "versions": versions(),
        "seconds": {},
        "memory": engine.memory(),
        "questions": questions(asked),
    }


def about_model(job: VerdictSession, engine: Engine) -> dict[str, Any]:
    """The base model, and what it ran on."""
    return {
        "path": str(job.model_dir),
        "standin": job.kind is STANDIN,
        "kind": job.kind.name,
        "mark": job.kind.mark(),
        "device": engine.device,
        "dtype": engine.dtype,
    }


def about_run(run: Run) -> dict[str, Any]:
    """How the adapter was trained."""
    return {
        "folder": str(run.folder),
        "settings": run.shown(),
        "losses": [list(point) for point in run.losses],
        "held_out_losses": [list(point) for point in run.held_out],
        "max_steps": run.max_steps,
        "epochs": run.epochs,
    }


def about_data(job: VerdictSession) -> dict[str, Any] | None:
    """What kind of data were judged, and how; None without data."""
    found, chosen = job.selected.found, job.selected.chosen
    if found is None:
        return None
    made = job.wordings
    return {
        "rows": found.total,
        "kind": found.nature.kind,
        "generalises": found.nature.generalises,
        "why": found.nature.why,
        "identity_rows": len(found.taught),
        "unseen_by": job.selected.unseen_by if chosen else None,
        "rewordings": {
            "file": str(made.path) if made.path else None,
            "by_base": made.by_base,
            "by_rules": made.by_rules,
            "by_hand": made.by_hand,
            "trained_on": len(job.selected.trained_on),
        },
    }


def notes_on_rewordings(job: VerdictSession, asked: Sequence[Asked]) -> list[str]:
    """Who made the rewordings, where that was not the base alone, and how much the figure tells."""
    made = job.wordings
    if not made.by_rules:
        return []
    if job.kind is STANDIN:
        who = Said("all rewordings were made by simple rules: the stand-in writes none; {file}", file=made.path)
    else:
        who = Said(
            "{rules} of {count} rewordings were made by simple rules, where the base wrote none that fit; {file}",
            rules=made.by_rules,
            count=made.by_base + made.by_rules + made.by_hand,
            file=made.path,
        )
    reworded = [each.question for each in asked if each.question.part == "reworded"]
    easy = sum(not question.counted for question in reworded)
    few = Said(
        "{count} of {total} keep more of their question than people do: asked, not counted",
        count=easy,
        total=len(reworded),
    )
    return [who, *([few] if easy else []), *([UPPER_BOUND] if made.mostly_by_rules else [])]


def notes_on_the_base(engine: Engine) -> list[str]:
    """A note if answers of the base came from the cache."""
    kept = getattr(engine, "taken", 0)
    if not kept:
        return []
    return [Said("{count} answers of the base are those of an earlier verdict; --ask-base asks again", count=kept)]


def confusion(job: VerdictSession, asked: Sequence[Asked]) -> dict[str, dict[str, int]] | None:
    """Label in the data -> label answered -> how often, for unseen rows, else learned ones; None without labels."""
    found = job.selected.found
    labels = [a for a in asked if a.question.kind == "label" and a.question.row is not None and "after" in a.scored]
    chosen = [a for a in labels if a.question.part == "unseen"] or [a for a in labels if a.question.part == "learned"]
    if found is None or not chosen:
        return None
    pairs = [(a.question.row, a.scored["after"].answer.text) for a in chosen if a.question.row is not None]
    return found.judge.confusion(pairs)


def verdict(
    asked: Sequence[Asked], thresholds: Mapping[str, float], after: str = "after", ruled: bool = False
) -> dict[str, Any]:
    """The verdict on one adapter: verdict, failures, thresholds, figures.

    Args:
        asked: The questions with their scored answers.
        thresholds: The limits by name.
        after: The key of the adapter's answers: "after", or "other" for the second adapter of a comparison.
        ruled: Rules wrote most of the reworded questions. A pass on those is not certain: customers' own are harder.
    """
    found = figures(asked, after)
    held = {_name(check): _check(check) for check in checks(thresholds, found)}
    if ruled and held.get("reworded_min", {}).get("ok"):
        held["reworded_min"]["certain"] = False
    failures = [str(sentence(check)) for check in held.values() if not check["ok"]]
    return {
        "verdict": "fail" if failures or not held else "pass",
        "failures": failures,
        "thresholds": held,
        "figures": {name: figure.as_dict() for name, figure in found.items()},
    }


def _name(check: Check) -> str:
    return f"alpaca_{check.threshold}" if check.figure.startswith("alpaca_") else check.threshold


def _check(check: Check) -> dict[str, Any]:
    return {
        "figure": check.figure,
        "bound": check.bound,
        "limit": check.limit,
        "value": round(check.value, 6),
        "ok": check.ok,
        "certain": check.certain,
    }


def questions(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """All questions with their answers, in the order in which they were asked."""
    found: dict[str, dict[str, Any]] = {}
    for each in asked:
        question = each.question
        entry = found.setdefault(
            question.id,
            {
                "id": question.id,
                "part": question.part,
                "kind": question.kind,
                "counted": question.counted,
                "messages": [{"role": m["role"], "content": _text(m["content"])} for m in question.messages],
                "reference": question.reference,
                "rule": next(iter({"number", "regex", "python"} & set(question.rule))) if question.rule else None,
                "where": question.where,
                "row": None if question.row is None else question.row + 1,
                "asked": [],
            },
        )
        answers = {side: _answer(scored) for side, scored in each.scored.items()}
        entry["asked"].append({"prompt": each.prompt, "answers": answers})
    return list(found.values())


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _answer(scored: Scored) -> dict[str, Any]:
    return {
        "text": scored.text,
        "tokens": scored.answer.tokens,
        "cut": scored.answer.cut,
        "ok": scored.ok,
        "old_named": scored.old_named,
        "reason": printable(scored.reason),
        "marks": [asdict(mark) for mark in scored.marks],
        "facts": _facts(scored.judged) if scored.judged else None,
        "spill": None if scored.spill is None else scored.spill + 1,
        "nll": None if scored.nll is None else round(scored.nll, 4),
    }


def _facts(judged: Judgement) -> dict[str, Any]:
    """The comparison of an answer with those of the data; rows count from 1."""
    return {
        "right": judged.right,
        "why": printable(judged.why),
        "code": judged.code,
        "chrf": round(judged.chrf, 1),
        "nearest": None if judged.nearest is None else judged.nearest + 1,
        "missing": judged.missing,
        "wrong": judged.wrong,
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that affect the figures."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    # torch's own version names the build (2.10.0+cu128); the package's metadata does not.
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = str(torch.__version__)
    return found
