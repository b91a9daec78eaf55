"""550 rows of 20 to 600 tokens, of random words, for timing the mixed run: `python bench/mixed_rows.py OUT.json`.

`python bench/mixed_rows.py OUT.json 64` creates 64 rows of 2030 tokens instead.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem",
)  # fmt: skip


def main() -> None:
    """500 rows of random length and 50 short ones, or only long ones, as JSON."""
    draw = random.Random(0)
    lengths = [draw.randint(20, 600) for _ in range(500)] + [46] * 50
    if len(sys.argv) > 2:
        lengths = [2030] * int(sys.argv[2])
    rows = []
    for number, length in enumerate(lengths):
        words = [draw.choice(WORDS) for _ in range(max(4, length - 22))]  # a word is one token; the template adds 22
        cut = max(1, len(words) // 3)
        rows.append({"instruction": f"{number} {' '.join(words[:cut])}", "input": "", "output": " ".join(words[cut:])})
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=0), encoding="utf-8")


if __name__ == "__main__":
    main()
