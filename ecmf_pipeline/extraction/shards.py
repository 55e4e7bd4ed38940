"""Extract a shard of the clips into a store of its own, and merge the stores of all shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.shards import Shard, starting
from ecmf_pipeline.extraction.run import Writers, open_writers
from ecmf_pipeline.runner.quarantine import merge_tables
from ecmf_pipeline.store.shards import (
    merge_shards,
    recover_shards,
    remove_shard,
    shard_root,
    shard_roots,
    shard_table,
    shards_folder,
)


@contextmanager
def open_shard_writers(
    settings: Mapping[str, Mapping[str, Any]], store_root: Callable[[str], Path], shard: Shard
) -> Iterator[Writers]:
    """Lock the stores of one shard for writing, and recover the finished batches of all shards that were killed.

    Args:
        settings: All settings that change the features, by name of the branch.
        store_root: Returns the store of a branch, into which shards are merged.
        shard: The shard.

    Raises:
        StoreBusy: If another run computes the same shard.
    """
    with ExitStack() as exits:
        with ExitStack() as start:
            for base in {shards_folder(store_root(name)) for name in settings}:
                start.enter_context(starting(base))
            writers = exits.enter_context(open_writers(settings, lambda name: shard_root(store_root(name), shard)))
            for name, writer in writers.items():
                recover_shards(store_root(name), writer.fingerprint)
        yield writers


def merge_all_shards(writers: Writers, quarantine_path: Callable[[str], Path]) -> None:
    """Move the features and the quarantine tables of all shards to those of the stage.

    Args:
        writers: The open writers of the stores.
        quarantine_path: Returns the quarantine table of a branch; those of one store have the same.

    Raises:
        StoreBusy: If a shard is running.
    """
    by_root: dict[Path, list[str]] = {}
    for name, writer in writers.items():
        by_root.setdefault(writer.root, []).append(name)
    for store, names in by_root.items():
        if not shard_roots(store):
            continue
        with starting(shards_folder(store)):
            added = {}
            for name in names:
                added[name], roots = merge_shards(writers[name])
            merge_tables(quarantine_path(names[0]), map(shard_table, roots))
            # All branches of a store have their rows in the same shards, and their entries in the same tables.
            for name in names:
                for root in roots:
                    remove_shard(root, writers[name].fingerprint)
        for name in names if roots else ():
            echo(f"extract {name}: {format_count(added[name], 'clip')} of {format_count(len(roots), 'shard')} merged")


def shard_tables(root: Path, quarantine_path: Path, shard: Shard) -> tuple[Path, list[Path]]:
    """Return the quarantine table of a shard, and those of the stage and of the other shards.

    Args:
        root: The store of the modality.
        quarantine_path: The quarantine table of the stage.
        shard: The shard.
    """
    own = shard_table(shard_root(root, shard))
    return own, [quarantine_path, *(path for path in map(shard_table, shard_roots(root)) if path != own)]
