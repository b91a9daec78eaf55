"""A hub on 127.0.0.1 for the download tests: it speaks both hubs' APIs to their real clients, and can misbehave."""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

REPO = "Qwen/Qwen2.5-7B-Instruct"
REVISIONS = ("a09a35458c702b33eeacc393d103063234e8bc28", "master")
SHARDS = [f"model-0000{k}-of-00004.safetensors" for k in range(1, 5)]
SMALL = [
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
]


@dataclass
class Request:
    """One request for a file's content, as the server saw it."""

    name: str
    start: int  # of the Range, 0 without one
    sent: int = 0  # bytes of the body
    headers: dict[str, str] = field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """Serves `files`; the large ones through a redirect to a storage host (the same server, by its other name)."""

    daemon_threads = True
    shards = SHARDS

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        source = random.Random(7)
        self.files = {name: source.randbytes(2_500_000 + k) for k, name in enumerate(SHARDS)}
        self.files |= {name: source.randbytes(1000 + 10 * k) for k, name in enumerate(SMALL)}
        self.repo = REPO
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.storage = f"http://localhost:{self.server_address[1]}"
        self.log: list[Request] = []
        self.hub_headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        # What goes wrong, by file name.
        self.cuts: dict[str, list[int]] = {}  # close the connection after so many bytes; one entry a request
        self.flips: dict[str, int] = {}  # one bit is wrong at this offset
        self.missing: set[str] = set()
        self.vanished: set[str] = set()  # listed, but not to be had
        self.stalls: dict[str, int] = {}  # send so many bytes, then nothing until `release` is set
        self.statuses: dict[str, list[int]] = {}  # answer so instead; one entry a request
        self.storage_tells_hash = False  # ModelScope's storage sends the sha256 along with some files
        self.release = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests; anything else is not, and shows."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def sums(self) -> dict[str, str]:
        """name -> sha256 of what the files should be."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}

    def write_sums(self, path: Path) -> Path:
        """The same as a SHA256SUMS file."""
        path.write_text("".join(f"{digest}  {name}\n" for name, digest in self.sums().items()))
        return path

    def requests(self, name: str) -> list[Request]:
        """The content requests for one file so far."""
        with self.lock:
            return [request for request in self.log if request.name == name]


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the tests look at Hub.log."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path.startswith("/storage/"):
            return self._content(url.path.rsplit("/", 1)[1], on_storage=True)
        with self.server.lock:
            self.server.hub_headers.append(_lower(self.headers))
        if match := re.fullmatch(rf"/{self.server.repo}/resolve/([^/]+)/([^/]+)", url.path):
            return self._hugging_face(*match.groups())
        if url.path == f"/api/v1/models/{self.server.repo}/repo/files":
            return self._modelscope_listing(query["Revision"])
        if url.path == f"/api/v1/models/{self.server.repo}/repo":
            return self._modelscope_file(query["Revision"], query["FilePath"])
        if url.path in (f"/api/models/{self.server.repo}", f"/api/models/{self.server.repo}/revision/main"):
            return self._hugging_face_listing()
        if url.path.startswith("/api/models/"):  # as the real Hub says of a name that it does not know
            return self._answer(401, {"error": "Invalid username or password."}, {"X-Error-Code": "RepoNotFound"})
        self._answer(404, {"Message": "no such page"})

    def _hugging_face_listing(self) -> None:
        files: list[dict[str, object]] = [{"rfilename": "README.md", "size": 5, "blobId": "0" * 40}]
        for name, data in self.server.files.items():
            if name in self.server.missing:
                continue
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            files.append({"rfilename": name, "size": len(data), "blobId": blob})
            if name.endswith(".safetensors"):
                files[-1]["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        self._answer(200, {"id": self.server.repo, "sha": REVISIONS[0], "siblings": files})

    def _hugging_face(self, revision: str, name: str) -> None:
        if revision not in REVISIONS:
            return self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        if name not in self.server.files or name in self.server.missing:
            return self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": revision})
        data = self.server.files[name]
        headers = {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if name.endswith(".safetensors"):
            headers |= {"X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
            headers["X-Xet-Hash"] = hashlib.sha256(data).hexdigest()  # as the real Hub says of large files
            return self._redirect(name, headers)
        self._content(name, headers=headers)

    def _modelscope_listing(self, revision: str) -> None:
        if revision not in REVISIONS:
            return self._answer(404, {"Code": 10010205001, "Message": "revision not found", "Success": False})
        files = [
            {"Path": name, "Name": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
            for name, data in self.server.files.items()
            if name not in self.server.missing
        ]
        files.append({"Path": "README.md", "Name": "README.md", "Type": "blob", "Size": 5, "Sha256": "0" * 64})
        self._answer(200, {"Code": 200, "Success": True, "Data": {"Files": files}})

    def _modelscope_file(self, revision: str, name: str) -> None:
        if name not in self.server.files or name in self.server.missing | self.server.vanished:
            return self._answer(404, {"Code": 404, "Message": "file not found", "Success": False})
        if name.endswith(".safetensors"):
            return self._redirect(name, {})
        self._content(name, ranges=False)  # the real hub serves its small files whole, whatever was asked for

    def _redirect(self, name: str, headers: dict[str, str]) -> None:
        place = f"{self.server.storage}/storage/{quote(name)}?Signature=secret"
        self._answer(302, {}, headers | {"Location": place})

    def _content(
        self, name: str, headers: dict[str, str] | None = None, ranges: bool = True, on_storage: bool = False
    ) -> None:
        hub, data = self.server, self.server.files[name]
        headers = dict(headers or {})
        if self.command == "GET" and hub.statuses.get(name):
            return self._answer(hub.statuses[name].pop(0), {})
        if name in hub.flips:
            at = hub.flips[name]
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if ranges else None
        start = int(wanted[1]) if wanted else 0
        if start >= len(data):
            return self._answer(416, {}, {"Content-Range": f"bytes */{len(data)}"})
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if on_storage and hub.storage_tells_hash:
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(hub.files[name]).hexdigest()}"'
        self.send_response(206 if wanted else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        request = Request(name, start, headers=_lower(self.headers))
        with hub.lock:
            hub.log.append(request)
            stall, cuts = hub.stalls.pop(name, None), hub.cuts.get(name)
            limit = stall if stall is not None else cuts.pop(0) if cuts else None
        body = data[start:][:limit]
        request.sent = len(body)
        self.close_connection = limit is not None
        try:
            self.wfile.write(body)
            if stall is not None:
                hub.release.wait(30)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> None:
        data = b"" if status == 302 else json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A well-behaved hub; a test sets what goes wrong."""
    yield from serving()


@pytest.fixture
def other_hub() -> Iterator[Hub]:
    """Another one, with the same files."""
    yield from serving()


def serving(server: Hub | None = None) -> Iterator[Hub]:
    """A hub that answers until the test ends."""
    server = server or Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
