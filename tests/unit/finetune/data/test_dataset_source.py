"""What a --dataset argument means."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from common.errors import UserError
from finetune.data import hub
from finetune.data.source import DatasetSource, parse


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with a file, one with a # in its name, and a folder."""
    (tmp_path / "faq.json").write_text("[]")
    (tmp_path / "a#1.json").write_text("[]")
    (tmp_path / "data/faq").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("https_proxy", "HTTPS_PROXY", "HF_ENDPOINT", "MODELSCOPE_DOMAIN", "USE_HF"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("faq.json", DatasetSource("faq.json", path=Path("faq.json"))),
        ("faq.json#200", DatasetSource("faq.json#200", path=Path("faq.json"), sample=200)),
        ("a#1.json", DatasetSource("a#1.json", path=Path("a#1.json"))),
        ("a#1.json#5", DatasetSource("a#1.json#5", path=Path("a#1.json"), sample=5)),
        ("data/faq", DatasetSource("data/faq", path=Path("data/faq"))),
        (
            "AI-ModelScope/alpaca-gpt4-data-zh#500",
            DatasetSource(
                "AI-ModelScope/alpaca-gpt4-data-zh#500", hub_id="AI-ModelScope/alpaca-gpt4-data-zh", sample=500
            ),
        ),
        ("hf::owner/name", DatasetSource("hf::owner/name", hub_id="owner/name", hub="hf")),
        ("ms::owner/name:a/b#5", DatasetSource("ms::owner/name:a/b#5", None, "owner/name", "ms", ("a", "b"), 5)),
    ],
)
def test_parse(spec, source):
    assert parse(spec) == source


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "empty"),
        ("nowhere.json", "no such file"),
        ("data/nowhere.jsonl", "no such file"),
        ("data/nowhere.csv#5", "no such file"),
        ("./nowhere", "no such file"),
        ("self_cognition", "no such file, and not a hub id"),
        ("faq.json#many", "'#many' is not a number of rows"),
        ("faq.json#0", "'#0' is not a number of rows"),
        ("github::a/b", "unknown hub github"),
        ("a/b/c", "not a hub id"),
    ],
)
def test_what_is_neither_a_file_nor_a_hub_id(spec, says):
    with pytest.raises(UserError, match=says):
        parse(spec)


def test_relative_names_are_of_the_base_folder(folder):
    assert parse("faq", folder / "data").path == folder / "data/faq"
    assert parse("faq.json#5").with_path(Path("/x.jsonl")) == "/x.jsonl#5"


def test_a_hub_that_listens_is_reachable_and_one_that_does_not_is_not(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.reachable("hf")
        monkeypatch.setenv("MODELSCOPE_DOMAIN", "hub.example.org")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.reachable("ms")  # what is asked is the proxy
    assert not hub.reachable("hf")
    assert not hub.reachable("ms")


def test_what_is_cached_needs_no_hub(folder, monkeypatch):
    source = parse("owner/name")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(hub, "reachable", lambda which: False)
    with pytest.raises(UserError, match="ModelScope hub"):
        hub.require(source)
    monkeypatch.setenv("USE_HF", "1")
    with pytest.raises(UserError, match="HuggingFace hub"):
        hub.require(source)
    (folder / "cache/datasets/owner/name/v1").mkdir(parents=True)
    hub.require(source)
