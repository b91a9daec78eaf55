"""The judge against labels by hand; test_agreement.py holds it to the bar.

`python agreement.py [PART]` prints the agreement and what differs. A part is a file's name up to its hyphen, or a half
of en.yaml and zh.yaml: development, held-out.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.verify.judge import Judge, Judgement, Reference

LABELLED = Path(__file__).with_name("labelled")


@dataclass(frozen=True)
class Case:
    """A labelled answer and what the judge says of it."""

    data: str
    language: str
    reference: Reference
    answer: str
    right: bool
    why: str
    judged: Judgement
    file: str

    @property
    def part(self) -> str:
        """What the file's name begins with; of en.yaml and zh.yaml half is development, half held-out, by a hash."""
        if "-" in self.file:
            return self.file.split("-")[0]
        key = f"{self.data}|{self.reference.question}|{self.answer}"
        return "held-out" if zlib.crc32(key.encode()) % 2 else "development"

    @property
    def agrees(self) -> bool:
        return self.judged.right == self.right


def rows(data: dict[str, Any]) -> list[Reference]:
    """The rows of one labelled dataset, repeated where it says so (labels)."""
    return [Reference(q, a) for q, a in data["rows"]] * data.get("repeat", 1)


def cases() -> Iterator[Case]:
    """Every labelled answer, judged."""
    for path in sorted(LABELLED.glob("*.yaml")):
        for data in yaml.safe_load(path.read_text(encoding="utf-8")):
            judge = Judge(rows(data))
            for row, right, why, answer in data["answers"]:
                reference, judged = judge.references[row], judge.score(row, answer)
                yield Case(data["data"], path.stem[-2:], reference, answer, right, str(why), judged, path.stem)


def main() -> None:
    """Print the rate of agreement for each part and language, and the cases that differ."""
    which = sys.argv[1] if len(sys.argv) > 1 else "all"
    found = [case for case in cases() if which in ("all", case.part)]
    for case in found:
        if not case.agrees:
            label = "right" if case.right else "wrong"
            print(f"- {case.data}: {case.reference.answer!r}\n    <- {case.answer!r}")
            print(f"    hand: {label} ({case.why}); judge: {case.judged.code}, {case.judged.why}")
    for name in sorted({(case.part, case.language) for case in found}):
        part = [case for case in found if (case.part, case.language) == name]
        print(*name, f"{sum(case.agrees for case in part)} of {len(part)}")
    agreed = sum(case.agrees for case in found)
    print(f"{which}: {agreed} of {len(found)}: {agreed / len(found):.1%}")


if __name__ == "__main__":
    main()
