"""Extract a shard of the clips into a store of its own, and merge the stores of all shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.shards import Shard, starting
from ecmf_pipeline.extraction.run import Writers, open_writers
from ecmf_pipeline.runner.quarantine import merge_quarantine
from ecmf_pipeline.store.shards import (
    merge_shards,
    recover_shards,
    remove_shard,
    shard_root,
    shard_roots,
    shard_table,
    shards_folder,
)

Settings = Mapping[Modality, Mapping[str, Any]]
StoreRoot = Callable[[Modality], Path]


@contextmanager
def open_shard_writers(settings: Settings, store_root: StoreRoot, shard: Shard) -> Iterator[Writers]:
    """Lock the stores of one shard for writing, and recover the finished batches of all shards that were killed.

    Args:
        settings: All settings that change the features, by modality.
        store_root: Returns the store of a modality, into which shards are merged.
        shard: The shard.

    Raises:
        StoreBusy: If another run computes the same shard.
    """
    with ExitStack() as exits:
        with ExitStack() as start:
            for base in {shards_folder(store_root(modality)) for modality in settings}:
                start.enter_context(starting(base))
            writers = exits.enter_context(
                open_writers(settings, lambda modality: shard_root(store_root(modality), shard))
            )
            for modality, writer in writers.items():
                recover_shards(store_root(modality), writer.fingerprint)
        yield writers


def merge_all_shards(writers: Writers, quarantine_path: StoreRoot) -> None:
    """Move the features and the quarantine tables of all shards to those of the stage.

    Args:
        writers: The open writers of the stores.
        quarantine_path: Returns the quarantine table of a modality.

    Raises:
        StoreBusy: If a shard is running.
    """
    for modality, writer in writers.items():
        if not shard_roots(writer.root):
            continue
        with starting(shards_folder(writer.root)):
            added, roots = merge_shards(writer)
            merge_quarantine(quarantine_path(modality), map(shard_table, roots))
            for root in roots:
                remove_shard(root, writer.fingerprint)
        if roots:
            echo(
                f"extract {modality.value}: {format_count(added, 'clip')} of {format_count(len(roots), 'shard')} merged"
            )


def shard_tables(root: Path, quarantine_path: Path, shard: Shard) -> tuple[Path, list[Path]]:
    """Return the quarantine table of a shard, and those of the stage and of the other shards.

    Args:
        root: The store of the modality.
        quarantine_path: The quarantine table of the stage.
        shard: The shard.
    """
    own = shard_table(shard_root(root, shard))
    return own, [quarantine_path, *(path for path in map(shard_table, shard_roots(root)) if path != own)]
