"""infer.sh's Python: which words are questions, which adapter answers; ms-swift is a stub that echoes."""

from __future__ import annotations

import json
import sys

import pytest

from common.errors import UserError
from finetune.commands import infer
from finetune.engines.swift import options as swift_options
from finetune.engines.swift.arguments import Arguments

STUB_SWIFT = """#!{python}
# A stub of ms-swift: answers every question with itself reversed, and leaves the words that it got.
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
Path({words!r}).write_text(json.dumps(words))
print("log")
if os.environ.get("STUB_CODE"):
    sys.exit("RuntimeError: a cause")
asked = Path(words[words.index("--val_dataset") + 1]).read_text().splitlines()
with open(words[words.index("--result_path") + 1], "w") as file:
    for line in asked:
        file.write(json.dumps({{"response": json.loads(line)["messages"][0]["content"][::-1]}}) + "\\n")
"""


@pytest.fixture
def ask(mirror, monkeypatch):
    """A function that runs infer.sh with words and returns the words that ms-swift got."""
    (mirror / "infer.yaml").write_text("model: Qwen2.5-7B-Instruct\nstream: true\ntemperature: 0\n")
    stub, words = mirror / "stub-swift", mirror / "words.json"
    stub.write_text(STUB_SWIFT.format(python=sys.executable, words=str(words)))
    stub.chmod(0o755)
    monkeypatch.setattr("finetune.engines.swift.launcher.find_real", lambda: str(stub))

    def run(*arguments: str) -> list[str]:
        assert infer.main(["--config", str(mirror / "infer.yaml"), *arguments]) == 0
        return json.loads(words.read_text())

    return run


@pytest.mark.parametrize(
    ("words", "questions", "left"),
    [
        (["你是谁?"], ["你是谁?"], []),
        (["a", "b", "--temperature", "0.5"], ["a", "b"], ["--temperature", "0.5"]),
        (["--temperature", "0.5", "你是谁?"], ["你是谁?"], ["--temperature", "0.5"]),
        (["--temperature=0.5", "q"], ["q"], ["--temperature=0.5"]),
        (["--stream", "q"], ["q"], ["--stream"]),
        (["--stream", "false", "q"], ["q"], ["--stream", "false"]),
        (["--adapters", "x", "y"], [], ["--adapters", "x", "y"]),
        (["--no_such", "q"], [], ["--no_such", "q"]),
    ],
)
def test_questions_are_the_words_that_belong_to_no_option(words, questions, left):
    args = Arguments(words)
    assert swift_options.take_questions(args, swift_options.options_of("infer")) == questions
    assert args.words() == left


def test_an_answer_and_nothing_else_goes_to_stdout(ask, capsys):
    words = ask("你是谁?")
    assert capsys.readouterr().out == "?谁是你\n"
    assert words[0] == "infer" and words[words.index("--stream") + 1] == "false"
    assert "--adapters" not in words


def test_several_questions_are_answered_in_their_order(ask, capsys):
    ask("ab", "cd\nef")
    assert capsys.readouterr().out == "ab\nba\n\ncd\nef\nfe\ndc\n\n"


def test_the_newest_adapter_and_one_by_name(ask, mirror, checkpoint, capsys):
    path = checkpoint(mirror / "output/run-1")
    for name in ("newest", str(path), str(path.parent)):
        words = ask("--adapter", name, "q")
        assert words[words.index("--adapters") + 1] == str(path)
    assert f"adapter: {path}" in capsys.readouterr().err


def test_what_is_no_adapter(ask, mirror, checkpoint):
    with pytest.raises(UserError, match=r"run finetune\.sh first"):
        ask("--adapter", "newest", "q")
    with pytest.raises(UserError, match="no such adapter"):
        ask("--adapter", "nowhere", "q")
    path = checkpoint(mirror)
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"incomplete checkpoint \(no adapter_model\.safetensors"):
        ask("--adapter", str(path), "q")


def test_an_empty_question(ask):
    with pytest.raises(UserError, match="empty question"):
        ask(" ")


def test_a_failure_is_one_line_and_keeps_the_log(ask, monkeypatch, tmp_path):
    monkeypatch.setenv("STUB_CODE", "1")
    with pytest.raises(UserError, match=r"exit code 1: RuntimeError: a cause; its whole output is in (\S+)") as failed:
        ask("q")
    assert failed.value.exit_code == 1
    with open(str(failed.value).rsplit(" ", 1)[1]) as kept:
        assert kept.read().splitlines()[0] == "log"


def test_whoever_asks_the_base_beside_an_adapter_is_told_so(ask, mirror, checkpoint, capsys):
    ask("你是谁?")
    assert "base model" not in capsys.readouterr().err  # there is no other
    checkpoint(mirror / "output/run-1")
    said = "the base model answers; infer.sh --adapter newest asks the fine-tuned one"
    ask("你是谁?")
    assert said in capsys.readouterr().err
    ask("你是谁?", "--adapter", "newest")
    assert said not in capsys.readouterr().err
