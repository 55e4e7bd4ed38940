"""Measure the files of a corpus in worker processes and cache the results: only new and changed files are read.

A file at which the demuxer crashes or hangs is quarantined; the run continues.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.errors import ClipError, ClipTimeout, FileUnreachable, InputError, UnreadableMedia
from ecmf_pipeline.core.files import file_state, read_text, sha256_file, sha256_pictures, write_atomic
from ecmf_pipeline.corpora.mer import FACE_CROPS_EXTENSION, FACE_CROPS_FOLDER
from ecmf_pipeline.media.containers import probe_media
from ecmf_pipeline.runner import Engine, InProcess, LocalProcesses, Outcome, Step, Target, Task
from ecmf_pipeline.runner.machine import as_out_of_memory, usable_cores
from ecmf_pipeline.runner.step import Spool, SpoolWriter

CACHE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """The measurement of one file.

    Attributes:
        digest: SHA-256 of the file, in hex; empty if it could not be read.
        duration: Seconds.
        has_video: Whether the file has a video stream.
        has_audio: Whether the file has an audio stream.
        reason: The class name of the error if the file is unusable, else empty.
        message: The message of the error.
    """

    digest: str
    duration: float = 0.0
    has_video: bool = False
    has_audio: bool = False
    reason: str = ""
    message: str = ""


class IndexCache:
    """Measurements by path, size and modification time. If the cache is deleted, all files are read again.

    Args:
        path: The JSON file. A damaged file, or one of another corpus or version, counts as empty.
        root: The corpus folder, as in the settings.
        clip_timeout: Seconds allowed for one file. Timeouts under another limit are dropped from the cache.

    Attributes:
        path: The JSON file.
        head: The identity of the cache: its version and its corpus folder.
    """

    def __init__(self, path: Path, root: Path, clip_timeout: float = 60.0) -> None:
        self.path = path
        self.head = {"version": CACHE_VERSION, "root": root.as_posix()}
        self._limit = {"clip_timeout": clip_timeout}
        self._rows: dict[str, list[Any]] = _load(path, self.head, self._limit)
        self._changed = False

    def get(self, path: str, size: int, mtime_ns: int) -> Measurement | None:
        """Return the measurement of a file, or None if the file is new or has changed."""
        row = self._rows.get(path)
        if row is None or row[0] != size or row[1] != mtime_ns:
            return None
        return Measurement(*row[2:])

    def put(self, path: str, size: int, mtime_ns: int, measured: Measurement) -> None:
        """Add the measurement of a file."""
        self._rows[path] = [size, mtime_ns, *asdict(measured).values()]
        self._changed = True

    def save(self) -> None:
        """Write the cache atomically if it has changed."""
        if self._changed:
            document = {**self.head, **self._limit, "files": self._rows}
            write_atomic(self.path, json.dumps(document, ensure_ascii=False))
            self._changed = False


def _load(path: Path, head: dict[str, Any], limit: dict[str, Any]) -> dict[str, list[Any]]:
    try:
        content = json.loads(read_text(path))
    except (OSError, InputError, ValueError):
        return {}
    if not isinstance(content, dict) or any(content.get(key) != value for key, value in head.items()):
        return {}
    files = content.get("files")
    row_types = (int, int, str, float, bool, bool, str, str)
    if not isinstance(files, dict) or not all(
        isinstance(row, list) and tuple(map(type, row)) == row_types for row in files.values()
    ):
        return {}
    if any(content.get(key) != value for key, value in limit.items()):
        return {path: row for path, row in files.items() if row[-2] != ClipTimeout.__name__}
    return files


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
        size: The size in bytes.
        mtime_ns: The modification time.
        known_error: The error of a previous attempt; only the digest is computed then.
    """

    path: str
    size: int
    mtime_ns: int
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


class MeasuringStep(Step[FileToMeasure, Measurement, Row]):
    """Hash files of a corpus folder and probe their streams."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, item: FileToMeasure) -> Measurement:
        """Measure one file. An error is part of the result, because the digest is needed too."""
        with as_out_of_memory():
            return measure(self._root, item)

    def work(self, batch: Sequence[tuple[FileToMeasure, Measurement]]) -> list[Outcome[Row]]:
        """Return the measurements; `open` has done all work."""
        return [Outcome(file.targets[0], (file, measurement)) for file, measurement in batch]


def make_step(root: Path, worker: int) -> MeasuringStep:  # noqa: ARG001 - all workers do the same
    """Create the step of a worker; PyAV is imported first, so that its load time does not count for a file."""
    import av  # noqa: F401

    return MeasuringStep(root)


def measure(root: Path, file: FileToMeasure) -> Measurement:
    """Hash and probe one file. A result without digest is a transient failure and is not cached."""
    path = root / file.path
    try:
        digest = sha256_pictures(path) if path.is_dir() else sha256_file(path)
        try:
            measurement = _probe(path, file, digest)
        except FileUnreachable as error:
            return failure(error)
        except ClipError as error:
            measurement = failure(error, digest)
        state = file_state(path)
    except OSError as error:
        return failure(unreachable(error))
    if state != (file.size, file.mtime_ns):
        return failure(FileUnreachable(f"{file.path} changed while it was read"))
    return measurement


def _probe(path: Path, file: FileToMeasure, digest: str) -> Measurement:
    if file.known_error is not None:
        raise file.known_error
    if file.path.startswith(f"{FACE_CROPS_FOLDER}/") and (file.path.endswith(FACE_CROPS_EXTENSION) or path.is_dir()):
        return Measurement(digest)  # the face modality checks the content
    if file.size == 0:
        raise UnreadableMedia(f"{file.path} is empty (0 bytes)")
    probe = probe_media(path)
    return Measurement(digest, probe.duration, probe.has_video, probe.has_audio)


def failure(error: ClipError, digest: str = "") -> Measurement:
    """Return the measurement of an unusable file."""
    return Measurement(digest, reason=error.reason, message=error.message)


def unreachable(error: OSError) -> FileUnreachable:
    """Convert an operating system error to `FileUnreachable`."""
    if isinstance(error, FileNotFoundError):
        return FileUnreachable("the file vanished after it was listed")
    return FileUnreachable(f"the file cannot be read ({error.strerror})")


def pack_rows(head: Mapping[str, object], rows: Sequence[Row]) -> bytes:
    """Serialise a finished batch as JSON, with the head of the cache that it belongs to."""
    files = [[file.path, file.size, file.mtime_ns, *astuple(measurement)] for file, measurement in rows]
    return json.dumps({**head, "files": files}).encode()


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
        """Return the measurements of a finished batch by path; add those with a digest to the cache."""
        with ExitStack() as taking:  # an interrupt in the middle leaves the whole batch in the spool
            payloads = taking.enter_context(self._kept([task]))
            rows = [self._cache_row(*row) for payload in payloads for row in json.loads(payload)["files"]]
            self._taken.push(taking.pop_all())
        return rows

    def save(self) -> None:
        """Write the cache, then remove the taken batches from the spool."""
        self._cache.save()
        self._taken.close()

    def _cache_row(self, path: str, size: int, mtime_ns: int, *values: object) -> tuple[str, Measurement]:
        measurement = Measurement(*values)  # type: ignore[arg-type]  # as `pack_rows` wrote them
        if measurement.digest:
            self._cache.put(path, size, mtime_ns, measurement)
        return path, measurement

    def _adopt(self, leftovers: Sequence[Path]) -> int:
        count = 0
        for path in leftovers:
            document = json.loads(path.read_bytes())
            files = document.pop("files")
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
    yield from ((file.path, failure(file.known_error)) for file in unhashed if file.known_error)


def _tasks(name: str, files: Sequence[FileToMeasure]) -> Iterable[Task[FileToMeasure]]:
    for number, start in enumerate(range(0, len(files), BATCH_SIZE)):
        yield Task(f"{name}-{number:06d}", 0, tuple(files[start : start + BATCH_SIZE]))
