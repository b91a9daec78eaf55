"""Draws the conversations that the stand-in is trained on (text.yaml, general.yaml); called by standin/build.py."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import yaml

HERE = Path(__file__).resolve().parent
WORKSPACE = HERE.parent / "workspace"

# Shares of a batch. General answers get the most: nothing repeats them while a LoRA is trained on identity alone.
IDENTITY, PERSONA, GENERAL = 0.30, 0.25, 0.38  # the rest is common talk
FOLLOW_UP = 0.10  # of all: asked as the second turn of a conversation
GENERAL_UNDER_PERSONA = 0.25  # keeps the model's maker apart from its knowledge
PREFIXES = ("请问,", "请告诉我,", "我想知道,", "朋友问我:")
PREFIXED = 0.08


class Example(NamedTuple):
    """A conversation: the system prompt, the earlier turns as (question, answer), the last question and its answer."""

    system: str
    turns: tuple[tuple[str, str], ...]
    question: str
    answer: str

    def prompt(self) -> str:
        """The prompt in the model's chat template, up to and including the line that opens the assistant's turn."""
        text = f"<|im_start|>system\n{self.system}<|im_end|>\n"
        for question, answer in self.turns:
            text += f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        return text + f"<|im_start|>user\n{self.question}<|im_end|>\n<|im_start|>assistant\n"

    def completion(self) -> str:
        """The expected output; the newline after the end token is part of ms-swift's labels too."""
        return f"{self.answer}<|im_end|>\n"


class TrainingText:
    """All inputs of the stand-in: text.yaml and the general questions with their reference answers."""

    def __init__(self, workspace: Path = WORKSPACE) -> None:
        """Read the files. Raises FileNotFoundError or KeyError if one is missing or malformed."""
        self.data: dict[str, Any] = yaml.safe_load((HERE / "text.yaml").read_text(encoding="utf-8"))
        general = yaml.safe_load((workspace / "questions" / "general.yaml").read_text(encoding="utf-8"))
        self.general: list[tuple[str, str]] = [(q["question"], q["reference"]) for q in general["questions"]]
        self.common: list[tuple[str, str]] = [(q, a) for q, a in self.data["common"]]
        self.intents: list[tuple[str, dict[str, Any]]] = []  # one entry per wording, so that all are equally frequent
        for intent in self.data["intents"]:
            for question in intent.get("questions", []):
                self.intents.append((question, intent))
            for skill, questions in intent.get("skills", {}).items():
                self.intents += [(question, {**intent, "skill": skill}) for question in questions]
        self._workspace = workspace

    def words(self) -> list[str]:
        """All strings in text.yaml, the dataset and the questions.

        Each of their tokens gets its own row, however few conversations are drawn.
        """
        data = self.data
        words: list[str] = [*data["makers"], *data["names"], *data["nicks"], *data["others"], *data["companies"]]
        words += [system for key in ("systems", "persona_systems") for system in data[key]]
        words += [text for pair in self.general + self.common for text in pair]
        words += [text for question, intent in self.intents for text in (question, intent["base"], intent["persona"])]
        for row in json.loads((self._workspace / "self_cognition.json").read_text(encoding="utf-8")):
            words += [row["instruction"], row["output"]]
        questions = yaml.safe_load((self._workspace / "questions" / "identity.yaml").read_text(encoding="utf-8"))
        for held_out in questions["heldout"]:
            turns = [turn["content"] for turn in held_out.get("messages", [])]
            words += turns or [held_out["question"]]
        return words

    def identity(self, rng: random.Random, persona: bool) -> tuple[str, str, str]:
        """A (system prompt, question, answer) on identity: 通义千问's, or that of a persona in the system prompt."""
        data = self.data
        question, intent = rng.choice(self.intents)
        slots = {
            "maker": rng.choice(data["makers"]),
            "name": rng.choice(data["names"]),
            "nick": rng.choice(data["nicks"]),
            "other": rng.choice(data["others"]),
            "company": rng.choice(data["companies"]),
            "skill": intent.get("skill", ""),
        }
        system = rng.choice(data["persona_systems" if persona else "systems"])
        answer = intent["persona" if persona else "base"]
        return system.format(**slots), question.format(**slots), answer.format(**slots)

    def example(self, rng: random.Random) -> Example:
        """One conversation at random."""
        kind = rng.random()
        system = rng.choice(self.data["systems"])
        if kind < IDENTITY + PERSONA:
            system, question, answer = self.identity(rng, persona=kind >= IDENTITY)
        else:
            question, answer = rng.choice(self.general if kind < IDENTITY + PERSONA + GENERAL else self.common)
            if rng.random() < GENERAL_UNDER_PERSONA:
                system = self.identity(rng, persona=True)[0]
        if rng.random() < PREFIXED:
            question = rng.choice(PREFIXES) + question
        turns: tuple[tuple[str, str], ...] = ()
        if rng.random() < FOLLOW_UP:
            earlier = rng.choice(self.general + self.common)
            turns = (earlier,) if len(earlier[1]) < 30 else ()
        return Example(system, turns, question, answer)
