"""The list of forgotten clips: hashes of their names and contents, so that `index` skips them.

People withdraw their clips, but the files may return, for example with a new copy of the corpus. The list is tracked by
Git, so it holds no names: only SHA-256 of a random salt and the name, and of the salt and the content. Who knows a name
can check whether it is in the list; nobody can read the names from it.
"""

from __future__ import annotations

import csv
import io
import re
import secrets
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.files import sha256_text, write_atomic
from ecmf_pipeline.core.tables import open_table
from ecmf_pipeline.corpora.index import IndexResult
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind
from ecmf_pipeline.corpora.scan import strip_media_extension
from ecmf_pipeline.corpora.segments import Segments, segment_id

COLUMNS = ("salt", "name", "content", "date")
"""Columns of the list: the salt, the two hashes, and the day. The content is empty if the clip had no file."""

_QUOTED = re.compile(r"'([^']+)'")
_HINT = "restore it from Git; each row that is lost lets a clip return"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The forgotten clips.

    Attributes:
        rows: The rows of the list, with the cells of `COLUMNS`.
        salts: The salts in use, in order; merged lists have several.
        hashes: The hashes of names and contents.
    """

    rows: tuple[tuple[str, ...], ...] = ()
    salts: tuple[str, ...] = ()
    hashes: frozenset[str] = frozenset()

    def has(self, text: str) -> bool:
        """Return whether a name or a digest is in the list; an empty one is not."""
        return bool(text) and any(_hash(salt, text) in self.hashes for salt in self.salts)

    def has_clip(self, clip: Clip) -> bool:
        """Return whether the clip, or the recording that it is a part of, is in the list by name or content."""
        return any(map(self.has, {clip.clip_id, recording_of(clip), clip.digest, clip.file_digest}))


def recording_of(clip: Clip) -> str:
    """Return the id that a recording has as a whole, for a clip that is a part of it; else the clip id."""
    return clip.clip_id.rpartition("__")[0] if clip.end and "__" in clip.clip_id else clip.clip_id


def read_forgotten(path: Path = paths.FORGOTTEN) -> Forgotten:
    """Read the list; no file is an empty list.

    Raises:
        InputError: If the file is damaged.
    """
    if not path.is_file():
        return Forgotten()
    rows = open_table(path, command=None, hint=_HINT).parse(tuple, COLUMNS, key=0)
    return Forgotten(
        tuple(rows),
        tuple(dict.fromkeys(row[0] for row in rows)),
        frozenset(cell for row in rows for cell in row[1:3] if cell),
    )


def add_forgotten(entries: Iterable[tuple[str, str]], path: Path = paths.FORGOTTEN) -> int:
    """Add clips to the list, atomically; return how many were not in it.

    Args:
        entries: The name and the digest of each clip; the digest is empty if it has no file.
        path: The list.
    """
    known = read_forgotten(path)
    salt = known.salts[0] if known.salts else secrets.token_hex(16)
    day = datetime.now(UTC).date().isoformat()
    new = [
        (salt, _hash(salt, name), _hash(salt, digest) if digest else "", day)
        for name, digest in entries
        if not (known.has(name) and (known.has(digest) or not digest))
    ]
    if new:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *known.rows, *new])
        write_atomic(path, text.getvalue())
    return len(new)


def without_forgotten(listing: CorpusListing, forgotten: Forgotten) -> CorpusListing:
    """Return the listing without the clips that are forgotten by name, whose files are then not read."""
    if not forgotten.salts:
        return listing
    names: set[ClipId] = {clip.clip_id for clip in listing.clips if forgotten.has_clip(clip)}
    findings = (_unnamed(finding, forgotten) for finding in listing.findings if not forgotten.has(finding.clip_id))
    return replace(
        listing,
        clips=tuple(clip for clip in listing.clips if clip.clip_id not in names),
        findings=(*findings, *_finding(len(names))),
        subtitles={name: file for name, file in listing.subtitles.items() if name not in names},
        expected_seconds={name: length for name, length in listing.expected_seconds.items() if name not in names},
    )


def without_forgotten_content(result: IndexResult, forgotten: Forgotten) -> IndexResult:
    """Return the indexed clips without those whose content is forgotten: copies of a file under another name."""
    if not forgotten.salts:
        return result
    names = {clip.clip_id for clip in result.clips if forgotten.has_clip(clip)}
    findings = (_unnamed(one, forgotten) for one in result.findings if one.clip_id not in names)
    return replace(
        result,
        clips=tuple(clip for clip in result.clips if clip.clip_id not in names),
        findings=(*findings, *_finding(len(names), "copies of ")),
        quarantined={name: value for name, value in result.quarantined.items() if name not in names},
    )


def limited_to(listing: CorpusListing, clip_ids: Set[ClipId]) -> CorpusListing:
    """Return the listing with only the candidates and votes of some clips."""
    return replace(
        listing,
        candidate_order=tuple(name for name in listing.candidate_order if name in clip_ids),
        votes={
            source: {name: probs for name, probs in votes.items() if name in clip_ids}
            for source, votes in listing.votes.items()
        },
    )


def segments_without_forgotten(segments: Segments, listing: CorpusListing, forgotten: Forgotten) -> Segments:
    """Return the cut recordings without the segments that are forgotten by name; ``listing`` has the recordings."""
    names = {clip.path: clip.clip_id for clip in listing.clips}
    return {
        path: replace(
            cut, segments=tuple(one for one in cut.segments if not forgotten.has(segment_id(names[path], one)))
        )
        for path, cut in segments.items()
    }


def _unnamed(finding: Finding, forgotten: Forgotten) -> Finding:
    """Return a finding without the quoted names of forgotten clips, which may be in the tables of the corpus."""

    def hide(quoted: re.Match[str]) -> str:
        stem = strip_media_extension(quoted[1])
        names = (quoted[1], stem, stem.replace("/", "__"), stem.rpartition("/")[2])
        return "(forgotten)" if any(map(forgotten.has, names)) else quoted[0]

    return replace(finding, message=_QUOTED.sub(hide, finding.message))


def _finding(count: int, what: str = "") -> tuple[Finding, ...]:
    if not count:
        return ()
    message = (
        f"{what}{format_count(count, 'forgotten clip')} skipped ({paths.FORGOTTEN}); remove the files and their "
        "rows in the tables of the corpus"
    )
    return (Finding(FindingKind.FORGOTTEN, "", message, count=count),)


def _hash(salt: str, text: str) -> str:
    return sha256_text(f"{salt} {text}")
