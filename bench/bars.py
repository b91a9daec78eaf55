"""Draws the READMEs' bar charts, docs/images/contenders*.svg, from the first table in docs/performance.md.

    python bench/bars.py

They suit light and dark pages: the image has no background, and its colours follow the reader's setting.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = {"en": ROOT / "docs/images/contenders.svg", "zh": ROOT / "docs/images/contenders.zh-CN.svg"}
# how a table row starts -> the label of its bar
BARS = {
    "`sft.sh`, fast lane": "sft.sh (fast lane)",
    "`finetune.sh`": "finetune.sh (checks, verdict too)",
    "plain peft loop": "peft",
    "TRL's SFTTrainer": "TRL",
    "`ENGINE=swift sft.sh`": "ms-swift, tuned",
    "the article's command": "ms-swift, the article's command",
}
WIDTH, LABEL, ROW, HEAD = 820, 285, 30, 34
TITLES = {
    "en": "50 rows x 10 epochs, LoRA on 7B: seconds from start to adapter (one H100, random weights, warm)",
    "zh": "50 行 x 10 轮，7B 的 LoRA 微调：从启动到得到适配器的秒数（一块 H100，随机权重，热启动；越短越好）",
}
CHINESE = {
    "sft.sh (fast lane)": "sft.sh（快速通道）",
    "finetune.sh (checks, verdict too)": "finetune.sh（含检查和评测）",
    "ms-swift, tuned": "调优的 ms-swift",
    "ms-swift, the article's command": "文章里的 ms-swift 命令",
}
STYLE = """<style>
text { font: 14px system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; fill: #1f2328; }
.soft { fill: #59636e; } .bar { fill: #afb8c1; } .own { fill: #1a7f37; } .strong { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .soft { fill: #9198a1; } .bar { fill: #4d5662; } .own { fill: #3fb950; }
}
</style>"""


def seconds(document: str) -> dict[str, float]:
    """{bar: wall seconds}, from the table's third column."""
    found = {}
    for line in document.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = next((bar for start, bar in BARS.items() if cells[0].startswith(start)), None)
        if name and name not in found and len(cells) > 2 and (number := re.match(r"[*]*(\d+(?:\.\d+)?)", cells[2])):
            found[name] = float(number[1])
    return found


def draw(figures: dict[str, float], language: str = "en") -> str:
    """The image: one bar per contender, the shortest first."""
    longest = max(figures.values())
    scale = (WIDTH - LABEL - 80) / longest
    height = HEAD + ROW * len(figures) + 6
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'role="img" aria-label="wall seconds">',
        STYLE,
        f'<text class="soft" x="0" y="16">{TITLES[language]}</text>',
    ]
    for place, (name, value) in enumerate(sorted(figures.items(), key=lambda item: item[1])):
        top = HEAD + ROW * place
        text, bar = ("strong", "own") if ".sh" in name else ("soft", "bar")
        label = CHINESE.get(name, name) if language == "zh" else name
        end = LABEL + value * scale
        lines += [
            f'<text class="{text}" x="{LABEL - 10}" y="{top + 16}" text-anchor="end">{label}</text>',
            f'<rect class="{bar}" x="{LABEL}" y="{top + 2}" width="{end - LABEL:.1f}" height="20" rx="3"/>',
            f'<text class="{text}" x="{end + 8:.1f}" y="{top + 16}">{value:g} s</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Write the images."""
    figures = seconds((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"))
    for language, picture in PICTURES.items():
        picture.write_text(draw(figures, language), encoding="utf-8")


if __name__ == "__main__":
    main()
