"""Commands of `ecmf-pipe cache`; a command imports its implementation only when it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ecmf_pipeline.cli.usage import CommandGroup
from ecmf_pipeline.core.console import echo, format_bytes, format_count
from ecmf_pipeline.core.errors import InputError

cache_app = typer.Typer(
    cls=CommandGroup,
    help="List and remove the features, answers and transcripts that are kept in .ecmf, safe from DVC and Git.",
    epilog="Example: ecmf-pipe cache ls",
)

_DAY = 24 * 3600


@cache_app.command("ls")
def ls() -> None:
    """List what is kept by store and fingerprint: clips, parts, bytes, and the bytes that exist nowhere else."""
    from ecmf_pipeline.store.dvc_links import share_with_dvc
    from ecmf_pipeline.store.kept import list_kept

    for kept, _ in list_kept():
        share_with_dvc(kept)
    rows = [["store", "fingerprint", "clips", "parts", "in the workspace", "size", "only here"]]
    for kept, parts in list_kept():
        clips, used = sum(part.clips for part in parts), sum(part.is_used for part in parts)
        sizes = [format_bytes(sum(part.bytes for part in parts)), format_bytes(sum(part.only_here for part in parts))]
        store = kept.source.parent.relative_to(kept.project or "").as_posix()
        rows.append([store, kept.source.name, str(clips), str(len(parts)), str(used), *sizes])
    if len(rows) == 1:
        echo("nothing is kept: this is no DVC project, or no features and answers were computed yet")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@cache_app.command("gc", epilog="Example: ecmf-pipe cache gc --unused --older-than 30 --dry-run")
def gc(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Stores or caches, such as data/features/audio.zarr, or a fingerprint folder. Default: all."
        ),
    ] = None,
    *,
    unused: Annotated[bool, typer.Option("--unused", help="Parts that the workspace does not contain.")] = False,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Parts that were written more than DAYS ago.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All parts. Removed stores are then computed again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")] = False,
) -> None:
    """Remove kept parts; parts in the workspace and in DVC's cache are not changed."""
    from ecmf_pipeline.store.kept import clear_staging, list_kept

    if everything == (unused or older_than is not None):
        raise InputError(
            "choose what to remove", "give --unused, --older-than DAYS or both, or --all", command="ecmf-pipe cache ls"
        )
    wanted = [Path.cwd() / folder for folder in folders or []]
    latest = time.time() - (older_than or 0) * _DAY
    removed, size, freed = 0, 0, 0
    for kept, parts in list_kept():
        if wanted and not any(folder in (kept.source, *kept.source.parents) for folder in wanted):
            continue
        chosen = [
            part for part in parts if not (unused and part.is_used) and (older_than is None or part.modified <= latest)
        ]
        removed += len(chosen)
        size += sum(part.bytes for part in chosen)
        freed += sum(part.only_here for part in chosen)
        if not dry_run:
            kept.drop(part.name for part in chosen)
    if not dry_run:
        clear_staging()
    verb = "would remove" if dry_run else "removed"
    echo(f"{verb} {format_count(removed, 'part')} of {format_bytes(size)}; {format_bytes(freed)} existed nowhere else")
