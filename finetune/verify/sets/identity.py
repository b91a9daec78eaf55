"""Finds the identity that data teach, from the names that most answers give; no pattern by the user is needed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from finetune.data.content import Contents
from finetune.verify.scoring import normalise
from finetune.verify.sets.rows import DataRow

ABOUT_YOU = re.compile(r"[你您妳]|\b(?:you|your|yourself)\b", re.IGNORECASE)
# How an answer gives the speaker's name, in normalised text (lower case, no spaces next to Chinese).
NAME = re.compile(
    r"(?:我叫|叫我|我的(?:中文|英文)?名字?(?:是|叫)|名叫)(?:做|作)?(?P<zh>[^\s,。;!?、:的由是]{2,16})"
    r"|\b(?:my name is|call me|i am called|i'm called|i am|i'm) (?P<en>(?!an? |the |not |sorry|here |happy |glad )"
    r"[a-z][\w-]*(?: [a-z][\w-]*)?)(?=[,.;!?]|$| and | from | by )"
)
VOTES = 2  # answers that must give a name before it counts
NAMES = 3  # the most names in the pattern


def found_name(rows: Sequence[DataRow]) -> str | None:
    """A pattern for the maker and the names that the data teach; None if they teach no identity.

    The maker is the one in most answers about the model itself (finetune/data/content.py defines how many must agree).
    Names count only in addition to a maker: a greeting such as `I am Anna from support` is not an identity.
    """
    about = [row for row in rows if ABOUT_YOU.search(row.question) and "我们的" not in row.answer[:4]]
    contents = Contents()
    for number, row in enumerate(about, 1):
        for _ in contents.look(number, [*row.messages, {"role": "assistant", "content": row.answer}]):
            pass
    for _ in contents.finish():
        pass
    if not contents.most:
        return None
    names: Counter[str] = Counter()
    for row in about:
        names.update({(found["zh"] or found["en"]).strip() for found in NAME.finditer(normalise(row.answer).norm)})
    chosen = [name for name, votes in names.most_common(NAMES) if votes >= VOTES and name != contents.most]
    return "|".join(re.escape(name).replace(r"\ ", " ") for name in [contents.most, *chosen])
