"""Tables of clips that a stage could not use, with the reasons.

There is one csv file for each stage and modality under ``data/quarantine/``; together they form one table. A
quarantined clip is not retried until its input or the settings change, or the limit that it met is raised. Clips that
the program may have failed (`ClipError.is_version_bound`) are also retried by another version of it or its libraries.
"""

from __future__ import annotations

import csv
import io
import shlex
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path

import ecmf_pipeline
from ecmf_pipeline.core.errors import TooManyQuarantined, UnexpectedError, clip_error
from ecmf_pipeline.core.files import fingerprint, sha256_file, write_atomic
from ecmf_pipeline.core.tables import open_table, parse_number

Limits = Mapping[str, float]
"""The present value of the setting that limits clips, by reason; see `ClipError.is_lifted`."""


MIN_CLIPS_OF_SHARE = 20
ALLOWED_OF_FEW = 3
"""Of fewer clips than `MIN_CLIPS_OF_SHARE`, so many may be bad: one clip is already a large share."""


@cache
def program_version() -> str:
    """Return the version of this package, and a digest of its source code, Python and all installed packages."""
    folder = Path(ecmf_pipeline.__file__).parent
    source = {path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*.py")}
    packages = sorted({f"{package.name} {package.version}" for package in distributions()})
    return f"{ecmf_pipeline.__version__}+{fingerprint([source, sys.version, packages])[:8]}"


def is_worth_retrying(reason: str, limit: float | None, program: str, limits: Limits) -> bool:
    """Return whether an unchanged clip may succeed now.

    Args:
        reason: Name of the subclass of `ClipError`.
        limit: The limit that the clip met; None if its reason has none.
        program: The program that failed, if the reason is bound to it.
        limits: The present limits.
    """
    error_class = clip_error(reason)
    if error_class.is_transient:
        return True
    if error_class.is_version_bound and program != program_version():
        return True
    return limit is not None and reason in limits and error_class.is_lifted(limit, limits[reason])


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
        limit: The limit that the clip met, if a setting can lift it: seconds for `ClipTimeout`, the share that was read
            for `TruncatedMedia`.
        program: Version of the program, if it may be the cause; see `program_version`.
    """

    clip_id: str
    stage: str
    modality: str
    reason: str
    message: str
    digest: str
    fingerprint: str
    time: str
    limit: str = ""
    program: str = ""

    @property
    def may_be_bug(self) -> bool:
        """Whether the entry may show a bug of this package."""
        return self.reason == UnexpectedError.__name__

    def is_worth_retrying(self, limits: Limits) -> bool:
        """Return whether the unchanged clip may succeed now; see `is_worth_retrying`."""
        return is_worth_retrying(self.reason, float(self.limit) if self.limit else None, self.program, limits)


class Quarantine:
    """The entries of one stage and modality.

    Args:
        path: The csv file of the table; may not exist yet.
        stage: The stage that owns the table.
        modality: The branch; empty if clips are quarantined as a whole.
        fingerprint: Fingerprint of the current settings.
        section: Section of params.yaml whose ``max_quarantined`` applies; empty: the section of the stage.
        limits: The present limits of clips.
        others: Fingerprints of other encoders of the modality; their entries are kept in the same table. If a run adds
            entries of them too, pass their tables to `share_files`.
    """

    def __init__(
        self,
        path: Path,
        *,
        stage: str,
        modality: str = "",
        fingerprint: str = "",
        section: str = "",
        limits: Limits | None = None,
        others: Collection[str] = (),
    ) -> None:
        self.path = path
        self.stage = stage
        self.modality = modality
        self.fingerprint = fingerprint
        self._section = section or stage
        self._limits = limits or {}
        stored = read_quarantine(path)
        self._others = [entry for entry in stored if entry.fingerprint in others]
        own = [entry for entry in stored if entry.fingerprint not in others]
        own.sort(key=lambda entry: entry.fingerprint == fingerprint)  # of two entries of a clip, the current one counts
        self._entries = {entry.clip_id: entry for entry in own}
        self._sharing: Sequence[Quarantine] = [self]
        self._written = dict(self._entries) if path.is_file() else None
        self._written_at = time.monotonic()

    @property
    def name(self) -> str:
        """Name of the stage and modality, for messages."""
        return f"{self.stage} {self.modality}".strip()

    def __iter__(self) -> Iterator[QuarantineEntry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.clip_id))

    def __len__(self) -> int:
        return len(self._entries)

    def holds(self, clip_id: str, digest: str) -> bool:
        """Return whether this input already failed, and would fail again under the current settings."""
        entry = self._entries.get(clip_id)
        return entry is not None and self._is_current(entry, digest)

    def _is_current(self, entry: QuarantineEntry, digest: str | None) -> bool:
        is_same = (entry.digest, entry.fingerprint) == (digest, self.fingerprint)
        return is_same and not entry.is_worth_retrying(self._limits)

    def add(self, clip_id: str, reason: str, message: str, digest: str, limit: float | None = None) -> None:
        """Quarantine a clip; an unchanged entry keeps its time."""
        entry = QuarantineEntry(
            clip_id,
            self.stage,
            self.modality,
            reason,
            " ".join(message.split()),
            digest,
            self.fingerprint,
            now := datetime.now(UTC).isoformat(timespec="seconds"),
            "" if limit is None else repr(limit),
            program_version() if clip_error(reason).is_version_bound else "",
        )
        previous = self._entries.get(clip_id)
        if previous is None or replace(previous, time=now) != entry:
            self._entries[clip_id] = entry

    def drop_outdated(self, current: dict[str, str]) -> None:
        """Drop entries whose clip, input or settings have changed, and those that are worth another try.

        Args:
            current: The current digest of the input of each clip.
        """
        self._entries = {
            clip_id: entry for clip_id, entry in self._entries.items() if self._is_current(entry, current.get(clip_id))
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
            share: The allowed share. It counts from `MIN_CLIPS_OF_SHARE` clips on; of fewer, `ALLOWED_OF_FEW` may be
                bad even if that is a larger share.

        Raises:
            TooManyQuarantined: With the number of entries for each reason.
        """
        allowed = share * total if total >= MIN_CLIPS_OF_SHARE else max(ALLOWED_OF_FEW, share * total)
        if len(self._entries) <= allowed:
            return  # runs after each batch: counting by reason is only needed if there are too many entries
        reasons = self.reasons()
        defects = sum(count for reason, count in reasons.items() if clip_error(reason).is_defect)
        if defects <= allowed:
            return
        is_share = allowed == share * total
        limit = f"the allowed share of {share:g}" if is_share else f"the {ALLOWED_OF_FEW} allowed of so few"
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        # `index` reads all files in each run.
        retry = "" if self.stage == "index" else ", or retry them with --retry-quarantined"
        raise TooManyQuarantined(
            f"{self.name}: {defects} of {total} clips are bad, more than {limit} "
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
        _write_entries(self.path, [*self._others, *chain.from_iterable(self._sharing)])
        for table in self._sharing:
            table._written = dict(table._entries)
            table._written_at = time.monotonic()


def share_files(tables: Sequence[Quarantine]) -> None:
    """Let tables of the same file, which have different fingerprints, write their entries together."""
    by_path: dict[Path, list[Quarantine]] = {}
    for table in tables:
        by_path.setdefault(table.path, []).append(table)
    for sharing in by_path.values():
        present = {table.fingerprint for table in sharing}
        for table in sharing:
            table._sharing = sharing
            table._others = [entry for entry in table._others if entry.fingerprint not in present]


def merge_tables(path: Path, others: Iterable[Path]) -> None:
    """Add the entries of other tables of a stage, of its shards, to the table ``path``.

    Of two entries of a clip and the same settings, the later counts.
    """
    merged: dict[tuple[str, str], QuarantineEntry] = {}
    for entry in chain.from_iterable(map(read_quarantine, [path, *others])):
        present = merged.get(key := (entry.clip_id, entry.fingerprint))
        if present is None or present.time <= entry.time:
            merged[key] = entry
    _write_entries(path, merged.values())


def _write_entries(path: Path, entries: Iterable[QuarantineEntry]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in fields(QuarantineEntry))
    writer.writerows(sorted(map(astuple, entries)))
    write_atomic(path, text.getvalue(), only_if_changed=True)


def read_quarantine(path: Path) -> list[QuarantineEntry]:
    """Read the entries of one stage; return none if the file does not exist.

    Raises:
        InputError: If the table is damaged. It has no seal: a killed run could leave the two files in different states.
    """
    if not path.is_file():
        return []
    table = open_table(
        path, command=f"rm {shlex.quote(str(path))}", hint="remove it, and run the stage again: it retries the clips"
    )
    seen: set[tuple[str, str]] = set()

    def parse_new(cells: list[str]) -> QuarantineEntry:
        entry = _parse_entry(cells)
        if (key := (entry.clip_id, entry.fingerprint)) in seen:
            raise ValueError(f"{entry.clip_id!r} occurs twice with the same settings")
        seen.add(key)
        return entry

    return table.parse(parse_new, [field.name for field in fields(QuarantineEntry)], key=0)


def _parse_entry(cells: list[str]) -> QuarantineEntry:
    entry = QuarantineEntry(*cells)
    if not entry.clip_id or not entry.stage:
        raise ValueError("the clip id or the stage is empty")
    if clip_error(entry.reason).__name__ != entry.reason:
        raise ValueError(f"unknown reason {entry.reason!r}")
    datetime.fromisoformat(entry.time)
    if entry.limit:
        parse_number(entry.limit)
    return entry


def read_all(folder: Path, modalities: Collection[str]) -> list[QuarantineEntry]:
    """Read the entries of all stages as one table, without modalities that are not in use."""
    entries = [entry for path in sorted(folder.glob("*.csv")) for entry in read_quarantine(path)]
    return [entry for entry in entries if not entry.modality or entry.modality in modalities]
