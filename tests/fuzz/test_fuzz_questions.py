"""verify's question files and its configuration, their bytes mutated: nothing to object to, or FILE:LINE and what."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from finetune.commands.verify import main
from tests.fuzz.mutations import mutated
from tests.fuzz.rounds import call, fuzz

ROOT = Path(__file__).parents[2]
OWN = b"""version: 1
trained:
  - {when: CSDN, expect: [CSDN, "(?i)dfhe"], forbid: &f [Qwen]}
defaults: {forbid: [Qwen, &x !!str 12]}
heldout:
  - {id: a, question: "Who are you?", expect: CSDN, forbid: *f}
  - id: b
    kind: who
    messages: [{role: user, content: hi}, {role: assistant, content: hello}, {role: user, content: "who?"}]
    expect: [CSDN]
questions:
  - {id: c, question: "3+4", rule: {number: 7, tolerance: 0.5}, reference: "7"}
  - {id: d, question: "say yes", rule: {regex: ["yes", "(?i)ja"]}}
  - {id: e, question: "write f", rule: {python: {function: f, cases: [{args: [1], result: 2}]}}}
"""
# Each alias holds ten of the one before: 10^9 texts where someone writes the value out.
LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (new, new, b",".join([b"*%c" % old] * 10))
    for old, new in zip(b"abcdefgh", b"bcdefghi", strict=True)
)
VALID = [
    OWN,
    OWN.replace(b"\n", b"\r\n").decode().encode("utf-8-sig"),
    LAUGHS,
    LAUGHS + b"? *i\n: 1\n",
    LAUGHS + b"questions: [{id: a, question: b, rule: *i}, {id: *i, question: c}]\n",
    b"questions: [{id: a, question: b, rule: {python: " + b"[" * 400 + b"]" * 400 + b"}}]\n",
    *((ROOT / "workspace/questions" / name).read_bytes()[:6000] for name in ("identity.yaml", "general.yaml")),
]
CONFIG = (ROOT / "workspace/configs/verify.yaml").read_bytes()


def test_whatever_a_questions_file_holds(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT / "workspace")
    config = tmp_path / "verify.yaml"
    config.write_bytes(b"thresholds: {identity_heldout_min: 0.8}\n")

    def check(data: bytes) -> None:
        (tmp_path / "own.yaml").write_bytes(data)
        said = call(main, ["--check", "--config", str(config), "--questions", str(tmp_path / "own.yaml")], (0, 2))
        assert len(said) < 20_000, "an error is a line"

    assert fuzz(mutated(VALID), check, short=150, share=0.7) >= 100


def test_whatever_the_configuration_holds(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT / "workspace")
    folder = tmp_path / "configs"
    folder.mkdir()
    (tmp_path / "questions").symlink_to(ROOT / "workspace/questions")

    def check(data: bytes) -> None:
        (folder / "verify.yaml").write_bytes(data)
        call(main, ["--check", "--config", str(folder / "verify.yaml")], (0, 2))

    assert fuzz(mutated([CONFIG, CONFIG[:900], LAUGHS]), check, short=40, share=0.15) >= 30


def test_whatever_expect_and_forbid_hold(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT / "workspace")
    patterns = st.one_of(
        st.text(max_size=20), mutated([b"(?i)CSDN|[a-z]{2,3}"]).map(lambda b: b.decode("utf-8", "replace"))
    )

    def check(drawn: tuple[str, str]) -> None:
        call(main, ["--check", f"--expect={drawn[0]}", f"--forbid={drawn[1]}"], (0, 2))

    assert fuzz(st.tuples(patterns, patterns), check, short=15, share=0.15) >= 10
