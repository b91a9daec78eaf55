"""How commands end: exit codes and the one line on stderr."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.errors import Parser, UserError, run_main


def fail(error: BaseException):
    def main() -> int:
        raise error

    return main


def test_the_return_value_is_the_exit_code():
    assert run_main(lambda: 1) == 1
    assert run_main(lambda: None) == 0
    assert run_main(lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x: no such file; check the name"), 2, "error: x: no such file; check the name\n"),
        (UserError("two\n  lines"), 2, "error: two lines\n"),
        (UserError("out of memory", 1), 1, "error: out of memory\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_error_is_one_line(capsys, error, code, line):
    assert run_main(fail(error)) == code
    assert capsys.readouterr().err == line


def test_a_defect_keeps_its_traceback_in_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_main(fail(ZeroDivisionError("division\nby zero"))) == 1
    line = capsys.readouterr().err
    assert line.startswith("internal error: ZeroDivisionError: division by zero; traceback saved to ")
    assert line.count("\n") == 1
    (saved,) = tmp_path.iterdir()
    assert str(saved) in line
    assert "Traceback" in saved.read_text()


def test_a_traceback_that_cannot_be_saved_is_still_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert run_main(fail(ZeroDivisionError("x"))) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_parser_raises_instead_of_printing_usage():
    parser = Parser(prog="sft.sh")
    parser.add_argument("--number", type=int)
    with pytest.raises(UserError, match=r"invalid int value: 'x'; see sft.sh --help"):
        parser.parse_args(["--number", "x"])


def test_a_closed_pipe_is_quiet():
    code = (
        "import sys; from common.errors import run_main\n"
        "def main():\n  for _ in range(100000): print('line')\n"
        "sys.exit(run_main(main))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout and child.stderr
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait(20) == 141


@pytest.mark.parametrize("word", ["--expect=--", "--no-such-option=--"])
def test_two_dashes_are_no_value(capsys, word):
    """argparse takes the -- away, and gives a list where a text is expected. Found by tests/fuzz."""
    parser = Parser(prog="x")
    parser.add_argument("--expect")
    assert run_main(lambda: parser.parse_known_args([word])) == 2
    assert capsys.readouterr().err == f"error: {word}: -- is not a value; see x --help\n"
    assert parser.parse_args(["--expect=-"]).expect == "-"
