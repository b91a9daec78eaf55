"""A variable that nothing reads is refused on make's command line, and every one that is documented is taken."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.unit.host.test_language import HAN, ROOT

# `NAME=` on a line that runs make.
GIVEN = re.compile(r"\bmake(?: [a-z][a-z-]*)?((?: [A-Z_]+=(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s`)]*))+)")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-s", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("ADAPTR=newest", "ADAPTER"), ("adapter=newest", "ADAPTER"), ("DATASETS=my.json", "DATASET"), ("GPU=all", "GPUS")],
)
def test_a_mistyped_variable_is_refused_with_what_was_meant(given, meant):
    done = make("help", given, "Q=who are 'you'?")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {given.split('=')[0]}=: ") and f"did you mean {meant}=?" in done.stderr


def test_a_variable_like_none_is_refused_too_and_in_chinese():
    done = make("help", "EPOCHS=3", "MIRROR_LANG=zh")
    assert done.returncode == 2 and done.stderr.startswith("错误：EPOCHS=：") and "是不是" not in done.stderr
    assert HAN.search(done.stderr)


def test_what_is_there_is_taken():
    given = ("ADAPTER=newest", "MIX=40", "YES=1", "VRAM_CEILING_GIB=11", "NCCL_DEBUG=INFO", "https_proxy=")
    assert make("help", *given).returncode == 0


def test_every_variable_of_the_documents_is_known():
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "Makefile"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    names = {name for words in GIVEN.findall(text) for name in re.findall(r" ([A-Z_]+)=", words)}
    assert {"ADAPTER", "DATASET", "OUTPUT", "MIX", "REWORD"} <= names
    done = subprocess.run([str(ROOT / "host/variables.sh"), *sorted(names)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("given", "reads"), [([], True), (["Q=who are you?"], False)])
def test_a_talk_reads_what_is_piped_to_it(given, reads):
    assert (" -i " in make("-n", "-o", "image", "infer", *given).stdout.split("docker run")[-1]) is reads
