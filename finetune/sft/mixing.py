"""`--mix N`: the base answers N general questions before training, and its answers are added to the training data.

On a small data set, the model's answers to other kinds of questions change with every step. Its own earlier answers
keep it stable: nothing has to be downloaded, and it learns nothing that it did not say before.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.i18n import _
from finetune.verify import config
from finetune.verify.engine import Ask
from finetune.verify.questions import Question
from finetune.verify.sets import ask, row_files
from finetune.verify.sets.survey import Survey
from finetune.verify.yamlmarks import load

if TYPE_CHECKING:
    from finetune.verify.rewordings.make import Answerer

FILE = "questions/mixing.yaml"  # in the workspace, next to the configs
TOKENS = 128  # per answer; a longer one is cut after its last complete sentence
SENTENCE = re.compile(r".*(?:[.!?](?=\s|$)|[。！？!?])", re.DOTALL)


def rows(count: int, found: Survey, system: str, answer: Answerer, folder: Path) -> Path:
    """Ask the base, and write its answers to the run's folder as training rows; returns the file.

    Args:
        count: Number of questions.
        found: The data: a question that a row asks, exactly or nearly, is left out.
        system: The training's system prompt, under which the base answers.
        answer: Answers with the base.
        folder: The run's folder.

    Raises:
        UserError: The file is missing, or has too few questions that no row asks.
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
    row_files.write_rows(folder / row_files.MIXED, lines)
    return folder / row_files.MIXED


def questions(path: Path, found: Survey) -> list[Question]:
    """The general questions in the data's language that no row asks. Raises UserError if the file is unusable."""
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
    """A text up to its last complete sentence; all of it if it is a word or a line without a full stop."""
    text = text.strip()
    ended = SENTENCE.match(text)
    return ended[0].strip() if ended else text if len(text) < 2 * TOKENS else ""
