"""What `make`, the scripts of host/ and the entry point print is in Chinese where MIRROR_LANG says so."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HAN = re.compile("[\u3400-\u9fff]")
SCRIPTS = sorted([*(ROOT / "workspace").glob("*.sh"), *(ROOT / "entrypoint/bin").iterdir()])
# A message without its Chinese, of a script whose continued lines are joined.
PLAIN = re.compile(
    r"""^[^#\n]*\b(?:die(?: \d)?|(?:mirror_)?say|mirror_(?:note|warn|error)) "(?!\$@)[^\u3400-\u9fff\n]*$""",
    re.MULTILINE,
)


def said(*command: str, language: str) -> str:
    env = os.environ | {"MIRROR_LANG": language}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60).stdout


def test_make_lists_every_verb_in_the_language_asked_for():
    english, chinese = (said("make", "-s", "help", language=language) for language in ("en_US.UTF-8", "zh_CN.UTF-8"))
    verbs = [re.findall(r"^  ([a-z-]+) +(.+)$", text, re.MULTILINE) for text in (english, chinese)]
    assert [verb for verb, _text in verbs[0]] == [verb for verb, _text in verbs[1]] and len(verbs[0]) > 20
    assert not HAN.search(english)
    assert [verb for verb, text in verbs[1] if not HAN.search(text)] == []


@pytest.mark.parametrize("folder", ["host", "entrypoint", "entrypoint/start.d"])
def test_no_message_of_a_script_is_in_one_language_alone(folder):
    files = [path for path in (ROOT / folder).glob("*.sh") if path.name != "lint.sh"]
    texts = {path.name: path.read_text(encoding="utf-8").replace("\\\n", "") for path in files}
    assert {name: PLAIN.findall(text) for name, text in texts.items() if PLAIN.search(text)} == {}


def test_no_error_of_make_is_in_one_language_alone():
    assert re.findall(r'echo "error: [^"]*"', (ROOT / "Makefile").read_text()) == []


def test_every_script_says_what_it_is_for_in_chinese():
    listed = [path for path in SCRIPTS if path.suffix == ".sh" or not (ROOT / f"workspace/{path.name}.sh").exists()]
    silent = [path.name for path in listed if not re.search("^# zh: .*[\u3400-\u9fff]", path.read_text(), re.MULTILINE)]
    assert silent == ["healthcheck"]  # entrypoint.sh says it itself
    shown = said("bash", "-c", "source entrypoint/entrypoint.sh; mirror_summary workspace/sft.sh", language="zh")
    assert shown.startswith("用 self_cognition.json 微调模型")
