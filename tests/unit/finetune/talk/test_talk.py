"""A conversation at the terminal, and who answers in it: the fast lane, on a tiny random model, or ms-swift."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from finetune.commands import infer
from finetune.engines.fast.loaded_model import Lane
from finetune.engines.swift.arguments import Arguments
from finetune.talk import fast, terminal
from tests.unit.finetune.real_swift import make_home

FILE = {"model": "x", "torch_dtype": "bfloat16", "stream": True, "temperature": 0, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: Any, official_tokenizer_dir: Path) -> Path:
    """A tiny random base with the official tokenizer, which ms-swift would load, too."""
    return make_home(tmp_path_factory.mktemp("tiny"), official_tokenizer_dir) / "Qwen2.5-7B-Instruct"


def talk(monkeypatch: Any, typed: str, answer: Any = None) -> list[list[dict[str, str]]]:
    """The conversations that were asked when `typed` was typed."""
    asked = []

    def echo(said: Any) -> Iterator[str]:
        asked.append([dict(message) for message in said])
        yield from ("an", "swer")

    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    terminal.converse("run-1/checkpoint-8", answer or echo)
    return asked


def test_history_is_sent_until_clear(monkeypatch: Any, capsys: Any) -> None:
    asked = talk(monkeypatch, "one\n\ntwo\nclear\nthree\nexit\nfour\n")
    assert [[message["content"] for message in said] for said in asked] == [
        ["one"],
        ["one", "answer", "two"],
        ["three"],
    ]
    out = capsys.readouterr()
    assert out.err == "Talking to run-1/checkpoint-8; exit leaves, clear forgets what was said\n"
    assert out.out.count("answer\n") == 3


def test_the_end_of_the_input_ends_it(monkeypatch: Any, capsys: Any) -> None:
    assert len(talk(monkeypatch, "one")) == 1


@pytest.mark.parametrize("error", [UserError("too long"), KeyboardInterrupt()])
def test_an_answer_that_fails_is_not_kept(monkeypatch: Any, capsys: Any, error: BaseException) -> None:
    asked = []

    def fails_once(said: Any) -> Iterator[str]:
        asked.append([message["content"] for message in said])
        yield "a"
        if len(asked) == 1:
            raise error

    talk(monkeypatch, "one\ntwo\n", fails_once)
    assert asked == [["one"], ["two"]]


def wish(*words: str, model: Path, adapter: Path | None = None, system: str | None = None) -> Any:
    return fast.wish(Arguments(words), FILE, model, adapter, system)


def test_what_the_fast_lane_answers(tiny: Path) -> None:
    found = wish("--temperature", "0.7", "--seed", "3", model=tiny, system="Be brief.")
    assert (found.system, found.max_new_tokens) == ("Be brief.", 16)
    assert found.sampling["temperature"] == 0.7 and found.sampling["seed"] == 3
    assert wish("--system", "Other", "words", model=tiny, system="Be brief.").system == "Other words"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--infer_backend", "vllm"], "--infer_backend"),
        (["--quant_bits", "4"], "--quant_bits"),
        (["--torch_dtype", "float16"], "--torch_dtype float16"),
        (["--system", "file.txt"], "--system file.txt"),
    ],
)
def test_what_ms_swift_answers_and_why(words: list[str], why: str, tiny: Path) -> None:
    assert wish(*words, model=tiny) == why


def test_a_model_that_is_no_qwen2_is_ms_swift_s(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert isinstance(wish(model=tmp_path), str)


def test_the_model_s_own_penalty_counts_as_it_does_in_ms_swift(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (tmp_path / "generation_config.json").write_text('{"repetition_penalty": 1.05, "top_k": 20, "temperature": 0.7}')
    found = wish(model=tmp_path)
    assert found.sampling["repetition_penalty"] == 1.05 and found.sampling["top_k"] == 20
    assert found.sampling["temperature"] == 0  # the file's, infer.yaml


@pytest.fixture
def answers(tiny: Path) -> fast.TalkModel:
    return fast.TalkModel(Lane(tiny, "cpu"), wish(model=tiny))


def test_the_pieces_of_an_answer_are_the_answer(answers: fast.TalkModel) -> None:
    from qwen2.generate import generate

    said = [{"role": "user", "content": "你是谁?"}]
    pieces = list(answers.stream(said))
    prompt = answers.lane.tokenizer.encode_chat(said)
    (whole,) = generate(answers.model, [prompt], 16)
    assert "".join(pieces) == answers.lane.tokenizer.decode(whole).rstrip(fast.REPLACED)
    assert len(pieces) > 1  # it comes while it is made


def test_an_answer_that_nobody_reads_is_ended(answers: fast.TalkModel) -> None:
    import threading

    parts = answers.stream([{"role": "user", "content": "q"}])
    next(parts)
    parts.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "answer"]


def test_a_conversation_beyond_the_model_is_one_line(answers: fast.TalkModel) -> None:
    with pytest.raises(UserError, match="type `clear` to start over"):
        list(answers.stream([{"role": "user", "content": "word " * answers.model.config.max_positions}]))


def test_infer_answers_through_the_fast_lane(tiny: Path, mirror: Path, monkeypatch: Any, capsys: Any) -> None:
    (mirror / "infer.yaml").write_text("temperature: 0\nmax_new_tokens: 4\n")
    monkeypatch.setenv("MODEL_DIR", str(tiny))
    monkeypatch.setattr("finetune.engines.swift.launcher.find_real", lambda: pytest.fail("ms-swift was asked"))
    assert infer.main(["--config", str(mirror / "infer.yaml"), "-v", "a", "b"]) == 0
    out = capsys.readouterr()
    assert out.out.startswith("a\n") and "\n\nb\n" in out.out
    assert "engine: the fast lane" in out.err


def test_engine_swift_is_ms_swift(tiny: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ENGINE", "swift")
    assert infer.by_fast_lane(Arguments([]), FILE, tiny, None, 1) == "ENGINE=swift"


def test_a_checkpoint_is_named_with_its_run(checkpoint: Any, tmp_path: Path) -> None:
    assert infer.named(checkpoint(tmp_path / "run-1", 80)) == "run-1/checkpoint-80"
    assert infer.named(tmp_path / "Qwen2.5-7B-Instruct") == "Qwen2.5-7B-Instruct"
