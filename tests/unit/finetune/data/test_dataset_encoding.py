"""Files in older encodings are read as what they are, with a warning that says so, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.data.check import check_file, in_one_line
from finetune.data.convert import convert
from finetune.data.reading import read

PAIRS = {
    "zh": [("你们几点开门?", "上午九点开门，欢迎光临。"), ("退货需要多少天", "七天之内可以退货，请保留好发票。")],
    "tw": [("請問幾點開門?", "上午九點開門，歡迎光臨。"), ("退貨需要多少天", "七天之內可以退貨，請保留好發票。")],
    "ja": [("何時に開きますか?", "午前九時に開店します。"), ("返品はできますか", "七日以内であれば返品を承ります。")],
    "ko": [
        ("몇 시에 문을 여나요?", "오전 아홉 시에 엽니다."),
        ("반품이 가능한가요", "칠 일 이내에 반품할 수 있습니다."),
    ],
    "ru": [
        ("Во сколько вы открываетесь?", "Мы открываемся в девять часов утра."),
        ("Можно ли вернуть товар?", "Товар можно вернуть в течение семи дней после получения."),
    ],
    "de": [("Wann öffnen Sie?", "Um neun Uhr, schöne Grüße."), ("Größe?", "Maße stehen auf der Rückseite.")],
    "fr": [
        ("À quelle heure ouvrez-vous ?", "À neuf heures, à bientôt."),
        ("Êtes-vous là ?", "Oui, très tôt, le dîner."),
    ],
    "en": [("What’s the price?", "It’s £5 – a “bargain”."), ("Where?", "In the café.")],
    "pl": [("O której otwieracie?", "O dziewiątej, proszę wejść."), ("Czy mogę zwrócić?", "Tak, w ciągu siedmiu dni.")],
    "el": [
        ("Τι ώρα ανοίγετε;", "Ανοίγουμε στις εννέα το πρωί."),
        ("Μπορώ να επιστρέψω το προϊόν;", "Ναι, σε επτά ημέρες."),
    ],
}
GUESSED = [
    *[("ja", "cp932"), ("ja", "euc_jp"), ("ja", "iso2022_jp"), ("ko", "cp949"), ("ko", "euc_kr"), ("tw", "big5")],
    *[("ru", "koi8_r"), ("ru", "cp1251"), ("ru", "cp866"), ("ru", "iso8859_5"), ("el", "cp1253"), ("el", "iso8859_7")],
    *[("de", "cp1252"), ("de", "latin_1"), ("de", "mac_roman"), ("de", "cp850"), ("fr", "cp1252"), ("en", "cp1252")],
    *[("pl", "cp1250")],
]
CERTAIN = [
    *[("zh", "gbk"), ("zh", "gb18030"), ("tw", "gbk"), ("zh", "utf-8"), ("zh", "utf-8-sig"), ("zh", "utf-16")],
    *[("zh", "utf-16-le"), ("ja", "utf-16-be"), ("ja", "utf-32"), ("de", "utf-8"), ("ru", "utf-16")],
]


def write(folder: Path, language: str, encoding: str, form: str, times: int = 1) -> tuple[Path, list[tuple[str, str]]]:
    """A file of this form, and the questions and answers in it."""
    rows = [(f"{q} {n}" if n else q, a) for n in range(times) for q, a in PAIRS[language]]
    if form == "csv":
        text = "question,answer\n" + "".join(f'"{q}","{a}"\n' for q, a in rows)
    else:
        lines = (json.dumps({"instruction": q, "output": a}, ensure_ascii=False) for q, a in rows)
        text = "".join(line + "\n" for line in lines)
    path = folder / f"faq.{form}"
    path.write_bytes(text.encode(encoding))
    return path, rows


def texts(path: Path) -> list[tuple[str, str]]:
    """What the training would see."""
    return [(row.data["instruction"], row.data["output"]) for row in read(path)]  # type: ignore[union-attr]


@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize(("language", "encoding"), GUESSED)
def test_an_older_encoding_is_read_as_what_it_is_and_said(tmp_path, language, encoding, form, times):
    path, rows = write(tmp_path, language, encoding, form, times)
    assert texts(path) == rows
    report = check_file(path)
    assert report.errors == 0 and report.plain is False  # ms-swift is given a converted file
    (finding,) = [finding for finding in report.findings if finding.kind == "guessed encoding"]
    assert "read as" in finding.what and not finding.error
    assert "read as" in in_one_line([report])  # what sft.sh prints


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize(("language", "encoding"), CERTAIN)
def test_a_usual_encoding_needs_no_remark(tmp_path, language, encoding, form):
    path, rows = write(tmp_path, language, encoding, form)
    assert texts(path) == rows
    assert check_file(path).findings == []


def test_a_converted_file_has_the_right_texts(tmp_path):
    path, rows = write(tmp_path, "ja", "cp932", "csv")
    convert([path], tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [tuple(m["content"] for m in json.loads(line)["messages"]) for line in lines] == rows


@pytest.mark.parametrize("encoding", ["gbk", "cp932", "cp1252", "utf-8"])
def test_the_first_line_that_is_not_ascii_decides(tmp_path, encoding):
    path = tmp_path / "faq.csv"
    late = {
        "gbk": "你们几点开门?,上午九点",
        "cp932": "何時に開きますか?,午前九時に",
        "cp1252": "Où?,Au café",
        "utf-8": "é,ü",
    }
    path.write_bytes(("question,answer\n" + "Open?,Nine\n" * 20_000 + late[encoding] + "\n").encode(encoding))
    assert texts(path)[-1] == tuple(late[encoding].split(","))


def test_a_doubtful_guess_names_the_other_one(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_bytes("question,answer\n你好,好\n".encode("gbk"))
    assert texts(path) == [("你好", "好")]
    (finding,) = check_file(path).findings
    assert "though it could be" in finding.what


@pytest.mark.parametrize(
    "raw",
    [
        "question,answer\nשלום,טוב\n".encode("cp1255"),  # any bytes are letters of some 8-bit encoding
        bytes([0x81, 0x30, 0x81, 0xFF]) * 40,
        ("问题,答案\n" * 3).encode() + b"\xff\n",
    ],
)
def test_what_is_no_text_of_any_kind_is_refused_with_its_place(tmp_path, raw):
    path = tmp_path / "faq.csv"
    path.write_bytes(b"question,answer\n" + raw)
    (finding,) = [finding for finding in check_file(path).findings if finding.error]
    assert "not UTF-8 text" in finding.what and finding.where.startswith("byte") and "iconv" in finding.remedy
