"""Which request uses which pages of the key/value cache, and which pages hold a reusable prompt prefix; no torch.

A page holds PAGE tokens. A full page is identified by the digest of its tokens and all earlier ones, so requests with
the same prefix share pages. An unused page keeps its content until it is needed for another request.
"""

from __future__ import annotations

import array
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

PAGE = 16  # tokens
SCRATCH = 0  # the page that padding rows write to; it is never read


def pages_for(tokens: int) -> int:
    """Number of pages needed for this many tokens."""
    return -(-tokens // PAGE)


def digests(root: bytes, tokens: Sequence[int]) -> list[bytes]:
    """One digest for each full page of `tokens`. `root` stands for what else changes the cache (the adapter)."""
    found, before = [], root
    for start in range(0, len(tokens) - PAGE + 1, PAGE):
        words = array.array("q", tokens[start : start + PAGE]).tobytes()
        before = hashlib.blake2b(before + words, digest_size=16).digest()
        found.append(before)
    return found


class Pages:
    """Page numbers 1 to count - 1. A page is free, in use (with a use count), or kept for its content."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = list(range(count - 1, SCRATCH, -1))
        self.uses = [0] * count
        self.by_digest: dict[bytes, int] = {}
        self.digest_of: dict[int, bytes] = {}
        self.kept: OrderedDict[int, None] = OrderedDict()  # unused pages with content, least recently used first

    @property
    def available(self) -> int:
        """Number of pages that can be taken."""
        return len(self.free) + len(self.kept)

    @property
    def total(self) -> int:
        """Total number of pages."""
        return self.count - 1

    def take(self, count: int) -> list[int] | None:
        """Take this many pages. Returns None, and takes none, if there are too few."""
        if count > self.available:
            return None
        found = []
        for _ in range(count):
            if self.free:
                page = self.free.pop()
            else:
                page, _ = self.kept.popitem(last=False)
                del self.by_digest[self.digest_of.pop(page)]
            self.uses[page] = 1
            found.append(page)
        return found

    def known(self, keys: Iterable[bytes]) -> list[int]:
        """The pages that hold these digests, up to the first digest without a page."""
        found = []
        for key in keys:
            page = self.by_digest.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def share(self, pages: Iterable[int]) -> None:
        """Add a use of pages that `known` returned."""
        for page in pages:
            self.uses[page] += 1
            self.kept.pop(page, None)

    def register(self, key: bytes, page: int) -> None:
        """Record a page's content once it has been computed. The first page with a digest remains its page."""
        if key not in self.by_digest and page not in self.digest_of:
            self.by_digest[key], self.digest_of[page] = page, key

    def give_back(self, pages: Iterable[int]) -> None:
        """Release one use of each page. The end of a text is evicted before its start, which more requests share."""
        for page in reversed(list(pages)):
            self.uses[page] -= 1
            if self.uses[page]:
                continue
            if page in self.digest_of:
                self.kept[page] = None
            else:
                self.free.append(page)
