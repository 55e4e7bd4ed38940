"""Remove clips from everything that the pipeline has stored about them.

What to remove is first written to `paths.FORGETTING`. The manifest is changed last and that file is then removed: a
command that was killed is repeated with the same names, or with none, and finishes the work.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import asdict

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Corpus, read_corpus_tables, write_corpus_tables
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import EcmfError, InputError
from ecmf_pipeline.core.files import hide_folder, parse_json, write_atomic
from ecmf_pipeline.core.shards import SHARDS, shard_folders
from ecmf_pipeline.corpora.forgotten import Forgotten, add_forgotten, read_forgotten, recording_of
from ecmf_pipeline.corpora.names import match_names
from ecmf_pipeline.corpora.scan import strip_media_extension
from ecmf_pipeline.llm.prompt import load_rewrite_prompt, question_key
from ecmf_pipeline.llm.rewriting import truncate_context
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.forgotten_places import ALL_QUESTIONS, Traces, digests_of, places_of
from ecmf_pipeline.stages.shared.inputs import read_manifest_with_transcripts
from ecmf_pipeline.stages.shared.llm import read_contexts

_SHOWN = 3
REMAINS = f"""what remains, and how to remove it:
  media files and the rows of the corpus's own tables: remove them; `index` skips the clips by {paths.FORGOTTEN}
  DVC's cache (earlier features and tables): run dvc repro, dvc gc --workspace, for remotes dvc gc --workspace --cloud
  Git history (dvc.lock, data/metrics, labels/*.csv): rewrite it with git filter-repo, and replace all clones
  trained models: `dvc repro` trains new ones without the clips; copies that were handed out remain
  copies that other people have pulled or exported: ask them to run the same commands"""


def forget(params: Params, names: Sequence[str], groups: Sequence[str], *, dry_run: bool = False) -> None:
    """Remove clips from all that the project has stored, and print what was removed and what remains.

    Args:
        params: The params of the project.
        names: Clip ids or file names; the name of a recording means all its parts.
        groups: Groups (speakers or dialogues) of which all clips are removed.
        dry_run: Whether the entries are only counted.

    Raises:
        MissingInput: If `index` has not run yet.
        InputError: If a name or group is unknown, or shards are not merged yet; nothing is changed.
        StoreBusy: If another run writes to a store; the command can be repeated.
    """
    _raise_if_shards_exist()
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
    for place, remove in places_of(params, left, is_new=is_new):
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


def _raise_if_shards_exist() -> None:
    for folder in (paths.DATA / "features" / SHARDS, *(paths.DATA / SHARDS).glob("*")):
        if shards := shard_folders(folder):
            stage = "extract" if folder.name == SHARDS else folder.name
            raise InputError(
                f"{format_count(len(shards), 'shard')} of {stage} are not merged yet; nothing was removed",
                f"merge them; shards of settings that are not in use any more: remove {folder}",
                command=f"ecmf-pipe {stage}",
            )


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
    left = {recording_of(clip) for clip in others} | digests_of(others)
    whole = [clip for clip in clips if clip.end and left.isdisjoint({recording_of(clip), clip.file_digest})]
    entries = {f"{clip.digest} {clip.clip_id}" for clip in clips}
    entries |= {f"{clip.file_digest} {recording_of(clip)}" for clip in whole}
    return Traces(
        frozenset(ids | {recording_of(clip) for clip in whole}),
        frozenset(entries),
        frozenset(digests_of(clips) - digests_of(others)),
        frozenset(texts(clips) - texts(others) - {""}),
        frozenset(_files(clips) - _files(others)),
        frozenset(f"{clip.start:.3f} {clip.path}" for clip in clips if clip.end),
        _question_keys(params, [*with_words.values()], ids),
    )


def _files(clips: Iterable[Clip]) -> set[str]:
    return {path for clip in clips for path in (clip.path, clip.face_path, clip.audio_path) if path}


def _question_keys(params: Params, clips: Sequence[Clip], ids: Set[str]) -> frozenset[str]:
    """Return the keys of written rewrites whose question holds words of the clips, also as neighbours of others.

    Returns:
        The keys; only `ALL_QUESTIONS` if the questions cannot be written now, for example since `cues` has not run.
    """
    if not params.needs_enriched_texts or params.rewrite.how != "written":
        return frozenset()
    words = {clip.transcript for clip in clips if clip.clip_id in ids} - {""}
    prompt = load_rewrite_prompt(params.rewrite.prompt)
    keys: dict[bool, set[str]] = {True: set(), False: set()}
    try:
        contexts = read_contexts(params, clips)
    except EcmfError:
        return frozenset({ALL_QUESTIONS})
    for name, context in contexts.items():
        key = question_key(prompt.messages(truncate_context(context, params.llm.max_tokens)))
        keys[name in ids or not words.isdisjoint((*context.before, *context.after))].add(key)
    return frozenset(keys[True] - keys[False])


def _read_pending() -> Traces:
    """Return what an unfinished command still removes."""
    if not paths.FORGETTING.is_file():
        return Traces()
    content = parse_json(paths.FORGETTING.read_bytes())
    return Traces(**{name: frozenset(values) for name, values in content.items()})
