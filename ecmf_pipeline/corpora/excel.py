"""Read the first sheet of an Excel or OpenDocument file."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.listing import Finding, FindingKind, quote_names


def excel_rows(path: Path) -> tuple[Iterator[tuple[int, list[str]]], list[Finding]]:
    """Return the number and the cells of each row of the first sheet, and a finding if there are other sheets.

    Raises:
        CorpusError: If the file cannot be read, or has no sheet.
    """
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with path.open("rb") as file:
            workbook = CalamineWorkbook.from_filelike(file)
            names = workbook.sheet_names
            rows = workbook.get_sheet_by_index(0).to_python(skip_empty_area=False) if names else None
    except (CalamineError, ValueError) as error:
        raise CorpusError(f"{path} cannot be read as an Excel file ({error})", "export it as csv") from error
    if rows is None:
        raise CorpusError(f"{path} has no sheet", "export the table as csv")
    findings = []
    if names[1:]:
        message = (
            f"{path.name}: sheet {names[0]!r} is read, not {quote_names(names[1:], 5)}; use one sheet for one file"
        )
        findings.append(Finding(FindingKind.UNUSED_TABLE, "", message, count=len(names) - 1))
    return ((number, [_text(cell) for cell in row]) for number, row in enumerate(rows, start=1)), findings


def _text(cell: object) -> str:
    """Return a cell as text; Excel stores whole numbers as floats."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.isoformat() if isinstance(cell, datetime.date | datetime.time) else str(cell)
