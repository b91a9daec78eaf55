"""Detects a text file's encoding: UTF-8, UTF-16, or an older one with plausible letters; used by reading.

charset-normalizer ranks the older encodings. Bytes can be decoded in many of them, but only the right one gives text
that is Hangul only, kana among kanji, or letters of one alphabet. An encoding whose text is not is discarded.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.i18n import _

if TYPE_CHECKING:
    from charset_normalizer.models import CharsetMatch

HEAD = 1 << 16  # bytes that the detection looks at
KNOWN = 0.2  # from this coherence on, charset-normalizer recognises a text's language
MOST = 16 << 20  # bytes that are searched for the first one that is not ASCII

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WIDE = {"utf_16_le": "utf-16-le", "utf_16_be": "utf-16-be"}
# Seven-bit encodings: they are valid UTF-8 too, and recognised by their escape sequences.
ESCAPES = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$", "iso2022_jp"))

# Non-ASCII letters of each language. A text that is decoded with the wrong 8-bit encoding mixes several languages.
WESTERN = (
    "äöüß",
    "àâæçéèêëîïôùûüÿœ",
    "áéíñóúüªº",
    "áâãàçéêíóôõúü",
    "àèéìíîòóùú",
    "åäöæøé",
    "éëïöüèê",
    "áíóúýéðþæö",
    "àçéèíïóòúü",
)
LATIN = (
    *WESTERN,
    *("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîșțşţ", "čćđšž", "çğıöşüâî"),
)
CYRILLIC = "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґўђјљњћџѓќѕ"
# Marks that occur in any language.
MARKS = set("«»„“”‘’‚–—…€£¥°§©®™·•№½¼¾²³±×¿¡´\u00a0\u00ad")
BESIDE = re.compile(r"[a-zA-Z][^\W\d_a-zA-Z]|[^\W\d_a-zA-Z][a-zA-Z]")
INSIDE = re.compile(
    r"[^\W\d_][„“”…†‡‰¹³²«»¿¡±¶¼½¾¥£][^\W\d_]"
)  # a mark between two letters is probably a letter in another encoding


@dataclass(frozen=True)
class Encoding:
    """A file's encoding. `guess` is empty if it is certain, else the guess in words for the user."""

    codec: str
    guess: str = ""


@dataclass(frozen=True)
class Candidate:
    """An older encoding: its codec, its usual name, and a test of whether a decoded text is plausible."""

    codec: str
    name: str
    plausible: Callable[[str], bool]
    certain: bool = False  # so common that a clear result is not reported as a guess
    language: bool = False  # accepted only if charset-normalizer recognises the language: any bytes decode to letters


def detect(head: bytes, whole: bool) -> Encoding | None:
    """The encoding of a file, or None if none is plausible: it is then read as UTF-8, and the fault has a position.

    Args:
        head: The beginning of the file.
        whole: Whether that is the whole file. If not, its last character may be cut.
    """
    for bom, name in BOMS:
        if head.startswith(bom):
            return Encoding(name)
    for escape, name in ESCAPES:
        if escape in head and head.isascii() and _decoded(head, name, whole) is not None:
            shown = name.upper().replace("_", "-")
            return Encoding(name, _("read as {name}, by its escape sequences").format(name=shown))
    if b"\0" in head:
        return _wide(head, whole)
    if _decoded(head, "utf-8", whole) is not None:
        return Encoding("utf-8")
    # A file that is UTF-8 except for a few bytes is damaged; it is not in another encoding.
    if _mostly_utf8(head):
        return None
    return _older(head)


def of_file(path: Path) -> tuple[Encoding | None, bytes]:
    """(encoding, first HEAD bytes) of a file. If it begins in ASCII, the first lines that are not ASCII decide."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        if b"\0" in head or not head.isascii():
            return detect(head, len(head) < HEAD), head
        found = head
        while file.tell() < MOST and (more := file.read(HEAD)):
            if not more.isascii():
                # Begin at a new line: the previous block may have ended within a character.
                found = found[found.rfind(b"\n") + 1 :] + more
                return detect(found, False), head
            found = more
    return detect(head, True), head


def _wide(head: bytes, whole: bool) -> Encoding | None:
    """UTF-16 without a byte order mark; None for a binary file."""
    from charset_normalizer import from_bytes

    match = from_bytes(head, cp_isolation=list(WIDE)).best()
    name = WIDE.get(match.encoding) if match else None
    return Encoding(name) if name and _decoded(head, name, whole) is not None else None


def _older(head: bytes) -> Encoding | None:
    """The best of the older encodings with plausible letters; None if there is none."""
    from charset_normalizer import from_bytes

    # Lines in ASCII say nothing about the encoding, and can be most of a file: an English table with a few foreign
    # names. No encoding below uses the byte of a line break for anything else.
    lines = b"\n".join(line for line in head.splitlines() if not line.isascii()) or head
    texts: dict[str, Candidate] = {}  # decoded text -> the first encoding that gives it
    for candidate in CANDIDATES:
        text = _decoded(lines, candidate.codec)
        if text and candidate.plausible(text):
            texts.setdefault(text, candidate)
    if not texts:
        return None  # without a list, charset-normalizer would try every encoding that it knows
    ranked = {match.encoding: match for match in from_bytes(lines, cp_isolation=[c.codec for c in texts.values()])}
    for text, candidate in list(texts.items()):
        if candidate.language and (candidate.codec not in ranked or ranked[candidate.codec].coherence < KNOWN):
            del texts[text]
    if not texts:
        return None
    found = list(texts.values())
    best = next((one for one in found if not any(_beats(ranked, other, one) for other in found)), found[0])
    close = [one.name for one in found if one is not best and not _beats(ranked, best, one)]
    if best.certain and not close:
        return Encoding(best.codec)
    doubt = _(", though it could be {names}").format(names=" or ".join(close[:2])) if close else ""
    sample = next(_sample(text) for text, candidate in texts.items() if candidate is best)
    return Encoding(
        best.codec,
        _("read as {name}, by its letters{doubt}: “{sample}”").format(name=best.name, doubt=doubt, sample=sample),
    )


def _beats(ranked: dict[str, CharsetMatch], one: Candidate, other: Candidate) -> bool:
    """Whether charset-normalizer ranks one encoding clearly above another; it omits implausible ones."""
    if one.codec not in ranked or other.codec not in ranked:
        return one.codec in ranked and other.codec not in ranked
    mine, its = ranked[one.codec], ranked[other.codec]
    return its.chaos - mine.chaos > 0.04 or (its.chaos >= mine.chaos and mine.coherence - its.coherence > 0.1)


def _decoded(raw: bytes, codec: str, whole: bool = False) -> str | None:
    """The text; None if it is not in this encoding. Unless `raw` is the whole file, its last character may be cut."""
    try:
        return codecs.getincrementaldecoder(codec)().decode(raw, final=whole)
    except UnicodeDecodeError:
        return None


def _mostly_utf8(head: bytes) -> bool:
    """Whether the text has many multi-byte characters of UTF-8 and hardly any broken ones."""
    text = head.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    wide = sum(1 for char in text if char > "\x7f") - broken
    return wide > 4 * broken


def _sample(text: str) -> str:
    """A few characters around the first that is not ASCII, to show to the user."""
    at = next((index for index, char in enumerate(text) if char > "\x7f"), 0)
    begin = max(text.rfind("\n", 0, at) + 1, at - 12)
    return " ".join(text[begin : at + 24].split("\n")[0].split())


# ---- plausible letters


def _han(text: str) -> list[str]:
    return [char for char in text if "\u3400" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff"]


def _letters(text: str) -> int:
    """The number of letters that are not ASCII."""
    return sum(char > "\x7f" and unicodedata.category(char)[0] == "L" for char in text)


def _share(text: str, low: str, high: str) -> float:
    """The share of a text's non-ASCII letters that are in a block of Unicode."""
    letters = [char for char in text if char > "\x7f" and unicodedata.category(char)[0] in "LM"]
    return sum(low <= char <= high for char in letters) / len(letters) if letters else 0.0


def _kana(text: str) -> int:
    return sum("\u3041" <= char <= "\u30fe" and char != "・" for char in text)


def _odd(text: str) -> int:
    """The number of characters that are rare in real text: controls, private use, half-width kana."""
    return sum("\x80" <= c <= "\x9f" or "\ue000" <= c <= "\uf8ff" or "\uff61" <= c <= "\uff9f" for c in text)


def _chinese(text: str) -> bool:
    """Whether most characters are common Chinese ones, of level 1 of GB 2312 or Big5. Some kana is allowed."""
    han = _han(text)
    if not han or _odd(text) > len(text) // 50:
        return False
    common = sum(_in_level_1(char) for char in han)
    return common >= 0.6 * len(han) and len(han) + _kana(text) >= 0.9 * _letters(text) and _kana(text) <= len(han)


def _in_level_1(char: str) -> bool:
    gb, big5 = char.encode("gb2312", "ignore"), char.encode("big5", "ignore")
    return b"\xb0" <= gb[:1] <= b"\xd7" or b"\xa4" <= big5[:1] <= b"\xc6"


def _japanese(text: str) -> bool:
    """Whether the text is kana and kanji, and hardly anything else."""
    kana, han = _kana(text), len(_han(text))
    few_odd = _odd(text) <= 0.05 * len(text)
    return kana >= 0.15 * (kana + han) > 0 and few_odd and kana + han >= 0.9 * _letters(text)


def _korean(text: str) -> bool:
    """Whether the text is Hangul, of the common syllables in KS X 1001."""
    used = sum(len(char.encode("euc_kr")) == 2 for char in text if "\uac00" <= char <= "\ud7a3")
    return used >= 0.85 * _letters(text) and not _odd(text)


def _cyrillic(text: str) -> bool:
    """Whether the text is Cyrillic with normal capitals: KOI8 read as Windows-1251 has capitals and small reversed."""
    if not _of_block("\u0400", "\u04ff")(text):
        return False
    letters = [char for char in text if char > "\x7f" and char.isalpha()]
    if sum(char.lower() in CYRILLIC for char in letters) < 0.97 * len(letters):
        return False
    words = re.findall(r"[^\W\d_]{3,}", text)
    turned = sum(word != word.lower() and word[1:] != word[1:].lower() for word in words if not word.isascii())
    return turned <= 0.3 * len(words)


def _latin_of(*alphabets: str) -> Callable[[str], bool]:
    """A test: all non-ASCII letters are of one of the alphabets, and there are fewer of them than ASCII letters."""

    def plausible(text: str) -> bool:
        letters = [char.lower()[0] for char in text if char > "\x7f" and char not in MARKS]
        plain = sum(char.isascii() and char.isalpha() for char in text)
        if len(letters) > 0.4 * plain or _marks_are_odd(text) or (letters and not BESIDE.search(text)):
            return False
        return any(sum(c in alphabet or c.isascii() for c in letters) >= 0.97 * len(letters) for alphabet in alphabets)

    return plausible


def _of_block(low: str, high: str) -> Callable[[str], bool]:
    """A test: the non-ASCII letters are of one block of Unicode, and form words."""
    word = re.compile(f"[{low}-{high}]{{3}}")

    def plausible(text: str) -> bool:
        marks, beyond = sum(char in MARKS for char in text), sum(char > "\x7f" for char in text)
        one_script = word.search(text) is not None and _share(text, low, high) >= 0.97
        return one_script and marks <= 0.2 * beyond and not _marks_are_odd(text)

    return plausible


def _marks_are_odd(text: str) -> bool:
    beyond = [char for char in text if char > "\x7f"]
    odd = sum(char not in MARKS and unicodedata.category(char)[0] not in "LM" for char in beyond)
    return odd > 0.03 * len(beyond) or len(INSIDE.findall(text)) > 0.03 * len(beyond)


# Earlier ones win if nothing else decides. GB18030 includes GBK and GB2312.
CANDIDATES = (
    Candidate("gb18030", "GB18030", _chinese, certain=True),
    Candidate("cp950", "Big5", _chinese),
    Candidate("big5hkscs", "Big5-HKSCS", _chinese),
    Candidate("cp932", "Shift-JIS", _japanese),
    Candidate("euc_jp", "EUC-JP", _japanese),
    Candidate("cp949", "EUC-KR (CP949)", _korean),
    Candidate("cp1252", "Windows-1252 (Latin-1)", _latin_of(*WESTERN)),
    Candidate("cp1251", "Windows-1251", _cyrillic, language=True),
    Candidate("koi8_u", "KOI8", _cyrillic, language=True),
    Candidate("cp866", "CP866", _cyrillic, language=True),
    Candidate("iso8859_5", "ISO 8859-5", _cyrillic, language=True),
    Candidate("cp1250", "Windows-1250", _latin_of(*LATIN)),
    Candidate("iso8859_2", "ISO 8859-2", _latin_of(*LATIN)),
    Candidate("cp1254", "Windows-1254", _latin_of(*LATIN)),
    Candidate("cp850", "CP850", _latin_of(*LATIN)),
    Candidate("mac_roman", "Mac Roman", _latin_of(*LATIN)),
    Candidate("cp1253", "Windows-1253", _of_block("\u0370", "\u03ff"), language=True),
    Candidate("iso8859_7", "ISO 8859-7", _of_block("\u0370", "\u03ff"), language=True),
    Candidate("cp1255", "Windows-1255", _of_block("\u0590", "\u05ff"), language=True),
    Candidate("cp1256", "Windows-1256", _of_block("\u0600", "\u06ff"), language=True),
    Candidate("cp874", "Windows-874", _of_block("\u0e00", "\u0e7f"), language=True),
    # A file in several Western languages.
    Candidate("cp1252", "Windows-1252 (Latin-1)", _latin_of("".join(WESTERN))),
)
