"""Decode text that people write: UTF-8, and other encodings if the bytes leave no doubt."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import read_text

_UTF_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Encodings by byte-order mark; the one of UTF-32 begins with that of UTF-16."""

_C1 = re.compile("[\x80-\x9f]")
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")

_FREQUENT_CHINESE = frozenset(
    "的一是不了在人有我他这个们中来上大为和地到以说时要就出会可也你对能那得下着她么去好想没什"
)
"""The most frequent characters of Chinese text; together they are about a third of it."""
_MIN_CHINESE = 20
"""With fewer Chinese characters, a table in another encoding may look like one in GB18030."""
_MIN_FREQUENT = 0.15
_MIN_LEVEL_1 = 0.85
"""Minimum share of the 3,755 common characters of GB 2312 and its punctuation among the characters beyond ASCII."""

_LEVEL_1 = frozenset(bytes([byte]) for byte in (0xA1, 0xA3, *range(0xB0, 0xD8)))
"""First bytes in GB 2312 of punctuation, full-width characters and common Chinese characters."""


def _decoded_byte(byte: int, encoding: str) -> str:
    return bytes([byte]).decode(encoding, errors="replace")


_WESTERN = frozenset("\u2026\u2018\u2019\u201c\u201d\u2022\u2013\u2014§«°»".encode("cp1252")) | {
    byte
    for byte in range(0xC0, 0x100)
    if len({_decoded_byte(byte, encoding) for encoding in ("cp1250", "cp1252", "cp1254")}) == 1
}
"""Quotation marks and dashes of Windows-1252, and letters with the same byte in the code pages of central Europe and
Turkey. Other bytes below 0xC0 are letters in the encodings of old Macintosh and DOS programs."""


@dataclass(frozen=True, slots=True)
class DecodedText:
    """The text of a file, and how its bytes were read.

    Attributes:
        text: The text.
        encoding: The encoding; empty for UTF-8.
        corrected: How many control characters were read as Windows-1252.
    """

    text: str
    encoding: str = ""
    corrected: int = 0


def decode_file(path: Path) -> DecodedText:
    """Decode a text file.

    C1 control characters (U+0080 to U+009F) occur in text that was converted from Windows-1252 as if it were Latin-1,
    as in MELD until 2020. They are replaced by the quotation marks and dashes that were meant.

    Raises:
        OSError: If the file cannot be read.
        InputError: If the encoding is unknown, or the file is a Git LFS pointer.
    """
    error, encoding = None, ""
    try:
        text = read_text(path)
    except InputError as not_utf8:
        text, error = "\0", not_utf8
    if "\0" in text:
        content = path.read_bytes()
        encoding = _guess_encoding(content) or ""
        if encoding:
            text = content.decode(encoding)
        elif error:
            if b"\0" in content:
                raise InputError(f"{path} is neither text nor an Excel file", "export it as text") from error
            raise error
    corrected = len(_C1.findall(text))
    if corrected:
        text = _C1.sub(lambda match: _decoded_byte(ord(match[0]), "cp1252").replace("\ufffd", ""), text)
    return DecodedText(text, encoding, corrected)


def _guess_encoding(content: bytes) -> str | None:
    """Return the encoding of bytes that are not UTF-8; None if there is doubt."""
    for mark, encoding in _UTF_MARKS.items():
        if content.startswith(mark):
            return encoding if _can_decode(content, encoding) else None
    if (content[:1] == b"\0") != (content[1:2] == b"\0"):  # the header begins with an ASCII character
        encoding = "UTF-16LE" if content[0] else "UTF-16BE"
        return encoding if _can_decode(content, encoding) else None
    is_chinese, is_western = _is_chinese(content), _is_western(content)
    if is_chinese == is_western:
        return None
    return "GB18030" if is_chinese else "WINDOWS-1252"


def _can_decode(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_chinese(content: bytes) -> bool:
    """Return whether bytes are plausible Chinese text in GB18030."""
    if not _can_decode(content, "gb18030"):
        return False
    wide = [character for character in content.decode("gb18030") if not character.isascii()]
    chinese = [character for character in wide if "\u4e00" <= character <= "\u9fff"]
    common = sum(character.encode("gb2312", "ignore")[:1] in _LEVEL_1 for character in wide)
    frequent = sum(character in _FREQUENT_CHINESE for character in chinese)
    return (
        len(chinese) >= _MIN_CHINESE and common >= _MIN_LEVEL_1 * len(wide) and frequent >= _MIN_FREQUENT * len(chinese)
    )


def _is_western(content: bytes) -> bool:
    """Return whether bytes are plausible text in Windows-1252: single quotation marks and letters between ASCII."""
    runs = _HIGH_RUN.findall(content)
    return bool(runs) and all(len(run) <= 2 and _WESTERN.issuperset(run) for run in runs)
