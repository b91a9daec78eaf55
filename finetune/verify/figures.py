"""Computes figures and threshold checks from answers; called once for each adapter of a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.verify import rules, stats, textmetrics
from finetune.verify.config import THRESHOLDS
from finetune.verify.engine import Answer
from finetune.verify.judge import Judge, Judgement, rouge_l
from finetune.verify.questions import Question
from finetune.verify.scoring import Mark, judge
from finetune.verify.stats import Figure
from finetune.verify.words import Said

TRAINING, DEFAULT, ROW = "training", "default", "row"  # system prompts: the training's, the template's, the row's own
OF_ROWS = ("learned", "reworded", "unseen")  # parts whose answers are compared with those of the data
ELSEWHERE = ("general", "out_of_scope")  # parts that no row answers


@dataclass(frozen=True)
class Scored:
    """An answer and its judgement; `ok` is None if nothing decides it (a general task without a rule)."""

    answer: Answer
    text: str
    ok: bool | None
    old_named: bool = False
    reason: str = ""
    marks: tuple[Mark, ...] = ()
    judged: Judgement | None = None  # the comparison with the data's answers, for questions of a row
    spill: int | None = None  # the row whose answer is repeated, for questions that no row answers
    nll: float | None = None  # of the reference, in nats per token


@dataclass
class Asked:
    """A question under one system prompt and its results: `scored` has the keys before, after and other."""

    question: Question
    prompt: str
    system: str
    scored: dict[str, Scored] = field(default_factory=dict)
    given: dict[str, Answer] = field(default_factory=dict)  # answers of adapters that no longer exist (folds)


def score(question: Question, answer: Answer, old: Any, judge_of_data: Judge | None = None) -> Scored:
    """Judge one answer by its question's identity patterns, rule or row.

    Args:
        question: The question.
        answer: The answer.
        old: The pattern of the old identity, or None.
        judge_of_data: Compares answers with the data; None without data.
    """
    judged = None
    if question.part == "near_miss" and judge_of_data is not None and question.row is not None:
        return _elsewhere(answer, judge_of_data.repeats(question.row, question.text, answer.text))
    if judge_of_data is not None and question.row is not None:
        judged = judge_of_data.score(question.row, answer.text)
    if question.is_identity and question.counted:
        found = judge(answer.text, question.expect, question.forbid, old, answer.cut, question.text)
        return Scored(answer, found.text, found.ok, found.old_named, found.reason, found.marks, judged)
    if question.part in OF_ROWS and judged is not None:
        return Scored(answer, answer.text, judged.right, reason=judged.why, judged=judged)
    spill = judge_of_data.spills(answer.text) if judge_of_data and question.part in ELSEWHERE else None
    if question.rule is not None:
        outcome = rules.check(question.rule, answer.text)
        return Scored(answer, answer.text, outcome.ok, reason=rules.printable(outcome.reason), spill=spill)
    if question.part == "out_of_scope" and judge_of_data is not None:
        return _elsewhere(answer, spill)
    return Scored(answer, answer.text, None, judged=judged, spill=spill)


def _elsewhere(answer: Answer, spill: int | None) -> Scored:
    """Score an answer to a question that no row answers: wrong if it repeats the row with index `spill`."""
    reason = "" if spill is None else f"repeats the answer of row {spill + 1}"
    return Scored(answer, answer.text, spill is None, reason=reason, spill=spill)


def figures(asked: Sequence[Asked], after: str = "after") -> dict[str, Figure]:
    """All figures before and after the training. A figure whose questions were not asked is left out.

    The unit is a question: one that was asked under two system prompts counts with the mean of its two answers.

    Args:
        asked: The questions with their scored answers.
        after: The answers to compare with those before: "after", or "other" for the second adapter of a comparison.
    """
    found: dict[str, Figure] = {}
    sides = {"before": "before", "after": after}
    asked = [each for each in asked if after in each.scored]  # folds have answers of the first adapter only
    identity = [a for a in asked if a.question.is_identity and a.question.counted]
    parts = {part: [a for a in identity if a.question.part == part] for part in ("trained", "heldout")}
    parts["adversarial"] = [a for a in identity if a.question.kind == "adversarial"]
    if {a.prompt for a in identity} == {TRAINING, DEFAULT}:
        for part in ("trained", "heldout"):
            for prompt in (TRAINING, DEFAULT):
                parts[f"{part}_{prompt}_prompt"] = [a for a in parts[part] if a.prompt == prompt]
    for part, chosen in parts.items():
        _shares(found, f"identity_{part}", chosen, sides, lambda scored: bool(scored.ok))
    _shares(found, "old_identity", identity, sides, lambda scored: scored.old_named)

    ruled = [a for a in asked if a.question.rule is not None]
    _shares(found, "rules", ruled, sides, lambda scored: bool(scored.ok))
    if ruled:
        lost = _lost(ruled, sides)
        low, high = stats.bootstrap(len(lost), lambda index: sum(lost[i] for i in index))
        found["rules_lost"] = Figure(sum(lost), low, high, len(lost))

    for part, prefix in (("general", ""), ("alpaca", "alpaca_")):
        compared = [a for a in asked if a.question.part == part and a.question.reference]
        if compared:
            texts = {side: [a.scored[key].text for a in compared] for side, key in sides.items()}
            references = [a.question.reference or "" for a in compared]
            for name, metric in (("bleu", textmetrics.bleu()), ("chrf", textmetrics.chrf())):
                found |= textmetrics.compare(prefix + name, metric, texts["before"], texts["after"], references)
    other = [a for a in asked if a.question.part in ("general", "alpaca")]
    if other:
        lengths = [[a.scored[key].answer.tokens for a in other] for key in (after, "before")]
        found["length_ratio"] = stats.mean_ratio(*lengths)
    _shares(found, "ran_to_limit", asked, sides, lambda scored: scored.answer.cut)
    return found | of_sets(asked, sides)


def of_sets(asked: Sequence[Asked], sides: Mapping[str, str]) -> dict[str, Figure]:
    """The figures of the sets that are made from the data.

    Args:
        asked: The questions with their scored answers.
        sides: End of a figure's name (before, after) -> key of the answers in `scored`.
    """
    found: dict[str, Figure] = {}
    rows = [a for a in asked if a.question.row is not None and a.prompt != DEFAULT]
    parts = {
        "learned": [a for a in rows if a.question.part in ("learned", "trained")],
        "reworded": [a for a in rows if a.question.part == "reworded" and a.question.counted],
        "unseen": [a for a in rows if a.question.part == "unseen"],
    }
    for part, chosen in parts.items():
        judged = [a for a in chosen if all(a.scored[key].judged for key in sides.values())]
        _shares(found, part, judged, sides, lambda scored: scored.judged is not None and scored.judged.right)
    if parts["learned"]:
        elsewhere = [a for a in asked if a.question.part in ELSEWHERE]
        near = [a for a in asked if a.question.part == "near_miss"]
        _shares(found, "out_of_scope", elsewhere, sides, lambda scored: scored.spill is not None)
        _shares(found, "out_of_scope_near", near, sides, lambda scored: scored.spill is not None)
        if ruled := [a for a in asked if a.question.rule is not None]:
            found["general_lost"] = stats.mean(_lost(ruled, sides))
    labels = [a for a in parts["unseen"] if a.question.kind == "label"]
    if labels:
        commonest = Counter(a.question.reference for a in labels).most_common(1)[0][0]
        above = [int(bool(a.scored[sides["after"]].ok)) - int(a.question.reference == commonest) for a in labels]
        found["unseen_over_majority"] = stats.mean(above)
    weighed = [a for a in parts["learned"] if all(a.scored[key].nll is not None for key in sides.values())]
    if weighed:
        for side, key in sides.items():
            found[f"nll_{side}"] = stats.mean([a.scored[key].nll or 0.0 for a in weighed])
        drops = [(a.scored[sides["before"]].nll or 0.0) - (a.scored[sides["after"]].nll or 0.0) for a in weighed]
        found["nll_drop"] = stats.mean(drops)
    texts = [a for a in parts["learned"] if a.question.kind == "text" and a.question.part == "learned"]
    if texts:
        for side, key in sides.items():
            scores = [rouge_l(a.scored[key].answer.text, a.question.reference or "") for a in texts]
            found[f"rouge_{side}"] = stats.mean(scores)
    return found


def _shares(
    found: dict[str, Figure],
    name: str,
    asked: Sequence[Asked],
    sides: Mapping[str, str],
    passed: Callable[[Scored], bool],
) -> None:
    """Add NAME_before and NAME_after, the share of questions whose answers passed, if any were asked."""
    for side, key in sides.items():
        values: dict[str, list[bool]] = {}
        for each in asked:
            values.setdefault(each.question.id, []).append(passed(each.scored[key]))
        if values:
            found[f"{name}_{side}"] = stats.wilson(sum(sum(v) / len(v) for v in values.values()), len(values))


def _lost(asked: Sequence[Asked], sides: Mapping[str, str]) -> list[int]:
    """Question by question: 1 if it was right before the training only, -1 if after it only, else 0."""
    return [bool(a.scored[sides["before"]].ok) - bool(a.scored[sides["after"]].ok) for a in asked]


# ------------------------------------------------------------------------------------------------------- verdict


@dataclass(frozen=True)
class Check:
    """A threshold compared with its figure; `certain` if the whole 95 % interval is on one side of the limit."""

    threshold: str
    figure: str
    bound: str  # min or max
    limit: float
    value: float
    ok: bool
    certain: bool


LABELS = {
    "identity_trained": "new identity, trained questions",
    "identity_heldout": "new identity, held-out questions",
    "identity_adversarial": "new identity, adversarial questions",
    "identity_trained_training_prompt": "trained, under the training's system prompt",
    "identity_trained_default_prompt": "trained, under Qwen's default system prompt",
    "identity_heldout_training_prompt": "held-out, under the training's system prompt",
    "identity_heldout_default_prompt": "held-out, under Qwen's default system prompt",
    "old_identity": "old identity named",
    "rules": "general tasks passed by rule",
    "bleu": "BLEU, general tasks",
    "chrf": "chrF, general tasks",
    "alpaca_bleu": "BLEU, Alpaca rows",
    "alpaca_chrf": "chrF, Alpaca rows",
    "ran_to_limit": "answers that ran to the limit",
    "identity_trained_after": "new identity on trained questions",
    "identity_heldout_after": "new identity on held-out questions",
    "old_identity_after": "old identity still named",
    "bleu_drop": "BLEU drop on general tasks",
    "chrf_drop": "chrF drop on general tasks",
    "alpaca_bleu_drop": "BLEU drop on Alpaca rows",
    "alpaca_chrf_drop": "chrF drop on Alpaca rows",
    "rules_lost": "general tasks lost",
    "length_ratio": "length of general answers, after / before",
    "learned": "the data's own questions answered right",
    "reworded": "the same questions in other words answered right",
    "unseen": "rows left out of the training answered right",
    "out_of_scope": "answers to something else that repeat the data",
    "out_of_scope_near": "near misses answered with what the data say of something else",
    "nll": "surprise at the data's answers (nats a token)",
    "rouge": "ROUGE-L against the data's answers",
    "general_lost": "general tasks lost, of all",
    "unseen_over_majority": "unseen labels right, beyond always giving the commonest",
    "nll_drop": "less surprise at the data's answers (nats a token)",
}


def label(figure: str) -> str:
    """A figure's name in words."""
    return LABELS.get(figure) or LABELS.get(figure.removesuffix("_after"), figure)


def sentence(check: Mapping[str, Any]) -> Said:
    """A threshold and its figure in words; `check` is an entry of `thresholds` in report.json."""
    name = check["figure"]
    wanted = "wanted at least {limit}" if check["bound"] == "min" else "wanted at most {limit}"
    return Said(
        "{label}: {value}, {wanted}",
        label=Said(label(name)),
        value=shown(name, check["value"]),
        wanted=Said(wanted, limit=shown(name, check["limit"])),
    )


def is_share(figure: str) -> bool:
    """Whether a figure is a share of questions, rather than points of BLEU or chrF, a count, or a ratio."""
    return not any(word in figure for word in ("bleu", "chrf", "length_ratio", "rules_lost", "nll", "rouge"))


def shown(figure: str, value: float) -> str:
    """A figure's value as text: shares in per cent, others with two decimals."""
    if is_share(figure):
        return f"{100 * value:.1f} %"
    return f"{value:.0f}" if figure == "rules_lost" and value == int(value) else f"{value:.2f}"


def checks(thresholds: Mapping[str, float], found: Mapping[str, Figure]) -> list[Check]:
    """Compare each threshold with its figure; one whose questions were not asked is left out.

    The BLEU threshold applies to Alpaca rows too, if they were asked.

    Args:
        thresholds: The limits by name, one of config.THRESHOLDS.
        found: The figures.
    """
    result = []
    for name, limit in thresholds.items():
        figure, bound, _, _ = THRESHOLDS[name]
        for each in (figure, f"alpaca_{figure}"):
            if each in found:
                value = found[each]
                # Rounded as in the report: the last bit of a sum must not decide the verdict.
                at = round(value.value, 6)
                ok = at >= limit if bound == "min" else at <= limit
                worst, best = (value.low, value.high) if bound == "min" else (-value.high, -value.low)
                wanted = limit if bound == "min" else -limit
                certain = worst >= wanted if ok else best < wanted
                result.append(Check(name, each, bound, limit, value.value, ok, certain))
    return result
