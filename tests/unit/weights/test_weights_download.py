"""Downloads with both hubs' real clients from a hub on 127.0.0.1 that cuts, flips and withholds bytes."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from weights import fetch, room

if TYPE_CHECKING:
    from tests.unit.weights.conftest import Hub

FETCH = Path(fetch.__file__)
CLIENTS = ["modelscope", "huggingface"]
CHUNK = 1 << 20  # what a broken transfer may cost: the Hugging Face client writes whole chunks
VARIABLES = ("HF_ENDPOINT", "HF_TOKEN", "MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN", "MODELSCOPE_API_TOKEN")


class Fetcher:
    """One client, one hub, one pair of folders; each call is a build's attempt."""

    def __init__(self, client: str, hub: Hub, folder: Path) -> None:
        self.client, self.hub = client, hub
        self.to, self.cache = folder / "model", folder / "cache"
        self.sums = hub.write_sums(folder / "SHA256SUMS")
        endpoint = {"modelscope": "MODELSCOPE_DOMAIN", "huggingface": "HF_ENDPOINT"}[client]
        inherited = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        self.env = inherited | {endpoint: hub.url, "HOME": str(folder), "no_proxy": "*"}

    def arguments(self, *extra: str) -> list[str]:
        places = ["--to", str(self.to), "--cache", str(self.cache), "--sums", str(self.sums)]
        return [self.client, *places, "--retries", "3", "--pause", "0.05", *extra]

    def command(self, *extra: str) -> list[str]:
        return [sys.executable, str(FETCH), *self.arguments(*extra)]

    def run(self, *extra: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*extra), env=self.env, capture_output=True, text=True, timeout=60, preexec_fn=before
        )
        assert "Traceback" not in done.stderr
        assert "Signature" not in done.stderr, "a signed address is a credential"
        assert done.stderr.count("error:") == (0 if done.returncode == 0 else 1), done.stderr
        return done

    def error(self, *extra: str, before: Callable[[], None] | None = None) -> str:
        """Run, expect exit 1 and one line that says why; returns that line."""
        done = self.run(*extra, before=before)
        assert done.returncode == 1, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return line

    def assert_whole(self) -> None:
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.to.iterdir()}
        assert found.pop("SHA256SUMS")
        assert found == self.hub.sums()


@pytest.fixture(params=CLIENTS)
def fetcher(request: pytest.FixtureRequest, hub: Hub, tmp_path: Path) -> Fetcher:
    return Fetcher(request.param, hub, tmp_path)


def test_plain_download(fetcher: Fetcher) -> None:
    done = fetcher.run()
    assert done.returncode == 0, done.stderr
    fetcher.assert_whole()
    assert [len(fetcher.hub.requests(name)) for name in fetcher.hub.files] == [1] * 12
    assert "12 of 12 files are right" in done.stderr
    # The same folder from every source: readable by all, and no time of its own.
    assert {(path.stat().st_mode & 0o777, path.stat().st_mtime) for path in fetcher.to.iterdir()} == {(0o644, 0.0)}
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=fetcher.to, check=True)


def test_second_run_asks_for_nothing(fetcher: Fetcher) -> None:
    assert fetcher.run().returncode == 0
    asked = len(fetcher.hub.hub_headers)
    fetcher.hub.shutdown()
    assert fetcher.run("--retries", "1").returncode == 0, "a whole cache needs no network"
    assert len(fetcher.hub.hub_headers) == asked
    fetcher.assert_whole()


def test_cut_transfer_is_resumed(fetcher: Fetcher) -> None:
    shard = fetcher.hub.shards[1]
    fetcher.hub.cuts[shard] = [1_500_000, 300_000]
    done = fetcher.run()
    assert done.returncode == 0, done.stderr
    fetcher.assert_whole()
    first, *later = fetcher.hub.requests(shard)
    assert first.start == 0 and len(later) == 2
    assert all(request.start >= 1_500_000 - CHUNK for request in later)
    twice = sum(request.sent for request in [first, *later]) - len(fetcher.hub.files[shard])
    assert twice == 0 if fetcher.client == "modelscope" else twice < 2 * CHUNK


def test_killed_run_is_resumed_by_the_next(fetcher: Fetcher) -> None:
    shard = fetcher.hub.shards[2]
    fetcher.hub.stalls[shard] = 1_500_000
    process = subprocess.Popen(fetcher.command(), env=fetcher.env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size >= CHUNK for path in fetcher.cache.glob(f"*/{shard}.incomplete")):
        assert time.monotonic() < deadline, "the partial file never appeared"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = fetcher.run()
    assert done.returncode == 0, done.stderr
    fetcher.assert_whole()
    first, second = fetcher.hub.requests(shard)
    assert first.start == 0 and second.start >= CHUNK


def test_flipped_byte_is_named_and_the_next_run_repairs_it(fetcher: Fetcher) -> None:
    shard = fetcher.hub.shards[3]
    fetcher.hub.flips[shard] = 2_000_000
    assert shard in fetcher.error()
    assert not (fetcher.to / shard).exists()
    fetcher.hub.flips.clear()
    fetcher.hub.log.clear()
    done = fetcher.run()
    assert done.returncode == 0, done.stderr
    fetcher.assert_whole()
    assert {request.name for request in fetcher.hub.log} == {shard}, "only the bad file is fetched again"


def test_flipped_byte_that_modelscopes_client_notices_itself(hub: Hub, tmp_path: Path) -> None:
    fetcher = Fetcher("modelscope", hub, tmp_path)
    hub.storage_tells_hash = True
    hub.flips[hub.shards[0]] = 7
    assert hub.shards[0] in fetcher.error()
    hub.flips.clear()
    assert fetcher.run().returncode == 0
    fetcher.assert_whole()


def test_missing_shard_is_named_before_anything_is_downloaded(fetcher: Fetcher) -> None:
    fetcher.hub.missing = {fetcher.hub.shards[2]}
    line = fetcher.error()
    assert fetcher.hub.shards[2] in line and fetcher.hub.shards[1] not in line
    assert fetcher.hub.log == []


def test_other_weights_are_refused_before_anything_is_downloaded(fetcher: Fetcher) -> None:
    fetcher.hub.files[fetcher.hub.shards[0]] = b"another model"
    line = fetcher.error()
    assert fetcher.hub.shards[0] in line and "not the pinned model" in line
    assert fetcher.hub.log == []


def test_listed_file_that_cannot_be_had(hub: Hub, tmp_path: Path) -> None:
    hub.vanished = {hub.shards[1]}
    line = Fetcher("modelscope", hub, tmp_path).error()
    assert hub.shards[1] in line and "404" in line


def test_unknown_revision(fetcher: Fetcher) -> None:
    assert "no-such-branch" in fetcher.error("--revision", "no-such-branch")


def test_server_trouble_is_waited_out(fetcher: Fetcher) -> None:
    shard = fetcher.hub.shards[0]
    fetcher.hub.statuses[shard] = [503, 503]
    done = fetcher.run()
    assert done.returncode == 0, done.stderr
    assert "HTTP 503" in done.stderr
    fetcher.assert_whole()


def test_lasting_server_trouble_ends_and_keeps_the_rest(fetcher: Fetcher) -> None:
    shard = fetcher.hub.shards[0]
    fetcher.hub.statuses[shard] = [503] * 3
    line = fetcher.error()
    assert shard in line and "503" in line and "run the same again" in line
    fetcher.hub.log.clear()
    assert fetcher.run().returncode == 0
    assert {request.name for request in fetcher.hub.log} == {shard}
    fetcher.assert_whole()


def test_no_network(fetcher: Fetcher) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    fetcher.env |= {"HF_ENDPOINT": closed, "MODELSCOPE_DOMAIN": closed}
    line = fetcher.error("--retries", "2")
    assert closed in line and "Connection refused" in line and "docs/mirrors.md" in line


def test_token_reaches_the_hub_and_not_the_storage(fetcher: Fetcher, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hf_secret\n")
    assert fetcher.run("--token-file", str(token)).returncode == 0
    assert any(headers.get("authorization") == "Bearer hf_secret" for headers in fetcher.hub.hub_headers)
    for shard in fetcher.hub.shards:
        assert all("hf_secret" not in str(request.headers) for request in fetcher.hub.requests(shard))


# --- a full disk ---------------------------------------------------------------------------------------------------


class Disk(NamedTuple):
    """A rehearsed disk, in the place of shutil.disk_usage."""

    total: int
    free: int


def rehearse(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, free: int, *extra: str) -> int:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in fetcher.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Disk(50_000_000, free))
    return fetch.main(fetcher.arguments(*extra))


def test_full_disk_says_how_much_is_needed(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    total = sum(map(len, fetcher.hub.files.values()))
    assert rehearse(fetcher, monkeypatch, 2 * total - 1, "--copies", "1") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "20.0 MB needed" in line and "10.0 MB to download" in line and "image's layers" in line
    assert "20.0 MB free on" in line
    assert fetcher.hub.log == []
    assert rehearse(fetcher, monkeypatch, 2 * total, "--copies", "1") == 0
    fetcher.assert_whole()


def test_tight_disk_gives_up_the_cache(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "can_link", lambda source, target: False)  # as between two mounts of a build
    total = sum(map(len, fetcher.hub.files.values()))
    assert rehearse(fetcher, monkeypatch, 2 * total) == 0
    assert len(list(fetcher.cache.glob("*/*.safetensors"))) == 4
    fetcher.assert_whole()
    assert rehearse(fetcher, monkeypatch, 3_000_000) == 0
    assert "gives its files up" in capsys.readouterr().err
    assert list(fetcher.cache.glob("*/*.safetensors")) == []
    fetcher.assert_whole()


def test_bad_file_on_a_tight_disk_leaves_the_others_in_the_cache(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "can_link", lambda source, target: False)
    fetcher.hub.flips[fetcher.hub.shards[0]] = 5
    assert rehearse(fetcher, monkeypatch, 15_000_000) == 1
    assert fetcher.hub.shards[0] in capsys.readouterr().err
    assert {path.name for path in fetcher.cache.glob("*/*.safetensors")} == set(fetcher.hub.shards[1:])


def test_disk_that_fills_up_on_the_way(fetcher: Fetcher) -> None:
    """A limit on file size stands in for the full disk: it needs no rights, and takes the same way out."""
    line = fetcher.error(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000)))
    assert line.count("filled up at ") == 1 and "of 10.0 MB are still to come" in line
    assert any(shard in line for shard in fetcher.hub.shards)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_really_full_disk(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetcher.cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(fetcher.cache)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs to be had here: {mounted.stderr.strip()}")
    try:
        line = fetcher.error()
        assert "10.0 MB needed" in line and "4.2 MB free" in line
        # Others write to the same disk, so that the check is passed and the disk fills up all the same.
        assert rehearse(fetcher, monkeypatch, 40_000_000) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "filled up at " in line and "of 10.0 MB are still to come" in line
    finally:
        subprocess.run(["umount", str(fetcher.cache)], check=True)
