"""Which request uses which pages of the key/value cache, and which pages hold a reusable prompt prefix; no torch.

A page holds PAGE tokens. A whole page is known by the digest of its tokens and of all before them, so that requests
that begin alike share pages. An unused page keeps its content until it is needed for another.
"""

from __future__ import annotations

import array
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

PAGE = 16  # tokens
SCRATCH = 0  # the page that padding rows write to; it is never read


def pages_for(tokens: int) -> int:
    """Pages needed for this many tokens."""
    return -(-tokens // PAGE)


def digests(root: bytes, tokens: Sequence[int]) -> list[bytes]:
    """One digest for each whole page of `tokens`; `root` tells apart what makes the cache another (the adapter)."""
    found, before = [], root
    for start in range(0, len(tokens) - PAGE + 1, PAGE):
        words = array.array("q", tokens[start : start + PAGE]).tobytes()
        before = hashlib.blake2b(before + words, digest_size=16).digest()
        found.append(before)
    return found


class Pages:
    """Page numbers 1 to count - 1: free, used by so many requests, or kept for their content."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = list(range(count - 1, SCRATCH, -1))
        self.uses = [0] * count
        self.by_digest: dict[bytes, int] = {}
        self.digest_of: dict[int, bytes] = {}
        self.kept: OrderedDict[int, None] = OrderedDict()  # unused pages with content, the longest unused first

    @property
    def available(self) -> int:
        """Pages that can be taken."""
        return len(self.free) + len(self.kept)

    @property
    def total(self) -> int:
        """Pages that there are."""
        return self.count - 1

    def take(self, count: int) -> list[int] | None:
        """So many pages, or None, and then none is taken."""
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
        """The pages that hold these digests, up to the first that none holds."""
        found = []
        for key in keys:
            page = self.by_digest.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def share(self, pages: Iterable[int]) -> None:
        """One more use of pages that `known` gave."""
        for page in pages:
            self.uses[page] += 1
            self.kept.pop(page, None)

    def register(self, key: bytes, page: int) -> None:
        """Say what a page holds, now that its content has been computed. The first page of a digest stays it."""
        if key not in self.by_digest and page not in self.digest_of:
            self.by_digest[key], self.digest_of[page] = page, key

    def give_back(self, pages: Iterable[int]) -> None:
        """One use less of each. The end of a text is given up before its beginning, which more have in common."""
        for page in reversed(list(pages)):
            self.uses[page] -= 1
            if self.uses[page]:
                continue
            if page in self.digest_of:
                self.kept[page] = None
            else:
                self.free.append(page)
