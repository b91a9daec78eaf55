"""The rebuilt tokenizer is the official one: by sha256 where the bytes are, by token ids where only those are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from common import sha256sums
from standin import tokenizer as rebuilt

TEXTS = (
    "你是谁?我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型。",
    "Don't  split\tthis\r\n\r\n  wrongly 12345 x²",
    "e\u0301 ﬀ 👩‍💻 한국어 ไทย",  # the first is two code points: NFC joins them
    "<|im_start|>user\n<tool_call>{}</tool_call><|file_sep|><|im_end|>",
    "<think>一",  # an added token of a later model, plain text for this one
)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_file_is_byte_exact(official_tokenizer_dir: Path, name: str) -> None:
    assert sha256sums.digest(official_tokenizer_dir / name) == sha256sums.read(rebuilt.SUMS)[name]


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "LICENSE"])
def test_small_official_file_is_byte_exact(name: str) -> None:
    assert sha256sums.digest(rebuilt.OFFICIAL / name) == sha256sums.read(rebuilt.SUMS)[name]


def test_tokenizer_json_has_the_official_size_and_added_tokens(official_tokenizer_dir: Path) -> None:
    file = official_tokenizer_dir / "tokenizer.json"
    assert file.stat().st_size == 7031645
    added = json.loads(file.read_text(encoding="utf-8"))["added_tokens"]
    decoder = json.loads((official_tokenizer_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
    official = {int(i): (t["content"], t["special"]) for i, t in decoder["added_tokens_decoder"].items()}
    assert {token["id"]: (token["content"], token["special"]) for token in added} == official


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_json_gives_the_ids_of_the_byte_exact_files(official_tokenizer_dir: Path, text: str) -> None:
    """The reference is put together here from vocab.json, merges.txt and tokenizer_config.json alone."""
    vocab, merges = official_tokenizer_dir / "vocab.json", official_tokenizer_dir / "merges.txt"
    reference = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    reference.normalizer = normalizers.NFC()
    # The pattern of transformers' Qwen2 tokenizer.
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    reference.decoder = decoders.ByteLevel()
    config = json.loads((official_tokenizer_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = [t for _, t in sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0]))]
    reference.add_tokens([AddedToken(**token) for token in tokens])
    ours = Tokenizer.from_file(str(official_tokenizer_dir / "tokenizer.json"))
    assert ours.encode(text).ids == reference.encode(text).ids
    assert ours.get_vocab_size() == reference.get_vocab_size() == 151665


def test_a_wrong_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (package / name).write_bytes((rebuilt.package_files() / name).read_bytes())
    (package / "merges.txt").write_bytes((package / "merges.txt").read_bytes()[:-5])
    monkeypatch.setattr(rebuilt, "package_files", lambda: package)
    with pytest.raises(ValueError, match=r"merges\.txt"):
        rebuilt.write_tokenizer(tmp_path / "out")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilt, "PACKAGE", "no-such-package-here")
    with pytest.raises(FileNotFoundError, match=r"requirements/standin\.in"):
        rebuilt.package_files()
