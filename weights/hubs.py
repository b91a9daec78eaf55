"""The two hubs behind one small interface, accessed with their own clients; called by weights/fetch.py.

A hub lists its files (size, sha256 if known) and fetches one of them to a folder. If an earlier transfer left
NAME.incomplete, both clients request the rest with a Range request. One call is one attempt; retries are decided in one
place, weights/fetch.py. The clients are imported late: they read their settings from the environment at import, and
the check and local commands also run without them.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

OWNER = "Qwen"
HF_PINNED = "a09a35458c702b33eeacc393d103063234e8bc28"  # the commit whose hashes are in SHA256SUMS
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
_TOKEN_HINT = "; where a login is asked for, pass a token as a build secret (docs/mirrors.md)"


class FetchError(Exception):
    """The requested file did not arrive, or is wrong; the message is the complete line for the user, exit code 1."""


class RefusedError(Exception):
    """The hub responded, and a retry would not change the response; the message is for the user."""


class TransferError(Exception):
    """The transfer broke or the hub could not be reached; a retry may help. The message is the cause, in short."""


@dataclass(frozen=True)
class Remote:
    """What a hub reports about a file before the download; None for what it does not report."""

    size: int | None
    sha256: str | None
    git_blob: str | None = None  # git's sha1 of the content, which Hugging Face reports for small files


@dataclass(frozen=True)
class Listing:
    """All files of a repository, at the revision that identifies them (a commit, if the hub reports it)."""

    revision: str
    files: dict[str, Remote]


class Hub(Protocol):
    """One repository at one revision on one server."""

    endpoint: str
    revision: str

    def files(self, names: Iterable[str]) -> dict[str, Remote]:
        """The named files, as far as the hub has them. Raises RefusedError, TransferError."""

    def listing(self) -> Listing:
        """All files in the repository at its newest or the requested revision. Raises RefusedError, TransferError."""

    def get(self, name: str, remote: Remote, folder: Path) -> None:
        """Fetch one file to folder/name. Raises RefusedError, TransferError, OSError (the disk)."""


class HuggingFace:
    """huggingface_hub's HTTP transport; HF_ENDPOINT names a mirror.

    hf_hub_download would discard a broken transfer's bytes when its process ends. Its two halves, the metadata request
    and http_get, are called here with a file that stays. Plain HTTP, not Xet: mirrors have no Xet service, and
    a Xet transfer cannot resume from a partial file.
    """

    pinned = HF_PINNED
    newest = "main"
    secret = "hf_token"

    def __init__(self, repo: str, revision: str | None, token: str | None) -> None:
        self.endpoint = _with_scheme(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
        self.revision = revision or self.pinned
        os.environ.update(HF_ENDPOINT=self.endpoint, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
        os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_VERBOSITY="critical")
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers

        # The client writes whole chunks only; with its 10 MiB, a line that breaks every few seconds makes no progress.
        constants.DOWNLOAD_CHUNK_SIZE = 1 << 20
        self._repo, self._token = repo, token
        # Compressed responses have neither a length nor ranges.
        self._headers = build_hf_headers(token=token) | {"Accept-Encoding": "identity"}

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self._repo, name, revision=self.revision, endpoint=self.endpoint)

    def files(self, names: Iterable[str]) -> dict[str, Remote]:
        """One HEAD request per file: mirrors respond to it even if they lack the listing API."""
        names = list(names)
        with ThreadPoolExecutor(max_workers=4) as pool:
            found = list(pool.map(self._metadata, names))
        return {name: remote for name, remote in zip(names, found, strict=True) if remote is not None}

    def _metadata(self, name: str) -> Remote | None:
        from huggingface_hub import get_hf_file_metadata
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            found = get_hf_file_metadata(self._url(name), token=self._token, endpoint=self.endpoint)
        except RemoteEntryNotFoundError:
            return None
        except Exception as error:
            raise self._explained(error) from error
        # Large files have their sha256 as the etag, small ones a git hash.
        etag = found.etag or ""
        return Remote(found.size, etag.lower() if re.fullmatch("[0-9a-fA-F]{64}", etag) else None)

    def listing(self) -> Listing:
        """See Hub.listing. Large files come with their sha256, small ones with git's sha1."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self._token)
        try:
            found = api.model_info(self._repo, revision=self.revision, files_metadata=True)
        except Exception as error:
            raise self._explained(error) from error
        files = {
            file.rfilename: Remote(file.size, file.lfs.sha256 if file.lfs else None, file.blob_id)
            for file in found.siblings or []
        }
        self.revision = found.sha or self.revision
        return Listing(self.revision, files)

    def get(self, name: str, remote: Remote, folder: Path) -> None:
        """See Hub.get."""
        from huggingface_hub.file_download import http_get

        partial = folder / f"{name}.incomplete"
        if remote.size is not None and partial.exists() and partial.stat().st_size > remote.size:
            partial.unlink()
        try:
            with partial.open("ab") as file:
                http_get(
                    self._url(name),
                    file,
                    resume_size=file.tell(),
                    headers=self._headers,
                    expected_size=remote.size,
                    displayed_filename=name,
                )
        except Exception as error:
            if getattr(getattr(error, "response", None), "status_code", None) == 416:
                partial.unlink(missing_ok=True)  # longer than the hub's file, so not a prefix of it
                raise TransferError(
                    "the hub's file ends before the part that was already here; starting over"
                ) from error
            raise self._explained(error) from error
        partial.replace(folder / name)

    def _explained(self, error: Exception) -> Exception:
        from huggingface_hub.errors import HfHubHTTPError

        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            if status in (408, 425, 429) or status >= 500:
                return TransferError(f"the server answered HTTP {status}")
            return RefusedError(_refusal(status, self._repo, self.revision, self.endpoint))
        return _transport(error)


class ModelScope:
    """modelscope_hub, the client that modelscope itself uses for downloads.

    MODELSCOPE_ENDPOINT, or its older name MODELSCOPE_DOMAIN, sets a mirror. The hub accepts a branch, tag or commit as
    the revision. It does not publish which commit matches Hugging Face's pinned one, so the default is its branch, and
    the hashes pin the content: the hub lists a sha256 for each file, so a changed file is rejected by name before
    anything is downloaded.
    """

    pinned = newest = "master"
    secret = "modelscope_token"

    def __init__(self, repo: str, revision: str | None, token: str | None) -> None:
        named = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
        self.endpoint = _with_scheme(named or "https://www.modelscope.cn")
        self.revision = revision or self.pinned
        # One attempt per call, no bars, no log: the client's own retries would hide from the user why it takes long.
        os.environ.update(MODELSCOPE_DOWNLOAD_MAX_RETRIES="0", MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS="1")
        os.environ.update(TQDM_DISABLE="1", MODELSCOPE_LOG_LEVEL="CRITICAL")
        warnings.filterwarnings("ignore", category=FutureWarning, module="modelscope_hub")
        from modelscope_hub import HubApi

        self._repo = repo
        self._api = HubApi(endpoint=self.endpoint, token=token)

    def files(self, names: Iterable[str]) -> dict[str, Remote]:
        """One listing of the repository."""
        found = self.listing().files
        return {name: found[name] for name in names if name in found}

    def listing(self) -> Listing:
        """See Hub.listing. The hub reports no commit: a branch stays a branch, and the hashes pin the content."""
        try:
            found = self._api.list_repo_files(self._repo, "model", revision=self.revision)
        except Exception as error:
            raise self._explained(error) from error
        # The client reports a missing size as 0; no weight file is empty.
        files = {file.path: Remote(file.size or None, (file.sha256 or "").lower() or None) for file in found}
        return Listing(self.revision, files)

    def get(self, name: str, remote: Remote, folder: Path) -> None:
        """See Hub.get."""
        try:
            self._api.download_file(
                self._repo,
                "model",
                name,
                revision=self.revision,
                local_dir=folder,
                cache_dir=folder / ".modelscope",  # its lock files
                file_size=remote.size,
            )
        except Exception as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> Exception:
        from modelscope_hub import errors

        status = getattr(error, "status_code", None)
        if isinstance(error, errors.FileIntegrityError):
            return RefusedError(f"the server sends something else than it lists: {_first_line(error)}")
        if isinstance(status, int) and 400 <= status < 500 and status not in (408, 416, 425, 429):
            return RefusedError(_refusal(status, self._repo, self.revision, self.endpoint))
        if isinstance(status, int) and status >= 500:
            return TransferError(f"the server answered HTTP {status}")
        return _transport(error)


HUBS: dict[str, Any] = {"modelscope": ModelScope, "huggingface": HuggingFace}


def _with_scheme(endpoint: str) -> str:
    endpoint = endpoint.strip().rstrip("/")
    return endpoint if re.match("https?://", endpoint, re.IGNORECASE) else f"https://{endpoint}"


def _refusal(status: int, repo: str, revision: str, endpoint: str) -> str:
    hint = _TOKEN_HINT if status in (401, 403) else ""
    return f"{endpoint} answered HTTP {status} for {repo} at revision {revision}{hint}"


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes, outermost first."""
    chain: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None and inner not in chain:
        chain.append(inner)
        inner = inner.__cause__ or inner.__context__
    return chain


def _first_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"\?\S+", "", text)[:200]  # the query of a signed URL is a credential


def _transport(error: Exception) -> Exception:
    """Raises TransferError with the innermost cause, and OSError unchanged for a local disk error."""
    chain = _chain(error)
    for cause in reversed(chain):
        if isinstance(cause, OSError) and cause.strerror:
            if cause.filename is not None or cause.errno in DISK_ERRORS:
                return cause
            return TransferError(cause.strerror)
    text = _first_line(chain[-1])
    # The messages of urllib3 and httpx when a body ends before its announced length.
    return TransferError("the connection broke" if re.search("IncompleteRead|peer closed", text) else text)
