"""Decode the tables of a corpus, and report encodings other than UTF-8."""

from __future__ import annotations

from pathlib import Path

from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.encodings import decode_file
from ecmf_pipeline.core.files import to_utf8_command
from ecmf_pipeline.corpora.listing import Finding, FindingKind


def decode_table(path: Path) -> tuple[str, list[Finding]]:
    """Return the text of a table, and a finding if it is not in plain UTF-8.

    Raises:
        OSError: If the file cannot be read.
        InputError: If the encoding is unknown, or the file is a Git LFS pointer.
    """
    decoded, findings = decode_file(path), []
    if decoded.encoding:
        command = to_utf8_command(Path(path.name), decoded.encoding)
        message = f"{path.name} is read as {decoded.encoding}; convert it to UTF-8: {command}"
        findings.append(Finding(FindingKind.ENCODING, "", message))
    if decoded.corrected:
        message = (
            f"{path.name}: {format_count(decoded.corrected, 'control character')} (U+0080 to U+009F) read as "
            "Windows-1252, such as quotation marks; correct the file if this is wrong"
        )
        findings.append(Finding(FindingKind.ENCODING, "", message, count=decoded.corrected))
    return decoded.text, findings
