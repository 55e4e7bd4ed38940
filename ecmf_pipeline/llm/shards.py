"""Answers of shards: each writes a cache of its own, and the next run without a shard merges them.

::

    data/.shards/rewrite/3-of-8/cache/          as data/rewrite/cache, with the answers of one shard
    data/.shards/rewrite/3-of-8/spool/          its batches, drafts and lock
    data/.shards/rewrite/3-of-8/rewrite.csv     its quarantine table

A question belongs to a shard by its key, so no two of ``n`` shards send the same question.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import StoreBusy
from ecmf_pipeline.core.files import exclusive_lock
from ecmf_pipeline.core.shards import SHARDS, Shard, remove_if_empty, shard_folders, starting
from ecmf_pipeline.llm.answers import AnswerCache, AnswerFiles, AnswerWriter, RowT, part_files
from ecmf_pipeline.llm.server_run import DRAFTS_FILE
from ecmf_pipeline.runner.quarantine import merge_tables
from ecmf_pipeline.runner.step import leftover_batches


def files_of_shard(files: AnswerFiles, shard: Shard) -> AnswerFiles:
    """Return the files of a shard of a stage; those of the stage and of the other shards are only read."""
    base = _base(files)
    own = _files_in(files, base / shard.name)
    others = [_files_in(files, folder) for folder in shard_folders(base) if folder.name != shard.name]
    stage = replace(files, earlier=())
    return replace(own, shard=shard, earlier=(stage, *others, *files.earlier))


@contextmanager
def open_answer_writer(
    cache: AnswerCache[RowT], files: AnswerFiles, keys: Mapping[str, str]
) -> Iterator[AnswerWriter[RowT]]:
    """Open the writer of a stage, and merge its shards; or that of a shard, and recover the shards that were killed.

    Args:
        cache: The cache of the stage or of the shard.
        files: Its files.
        keys: SHA-256 of the question about each clip.

    Raises:
        StoreBusy: If another run of the stage or of the shard is active, or if any shard is and there is none here.
    """
    base = _base(files)
    with ExitStack() as exits:
        if files.shard is None:
            writer = exits.enter_context(AnswerWriter(cache, files.spool_folder, keys))
            if shard_folders(base):
                with starting(base):
                    _merge(writer, files, base)
        else:
            with starting(base):
                writer = exits.enter_context(AnswerWriter(cache, files.spool_folder, keys))
                for other in files.earlier:
                    _recover(cache, other, base)
            cache.refresh()
        yield writer


def _base(files: AnswerFiles) -> Path:
    """Return the folder of all shards of a stage, from the files of the stage or of a shard."""
    if files.shard is not None:
        return files.spool_folder.parent.parent
    return files.spool_folder.parent / SHARDS / files.stage


def _files_in(files: AnswerFiles, folder: Path) -> AnswerFiles:
    return replace(
        files,
        cache=folder / files.cache.name,
        spool_folder=folder / "spool",
        quarantine=folder / files.quarantine.name,
        earlier=(),
    )


def _recover(cache: AnswerCache[RowT], files: AnswerFiles, base: Path) -> None:
    """Add the finished batches of a killed shard to its cache."""
    if base in files.spool_folder.parents and leftover_batches(files.spool_folder / cache.fingerprint):
        with suppress(StoreBusy), AnswerWriter(cache.in_folder(files.cache), files.spool_folder):
            pass


def _merge(writer: AnswerWriter[RowT], files: AnswerFiles, base: Path) -> None:
    """Add the answers, drafts and quarantined clips of all shards to those of the stage, and remove the shards."""
    cache, shards = writer.cache, [_files_in(files, folder) for folder in shard_folders(base)]
    for shard in shards:
        with exclusive_lock(shard.spool_folder / "lock", f"the answers in {shard.cache}"):
            pass  # no shard is running, and none can start
    added = 0
    for shard in shards:
        answers = cache.in_folder(shard.cache)
        with AnswerWriter(answers, shard.spool_folder):  # adds its finished batches
            pass
        added += writer.append(answers.rows())
        drafts = shard.spool_folder / cache.fingerprint / DRAFTS_FILE
        if drafts.is_file():
            writer.spool.folder.mkdir(parents=True, exist_ok=True)
            with (writer.spool.folder / DRAFTS_FILE).open("ab") as file:
                file.write(drafts.read_bytes())
    merge_tables(files.quarantine, [shard.quarantine for shard in shards])
    for shard in shards:
        shard.quarantine.unlink(missing_ok=True)
        for folder in (shard.cache, shard.spool_folder):
            shutil.rmtree(folder / cache.fingerprint, ignore_errors=True)
        folder = shard.cache.parent
        has_parts = any(part_files(path) for path in folder.glob("*/*"))
        if not has_parts and not any(folder.glob("*.csv")) and not any(shard.spool_folder.glob("*/*")):
            shutil.rmtree(folder, ignore_errors=True)
    remove_if_empty(base)
    with suppress(OSError):  # shards of other stages
        base.parent.rmdir()
    if added:
        echo(f"{files.stage}: {format_count(added, 'answer')} of {format_count(len(shards), 'shard')} merged")
