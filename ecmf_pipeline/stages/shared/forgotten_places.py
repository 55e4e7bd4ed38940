"""The places with data about clips, and how clips are removed from each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Modality
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import EcmfError
from ecmf_pipeline.core.files import exclusive_lock, hide_folder, sha256_file, sha256_text
from ecmf_pipeline.core.tables import drop_rows, from_spreadsheet_text
from ecmf_pipeline.corpora.languages import forget_texts
from ecmf_pipeline.corpora.measuring import forget_files
from ecmf_pipeline.corpora.names import match_names
from ecmf_pipeline.corpora.tables import EXCEL_EXTENSIONS
from ecmf_pipeline.labels.verdicts import verdicts_path
from ecmf_pipeline.llm.answers import AnswerCache, AnswerWriter
from ecmf_pipeline.llm.inventory import cached_fingerprints
from ecmf_pipeline.llm.server_run import DRAFTS_FILE, Drafts
from ecmf_pipeline.media.subtitles import SUBTITLE_EXTENSIONS
from ecmf_pipeline.segmentation.run import UtteranceRecord
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.llm_questions import CACHES, fingerprints_in_use
from ecmf_pipeline.store import StoreWriter
from ecmf_pipeline.store.compact import drop_clips
from ecmf_pipeline.store.format import read_parts, spool_folder
from ecmf_pipeline.store.kept import lost_groups
from ecmf_pipeline.store.state import settings_groups
from ecmf_pipeline.transcription.table import TranscriptRecord

ALL_QUESTIONS = "all"
"""Means the keys of all questions."""


@dataclass(frozen=True)
class Traces:
    """Ids, digests and words by which the stored data of clips are found.

    Attributes:
        clip_ids: Ids of the clips, and of recordings of which no part is left.
        entries: Names and digests for the list of forgotten clips, joined by a space; the digest comes first.
        digests: Digests of files, sounds and face crops that no other clip has.
        texts: Transcripts and translations that no other clip has.
        files: Files, relative to the corpus folder, that no other clip has.
        spans: Path and start of parts of recordings, joined by a space; the start comes first.
        questions: Keys of questions to the LLM that hold words of the clips.
    """

    clip_ids: frozenset[str] = frozenset()
    entries: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    spans: frozenset[str] = frozenset()
    questions: frozenset[str] = frozenset()

    def __or__(self, other: Traces) -> Traces:
        return Traces(*(getattr(self, one.name) | getattr(other, one.name) for one in fields(self)))

    def in_row(self, row: Mapping[str, str]) -> bool:
        """Return whether a row of a table that the pipeline wrote is about one of the clips."""
        names = {from_spreadsheet_text(row.get(column, "")) for column in ("clip_id", "name")}
        path, message = from_spreadsheet_text(row.get("path", "")), row.get("message", "")
        return (
            not self.clip_ids.isdisjoint(names)
            or path in self.files
            or f"{row.get('start', '')} {path}" in self.spans
            or (bool(message) and any(repr(name) in message for name in self.clip_ids | self.files))
        )

    def has_file(self, name: str) -> bool:
        """Return whether a file is one of the clips' own, or a subtitle file beside one."""
        is_subtitle = PurePosixPath(name).suffix.lower() in SUBTITLE_EXTENSIONS
        stems = (f"{file.rpartition('.')[0]}." for file in self.files) if is_subtitle else ()
        return name in self.files or any(map(name.startswith, stems))


def digests_of(clips: Iterable[Clip]) -> set[str]:
    """Return the digests of all files of clips, and of their parts."""
    found = {
        digest for clip in clips for digest in (clip.digest, clip.file_digest, clip.face_digest, clip.audio_digest)
    }
    return (found | {clip.sound.digest for clip in clips if clip.sound}) - {""}


Remove = Callable[[Traces, bool], int]
"""Removes entries, or only counts them if the second argument is true; returns their number."""


def places_of(params: Params, left: Sequence[Clip], *, is_new: bool) -> Iterator[tuple[str, Remove]]:
    """Yield all places but the manifest, with the function that removes the entries there.

    Args:
        params: The params of the project.
        left: The clips that stay.
        is_new: Whether clips are removed that were not forgotten before: only then outputs are deleted as a whole.
    """
    for root in map(paths.features, Modality):
        yield str(root), partial(_drop_features, root)
    yield from _answer_places(params, left)
    for table in _computed_tables(params):
        yield str(table), partial(_drop_computed, table)
    known = [clip.clip_id for clip in left]
    for table in _tables_of_people(params):
        yield str(table), partial(_drop_from_people, table, known)
    yield str(paths.KEPT / "versions"), partial(_drop_versions, known)
    yield str(paths.INDEX_CACHE), lambda traces, dry: forget_files(paths.INDEX_CACHE, traces.has_file, dry_run=dry)
    for cache in (paths.LANGUAGE_CACHE, paths.TRANSLATION_LANGUAGE_CACHE):
        yield str(cache), partial(_drop_languages, cache)
    if is_new:
        for folder in (paths.DATA / "fusion", paths.DATA / "predictions", paths.REPORT.parent, paths.REVIEW_CACHE):
            yield f"{folder} (files)", partial(_empty, folder)
        for record in (paths.LAST_SCAN, paths.LAST_SEGMENTATION):
            yield str(record), partial(_unlink, record)


def _answer_places(params: Params, left: Sequence[Clip]) -> Iterator[tuple[str, Remove]]:
    in_use = ""
    with suppress(EcmfError):
        in_use = fingerprints_in_use(params).get("rewrite", "")
    present = digests_of(left)

    def is_of_unknown_question(cache: Path, traces: Traces, fingerprint: str, key: str) -> bool:
        if cache == paths.REWRITE_ANSWERS:  # keys of other prompts
            return bool(traces.texts) and (fingerprint != in_use or ALL_QUESTIONS in traces.questions)
        return cache == paths.SEGMENT_CACHE and bool(traces.spans) and key not in present  # keys of two files

    caches: list[tuple[Path, Path, Callable[[bytes], Any]]] = [
        (files.cache, files.spool_folder, parse) for files, parse in CACHES
    ]
    caches += [
        (paths.TRANSCRIPT_CACHE, paths.DATA / ".transcripts.spool", TranscriptRecord.parse),
        (paths.SEGMENT_CACHE, paths.DATA / ".segments.spool", UtteranceRecord.parse),
    ]
    for cache, spool, parse in caches:
        yield str(cache), partial(_drop_answers, cache, spool, parse, partial(is_of_unknown_question, cache))


def _drop_features(root: Path, traces: Traces, dry_run: bool) -> int:
    groups = {*(settings_groups(root) if root.is_dir() else ()), *(folder.name for folder in lost_groups(root))}
    count = 0
    for name in sorted(groups):
        if dry_run:
            parts = read_parts(root / name, name).intact.values()
            count += sum(clip_id in traces.clip_ids for part in parts for clip_id in part.clip_id)
        else:
            with StoreWriter(root, name) as writer:
                count += drop_clips(writer, traces.clip_ids)
    damaged, spools = root.with_name(f".{root.name}.damaged"), spool_folder(root, "any").parent
    orphans = [path for path in (spools.iterdir() if spools.is_dir() else ()) if path.name not in groups]
    for path in (damaged, *orphans):  # nothing reads them, and their rows cannot be separated
        if path.exists():
            count += 1
            if not dry_run:
                shutil.rmtree(path)
    return count


def _drop_answers(
    cache: Path,
    spool: Path,
    parse: Callable[[bytes], Any],
    is_unassigned: Callable[[Traces, str, str], bool],
    traces: Traces,
    dry_run: bool,
) -> int:
    """Remove the answers of one cache, under all fingerprints.

    Args:
        cache: The cache.
        spool: Folder of its unsealed answers and paid drafts.
        parse: Parses a line.
        is_unassigned: Returns whether an answer is removed whose clip cannot be known, by fingerprint and key.
        traces: Identify the clips.
        dry_run: Whether the answers are only counted.
    """
    keys = {*map(sha256_text, traces.texts), *traces.digests, *traces.questions}
    count = 0
    for name in {*cached_fingerprints(cache), *(path.name for path in spool.glob("*") if path.is_dir())}:
        answers = AnswerCache(cache, name, parse)
        unwanted = partial(_is_unwanted, keys, partial(is_unassigned, traces, name))
        if dry_run:
            count += sum(unwanted(row.key) for row in answers.rows())
            continue
        with AnswerWriter(answers, spool) as writer:
            count += writer.drop(unwanted)
            Drafts(spool / name / DRAFTS_FILE).remove_finished(keys)
    return count


def _is_unwanted(keys: set[str], is_unassigned: Callable[[str], bool], key: str) -> bool:
    return key in keys or is_unassigned(key)


def _drop_computed(table: Path, traces: Traces, dry_run: bool) -> int:
    return drop_rows(table, traces.in_row, dry_run=dry_run)


def _drop_languages(cache: Path, traces: Traces, dry_run: bool) -> int:
    return forget_texts(cache, traces.texts, dry_run=dry_run)


def _computed_tables(params: Params) -> list[Path]:
    """Return the tables in the data folder that stages wrote: not those of the corpus, which may be in it."""
    outside = [paths.SAMPLE.resolve(), paths.MODELS.resolve(), params.corpus.root.resolve()]
    tables = (path for path in paths.DATA.rglob("*.csv") if path != paths.MANIFEST)
    return sorted(path for path in tables if not any(path.resolve().is_relative_to(folder) for folder in outside))


def _tables_of_people(params: Params) -> list[Path]:
    tables = {path for path in paths.VERDICTS.parent.rglob("*") if path.suffix.lower() in {".csv", ".tsv"}}
    for path in (verdicts_path(params.refine.verdicts), params.transcribe.find_corrections()):
        if path is not None and path.is_file():
            tables.add(path)
    return sorted(tables - {paths.FORGOTTEN})


def _drop_from_people(path: Path, known: Sequence[str], traces: Traces, dry_run: bool) -> int:
    if path.suffix.lower() in EXCEL_EXTENSIONS:
        echo(f"  {path}: a spreadsheet is not changed; remove the rows of the clips by hand")
        return 0
    names: dict[str, str] = {}

    def name_of(row: Mapping[str, str]) -> str:
        return row.get("name", row.get("clip_id", "")).strip()

    def collect(row: Mapping[str, str]) -> bool:
        names[name_of(row)] = from_spreadsheet_text(name_of(row))
        return False

    drop_rows(path, collect, dry_run=True)
    matched = match_names(names.values(), [*known, *traces.clip_ids])

    def is_unwanted(row: Mapping[str, str]) -> bool:
        return matched.get(names.get(name_of(row), "")) in traces.clip_ids

    if dry_run or path.parent != paths.VERDICTS.parent:
        return drop_rows(path, is_unwanted, dry_run=dry_run)
    hide_folder(paths.REVIEW_CACHE)
    with exclusive_lock(paths.REVIEW_CACHE / "verdicts.lock", str(path)):  # of the review page
        return drop_rows(path, is_unwanted)


def _drop_versions(known: Sequence[str], traces: Traces, dry_run: bool) -> int:
    """Remove the clips from the kept versions of people's tables, whose names are hashes of their content."""
    count = 0
    for path in sorted(file for file in (paths.KEPT / "versions").rglob("*.*") if file.is_file()):
        modified = path.stat().st_mtime_ns
        if found := _drop_from_people(path, known, traces, dry_run):
            count += found
            if not dry_run:
                _keep_time(path, modified)
    return count


def _keep_time(path: Path, modified_ns: int) -> None:
    os.utime(path, ns=(modified_ns, modified_ns))
    path.rename(path.with_name(f"{sha256_file(path)[:12]}{path.suffix}"))


def _empty(folder: Path, _: Traces, dry_run: bool) -> int:
    """Delete what a folder holds, except ignore files, locks and secrets; return the number of files."""
    kept = {".gitignore", ".dvcignore", "verdicts.lock", "secret"}
    entries = [path for path in folder.iterdir() if path.name not in kept] if folder.is_dir() else []
    count = sum(1 if path.is_file() else sum(file.is_file() for file in path.rglob("*")) for path in entries)
    if not dry_run:
        for path in entries:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return count


def _unlink(path: Path, _: Traces, dry_run: bool) -> int:
    found = path.is_file()
    if not dry_run:
        path.unlink(missing_ok=True)
    return int(found)
