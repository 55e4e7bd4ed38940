"""Measure the files of a corpus in worker processes, and remember them, so that only new and changed ones are read.

A file at which the demuxer crashes or hangs costs that file, not the run.
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
from ecmf_pipeline.core.files import read_text, sha256_file, write_atomic
from ecmf_pipeline.corpora.mer import FACE_CROPS_EXTENSION
from ecmf_pipeline.media.containers import probe_media
from ecmf_pipeline.runner import Engine, InProcess, LocalProcesses, Outcome, Step, Target, Task
from ecmf_pipeline.runner.machine import as_out_of_memory, usable_cores
from ecmf_pipeline.runner.step import Spool, SpoolWriter

VERSION = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """What one file's content says.

    Attributes:
        digest: SHA-256 of its bytes, in hex; empty when they could not be read.
        duration: Seconds.
        reason: Class of the error when it is no usable clip, else empty.
    """

    digest: str
    duration: float = 0.0
    has_video: bool = False
    has_audio: bool = False
    reason: str = ""
    message: str = ""


class IndexCache:
    """Measured files by path, size and time of change. It may be deleted at will: all files are then read anew.

    Args:
        path: The JSON file it is kept in. A damaged one, or one of another corpus or version, counts as empty.
        root: The corpus folder, as the settings name it.
        clip_timeout: Seconds that a file may take now. Files that took too long under another limit are not known.

    Attributes:
        head: What tells its measurements from those of other corpora and versions.
    """

    def __init__(self, path: Path, root: Path, clip_timeout: float = 60.0) -> None:
        self.path = path
        self.head = {"version": VERSION, "root": root.as_posix()}
        self._limit = {"clip_timeout": clip_timeout}
        self._rows: dict[str, list[Any]] = _load(path, self.head, self._limit)
        self._changed = False

    def get(self, path: str, size: int, mtime_ns: int) -> Measured | None:
        """What is known of a file, None when it is new or has changed."""
        row = self._rows.get(path)
        if row is None or row[0] != size or row[1] != mtime_ns:
            return None
        return Measured(*row[2:])

    def put(self, path: str, size: int, mtime_ns: int, measured: Measured) -> None:
        """Remember a file."""
        self._rows[path] = [size, mtime_ns, *asdict(measured).values()]
        self._changed = True

    def save(self) -> None:
        """Write what is new, whole or not at all."""
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
"""The one branch of this loop."""

BATCH = 64
"""Files that a worker reads before it makes them durable: what a kill costs each worker at most. Of 16 files, waiting
for the disk took as long as reading them."""

FILES_A_WORKER = 256
"""Below that, starting another worker takes longer than it saves."""


@dataclass(frozen=True, slots=True)
class File:
    """One file as it was when the scan came by.

    Attributes:
        path: Relative to the corpus folder.
        mtime_ns: Time of change.
        verdict: What is wrong with it, where that is known already: only its digest is still wanted.
    """

    path: str
    size: int
    mtime_ns: int
    verdict: ClipError | None = field(default=None, compare=False)

    @property
    def targets(self) -> Sequence[Target]:
        """The file; its digest is what is looked for."""
        return (Target(self.path, BRANCH, ""),)

    def alone(self) -> Sequence[File]:
        """Itself."""
        return (self,)


Row = tuple[File, Measured]
Measurements = Generator[tuple[str, Measured], None, None]
"""Paths and what was found of them."""


class MeasuringStep(Step[File, Measured, Row]):
    """Hashes files of a corpus folder and looks at their streams."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, item: File) -> Measured:
        """Measure one file; what is wrong with it is a part of the answer, since its digest is one too."""
        with as_out_of_memory():
            return measure(self._root, item)

    def work(self, batch: Sequence[tuple[File, Measured]]) -> list[Outcome[Row]]:
        """Nothing is left to do."""
        return [Outcome(file.targets[0], (file, found)) for file, found in batch]


def make_step(root: Path, worker: int) -> MeasuringStep:  # noqa: ARG001 - all workers do the same
    """Load PyAV, since the time that takes is no file's fault, and make the step of a worker."""
    import av  # noqa: F401

    return MeasuringStep(root)


def measure(root: Path, file: File) -> Measured:
    """Hash and probe one file. Without a digest the failure may be gone the next time, and is not remembered."""
    path = root / file.path
    try:
        digest = sha256_file(path)
        try:
            found = _probe(path, file, digest)
        except FileUnreachable as error:
            return failure(error)
        except ClipError as error:
            found = failure(error, digest)
        status = path.stat()
    except OSError as error:
        return failure(unreachable(error))
    if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
        return failure(FileUnreachable("the file changed while it was read: run again"))
    return found


def _probe(path: Path, file: File, digest: str) -> Measured:
    if file.verdict is not None:
        raise file.verdict
    if file.path.endswith(FACE_CROPS_EXTENSION):
        return Measured(digest)  # what is in it is looked at where it is read
    if file.size == 0:
        raise UnreadableMedia("the file is empty (0 bytes)")
    probe = probe_media(path)
    return Measured(digest, probe.duration, probe.has_video, probe.has_audio)


def failure(error: ClipError, digest: str = "") -> Measured:
    """What is measured of a file that cannot be used."""
    return Measured(digest, reason=error.reason, message=str(error))


def unreachable(error: OSError) -> FileUnreachable:
    """Why a file cannot be read."""
    why = "the file vanished after it was listed" if isinstance(error, FileNotFoundError) else str(error.strerror)
    return FileUnreachable(f"it cannot be read: {why}")


def pack_rows(head: Mapping[str, object], rows: Sequence[Row]) -> bytes:
    """Return a finished batch as JSON; with the cache's head, since it counts for the same corpus alone."""
    files = [[file.path, file.size, file.mtime_ns, *astuple(found)] for file, found in rows]
    return json.dumps({**head, "files": files}).encode()


class CacheWriter(SpoolWriter[Row]):
    """The one writer of an index cache; on entering it takes up what a killed run had measured.

    Raises:
        StoreBusy: On entering, when another run is measuring.
    """

    def __init__(self, cache: IndexCache) -> None:
        path = cache.path
        spool = Spool(path.with_name(".index.spool"), partial(pack_rows, cache.head))
        super().__init__(spool, lock=path.with_name(".index.lock"), what=str(path))
        self._cache = cache
        self._taken = ExitStack()

    def take(self, task: str) -> list[tuple[str, Measured]]:
        """What a worker kept under a name, with each file's path; all of it that has a digest is remembered."""
        with ExitStack() as taking:  # an interrupt in the middle leaves the whole batch in the spool
            payloads = taking.enter_context(self._kept([task]))
            rows = [self._remember(*row) for payload in payloads for row in json.loads(payload)["files"]]
            self._taken.push(taking.pop_all())
        return rows

    def save(self) -> None:
        """Write the cache; what was taken may then leave the spool."""
        self._cache.save()
        self._taken.close()

    def _remember(self, path: str, size: int, mtime_ns: int, *values: object) -> tuple[str, Measured]:
        found = Measured(*values)  # type: ignore[arg-type]  # as `pack_rows` wrote them
        if found.digest:
            self._cache.put(path, size, mtime_ns, found)
        return path, found

    def _adopt(self, leftovers: Sequence[Path]) -> int:
        count = 0
        for path in leftovers:
            document = json.loads(path.read_bytes())
            files = document.pop("files")
            if document == self._cache.head:
                count += len([self._remember(*row) for row in files])
        self._cache.save()
        for path in leftovers:
            path.unlink()
        return count


def measure_files(
    root: Path, files: Sequence[File], writer: CacheWriter, *, workers: int | None, clip_timeout: float
) -> Measurements:
    """Measure files, each batch in a worker process, in any order; closing it ends the workers.

    Args:
        root: The corpus folder.
        files: Those to measure.
        writer: Takes what workers keep; entered.
        workers: How many processes; None is one for each core, fewer where there is little to read; 0 reads in this
            process, without protection.
        clip_timeout: Seconds that one file may take.
    """

    def measured(name: str, wanted: Sequence[File], broken: list[File]) -> Measurements:
        """Files that broke a worker are added to ``broken``, with the reason."""
        by_path = {file.path: file for file in wanted}
        processes = workers or min(usable_cores(), 1 + len(wanted) // FILES_A_WORKER)
        engine: Engine = InProcess() if workers == 0 else LocalProcesses(processes, clip_timeout)
        results = engine.run(_tasks(name, wanted), partial(make_step, root), {BRANCH: writer.spool})
        with closing(results) as finished:  # type: ignore[type-var]
            for done in finished:
                for target, error in done.errors:
                    file = by_path[target.clip_id]
                    if error.is_transient:
                        yield file.path, failure(error)
                    else:
                        broken.append(replace(file, verdict=file.verdict or error))
                if done.kept:
                    yield from writer.take(done.task.name)

    broken: list[File] = []
    yield from measured("first", files, broken)
    # Remembered by its digest, the file that broke a worker does not break one in every run.
    unhashed: list[File] = []
    yield from measured("again", broken, unhashed)
    yield from ((file.path, failure(file.verdict)) for file in unhashed if file.verdict)


def _tasks(name: str, files: Sequence[File]) -> Iterable[Task[File]]:
    for number, start in enumerate(range(0, len(files), BATCH)):
        yield Task(f"{name}-{number:06d}", 0, tuple(files[start : start + BATCH]))
