"""Bytes that are nearly right: a valid file with some of its bytes changed, cut, doubled or exchanged for odd ones."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

# Pieces at which readers of JSON, YAML, CSV, XML and Unicode turn.
PIECES = (
    *(b"", b"\0", b"\n", b"\r\n", b'"', b"'", b",", b";", b"\t", b":", b"{", b"}", b"[", b"]", b"[" * 3000, b"{" * 50),
    *(b"\\", b"\\u0000", b"\\ud800", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc3\x28", b"\x81\x30\x81\x30", b"\x1b["),
    *(
        b"null",
        b"true",
        b"NaN",
        b"Infinity",
        b"-0",
        b"1e999",
        b"9" * 400,
        b"9" * 5000,
        b"0x",
        b"''",
        b"~",
        b"- ",
        b"? ",
    ),
    *(
        b"&a ",
        b"*a",
        b"!!python/object:os.system",
        b"!!binary ",
        b"!!set ",
        b"!!timestamp ",
        b"2001-99-99",
        b"<<: *a\n",
    ),
    *(
        b"<|im_end|>",
        b"\xe2\x80\xa8",
        b"\xf0\x9f\x98\x80",
        b"\xed\xa0\x80",
        b"(?:a|b)*",
        b"(" * 200,
        b"a{999999999999}",
    ),
    *(
        b"[link=file:///x]",
        b"[/]",
        b"<",
        b"&#0;",
        b"--",
        b"#",
        b"%",
        b"%s",
        b"{}",
        b"$(x)",
        b"`x`",
        b"/",
        b"../",
        b"\x7f",
    ),
)

_EDIT = st.tuples(
    st.sampled_from(("change", "cut", "insert", "double", "end", "swap")),
    st.integers(0, 1 << 20),
    st.integers(0, 64),
    st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)),
)


def mutated(valid: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the valid files with up to eight edits, or (now and then) bytes that never were one."""
    edited = st.builds(_edit, st.sampled_from(list(valid)), st.lists(_EDIT, max_size=8))
    return st.one_of(edited, edited, edited, st.binary(max_size=200))


def _edit(data: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    for kind, at, length, piece in edits:
        at %= len(data) + 1
        part = data[at : at + length]
        if kind == "change":
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == "cut":
            data = data[:at] + data[at + length :]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "double":
            data = data[:at] + part + data[at:]
        elif kind == "end":
            data = data[:at]
        else:
            data = part + data[:at] + data[at + length :]
    return data
