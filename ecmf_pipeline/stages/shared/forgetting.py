"""Remove clips from everything that the pipeline has stored about them.

What to remove is first written to `paths.FORGETTING`. The manifest is changed last and that file is then removed: a
command that was killed is repeated with the same names, or with none, and finishes the work.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Corpus, Modality, read_corpus_tables, write_corpus_tables
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import EcmfError, InputError
from ecmf_pipeline.core.files import exclusive_lock, hide_folder, parse_json, sha256_file, sha256_text, write_atomic
from ecmf_pipeline.core.tables import drop_rows, from_spreadsheet_text
from ecmf_pipeline.corpora.forgotten import Forgotten, add_forgotten, read_forgotten, recording_of
from ecmf_pipeline.corpora.languages import forget_texts
from ecmf_pipeline.corpora.measuring import forget_files
from ecmf_pipeline.corpora.names import match_names
from ecmf_pipeline.corpora.scan import strip_media_extension
from ecmf_pipeline.corpora.tables import EXCEL_EXTENSIONS
from ecmf_pipeline.labels.verdicts import verdicts_path
from ecmf_pipeline.llm.answers import AnswerCache, AnswerWriter
from ecmf_pipeline.llm.inventory import cached_fingerprints
from ecmf_pipeline.llm.prompt import load_rewrite_prompt, question_key
from ecmf_pipeline.llm.rewriting import truncate_context
from ecmf_pipeline.llm.server_run import DRAFTS_FILE, Drafts
from ecmf_pipeline.media.subtitles import SUBTITLE_EXTENSIONS
from ecmf_pipeline.segmentation.run import UtteranceRecord
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.inputs import read_manifest_with_transcripts
from ecmf_pipeline.stages.shared.llm import read_contexts
from ecmf_pipeline.stages.shared.llm_questions import CACHES, fingerprints_in_use
from ecmf_pipeline.store import StoreWriter
from ecmf_pipeline.store.compact import drop_clips
from ecmf_pipeline.store.format import read_parts, spool_folder
from ecmf_pipeline.store.kept import lost_groups
from ecmf_pipeline.store.state import settings_groups
from ecmf_pipeline.transcription.table import TranscriptRecord

_SHOWN = 3
_ALL = "all"
"""Stands for the keys of all questions."""

REMAINS = f"""what remains, and how to remove it:
  media files and the rows of the corpus's own tables: remove them; `index` skips the clips by {paths.FORGOTTEN}
  DVC's cache (earlier features and tables): run dvc repro, dvc gc --workspace, for remotes dvc gc --workspace --cloud
  Git history (dvc.lock, data/metrics, labels/*.csv): rewrite it with git filter-repo, and replace all clones
  trained models: `dvc repro` trains new ones without the clips; copies that were handed out remain
  copies that other people have pulled or exported: ask them to run the same commands"""


@dataclass(frozen=True)
class Traces:
    """By what the stored data of some clips are found.

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


def forget(params: Params, names: Sequence[str], groups: Sequence[str], *, dry_run: bool = False) -> None:
    """Remove clips from all that the project has stored, and print what was removed and what remains.

    Args:
        params: The params of the project.
        names: Clip ids or file names; the name of a recording stands for all its parts.
        groups: Groups (speakers or dialogues) of which all clips are removed.
        dry_run: Whether the entries are only counted.

    Raises:
        MissingInput: If `index` has not run yet.
        InputError: If a name or group is unknown; nothing is changed.
        StoreBusy: If another run writes to a store; the command can be repeated.
    """
    corpus = read_corpus_tables()
    forgotten, pending = read_forgotten(), _read_pending()
    chosen = _chosen(corpus.clips, names, groups, forgotten, pending)
    clips = [clip for clip in corpus.clips if clip.clip_id in chosen]
    digests = {clip.digest for clip in clips} - {""}
    copies = [clip for clip in corpus.clips if clip.digest in digests and clip.clip_id not in chosen]
    if copies:
        listed = ", ".join(clip.clip_id for clip in copies[:_SHOWN])
        echo(f"forget: {format_count(len(copies), 'copy', 'copies')} of these clips under other names too: {listed}")
    clips += copies
    traces = pending | Traces(frozenset(chosen)) | _traces(params, corpus.clips, clips)
    is_new = bool(clips or pending.clip_ids)
    verb = "would remove" if dry_run else "removed"
    echo(f"forget: {format_count(len(clips), 'clip')} of {len(corpus.clips)}")
    if not dry_run and is_new:
        hide_folder(paths.KEPT)
        content = {name: sorted(values) for name, values in asdict(traces).items()}
        write_atomic(paths.FORGETTING, json.dumps(content))
        add_forgotten((entry.split(" ", 1)[1], entry.split(" ", 1)[0]) for entry in sorted(traces.entries))
    left = [clip for clip in corpus.clips if clip.clip_id not in traces.clip_ids]
    for place, remove in _places(params, left, is_new=is_new):
        if count := remove(traces, dry_run):
            echo(f"  {place}: {verb} {count}")
    removed = len(corpus.clips) - len(left)
    if removed:
        echo(f"  {paths.MANIFEST} and {paths.CORPUS}: {verb} {removed}")
    if not dry_run:
        if removed:
            candidates = [name for name in corpus.candidates if name not in traces.clip_ids]
            write_corpus_tables(Corpus(left, corpus.labels, candidates, corpus.synthetic))
        paths.FORGETTING.unlink(missing_ok=True)
    if is_new:
        echo(f"next: dvc repro computes {paths.DATA}/fusion, predictions, labels and the report anew, no features")
    echo(REMAINS)


def _chosen(
    clips: Sequence[Clip], names: Sequence[str], groups: Sequence[str], forgotten: Forgotten, pending: Traces
) -> set[str]:
    """Return the ids of the clips with some names or groups; names that are forgotten already are returned as they are.

    Raises:
        InputError: If a name or group is unknown.
    """
    by_name: dict[str, set[str]] = {}
    for clip in clips:
        for name in {clip.clip_id, recording_of(clip), clip.path} - {""}:
            by_name.setdefault(name, set()).add(clip.clip_id)
    by_group = {clip.group for clip in clips} - {""}
    chosen: set[str] = set()
    unknown: list[str] = []
    ids = {name for clip in clips for name in (clip.clip_id, recording_of(clip))}
    matched = match_names([name for name in names if name not in by_name], ids)
    for name in names:
        found = by_name.get(matched.get(name, name))
        known = [
            text for text in (name, strip_media_extension(name)) if forgotten.has(text) or text in pending.clip_ids
        ]
        chosen |= found or set(known)
        if not found and not known:
            near = difflib.get_close_matches(name, ids, _SHOWN)
            unknown.append(f"no clip {name!r}" + (f" (similar: {', '.join(near)})" if near else ""))
    for group in groups:
        if group not in by_group and not pending.clip_ids:
            near = difflib.get_close_matches(group, by_group, _SHOWN)
            unknown.append(f"no group {group!r}" + (f" (similar: {', '.join(near)})" if near else ""))
    if unknown:
        raise InputError(
            f"{'; '.join(unknown)}; nothing was removed", f"use the clip ids or groups of {paths.MANIFEST}"
        )
    if not names and not groups and not pending.clip_ids:
        raise InputError("name the clips to forget", "give NAME... or --group NAME")
    return chosen | {clip.clip_id for clip in clips if clip.group in set(groups)}


def _traces(params: Params, all_clips: Sequence[Clip], clips: Sequence[Clip]) -> Traces:
    ids = {clip.clip_id for clip in clips}
    if not ids:
        return Traces()
    with_words = {clip.clip_id: clip for clip in all_clips}
    with suppress(EcmfError):  # `transcribe` has not run: there are no further words
        with_words = {clip.clip_id: clip for clip in read_manifest_with_transcripts(params)}

    def texts(of: Iterable[Clip]) -> set[str]:
        return {
            text
            for clip in of
            for one in (clip, with_words[clip.clip_id])
            for text in (one.transcript, one.translation)
        }

    others = [clip for clip in all_clips if clip.clip_id not in ids]
    left = {recording_of(clip) for clip in others} | _digests(others)
    whole = [clip for clip in clips if clip.end and left.isdisjoint({recording_of(clip), clip.file_digest})]
    entries = {f"{clip.digest} {clip.clip_id}" for clip in clips}
    entries |= {f"{clip.file_digest} {recording_of(clip)}" for clip in whole}
    return Traces(
        frozenset(ids | {recording_of(clip) for clip in whole}),
        frozenset(entries),
        frozenset(_digests(clips) - _digests(others)),
        frozenset(texts(clips) - texts(others) - {""}),
        frozenset(_files(clips) - _files(others)),
        frozenset(f"{clip.start:.3f} {clip.path}" for clip in clips if clip.end),
        _question_keys(params, [*with_words.values()], ids),
    )


def _digests(clips: Iterable[Clip]) -> set[str]:
    found = {
        digest for clip in clips for digest in (clip.digest, clip.file_digest, clip.face_digest, clip.audio_digest)
    }
    return (found | {clip.sound.digest for clip in clips if clip.sound}) - {""}


def _files(clips: Iterable[Clip]) -> set[str]:
    return {path for clip in clips for path in (clip.path, clip.face_path, clip.audio_path) if path}


def _question_keys(params: Params, clips: Sequence[Clip], ids: Set[str]) -> frozenset[str]:
    """Return the keys of written rewrites whose question holds words of the clips, also as neighbours of others.

    Returns:
        The keys; only `_ALL` if the questions cannot be written now, for example since `cues` has not run.
    """
    if not params.needs_enriched_texts or params.rewrite.how != "written":
        return frozenset()
    words = {clip.transcript for clip in clips if clip.clip_id in ids} - {""}
    prompt = load_rewrite_prompt(params.rewrite.prompt)
    keys: dict[bool, set[str]] = {True: set(), False: set()}
    try:
        contexts = read_contexts(params, clips)
    except EcmfError:
        return frozenset({_ALL})
    for name, context in contexts.items():
        key = question_key(prompt.messages(truncate_context(context, params.llm.max_tokens)))
        keys[name in ids or not words.isdisjoint((*context.before, *context.after))].add(key)
    return frozenset(keys[True] - keys[False])


Remove = Callable[[Traces, bool], int]
"""Removes entries, or only counts them if the second argument is true; returns their number."""


def _places(params: Params, left: Sequence[Clip], *, is_new: bool) -> Iterator[tuple[str, Remove]]:
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
    present = _digests(left)

    def is_of_unknown_question(cache: Path, traces: Traces, fingerprint: str, key: str) -> bool:
        if cache == paths.REWRITE_ANSWERS:  # keys of other prompts
            return bool(traces.texts) and (fingerprint != in_use or _ALL in traces.questions)
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
        traces: What is removed.
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


def _read_pending() -> Traces:
    """Return what an unfinished command still removes."""
    if not paths.FORGETTING.is_file():
        return Traces()
    content = parse_json(paths.FORGETTING.read_bytes())
    return Traces(**{name: frozenset(values) for name, values in content.items()})
