"""Tables of clips that a stage could not use, with the reasons.

There is one csv file for each stage and modality under ``data/quarantine/``; together they form one table. A
quarantined clip is not retried until its input or the settings change.
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
    """The reason why one clip was quarantined.

    Attributes:
        clip_id: The clip.
        stage: The stage that could not use it.
        modality: The branch; empty if the clip as a whole is quarantined.
        reason: Name of a subclass of `ClipError`.
        message: Description of the defect.
        digest: Digest of the input.
        fingerprint: Fingerprint of the settings.
        time: Time in UTC (ISO 8601).
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
        path: The csv file of the table; may not exist yet.
        stage: The stage that owns the table.
        modality: The branch; empty if clips are quarantined as a whole.
        fingerprint: Fingerprint of the current settings.
        section: Section of params.yaml whose ``max_quarantined`` applies; empty: the section of the stage.
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
        """Return whether this input already failed under the current settings."""
        entry = self._entries.get(clip_id)
        return entry is not None and (entry.digest, entry.fingerprint) == (digest, self.fingerprint)

    def add(self, clip_id: str, reason: str, message: str, digest: str) -> None:
        """Quarantine a clip; an unchanged entry keeps its time."""
        message = " ".join(message.split())
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = QuarantineEntry(clip_id, self.stage, self.modality, reason, message, digest, self.fingerprint, now)
        previous = self._entries.get(clip_id)
        if previous is None or replace(previous, time=now) != entry:
            self._entries[clip_id] = entry

    def drop_outdated(self, current: dict[str, str]) -> None:
        """Drop entries whose clip, input or settings have changed, and entries with transient reasons.

        Args:
            current: The current digest of the input of each clip.
        """
        self._entries = {
            clip_id: entry
            for clip_id, entry in self._entries.items()
            if current.get(clip_id) == entry.digest
            and entry.fingerprint == self.fingerprint
            and not clip_error(entry.reason).is_transient
        }

    def clear(self) -> None:
        """Remove all entries, to retry their clips."""
        self._entries = {}

    def reasons(self) -> Counter[str]:
        """Count the entries by reason."""
        return Counter(entry.reason for entry in self._entries.values())

    def check_share(self, total: int, share: float) -> None:
        """Raise if more than the allowed share of all clips is bad.

        Args:
            total: Number of all clips, including bad ones.
            share: The allowed share.

        Raises:
            TooManyQuarantined: With the number of entries for each reason.
        """
        if len(self._entries) <= share * total:
            return  # runs after each batch: counting by reason is only needed if there are too many entries
        reasons = self.reasons()
        defects = sum(count for reason, count in reasons.items() if clip_error(reason).is_defect)
        if defects <= share * total:
            return
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        branch = f"{self.stage} {self.modality}".strip()
        # `index` reads all files in each run.
        retry = "" if self.stage == "index" else ", or retry them with --retry-quarantined"
        raise TooManyQuarantined(
            f"{branch}: {defects} of {total} clips are bad, more than the allowed share of {share:g} "
            f"(quarantined: {counts}); completed work is kept",
            f"see {self.path}; repair the clips, raise {self._section}.max_quarantined{retry}",
        )

    def write(self, *, min_interval: float = 0.0) -> None:
        """Write the table atomically if it has changed.

        Args:
            min_interval: Skip the write if the last one was less than this many seconds ago. A long run adds entries
                often, and each write writes all of them.
        """
        if min_interval and time.monotonic() - self._written_at < min_interval:
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
    """Read the entries of one stage; return none if the file does not exist."""
    if not path.is_file():
        return []
    reader = csv.reader(io.StringIO(read_text(path)))
    next(reader, None)
    try:
        return [QuarantineEntry(*row) for row in reader]
    except TypeError as error:
        raise InputError(f"{path} is damaged", "remove the file; its clips are then retried") from error


def read_all(folder: Path, modalities: Collection[str]) -> list[QuarantineEntry]:
    """Read the entries of all stages as one table, without modalities that are not in use."""
    entries = [entry for path in sorted(folder.glob("*.csv")) for entry in read_quarantine(path)]
    return [entry for entry in entries if not entry.modality or entry.modality in modalities]
