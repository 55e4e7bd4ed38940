"""The table of clips that a stage could not use, with the reason.

One csv file a stage and modality under ``data/quarantine/``; together they are one table. A quarantined clip is not
tried again until its input or the settings change.
"""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import astuple, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from ecmf_pipeline.core.errors import InputError, TooManyQuarantined, clip_error
from ecmf_pipeline.core.files import read_text, write_atomic


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """Why one clip was set aside.

    Attributes:
        clip_id: The clip.
        stage: The stage that could not use it.
        modality: The branch concerned; empty when it is the clip as a whole.
        reason: Class of the reason: the name of a `ClipError`.
        message: What was found.
        digest: Digest of the input that was tried.
        fingerprint: Fingerprint of the settings it was tried with.
        time: When, in UTC (ISO 8601).
    """

    clip_id: str
    stage: str
    modality: str
    reason: str
    message: str
    digest: str
    fingerprint: str
    time: str


class Quarantine:
    """The entries of one stage and modality.

    Args:
        path: The table's csv file; need not exist yet.
        stage: The stage whose table this is.
        modality: The branch; empty when clips are set aside as a whole.
        fingerprint: Fingerprint of the settings that clips are tried with now.
        section: Section of params.yaml whose ``max_quarantined`` counts; empty: the stage's own.
    """

    def __init__(self, path: Path, *, stage: str, modality: str = "", fingerprint: str = "", section: str = "") -> None:
        self.path = path
        self.stage = stage
        self.modality = modality
        self.fingerprint = fingerprint
        self._section = section or stage
        self._entries = {entry.clip_id: entry for entry in read_quarantine(path)}
        self._written = dict(self._entries) if path.is_file() else None
        self._written_at = time.monotonic()

    def __iter__(self) -> Iterator[QuarantineEntry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.clip_id))

    def __len__(self) -> int:
        return len(self._entries)

    def holds(self, clip_id: str, digest: str) -> bool:
        """Whether this very input was already found to be bad under these settings."""
        entry = self._entries.get(clip_id)
        return entry is not None and (entry.digest, entry.fingerprint) == (digest, self.fingerprint)

    def add(self, clip_id: str, reason: str, message: str, digest: str) -> None:
        """Set a clip aside; one that was set aside for the same before keeps its time."""
        message = " ".join(message.split())
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = QuarantineEntry(clip_id, self.stage, self.modality, reason, message, digest, self.fingerprint, now)
        known = self._entries.get(clip_id)
        if known is None or replace(known, time=now) != entry:
            self._entries[clip_id] = entry

    def keep_only(self, current: dict[str, str]) -> None:
        """Drop entries of clips that are gone, have another digest now, were tried with other settings, or may be well.

        Args:
            current: Digest of every clip's input as it is now.
        """
        self._entries = {
            clip_id: entry
            for clip_id, entry in self._entries.items()
            if current.get(clip_id) == entry.digest
            and entry.fingerprint == self.fingerprint
            and not clip_error(entry.reason).is_transient
        }

    def clear(self) -> None:
        """Forget all entries, so that their clips are tried again."""
        self._entries = {}

    def reasons(self) -> Counter[str]:
        """How many entries each reason has."""
        return Counter(entry.reason for entry in self._entries.values())

    def refuse_too_many(self, total: int, share: float) -> None:
        """Stop when more than the share that params allow of all clips (``total``, bad ones included) is bad.

        Raises:
            TooManyQuarantined: With the reasons counted.
        """
        if len(self._entries) <= share * total:
            return  # asked after every batch: entries are counted by reason only if there are too many
        reasons = self.reasons()
        defects = sum(count for reason, count in reasons.items() if clip_error(reason).is_defect)
        if defects <= share * total:
            return
        counted = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        where = f"{self.stage} {self.modality}".strip()
        raise TooManyQuarantined(
            f"{where}: {defects} of {total} clips are bad (quarantined: {counted}), params allow a share of "
            f"{share:g}; what was computed is kept.\n  See {self.path}. Mend the clips, or raise "
            f"{self._section}.max_quarantined"
            # `index` looks at every file anyway.
            + ("." if self.stage == "index" else ", or, where the fault was not theirs, add --retry-quarantined.")
        )

    def write(self, *, least_seconds: float = 0.0) -> None:
        """Write the table, whole or not at all; an unchanged one is left alone.

        Args:
            least_seconds: Leave it for a later call when the last write is not that long ago: a long run adds entries
                one by one, and each write writes all of them.
        """
        if least_seconds and time.monotonic() - self._written_at < least_seconds:
            return
        if self._entries == self._written:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(column.name for column in fields(QuarantineEntry))
        writer.writerows(astuple(entry) for entry in self)
        write_atomic(self.path, text.getvalue(), only_if_changed=True)
        self._written = dict(self._entries)
        self._written_at = time.monotonic()


def read_quarantine(path: Path) -> list[QuarantineEntry]:
    """Read one stage's entries; none when the stage has quarantined nothing yet."""
    if not path.is_file():
        return []
    reader = csv.reader(io.StringIO(read_text(path)))
    next(reader, None)
    try:
        return [QuarantineEntry(*row) for row in reader]
    except TypeError as error:
        raise InputError(f"{path} is damaged", "remove it: its clips are then tried again") from error


def read_all(folder: Path, modalities: Collection[str]) -> list[QuarantineEntry]:
    """Read the entries of all stages as one table, without what was set aside for modalities no longer in use."""
    entries = [entry for path in sorted(folder.glob("*.csv")) for entry in read_quarantine(path)]
    return [entry for entry in entries if not entry.modality or entry.modality in modalities]
