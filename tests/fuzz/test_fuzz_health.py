"""Everything that reads health.json and job.json: probe and report, whatever is in the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from common import state
from healthchecks import cli, probe
from tests.fuzz.mutations import mutated
from tests.fuzz.rounds import call, fuzz

CHECK = {"name": "weights", "status": "pass", "code": "", "seconds": 0.1, "figure": "4 shards"}
FAULT = CHECK | {"status": "fail", "code": "missing", "cause": "gone", "remedy": "build it again"}
HEALTH = {
    "schema": 1,
    "level": "full",
    "state": "ready",
    "started": "2026-11-24T00:00:00+00:00",
    "seconds": 4.2,
    "running": [],
    "checks": [CHECK, FAULT, CHECK | {"status": "skip"}, CHECK | {"status": "warn", "cause": "x", "remedy": "y"}],
    "device": "cpu",
    "standin": True,
}
JOB = {"schema": 1, "name": "sft", "step": 12, "total": 40, "phase": None, "beat": 1.0, "stale_s": 600.0, "group": 7}
READERS = (
    (probe.main, ([], ["--json"], ["--live"], ["--checked"]), "strict"),
    (
        cli.main,
        (["report"], ["report", "--json"], ["report", "--junit", "-"]),
        "backslashreplace",
    ),  # as cli.leave sets it
)
ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from((10**400, -(10**400), 2**63, 1e308)),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(
            ("ready", "failed", "starting", "fail", "pass", "warn", "skip", "off", "\x1b[31m", "[/]", "\ud800")
        ),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.sampled_from(list(CHECK)), inner)
    ),
    max_leaves=8,
)


def changed(value: dict, keys: list[str]) -> st.SearchStrategy[dict]:
    """The valid object with some of its values replaced by anything, or taken away."""
    replaced = st.dictionaries(st.sampled_from(keys), ANYTHING, max_size=4)
    removed = st.sets(st.sampled_from(keys), max_size=2)
    return st.builds(lambda a, b: {key: item for key, item in (value | a).items() if key not in b}, replaced, removed)


ROW = changed(FAULT, list(FAULT))
HEALTHS = st.builds(
    lambda value, rows: value | ({"checks": rows} if rows else {}),
    changed(HEALTH, list(HEALTH)),
    st.lists(ROW, max_size=2),
)


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place that is looked at."""
    monkeypatch.setenv("MIRROR_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(state, "FALLBACK_RUN_DIR", str(tmp_path))
    return tmp_path


def look(folder: Path) -> None:
    """Every reader ends with 0 or 1 and says something."""
    for main, lines, errors in READERS:
        for words in lines:
            assert call(main, words, (0, 1), errors).strip()
    assert {path.name for path in folder.iterdir()} <= {"health.json", "job.json"}


def test_whatever_the_objects_hold(run_dir: Path) -> None:
    def check(drawn: tuple[dict, dict, bool]) -> None:
        health, job, alive = drawn
        own = {"container_start": state.container_start(), "writer": state.this_process() if alive else {"pid": 1}}
        (run_dir / "health.json").write_text(json.dumps(own | health))
        (run_dir / "job.json").write_text(json.dumps(own | job))
        look(run_dir)

    assert (
        fuzz(st.tuples(HEALTHS, changed(JOB, [*JOB, "killed", "writer"]), st.booleans()), check, short=150, share=0.5)
        >= 100
    )


def test_whatever_the_bytes_are(run_dir: Path) -> None:
    own = {"container_start": state.container_start(), "writer": state.this_process()}
    deep = json.dumps(own | HEALTH)[:-1] + ', "running": ' + "[" * 900 + "]" * 900 + "}"
    health = [json.dumps(own | HEALTH).encode(), json.dumps(own | HEALTH | {"state": "failed"}).encode(), deep.encode()]

    def check(drawn: tuple[bytes, bytes]) -> None:
        (run_dir / "health.json").write_bytes(drawn[0])
        (run_dir / "job.json").write_bytes(drawn[1])
        look(run_dir)

    assert (
        fuzz(st.tuples(mutated(health), mutated([json.dumps(own | JOB).encode(), b"{}"])), check, short=100, share=0.5)
        >= 80
    )
