"""Every document: links lead somewhere, and each path, script and make verb that is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.docs.markdown import Document, slug

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
# A word in inline code that begins with a folder of this repository is a path in it; `configs/` and `questions/` are of
# the workspace.
FOLDERS = "bench configs deploy docs entrypoint finetune healthchecks host qwen2 questions requirements standin tests"
PATH = re.compile(rf"(?:{'|'.join([*FOLDERS.split(), 'weights', 'workspace', r'[.]github'])})/[\w./*-]*")
TEST = re.compile(r"(?:\w+/)*test_\w+\.py")  # a file of tests, by its name or the end of its path

by_name = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def makefile_verbs() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE))


def verbs(document: Document) -> set[str]:
    """The verbs of `make VERB` in code, with or without variables before it."""
    code = [*document.code(), *(line for _, block in document.fences() for line in block.splitlines())]
    pattern = re.compile(r"(?:^|&& |; |sudo )(?:[A-Z_]+=\S+ )*make ([a-z][a-z_-]*)")
    return {verb for line in code for verb in pattern.findall(line.strip())}


def missing_links(document: Document) -> list[str]:
    """Relative links of a document that lead nowhere."""
    found = []
    for target in document.links():
        if re.match(r"[a-z]+:", target):
            continue
        name, _, part = target.partition("#")
        path = document.path.parent / name if name else document.path
        if not path.exists() or (part and slug(part) not in Document(path).anchors()):
            found.append(target)
    return found


def missing_paths(document: Document) -> list[str]:
    """Paths of the repository, in inline code, that are not there."""
    found = []
    for code in document.code():
        if PATH.fullmatch(code):
            places = [folder.glob(code.rstrip("/")) for folder in (ROOT, ROOT / "workspace")]
        elif TEST.fullmatch(code):
            places = [(ROOT / "tests").rglob(code)]
        else:
            continue
        if not any(any(place) for place in places):
            found.append(code)
    return found


@by_name
def test_links_lead_somewhere(path):
    assert missing_links(Document(path)) == []


@by_name
def test_paths_are_there(path):
    assert missing_paths(Document(path)) == []


@by_name
def test_make_verbs_exist(path):
    assert verbs(Document(path)) <= makefile_verbs()


@by_name
def test_workspace_scripts_exist(path):
    """`sft.sh --resume`: inline code that begins with a script's name."""
    for code in Document(path).code():
        match = re.match(r"(\w+\.sh)(?: |$)", code)
        if match:
            places = (ROOT / "workspace", ROOT / "host", ROOT / "image", ROOT / "entrypoint", ROOT / "bench")
            assert any((place / match[1]).is_file() for place in places), code


def test_every_document_can_be_found():
    """By a link of a README or of another document."""
    linked = {
        (path.parent / target.partition("#")[0]).resolve()
        for path in DOCUMENTS
        for target in Document(path).links()
        if not re.match(r"[a-z]+:", target)
    }
    alone = [path.name for path in (ROOT / "docs").glob("*.md") if path.resolve() not in linked]
    assert alone == []


def test_the_article_s_rows_have_a_word():
    tables = Document(ROOT / "docs" / "article.md").tables()
    words = ("kept", "bettered", "corrected", "not measured here")
    for table in tables[1:]:
        assert table[0][1] == "word"
        claim = ""
        for row in table[1:]:
            claim = row[0] or claim
            assert claim and (not row[1] or row[1].startswith(words)), row
    assert sum(len(table) - 1 for table in tables[1:]) > 50


@pytest.mark.parametrize(
    ("text", "links", "paths", "verb"),
    [
        ("[a](no.md)", ["no.md"], [], set()),
        ("[a](#no)\n\n# Yes", ["#no"], [], set()),
        ("[a](#yes-it-is)\n\n# Yes, it `is`", [], [], set()),
        ("[a](https://example.org)", [], [], set()),
        ("`docs/no.md` `docs/health.md` `configs/sft.yaml` `workspace/*.sh`", [], ["docs/no.md"], set()),
        (
            "`test_no.py` `unit/test_errors.py` `common/test_errors.py`",
            [],
            ["test_no.py", "unit/test_errors.py"],
            set(),
        ),
        ("make a cake; `make nothing`\n\n```sh\nNO_COLOR=1 make build X=1\n```", [], [], {"nothing", "build"}),
    ],
)
def test_what_is_missing_is_found(tmp_path, text, links, paths, verb):
    path = tmp_path / "x.md"
    path.write_text(text)
    document = Document(path)
    assert missing_links(document) == links
    assert missing_paths(document) == paths
    assert verbs(document) == verb
