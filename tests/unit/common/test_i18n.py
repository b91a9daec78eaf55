"""The language of messages, and the catalogue: complete, true to the code, and written as Chinese is."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from common import i18n
from common.errors import Parser, UserError, run_main
from host import messages
from tests.unit.chinese import half_width

ROOT = Path(__file__).resolve().parents[3]
TEXT = i18n.CATALOGUE.read_text(encoding="utf-8")
ENTRIES = i18n.read(TEXT)


@pytest.fixture
def no_language(monkeypatch):
    for name in i18n.VARIABLES:
        monkeypatch.setenv(name, "")  # set, so that it is put back after a test that takes --lang
    monkeypatch.setattr(i18n, "option", None)
    return monkeypatch


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"LANG": "C.UTF-8"}, None),
        ({"LANG": "POSIX"}, None),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh"}, "zh"),
        ({"LANG": "zh-Hans"}, "zh"),
        ({"LANG": "zh@pinyin"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "de_DE"}, "en"),
        ({"LANG": "zhuang"}, "en"),
        ({"LC_ALL": "C", "LANG": "zh_CN"}, None),
        ({"LC_ALL": "", "LC_MESSAGES": "zh_TW", "LANG": "C"}, "zh"),
        ({"MIRROR_LANG": "en", "LC_ALL": "zh_CN"}, "en"),
        ({"MIRROR_LANG": "zh", "LC_ALL": "C.UTF-8"}, "zh"),
    ],
)
def test_the_first_variable_that_is_set_decides(environ, expected):
    assert i18n.chosen(environ) == expected


@pytest.mark.parametrize("words", [["--lang", "zh", "a"], ["a", "--lang=zh"]])
def test_the_option_is_taken_and_inherited(no_language, words):
    no_language.setenv("MIRROR_LANG", "en")
    i18n.take_option(words)
    assert (words, i18n.language()) == (["a"], "zh")


def test_json_is_english_whatever_language_is_asked_for(no_language):
    i18n.take_option(["--json", "--lang", "zh"])
    assert i18n.language() == "en"


def test_the_option_behind_two_dashes_belongs_to_another_command(no_language):
    words = ["--", "swift", "--lang", "zh"]
    i18n.take_option(words)
    assert (len(words), i18n.language()) == (4, "en")


@pytest.mark.parametrize("words", [["--lang"], ["--lang", "fr"], ["--lang="]])
def test_another_language_is_refused(capsys, no_language, words):
    no_language.setattr(sys, "argv", ["plan", *words])
    assert run_main(lambda: 0) == 2
    assert "unknown language; give zh or en" in capsys.readouterr().err


def test_an_error_is_said_in_chinese(capsys, no_language):
    no_language.setenv("LANG", "zh_CN.UTF-8")

    def main() -> int:
        Parser(prog="plan").parse_args(["--no-such"])
        return 0

    assert run_main(main) == 2
    assert capsys.readouterr().err == "错误：无法识别的参数：--no-such；用法见 plan --help\n"


def test_help_is_in_chinese(capsys, no_language):
    no_language.setattr(sys, "argv", ["plan", "--help", "--lang", "zh"])
    with pytest.raises(SystemExit):
        run_main(lambda: Parser(prog="plan").parse_args() and 0)
    printed = capsys.readouterr().out
    assert "用法：plan" in printed and "显示本帮助并退出" in printed and "界面语言" in printed


def test_english_reads_no_catalogue(tmp_path):
    """With an unreadable one, to see it: in English no word of it, in Chinese a line on stderr and English messages."""
    code = (
        "import sys; from pathlib import Path; from common import i18n; i18n.CATALOGUE = Path(sys.argv[1]); "
        "print(i18n._('interrupted'), 'gettext' in sys.modules)"
    )
    for language, complaint in (("C", ""), ("zh_CN", "messages stay in English")):
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "none.po")],
            env={"PYTHONPATH": str(ROOT), "LANG": language},
            capture_output=True,
            text=True,
        )
        assert run.stdout.startswith("interrupted ")
        assert complaint in run.stderr and bool(run.stderr) is bool(complaint)


def test_a_damaged_catalogue_is_named():
    with pytest.raises(ValueError, match="line 2"):
        i18n.read('msgid "a"\nmsgstr_plural "b"\n')


def fields(text: str) -> Counter[str]:
    """The placeholders of a message: {name}, {share:.0%} and %s."""
    found: Counter[str] = Counter(re.findall(r"%(?:\(\w+\))?[sdr]", text))
    with contextlib.suppress(ValueError):  # a message with braces of its own is not formatted
        found.update(name for _, name, _, _ in string.Formatter().parse(text) if name)
    return found


MESSAGES = dict(messages.extracted())


def test_every_message_has_a_translation():
    missing = sorted(f"{place}: {message}" for message, place in MESSAGES.items() if message not in ENTRIES)
    assert missing == [], "write them into common/locale/zh.po (`make messages` adds the entries)"


def test_no_entry_is_stale():
    keys = [line for line in TEXT.splitlines() if line.startswith("msgid ") and line != 'msgid ""']
    assert [key for key, count in Counter(keys).items() if count > 1] == []
    assert set(ENTRIES) - set(MESSAGES) == set()


def test_placeholders_agree():
    assert [each for each, translated in ENTRIES.items() if set(fields(each)) != set(fields(translated))] == []


def test_chinese_marks_are_full_width():
    assert {each: half_width(each) for each in ENTRIES.values() if half_width(each)} == {}


def test_no_message_is_left_in_english():
    """A translation has Chinese in it; `OK` and the like need no entry."""
    assert [each for each in ENTRIES.values() if not re.search(r"[\u3400-\u9fff\uff00-\uffef]", each)] == []


def test_babel_reads_the_catalogue_as_we_do():
    catalogue = read_po(io.BytesIO(TEXT.encode()))
    assert {message.id: message.string for message in catalogue if message.id} == ENTRIES


def test_bringing_up_to_date_keeps_adds_and_removes():
    text = '# head\nmsgid ""\nmsgstr ""\n\nmsgid "stale"\nmsgstr "旧"\nmsgid "b"\nmsgstr "乙"\n'
    new = messages.updated(text, {'a "quoted"\n', "b"})
    assert new.startswith("# head\n") and "stale" not in new
    assert i18n.read(new) == {"b": "乙"}
    assert r'msgid "a \"quoted\"\n"' in new


def test_a_name_bound_in_a_function_does_not_hide_the_look_up():
    """`for _ in …` in a function that calls `_()` would fail when it runs."""
    hidden = []
    for folder in messages.FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, (ast.FunctionDef, ast.Lambda)):
                    names = [each for each in ast.walk(function) if isinstance(each, ast.Name) and each.id == "_"]
                    calls = [each.func for each in ast.walk(function) if isinstance(each, ast.Call)]
                    binds = any(isinstance(each.ctx, ast.Store) for each in names)
                    if binds and any(isinstance(each, ast.Name) and each.id == "_" for each in calls):
                        hidden.append(f"{path}:{function.lineno}")
    assert hidden == []


def test_an_unknown_option_names_the_value():
    with pytest.raises(UserError, match="-- is not a value"):
        Parser(prog="x").parse_args(["--name=--"])


def test_no_message_hides_in_an_f_string():
    """There Babel does not find it."""
    hidden = re.compile(r"""[fF]["'].*\{_\(["']""")
    for folder in messages.FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert not hidden.search(path.read_text(encoding="utf-8")), path
