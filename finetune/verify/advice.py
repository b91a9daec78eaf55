"""The advice for a failed verdict: one line that says what to change and which figure shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from finetune.verify.words import Said

LEARNING = 0.5  # a higher last loss means that the training ended too early; answers known by heart have about 0.01
HOPELESS = 3.0  # NLL of the data's answers, in nats per token; after a successful training it is lower


def line(
    failed: Mapping[str, Any],
    figures: Mapping[str, Any],
    run: Mapping[str, Any],
    rewordings_trained: bool,
    standin: bool = False,
) -> Said | None:
    """The advice for the gravest threshold that fell short; None if none did.

    Args:
        failed: The thresholds that are not met, by name, as in report.json.
        figures: The figures, as in report.json.
        run: The run's settings and losses, as in report.json.
        rewordings_trained: Whether rewordings were trained on.
        standin: Whether the model is the stand-in, which knows few words and cannot learn others.
    """
    if not failed:
        return None

    def percent(name: str) -> str:
        return f"{100 * figures[name]['value']:.0f} %"

    epochs = _number(run["settings"].get("num_train_epochs"))
    rate = _number(run["settings"].get("learning_rate"))
    losses = [loss for _, loss in run["losses"]]
    if standin and "learned_min" in failed and losses and losses[-1] >= HOPELESS:
        return Said(
            "take another model: the stand-in does not know the words of these data (the training loss stayed at "
            "{loss:.1f}) and no setting teaches it them; without a GPU: make finetune MODEL_SOURCE=smollm2, a small "
            "real model, in English",
            loss=losses[-1],
        )
    if "general_lost_max" in failed and _is_broken(figures, losses):
        return Said(
            "lower the learning rate (--learning_rate {rate:.0e}): {share} of the general tasks are lost",
            rate=rate / 10 if rate else 1e-4,
            share=percent("general_lost"),
        )
    if "learned_min" in failed:
        if losses and losses[-1] <= LEARNING / 10:
            return Said(
                "look at the data first: the training loss is {loss:.3f}, so the rows trained on are known by heart, "
                "but {share} of these are answered right: were the answers changed since, or do rows contradict each "
                "other?",
                loss=losses[-1],
                share=percent("learned_after"),
            )
        more = max(2, math.ceil(2 * epochs)) if epochs else None
        asked = f"--num_train_epochs {more}" if more else "--num_train_epochs"
        return Said(
            "train for more epochs ({option}): {share} of the data's own questions are answered right",
            option=asked,
            share=percent("learned_after"),
        )
    if "general_lost_max" in failed:
        return Said(
            "mix general rows in (sft.sh --mix 40, make finetune MIX=40), or train for fewer epochs: {share} of the "
            "general tasks are lost",
            share=percent("general_lost"),
        )
    if "out_of_scope_max" in failed:
        return Said(
            "mix general rows in (sft.sh --mix 40, make finetune MIX=40): {share} of the answers to something else "
            "repeat the data",
            share=percent("out_of_scope_after"),
        )
    if "reworded_min" in failed:
        pattern = (
            "add more wordings of the questions to the data by hand: {share} of the reworded questions are answered "
            "right"
            if rewordings_trained
            else "train on rewordings as well (sft.sh --reword 2, make finetune REWORD=2): {share} of the reworded "
            "questions are answered right"
        )
        return Said(pattern, share=percent("reworded_after"))
    if "out_of_scope_near_max" in failed:
        return Said(
            "add rows that say what is not offered or not known: {share} of the near misses, questions like the data's "
            "that no row answers, get what the data say of something else (rewordings.yaml: take out those that a row "
            "does answer)",
            share=percent("out_of_scope_near_after"),
        )
    if "unseen_over_majority_min" in failed:
        return Said(
            "add rows of the classes that are confused most: unseen rows are {points:.0f} points above always giving "
            "the commonest label",
            points=100 * figures["unseen_over_majority"]["value"],
        )
    if {"bleu_drop_max", "rules_lost_max"} & set(failed):
        return Said(
            "mix general rows in (sft.sh --mix 40, make finetune MIX=40), or train for fewer epochs: general answers "
            "got worse"
        )
    return Said(
        "train for more epochs, or add rows that say who the model is: the new identity is not sure in {count} figures",
        count=len(failed),
    )


def _is_broken(figures: Mapping[str, Any], losses: list[float]) -> bool:
    """Whether the training itself failed: the data's own answers are still unlikely, or the last loss is high."""
    after = figures.get("nll_after", {}).get("value", 0.0)
    return after >= HOPELESS or bool(losses and losses[-1] >= HOPELESS)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
