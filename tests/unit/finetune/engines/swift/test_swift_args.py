"""Command lines are taken apart and put together without loss."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.engines.swift.arguments import Arguments, tidy

WORDS = st.lists(
    st.one_of(st.text(max_size=8), st.from_regex(r"--[a-z][a-z_-]{0,6}(=[^\0]{0,4})?", fullmatch=True)), max_size=8
)


@given(WORDS)
def test_what_is_not_touched_stays_as_it_was(words):
    assert Arguments(words).words() == words


@given(WORDS)
def test_tidying_twice_is_tidying_once(words):
    once, _ = tidy(words)
    assert tidy(once) == (once, False)


def test_values_belong_to_the_option_before_them():
    args = Arguments(["x.yaml", "--dataset", "a", "b", "--learning-rate=1e-4", "--stream", "--temperature", "-1"])
    assert args.leading == ["x.yaml"]
    assert args.get("dataset") == ["a", "b"]
    assert args.get("learning_rate") == ["1e-4"]
    assert args.get("stream") == []
    assert args.get("temperature") == ["-1"]
    assert args.get("model") is None


def test_a_text_that_begins_with_two_dashes_is_a_value():
    args = Arguments(["--system", "--- You are a helpful assistant."])
    assert args.get("system") == ["--- You are a helpful assistant."]


def test_the_last_one_wins():
    args = Arguments(["--seed", "1", "--seed", "2"])
    assert args.get("seed") == ["2"]
    args.set("seed", "3")
    assert args.words() == ["--seed", "3"]


def test_changes():
    args = Arguments(["--train_type", "lora", "--seed=1", "--model", "m"])
    assert args.rename("train_type", "tuner_type")
    assert not args.rename("train_type", "tuner_type")
    args.set("seed", "2")
    args.set("use_cpu", "true")
    args.remove("model")
    assert args.words() == ["--tuner_type", "lora", "--seed", "2", "--use_cpu", "true"]


@pytest.mark.parametrize(
    ("words", "tidied"),
    [
        (["sft", " --model", "m"], ["sft", "--model", "m"]),
        (["sft", " ", "--model", "m"], ["sft", "--model", "m"]),
        (["--system", ""], ["--system", ""]),
        (["--system", " --x y"], ["--system", " --x y"]),
    ],
)
def test_a_backslash_before_a_space_is_undone(words, tidied):
    assert tidy(words)[0] == tidied
