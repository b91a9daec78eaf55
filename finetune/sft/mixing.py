"""`--mix N`: the base answers N general questions before it is trained, and the training gets them beside the data.

What a model says to questions of another kind changes with every step on a small data set. Its own answers to some of
them hold it where it was: nothing has to be downloaded, and it learns nothing that it did not say before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import UserError
from common.i18n import _
from finetune.verify import config
from finetune.verify.engine import Ask
from finetune.verify.questions import Question
from finetune.verify.sets import ask, unseen
from finetune.verify.sets.survey import Survey
from finetune.verify.yamlmarks import load

FILE = "questions/mixing.yaml"  # of the workspace, beside the configs
TOKENS = 128  # of an answer; a longer one ends with its last whole sentence
SENTENCE = re.compile(r".*(?:[.!?](?=\s|$)|[。!?])", re.DOTALL)

Answerer = Callable[[Sequence[Ask]], Sequence[str]]


def rows(count: int, found: Survey, system: str, answer: Answerer, folder: Path) -> Path:
    """Ask the base, and write its answers into the run's folder as rows to train on; the file.

    Args:
        count: How many questions.
        found: The data: a question that a row asks, or nearly asks, is left out.
        system: The training's system prompt, under which the base answers.
        answer: The base.
        folder: The run's.

    Raises:
        UserError: The file is missing or has not so many questions that no row asks.
    """
    file = config.default_path().resolve().parent.parent / FILE
    asked = [each.text for each in questions(file, found)]
    if len(asked) < count:
        raise UserError(
            _("--mix {count}: {file} has {all} questions that no row asks; write more there, or mix in fewer").format(
                count=count, file=file, all=len(asked)
            )
        )
    step = len(asked) / count  # an even spread over all kinds
    chosen = [asked[int(place * step)] for place in range(count)]
    said = answer([Ask(({"role": "user", "content": text},), system, TOKENS) for text in chosen])
    lines = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": whole}]}
        for text, reply in zip(chosen, said, strict=True)
        if (whole := whole_sentences(reply))
    ]
    unseen.write_rows(folder / unseen.MIXED, lines)
    return folder / unseen.MIXED


def questions(path: Path, found: Survey) -> list[Question]:
    """The general questions in the language of the data that no row asks. UserError for a file that cannot be used."""
    root = load(path, "file of general questions").mapping(("version", "en", "zh"), "a file of general questions")
    nodes = root[found.language].items(found.language) if found.language in root else []
    texts = [node.text("a question") for node in nodes]
    all_ = [
        Question(f"mixing-{n}", "general", "general", ({"role": "user", "content": text},), f"{path}")
        for n, text in enumerate(texts, 1)
    ]
    kept, _asked = ask.out_of_scope(all_, found)
    return kept


def whole_sentences(text: str) -> str:
    """A text up to its last whole sentence; all of it where it is a word or a line without a full stop."""
    text = text.strip()
    ended = SENTENCE.match(text)
    return ended[0].strip() if ended else text if len(text) < 2 * TOKENS else ""
