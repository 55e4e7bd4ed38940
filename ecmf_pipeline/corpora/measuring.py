"""Measure the files of a corpus in worker processes and cache the results: only new and changed files are read.

A file at which the demuxer crashes or hangs is quarantined; the run continues.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.errors import (
    ClipError,
    ClipTimeout,
    FileUnreachable,
    InputError,
    UnreadableMedia,
    clip_error,
)
from ecmf_pipeline.core.files import (
    FileState,
    exclusive_lock,
    local_cache_bytes,
    parse_local_cache,
    read_local_cache,
    sha256_input,
    wait_until_settled,
    write_local_cache,
)
from ecmf_pipeline.corpora.mer import FACE_CROPS_EXTENSION, FACE_CROPS_FOLDER
from ecmf_pipeline.corpora.sidecars import language_code
from ecmf_pipeline.corpora.tables import clean_cell
from ecmf_pipeline.media.containers import probe_media
from ecmf_pipeline.media.subtitles import (
    SUBTITLE_EXTENSIONS,
    Subtitles,
    read_subtitle_file,
    read_subtitle_stream,
)
from ecmf_pipeline.runner import Engine, InProcess, LocalProcesses, Outcome, Step, Target, Task
from ecmf_pipeline.runner.machine import as_out_of_memory, usable_cores
from ecmf_pipeline.runner.quarantine import is_worth_retrying, program_version
from ecmf_pipeline.runner.step import Spool, SpoolWriter

CACHE_VERSION = 5
_ROW_TYPES = (int, int, int, int, str, float, float, bool, bool, str, str, str, str, float, int, str)
"""Types of a cached row: the state, then the measurement without its limit; the limit and the program follow."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The measurement of one file.

    Attributes:
        digest: SHA-256 of the file, in hex; empty if it could not be read.
        duration: Seconds.
        readable: Seconds that can be read: fewer than `duration` if the file was cut off.
        has_video: Whether the file has a video stream.
        has_audio: Whether the file has an audio stream.
        reason: The class name of the error if the file is unusable, else empty.
        message: The message of the error.
        words: The words of a subtitle file, or of the subtitles in a media file, as one line.
        language: The language code of these subtitles (en); empty if unknown.
        words_end: The end of the last subtitle in seconds.
        overlaps: The number of subtitles that overlap with another one.
        encoding: The encoding of a subtitle file; empty for UTF-8.
        limit: The limit that the file met, if a setting can lift it.
    """

    digest: str
    duration: float = 0.0
    readable: float = 0.0
    has_video: bool = False
    has_audio: bool = False
    reason: str = ""
    message: str = ""
    words: str = ""
    language: str = ""
    words_end: float = 0.0
    overlaps: int = 0
    encoding: str = ""
    limit: float | None = None


class IndexCache:
    """Measurements by path and state. If the cache is deleted, all files are read again.

    Args:
        path: The JSON file. A damaged file, or one of another corpus or version, counts as empty.
        root: The corpus folder, as in the settings.
        clip_timeout: Seconds allowed for one file. A file that failed is measured again if this is longer now, or if
            the program may have failed and has changed.

    Attributes:
        path: The JSON file.
        head: The identity of the cache: its version and its corpus folder.
    """

    def __init__(self, path: Path, root: Path, clip_timeout: float = 60.0) -> None:
        self.path = path
        self.head = _head(root)
        self._limits = {ClipTimeout.__name__: clip_timeout}
        rows = _load(path, self.head)
        self._rows: dict[str, list[Any]] = rows if all(map(_is_valid, rows.values())) else {}
        self._changed = False

    def get(self, path: str, state: FileState) -> Measurement | None:
        """Return the measurement of a file, or None if the file is new, has changed, or is worth another try."""
        row = self._rows.get(path)
        if row is None or tuple(row[:4]) != state:
            return None
        measured = Measurement(*row[4:-1])
        if measured.reason and is_worth_retrying(measured.reason, measured.limit, row[-1], self._limits):
            return None
        return measured

    def put(self, path: str, state: FileState, measured: Measurement) -> None:
        """Add the measurement of a file, unless it failed for a transient reason."""
        error_class = clip_error(measured.reason)
        if not error_class.is_transient:
            program = program_version() if error_class.is_version_bound else ""
            self._rows[path] = [*state, *astuple(measured), program]
            self._changed = True

    def save(self) -> None:
        """Write the cache atomically if it has changed."""
        if self._changed:
            write_local_cache(self.path, {**self.head, "files": self._rows})
            self._changed = False


def forget_files(path: Path, is_forgotten: Callable[[str], bool], *, dry_run: bool = False) -> int:
    """Remove files from the index cache and all measurements from its spool; return how many the cache had.

    Args:
        path: The index cache.
        is_forgotten: Returns whether a path, relative to the corpus folder, is removed.
        dry_run: Whether they are only counted.

    Raises:
        StoreBusy: If another run is measuring.
    """
    with exclusive_lock(path.with_name(".index.lock"), str(path)):
        content = read_local_cache(path)
        files = content.get("files", {})
        left = {name: row for name, row in files.items() if not is_forgotten(name)}
        if not dry_run:
            shutil.rmtree(path.with_name(".index.spool"), ignore_errors=True)  # its files are measured again
            if len(left) < len(files):
                write_local_cache(path, {**content, "files": left})
    return len(files) - len(left)


def known_states(path: Path, root: Path, names: Iterable[str]) -> dict[str, FileState]:
    """Return the settled states of files whose digest the manifest holds, by path; unknown files are left out.

    Args:
        path: The index cache; if it is missing, no state is known.
        root: The corpus folder, as in the settings.
        names: The paths, relative to the corpus folder.
    """
    files = _load(path, _head(root))
    rows = ((name, files[name]) for name in names if name in files)
    return {name: FileState(*row[:4]) for name, row in rows if _is_valid(row) and row[4]}


def _head(root: Path) -> dict[str, Any]:
    return {"version": CACHE_VERSION, "root": root.as_posix()}


def _load(path: Path, head: dict[str, Any]) -> dict[str, list[Any]]:
    """Read the rows of the cache, which are not validated; none if it is damaged or another one."""
    content = read_local_cache(path)
    if any(content.get(key) != value for key, value in head.items()):
        return {}
    files = content.get("files")
    return files if isinstance(files, dict) else {}


def _is_valid(row: object) -> bool:
    if not isinstance(row, list) or len(row) != len(_ROW_TYPES) + 2:
        return False
    *measured, limit, program = map(type, row)
    return tuple(measured) == _ROW_TYPES and limit in {float, int, type(None)} and program is str


BRANCH = "index"
"""The single branch of this run."""

BATCH_SIZE = 64
"""Files per batch; a kill loses at most one batch per worker. With 16, syncing to disk took as long as reading."""

MIN_FILES_PER_WORKER = 256
"""With fewer files, starting another worker takes longer than it saves."""


@dataclass(frozen=True, slots=True)
class FileToMeasure:
    """The state of a file at the time of the scan.

    Attributes:
        path: The path relative to the corpus folder.
        state: The state.
        known_error: The error of a previous attempt; only the digest is computed then.
    """

    path: str
    state: FileState
    known_error: ClipError | None = field(default=None, compare=False)

    @property
    def targets(self) -> Sequence[Target]:
        """The file itself; its digest is not known yet."""
        return (Target(self.path, BRANCH, ""),)

    def alone(self) -> Sequence[FileToMeasure]:
        """Return the file itself: it cannot be divided."""
        return (self,)


Row = tuple[FileToMeasure, Measurement]
Measurements = Generator[tuple[str, Measurement], None, None]
"""Paths and their measurements."""
_UNSETTLED_CTIME = -1
"""Time of a state that no file has: its measurement is not reused."""


class MeasuringStep(Step[FileToMeasure, Row, Row]):
    """Hash files of a corpus folder and probe their streams."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, item: FileToMeasure) -> Row:
        """Measure one file. An error is part of the result, because the digest is needed too."""
        with as_out_of_memory():
            is_settled = wait_until_settled(item.state)
            measured = measure(self._root, item)
        return item if is_settled else replace(item, state=item.state._replace(ctime_ns=_UNSETTLED_CTIME)), measured

    def work(self, batch: Sequence[tuple[FileToMeasure, Row]]) -> list[Outcome[Row]]:
        """Return the measurements; `open` has done all work."""
        return [Outcome(file.targets[0], row) for file, row in batch]


def make_step(root: Path, worker: int) -> MeasuringStep:  # noqa: ARG001 - all workers do the same
    """Create the step of a worker; PyAV is imported first, so that its load time does not count for a file."""
    import av  # noqa: F401

    return MeasuringStep(root)


def measure(root: Path, file: FileToMeasure) -> Measurement:
    """Hash and probe one file. A result without digest is a transient failure and is not cached."""
    path = root / file.path
    try:
        digest = sha256_input(path)
        try:
            measurement = _probe(path, file, digest)
        except FileUnreachable as error:
            return failure(error)
        except ClipError as error:
            measurement = failure(error, digest)
        state = FileState.of(path)
    except OSError as error:
        return failure(unreachable(error))
    if state != file.state:
        return failure(FileUnreachable(f"{file.path} changed while it was read"))
    return measurement


def _probe(path: Path, file: FileToMeasure, digest: str) -> Measurement:
    if file.known_error is not None:
        raise file.known_error
    if file.path.startswith(f"{FACE_CROPS_FOLDER}/") and (file.path.endswith(FACE_CROPS_EXTENSION) or path.is_dir()):
        return Measurement(digest)  # the face modality checks the content
    if file.state.size == 0:
        raise UnreadableMedia(f"{file.path} is empty (0 bytes)")
    if path.suffix.lower() in SUBTITLE_EXTENSIONS:
        try:
            return _with_words(Measurement(digest), read_subtitle_file(path))
        except InputError as error:
            raise UnreadableMedia(error.message) from error
    probe = probe_media(path)
    measurement = Measurement(digest, probe.duration, probe.readable, probe.has_video, probe.has_audio)
    if not probe.has_subtitles:
        return measurement
    try:
        return _with_words(measurement, read_subtitle_stream(path))
    except UnreadableMedia:  # pictures and sound of the file may be usable
        return measurement


def _with_words(measurement: Measurement, subtitles: Subtitles) -> Measurement:
    return replace(
        measurement,
        words=clean_cell(subtitles.text),
        language=language_code(subtitles.language),
        words_end=round(subtitles.end, 3),
        overlaps=subtitles.overlaps,
        encoding=subtitles.encoding,
    )


def failure(error: ClipError, digest: str = "") -> Measurement:
    """Return the measurement of an unusable file."""
    return Measurement(digest, reason=error.reason, message=error.message, limit=error.limit)


def unreachable(error: OSError) -> FileUnreachable:
    """Convert an operating system error to `FileUnreachable`."""
    if isinstance(error, FileNotFoundError):
        return FileUnreachable("the file vanished after it was listed")
    return FileUnreachable(f"the file cannot be read ({error.strerror})")


def pack_rows(head: Mapping[str, object], rows: Sequence[Row]) -> bytes:
    """Serialise a finished batch as JSON, with the head of the cache that it belongs to."""
    files = [[file.path, file.state, *astuple(measurement)] for file, measurement in rows]
    return local_cache_bytes({**head, "files": files})


class CacheWriter(SpoolWriter[Row]):
    """The exclusive writer of an index cache; on entry it adopts the finished batches of a killed run.

    Raises:
        StoreBusy: On entry, if another run is measuring.
    """

    def __init__(self, cache: IndexCache) -> None:
        path = cache.path
        spool = Spool(path.with_name(".index.spool"), partial(pack_rows, cache.head))
        super().__init__(spool, lock=path.with_name(".index.lock"), what=str(path))
        self._cache = cache
        self._taken = ExitStack()

    def take(self, task: str) -> list[tuple[str, Measurement]]:
        """Return the measurements of a finished batch by path, and add them to the cache."""
        with ExitStack() as taking:  # an interrupt in the middle leaves the whole batch in the spool
            payloads = taking.enter_context(self._kept([task]))
            batches = [parse_local_cache(payload) for payload in payloads]
            rows = [self._cache_row(*row) for batch in batches for row in batch.get("files", ())]
            self._taken.push(taking.pop_all())
        return rows

    def save(self) -> None:
        """Write the cache, then remove the taken batches from the spool."""
        self._cache.save()
        self._taken.close()

    def put(self, file: FileToMeasure, measurement: Measurement) -> None:
        """Add a measurement that no batch contains."""
        self._cache.put(file.path, file.state, measurement)

    def _cache_row(self, path: str, state: Sequence[int], *values: object) -> tuple[str, Measurement]:
        measurement = Measurement(*values)  # type: ignore[arg-type]  # as `pack_rows` wrote them
        self._cache.put(path, FileState(*state), measurement)
        return path, measurement

    def _adopt(self, leftovers: Sequence[Path]) -> int:
        count = 0
        for path in leftovers:
            document = read_local_cache(path)
            files = document.pop("files", ())  # files of a damaged batch are read again
            if document == self._cache.head:
                count += len([self._cache_row(*row) for row in files])
        self._cache.save()
        for path in leftovers:
            path.unlink()
        return count


def measure_files(
    root: Path, files: Sequence[FileToMeasure], writer: CacheWriter, *, workers: int | None, clip_timeout: float
) -> Measurements:
    """Measure files in worker processes, in any order; closing the generator ends the workers.

    Args:
        root: The corpus folder.
        files: The files to measure.
        writer: The entered writer of the cache.
        workers: Number of processes. None: one for each core, fewer for few files. 0: read in this process, without
            protection against crashes.
        clip_timeout: Seconds allowed for one file.
    """

    def run_round(name: str, batch: Sequence[FileToMeasure], failed: list[FileToMeasure]) -> Measurements:
        """Measure files; append those that crashed or blocked a worker to ``failed``, with their error."""
        by_path = {file.path: file for file in batch}
        processes = workers or min(usable_cores(), 1 + len(batch) // MIN_FILES_PER_WORKER)
        engine: Engine = InProcess() if workers == 0 else LocalProcesses(processes, clip_timeout)
        results = engine.run(_tasks(name, batch), partial(make_step, root), {BRANCH: writer.spool})
        with closing(results) as finished:  # type: ignore[type-var]
            for done in finished:
                for target, error in done.errors:
                    file = by_path[target.clip_id]
                    if error.is_transient:
                        yield file.path, failure(error)
                    else:
                        failed.append(replace(file, known_error=file.known_error or error))
                if done.kept:
                    yield from writer.take(done.task.name)

    crashed: list[FileToMeasure] = []
    yield from run_round("first", files, crashed)
    # With its digest in the cache, a file that crashes a worker does so only once.
    unhashed: list[FileToMeasure] = []
    yield from run_round("again", crashed, unhashed)
    for file in unhashed:
        if file.known_error:
            measurement = failure(file.known_error)
            writer.put(file, measurement)
            yield file.path, measurement


def _tasks(name: str, files: Sequence[FileToMeasure]) -> Iterable[Task[FileToMeasure]]:
    for number, start in enumerate(range(0, len(files), BATCH_SIZE)):
        yield Task(f"{name}-{number:06d}", 0, tuple(files[start : start + BATCH_SIZE]))
