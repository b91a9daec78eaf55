"""Asks both hubs what a model consists of and writes weights/models/NAME.sums; `make build MODEL=NAME` calls it.

    python listing.py NAME [--to FILE]     NAME as the hubs have it, such as Qwen2.5-1.5B-Instruct

Hugging Face and ModelScope are both asked, with their own clients. Where both answer they must agree, file by file; a
hub that cannot be reached, or does not have the model, is named and left out. The list pins sizes, sha256 and the
revision. A list that is there is law: it is never written again, here or by a build. Ends 0, 1 or 2 as fetch.py does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, the package is not on the path
from weights import hubs, sums
from weights.hubs import FetchError
from weights.progress import say

# The files of a repository that an image needs; its model card, git's own files and other weight formats are left out.
KEPT = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "LICENSE*")
LEFT = ("configuration.json",)  # ModelScope adds one to every repository; nothing here reads it
NEEDED = ("config.json", "tokenizer.json")
LARGEST_SMALL = 64 << 20  # bytes; a larger file without a sha256 is not fetched just to hash it


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--to", type=Path, help="default: weights/models/NAME.sums")
    args = parser.parse_args(argv)
    try:
        to = args.to or sums.file_of(args.name)
        sums.file_of(args.name)
        if to.exists():
            say(f"{to} is there already, and stays as it is")
            return 0
        text = listed(f"{hubs.OWNER}/{args.name}")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text, encoding="utf-8")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (FetchError, hubs.RefusedError, hubs.TransferError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    say(f"{to} written: commit it, so that the next build is of the same files")
    return 0


def listed(repo: str) -> str:
    """The content of the list, from the hubs that respond. Raises FetchError if none does, or if they disagree."""
    found: dict[str, tuple[hubs.Hub, hubs.Listing]] = {}
    silent: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, kind in hubs.HUBS.items():
            hub = kind(repo, kind.newest, None)
            try:
                found[name] = hub, hashed(repo, hub, hub.listing(), Path(scratch) / name)
            except (hubs.RefusedError, hubs.TransferError) as error:
                silent.append(f"{hub.endpoint}: {error}")
        if not found:
            raise FetchError(f"no hub has {repo}: {'; '.join(silent)}; is the name right, and the network there?")
        for line in silent:
            say(f"left out: {line}")
        files = agreed(repo, {hub.endpoint: listing for hub, listing in found.values()})
        require_qwen2(repo, Path(scratch), found)
    head = [f"# {repo}, as listed by {', '.join(hub.endpoint for hub, _ in found.values())}"]
    head += [f"# revision {name} {listing.revision}" for name, (_, listing) in found.items()]
    head += [f"# size {remote.size} {name}" for name, remote in files.items()]
    return "\n".join([*head, *(f"{remote.sha256}  {name}" for name, remote in files.items())]) + "\n"


def hashed(repo: str, hub: hubs.Hub, listing: hubs.Listing, scratch: Path) -> hubs.Listing:
    """The files to keep, each with its sha256; small files are fetched if the hub does not report it."""
    scratch.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in sorted(listing.files):
        remote = listing.files[name]
        if "/" in name or name in LEFT or not any(fnmatch(name, pattern) for pattern in KEPT):
            continue
        if remote.sha256 is None or name == "config.json":
            if (remote.size or 0) > LARGEST_SMALL:
                raise hubs.RefusedError(f"lists {name} without its sha256")
            hub.get(name, remote, scratch)
            data = (scratch / name).read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            digest = hashlib.sha256(data).hexdigest()
            listed_as = (remote.sha256, digest) if remote.sha256 else (remote.git_blob, blob)
            if listed_as[0] not in (None, listed_as[1]):
                raise FetchError(f"{hub.endpoint} sends another {name} than it lists for {repo}; nothing was written")
            remote = hubs.Remote(len(data), digest)
        files[name] = remote
    return hubs.Listing(listing.revision, files)


def agreed(repo: str, listings: dict[str, hubs.Listing]) -> dict[str, hubs.Remote]:
    """The files that are identical on all hubs. Raises FetchError for the first difference, or a missing shard."""
    every = sorted(set().union(*(listing.files for listing in listings.values())))
    files = {}
    for name in every:
        remotes = {endpoint: listing.files[name] for endpoint, listing in listings.items() if name in listing.files}
        lacking = [endpoint for endpoint in listings if endpoint not in remotes]
        if lacking and name.endswith(".safetensors"):
            raise FetchError(f"the hubs disagree about {repo}: {lacking[0]} has no {name}; nothing was written")
        if lacking:  # a small file that only one hub has
            continue
        told = {(remote.sha256, remote.size) for remote in remotes.values()}
        if len(told) > 1:
            each = ", ".join(f"{(remote.sha256 or '?')[:12]}… at {end}" for end, remote in remotes.items())
            raise FetchError(f"the hubs disagree about {repo}: {name} has sha256 {each}; nothing was written")
        files[name] = next(iter(remotes.values()))
    missing = [name for name in NEEDED if name not in files]
    missing += [] if any(name.endswith(".safetensors") for name in files) else ["*.safetensors"]
    if missing:
        raise FetchError(f"{repo} has no {missing[0]}: it is no model that the image could hold")
    return files


def require_qwen2(repo: str, scratch: Path, found: dict[str, tuple[hubs.Hub, hubs.Listing]]) -> None:
    """Raises FetchError if config.json, already fetched, is not that of a Qwen2ForCausalLM."""
    try:
        config = json.loads((scratch / next(iter(found)) / "config.json").read_text(encoding="utf-8"))
        architectures = config.get("architectures")
    except (ValueError, AttributeError):
        architectures = None
    if architectures != ["Qwen2ForCausalLM"]:
        raise FetchError(f"{repo} is of the architecture {architectures}: the image serves Qwen2ForCausalLM alone")


if __name__ == "__main__":
    sys.exit(main())
