"""Reads rows from XLSX: the first sheet with a question and an answer, cells as the user sees them; used by reading."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.i18n import _
from finetune.data import cellformat, tables
from finetune.data.items import Broken, Note, Remember, Row

if TYPE_CHECKING:
    import datetime as dt

MAX_UNPACKED = 256 << 20  # bytes of a file in a workbook, unpacked: a small workbook could fill the memory
NAMED = 5  # sheets that a note lists


def read(path: Path, columns: tuple[str, str] | None, note: Remember) -> Iterator[Row | Broken]:
    """The rows of a workbook. Raises UserError if it cannot be read.

    Args:
        path: The file.
        columns: The question's and the answer's column; None: guessed.
        note: Called with guesses about the file, such as which sheet is read.
    """
    import openpyxl

    try:
        with zipfile.ZipFile(path) as packed:
            size = max((file.file_size for file in packed.infolist()), default=0)
        if size > MAX_UNPACKED:
            raise UserError(
                _("{path}: unpacks to {size} MB; save it as CSV, or in several files").format(
                    path=path, size=size >> 20
                )
            )
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        yield from _Sheets(path, book, columns, note).rows()
        book.close()
    except UserError:
        raise
    except Exception as error:  # openpyxl lets through any error of zipfile, xml and its own code
        words = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            _("{path}: not an XLSX file ({words}); save it again, or as CSV").format(path=path, words=words[:120])
        ) from error


class _Sheets:
    """The sheets of one workbook, and the notes on them."""

    def __init__(self, path: Path, book: Any, columns: tuple[str, str] | None, note: Remember) -> None:
        self.path, self.book, self.columns, self.note = path, book, columns, note
        self.cut = 0  # cells whose last digits the spreadsheet does not show

    def rows(self) -> Iterator[Row | Broken]:
        """The rows of the chosen sheet."""
        shown = [sheet for sheet in self.book.worksheets if sheet.sheet_state == "visible"] or self.book.worksheets
        filled = [sheet for sheet in shown if tables.beginning(self.cells(sheet))] or shown[:1]
        fit = [sheet for sheet in filled if tables.find_heading(tables.beginning(self.cells(sheet)), self.columns)]
        sheet = (fit or filled)[0]
        self.cut = 0
        others = [other.title for other in self.book.worksheets if other is not sheet and other in filled]
        if others:
            names = ", ".join(others[:NAMED]) + (
                _(" and {count} more").format(count=len(others) - NAMED) if len(others) > NAMED else ""
            )
            remedy = _("save each sheet as a file of its own, and name them all: FILE FILE")
            self.note(
                Note(
                    _("sheets left out"),
                    _("only the sheet {title} is read, not {names}").format(title=sheet.title, names=names),
                    remedy,
                )
            )
        yield from tables.from_cells(self.path, self.cells(sheet), self.columns, self.note)
        if self.cut:
            what = _("{cut} numbers are shown as 1.23E+15, so their last digits are not read").format(cut=self.cut)
            self.note(
                Note(_("numbers cut short"), what, _("give the column the format 0, or Text, in the spreadsheet"))
            )

    def cells(self, sheet: Any) -> Iterator[tuple[int, list[Any]]]:
        """(line, texts of the cells) of each line of a sheet."""
        sheet.reset_dimensions()  # some programs record a size that omits most of the sheet
        for line, cells in enumerate(sheet.iter_rows(), 1):
            yield line, [self.text(cell) for cell in cells]

    def text(self, cell: Any) -> str:
        """A cell as the spreadsheet shows it."""
        value = cell.value
        if value is None or (isinstance(value, str) and cell.number_format in ("General", "@")):
            return value or ""
        code = cell.number_format
        if code == "General":
            code = cellformat.CHINESE.get(cell.style_array.numFmtId, code)
            self.cut += cellformat.is_cut_short(value, code)
        epoch: dt.datetime = self.book.epoch
        return cellformat.show(value, code, epoch)
