"""Pages are taken, shared, kept for their content and taken again, and none is lost."""

from __future__ import annotations

import random

from qwen2.serving.pages import PAGE, SCRATCH, Pages, digests, pages_for


def test_only_whole_pages_have_a_digest_and_it_holds_all_before_them():
    one, other = list(range(40)), [99, *range(1, 40)]
    assert len(digests(b"0", one)) == 40 // PAGE == 2
    assert digests(b"0", one)[:1] == digests(b"0", one[:PAGE])
    assert not set(digests(b"0", one)) & set(digests(b"1", one))
    assert digests(b"0", one)[1] != digests(b"0", other)[1], "the second page is the same, what is before it is not"
    assert [pages_for(n) for n in (0, 1, PAGE, PAGE + 1)] == [0, 1, 1, 2]


def test_content_is_kept_until_the_page_is_needed():
    pages = Pages(4)
    first = pages.take(2)
    keys = digests(b"0", list(range(2 * PAGE)))
    for key, page in zip(keys, first, strict=True):
        pages.register(key, page)
    pages.give_back(first)
    assert pages.available == 3 and pages.known(keys) == first
    assert pages.take(4) is None and pages.available == 3
    assert SCRATCH not in pages.take(2)
    assert pages.known(keys) == first[:1], "the end of a text goes before its beginning"


def test_at_random_no_page_is_lost_or_has_two_owners():
    drawn, pages = random.Random(1), Pages(30)
    held: list[list[int]] = []
    for step in range(3000):
        if held and drawn.random() < 0.5:
            pages.give_back(held.pop(drawn.randrange(len(held))))
        else:
            keys = digests(b"0", [drawn.randrange(2)] * PAGE * drawn.randrange(1, 4))
            known = pages.known(keys)
            pages.share(known)
            taken = pages.take(len(keys) - len(known))
            if taken is None:
                pages.give_back(known)
                continue
            mine = [*known, *taken]
            for key, page in zip(keys, mine, strict=True):
                pages.register(key, page)
            held.append(mine)
        used = {page for each in held for page in each}
        assert pages.available + len(used) == pages.total, step
    for each in held:
        pages.give_back(each)
    assert pages.available == pages.total and not any(pages.uses)
