"""Brings the model's files into a folder and proves them by sha256; called by the Dockerfile's weights stages.

    python fetch.py modelscope|huggingface --to DIR [--cache DIR]    download, or continue where it broke off
    python fetch.py local --from DIR --to DIR                        take files that are already on this machine
    python fetch.py check --dir DIR [--sums FILE]                    check a folder; changes nothing
    ... --model Qwen2.5-1.5B-Instruct                                another model, by weights/models/NAME.sums

Ends 0 when every file has its pinned sha256; 1 when not: each bad file is named, and deleted from the cache, so that
the next run fetches that one alone; 2 when the arguments are unusable. A broken transfer is taken up again for as long
as bytes arrive, and --retries times in a row, with growing pauses, when none do.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, the package is not on the path
from weights import hubs, room, sums
from weights.hubs import FetchError
from weights.progress import Progress, say

T = TypeVar("T")
_LONGEST_PAUSE = 60.0  # seconds


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        wanted = sums.read(_sums_file(args))
        if args.command == "check":
            _check(args.dir, wanted)
        elif args.command == "local":
            _from_folder(args, wanted)
        else:
            _from_hub(args, wanted)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (FetchError, room.NoRoomError, hubs.RefusedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}; check the folder's permissions and disk", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; what has arrived is kept, and the next run goes on from there", file=sys.stderr)
        sys.stderr.flush()
        os._exit(130)  # the download threads may wait a minute for a silent server; their bytes are already on disk
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check a folder against its SHA256SUMS")
    check.add_argument("--dir", type=Path, required=True)
    check.add_argument("--sums", type=Path, help="default: the folder's own SHA256SUMS, else the official one")
    local = commands.add_parser("local", help="take the files from a folder of this machine")
    local.add_argument("--from", dest="source", type=Path, required=True)
    for name, hub in hubs.HUBS.items():
        remote = commands.add_parser(name, help=f"download with {hub.__name__}'s client")
        remote.add_argument("--repo", help="default: --model of Qwen")
        remote.add_argument("--revision", help="branch, tag or commit; default: the one that the list was made from")
        remote.add_argument(
            "--cache", type=Path, help="keeps files and partial files between runs; default: below --to"
        )
        secret = Path(f"/run/secrets/{hub.secret}")
        remote.add_argument(
            "--token-file", type=Path, default=secret, help=f"an access token, if any; default {secret}"
        )
        remote.add_argument("--workers", type=_count, default=4, help="files at once; default 4, one per shard")
        remote.add_argument("--retries", type=_count, default=5, help="attempts in a row without a new byte; default 5")
        remote.add_argument(
            "--pause", type=float, default=1.0, help="seconds before the first retry, doubled each time"
        )
    for name in (*hubs.HUBS, "local"):
        commands.choices[name].add_argument("--to", type=Path, required=True)
        commands.choices[name].add_argument("--sums", type=Path, help="default: the model's, beside this file")
        commands.choices[name].add_argument("--model", default=sums.OFFICIAL_MODEL, help="its name at the hubs")
        commands.choices[name].add_argument(
            "--copies", type=int, default=0, help="room for N more copies is checked for: the image layers that follow"
        )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _sums_file(args: argparse.Namespace) -> Path:
    if args.sums is not None:
        return args.sums
    if args.command != "check":
        path = sums.file_of(args.model)
        if not path.is_file():
            raise ValueError(f"{path} is not there; `make build MODEL={args.model}` asks the hubs and writes it")
        return path
    own = args.dir / "SHA256SUMS"
    return own if own.is_file() else sums.OFFICIAL


# --- check ---------------------------------------------------------------------------------------------------------


def _check(folder: Path, wanted: Mapping[str, str]) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    problems = _problems(folder, wanted)
    if problems:
        raise FetchError(f"{folder}: {_listed(problems)}")


def _problems(folder: Path, wanted: Mapping[str, str]) -> dict[str, str]:
    """Check all files, with progress and a closing line; returns {name: what is wrong}."""
    done, lock, start = [0], threading.Lock(), time.monotonic()

    def count(block: int) -> None:
        with lock:
            done[0] += block

    total = _size(folder / name for name in wanted)
    with Progress("sha256", total, lambda: done[0]):
        problems = sums.check(folder, wanted, count)
    good, seconds = len(wanted) - len(problems), time.monotonic() - start
    say(f"sha256: {good} of {len(wanted)} files are right ({room.bytes_text(total)}, {seconds:.1f} s)")
    return problems


def _listed(problems: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {text}" for name, text in sorted(problems.items()))


# --- local ---------------------------------------------------------------------------------------------------------


def _from_folder(args: argparse.Namespace, wanted: Mapping[str, str]) -> None:
    source, to = args.source, args.to
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; give one that holds the model's files")
    if not any((source / name).exists() or (source / name).is_symlink() for name in wanted):
        raise FetchError(
            f"{source} holds none of the model's {len(wanted)} files; "
            "in a build, name the folder that does with --build-context weights=DIR"
        )
    absent = {name: text for name in wanted if (text := sums.absence(source / name))}
    if absent:
        links = any("symbolic link" in text for text in absent.values())
        hint = "; a hub's cache folder holds links only: copy it with cp -rL and give the copy" if links else ""
        raise FetchError(f"{source}: {_listed(absent)}{hint}")
    if to.resolve() == source.resolve():
        raise ValueError(f"--from and --to are the same folder, {to}; to check a folder in place, use check --dir")
    to.mkdir(parents=True, exist_ok=True)
    size = _size(source / name for name in wanted)
    room.plan(to, to, room.Need(size, size, 0, args.copies * size), linkable=True)
    # Copied, never linked: a link would let a change here reach the user's own files.
    _place(source, to, wanted, link=False, move=False)
    problems = _problems(to, wanted)
    if problems:
        for name in problems:
            (to / name).unlink(missing_ok=True)
        raise FetchError(f"{source}: {_listed(problems)}; replace it there and run the same again")
    _write_sums(to, wanted)


# --- hubs ----------------------------------------------------------------------------------------------------------


def _from_hub(args: argparse.Namespace, wanted: Mapping[str, str]) -> None:
    to = args.to
    # One cache folder per set of hashes: files of another model or revision are neither used nor overwritten.
    key = hashlib.sha256("".join(f"{wanted[name]}{name}" for name in sorted(wanted)).encode()).hexdigest()[:12]
    cache = (args.cache or to / ".cache") / key
    for folder in (cache, to):
        folder.mkdir(parents=True, exist_ok=True)
    linkable = room.can_link(cache, to)
    remotes: dict[str, hubs.Remote] = {}
    keep = True
    if all((cache / name).is_file() for name in wanted):
        say("all files are in the cache already")
    else:
        args.repo = args.repo or f"{hubs.OWNER}/{args.model}"
        kind = hubs.HUBS[args.command]
        usual = kind.pinned if args.model == sums.OFFICIAL_MODEL else kind.newest
        revision = args.revision or sums.revisions(_sums_file(args)).get(args.command) or usual
        hub = kind(args.repo, revision, _token(args.token_file))
        say(f"{args.repo} at {hub.revision} from {hub.endpoint}")
        remotes = _listing(hub, wanted, args)
    sizes = {name: (remotes[name].size or 0) if name in remotes else _size([cache / name]) for name in wanted}
    for name, size in sizes.items():
        if size and (cache / name).is_file() and _size([cache / name]) != size:
            (cache / name).unlink()
    todo = [name for name in wanted if not (cache / name).is_file()]
    total = sum(sizes.values())
    need = room.Need(total - min(total, _arrived(cache, wanted)), total, max(sizes.values()), args.copies * total)
    keep = room.plan(cache, to, need, linkable)
    if todo:
        _download(hub, todo, remotes, cache, wanted, args, need)
    if not keep:
        say("the disk has no room for a second copy: the cache gives its files up as they are placed")
        _drop_bad(_problems(cache, wanted), cache, to)
    _place(cache, to, wanted, link=linkable, move=not keep)
    _drop_bad(_problems(to, wanted), cache, to)
    if args.cache is None:
        shutil.rmtree(to / ".cache", ignore_errors=True)
    _write_sums(to, wanted)


def _token(path: Path) -> str | None:
    if not path.is_file():
        return None  # the clients then read HF_TOKEN or MODELSCOPE_API_TOKEN themselves
    return path.read_text(encoding="utf-8").strip() or None


def _listing(hub: hubs.Hub, wanted: Mapping[str, str], args: argparse.Namespace) -> dict[str, hubs.Remote]:
    """The hub's listing. Rejects it if a file is missing or its sha256 differs, before any byte is downloaded."""
    try:
        remotes = _retried("asking for the list of files", lambda: hub.files(wanted), lambda: 0, args)
    except hubs.TransferError as error:
        raise FetchError(
            f"cannot reach {hub.endpoint}: {error}; "
            "check the network or proxy, or use a mirror or local files (docs/mirrors.md)"
        ) from error
    missing = sorted(set(wanted) - set(remotes))
    if missing:
        raise FetchError(
            f"{', '.join(missing)} not found in {args.repo} at revision {hub.revision} on {hub.endpoint}; "
            "nothing was downloaded; try another revision or mirror"
        )
    other = {
        name: f"has sha256 {remote.sha256[:12]}… there instead of {wanted[name][:12]}…"
        for name, remote in remotes.items()
        if remote.sha256 and remote.sha256 != wanted[name]
    }
    if other:
        raise FetchError(
            f"{args.repo} at revision {hub.revision} on {hub.endpoint} is not the pinned model: "
            f"{_listed(other)}; nothing was downloaded; try another revision or mirror"
        )
    return remotes


def _download(
    hub: hubs.Hub,
    todo: list[str],
    remotes: Mapping[str, hubs.Remote],
    cache: Path,
    wanted: Mapping[str, str],
    args: argparse.Namespace,
    need: room.Need,
) -> None:
    """Fetch the files in parallel. Raises FetchError, which names every file that failed."""
    full: list[str] = []  # the files for which the disk was full

    def one(name: str) -> str | None:
        if full:
            return None  # no point in starting another
        try:
            _retried(name, lambda: hub.get(name, remotes[name], cache), lambda: _arrived(cache, [name]), args)
        except (hubs.TransferError, hubs.RefusedError) as error:
            return f"{name}: {error}"
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return f"{name}: cannot write to {cache}: {error.strerror}"
            full.append(name)
        return None

    with (
        Progress("downloading", need.files, lambda: _arrived(cache, wanted)),
        ThreadPoolExecutor(max_workers=args.workers) as pool,
    ):
        # The largest first: the small ones then fill the gaps.
        failures = [text for text in pool.map(one, sorted(todo, key=lambda name: -(remotes[name].size or 0))) if text]
    if full:
        left = room.bytes_text(need.files - min(need.files, _arrived(cache, wanted)))
        later = f", then {room.bytes_text(need.copies)} for the image's layers" if need.copies else ""
        failures.append(
            f"the disk of {cache} filled up at {', '.join(sorted(full))}: {left} of {room.bytes_text(need.files)} "
            f"are still to come{later}; free that much"
        )
    if failures:
        raise FetchError("; ".join(failures) + "; what has arrived is kept: run the same again to go on from there")


def _retried(what: str, attempt: Callable[[], T], arrived: Callable[[], int], args: argparse.Namespace) -> T:
    """Call attempt until it succeeds; gives up after args.retries consecutive TransferErrors without a new byte."""
    idle = 0
    while True:
        before = arrived()
        try:
            return attempt()
        except hubs.TransferError as error:
            now = arrived()
            idle = 0 if now > before else idle + 1
            if idle >= args.retries:
                raise
            pause = min(_LONGEST_PAUSE, args.pause * 2 ** max(0, idle - 1))
            at = f" after {room.bytes_text(now)}" if now else ""
            say(f"{what}: {error}{at}; going on in {pause:g} s")
            time.sleep(pause)


def _arrived(cache: Path, names: Iterable[str]) -> int:
    """Bytes on disk of the named files, complete or partial."""
    return sum(_size([cache / name]) or _size([cache / f"{name}.incomplete"]) for name in names)


# --- placing -------------------------------------------------------------------------------------------------------


def _place(source: Path, to: Path, names: Iterable[str], *, link: bool, move: bool) -> None:
    """Link or copy the files. With move, each source is deleted once its copy is complete, so one disk is enough.

    Mode and time do not depend on umask, source or clock: the folder differs only by its content.
    """
    names = list(names)
    with Progress("copying", _size(source / name for name in names), lambda: _size(to / name for name in names)):
        for name in names:
            part = to / f".{name}.part"
            part.unlink(missing_ok=True)
            if link:
                os.link(source / name, part)
            else:
                shutil.copyfile(source / name, part)
            part.chmod(0o644)
            os.utime(part, (0, 0))
            (to / name).unlink(missing_ok=True)  # renaming over a link to the same file would do nothing
            part.replace(to / name)
            if move:
                (source / name).unlink()


def _write_sums(to: Path, wanted: Mapping[str, str]) -> None:
    """The folder contains its own SHA256SUMS: `sha256sum -c SHA256SUMS` verifies it wherever it is moved."""
    path = to / "SHA256SUMS"
    path.write_text("".join(f"{digest}  {name}\n" for name, digest in wanted.items()), encoding="utf-8")
    path.chmod(0o644)
    os.utime(path, (0, 0))


def _drop_bad(problems: Mapping[str, str], cache: Path, to: Path) -> None:
    """Delete the bad files, then raise FetchError, which names them; does nothing if there are none."""
    if not problems:
        return
    for name in problems:
        for folder in {cache, to}:
            (folder / name).unlink(missing_ok=True)
    raise FetchError(f"{_listed(problems)}; deleted: run the same again, and only that is fetched anew")


def _size(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


if __name__ == "__main__":
    sys.exit(main())
