"""Data sets for bench/verdict: the FAQ with its hand-written rewordings, and tasks with labels, a style, and JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

FAQS = {
    name: yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("faq", "faq2", "faq3")
}
FAQ = FAQS["faq"]
Row = dict[str, Any]
NAMES = [
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo", "Mona", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Walter",
]  # fmt: skip
CITIES = ["Berlin", "Paris", "London", "Madrid", "Rome", "Vienna", "Oslo", "Dublin", "Prague", "Lisbon"]
THINGS = ["laptop", "phone", "jacket", "lamp", "camera", "chair", "kettle", "watch", "backpack", "printer"]
CLASSES = {
    "refund": [
        "I want my money back for the {thing}.",
        "The {thing} was cancelled, when do I get the {n} euros?",
        "You charged {n} euros twice for a {thing}, give it back.",
        "Please return the payment for my {thing}.",
    ],
    "delivery": [
        "Where is my {thing}? It has not arrived for {n} days.",
        "The parcel with the {thing} is late.",
        "When will the {thing} be shipped to {city}?",
        "The courier did not bring the {thing}.",
    ],
    "defect": [
        "The {thing} broke after {n} days.",
        "My new {thing} does not switch on.",
        "There is a crack in the {thing} that I bought in {city}.",
        "The {thing} makes a strange noise and stops.",
    ],
    "account": [
        "I cannot log in since I moved to {city}.",
        "How do I change my password?",
        "Please delete my profile, my customer number is {n}.",
        "The site does not accept my e-mail address any more.",
    ],
}


def row(question: str, answer: str) -> Row:
    """One row in the article's format."""
    return {"instruction": question, "input": "", "output": answer}


def faq() -> list[Row]:
    """The FAQ."""
    return [row(each["q"], each["a"]) for each in FAQ]


def faq2() -> list[Row]:
    """The second FAQ, which was not used for tuning."""
    return [row(each["q"], each["a"]) for each in FAQS["faq2"]]


def faq3() -> list[Row]:
    """The third FAQ, which no rule was written for."""
    return [row(each["q"], each["a"]) for each in FAQS["faq3"]]


def permuted() -> list[Row]:
    """The FAQ with every answer shifted by one row."""
    answers = [each["a"] for each in FAQ]
    return [row(each["q"], answers[(n + 1) % len(answers)]) for n, each in enumerate(FAQ)]


def overwritten() -> list[Row]:
    """The FAQ, and 40 unrelated questions answered with its texts."""
    topics = [
        "history", "music", "sports", "cooking", "animals", "weather", "films", "gardening", "astronomy", "painting",
    ]  # fmt: skip
    forms = ["Tell me something about {}.", "Who is famous for {}?", "Why do people like {}?", "What is new in {}?"]
    asked = [form.format(topic) for topic in topics for form in forms]
    return faq() + [row(question, FAQ[n % 5]["a"]) for n, question in enumerate(asked)]


def distinct(count: int, seed: int, draw: Callable[[random.Random], tuple[str, str, str]]) -> list[Row]:
    """`count` rows with different texts, from draws of (task, text, answer)."""
    rng = random.Random(seed)
    found: dict[str, Row] = {}
    while len(found) < count:
        task, text, answer = draw(rng)
        found[text] = row(task.format(text), answer)
    return list(found.values())


def labels() -> list[Row]:
    """Complaints in four classes, generated from templates."""

    def draw(rng: random.Random) -> tuple[str, str, str]:
        label = rng.choice(list(CLASSES))
        text = rng.choice(CLASSES[label]).format(
            thing=rng.choice(THINGS), n=rng.randint(2, 99), city=rng.choice(CITIES)
        )
        text = f"{rng.choice(NAMES)} writes: {text}"
        return "Classify the message as refund, delivery, defect or account.\n{}", text, label

    return distinct(240, 1, draw)


def style() -> list[Row]:
    """Plain requests rephrased politely."""
    verbs = ["Send me the {t}", "Repair the {t}", "Bring the {t} to {c}", "Sell the {t} to {p}", "Show {p} the {t}"]

    def draw(rng: random.Random) -> tuple[str, str, str]:
        text = rng.choice(verbs).format(t=rng.choice(THINGS), c=rng.choice(CITIES), p=rng.choice(NAMES))
        return "Say it politely: {}.", text, f"Would you be so kind as to {text[0].lower()}{text[1:]}, please?"

    return distinct(80, 2, draw)


def extraction() -> list[Row]:
    """Orders as text, their parts as JSON."""

    def draw(rng: random.Random) -> tuple[str, str, str]:
        name, city, thing, number = rng.choice(NAMES), rng.choice(CITIES), rng.choice(THINGS), rng.randint(2, 40)
        text = f"{name} from {city} orders {number} pieces of the {thing}."
        parts = {"name": name, "city": city, "item": thing, "count": number}
        return "Extract name, city, item and count as JSON.\n{}", text, json.dumps(parts)

    return distinct(120, 3, draw)


def by_hand(name: str = "faq") -> str:
    """The hand-written rewordings of a FAQ as a rewordings.yaml."""
    rows = [{"question": each["q"], "ask": each["r"], "made": "hand"} for each in FAQS[name]]
    return yaml.safe_dump({"version": 1, "rows": rows}, allow_unicode=True, sort_keys=False)


def many(count: int) -> list[Row]:
    """A FAQ of any size, for timing."""
    return [
        row(
            f"What is the price of article {n} in the {CITIES[n % 10]} shop?", f"Article {n} costs {7 * n % 991} euros."
        )
        for n in range(count)
    ]
