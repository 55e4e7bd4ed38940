"""`ecmf-pipe store ls`: what feature stores hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecmf_pipeline.progress import say
from ecmf_pipeline.store.listing import Holding, in_words, list_store
from ecmf_pipeline.store_commands.project import project_of, stores
from ecmf_pipeline.words import counted, size

_COLUMNS = (
    "fingerprint",
    "encoder",
    "current",
    "in use",
    "dim",
    "dtype",
    "clips",
    "rows",
    "parts",
    "size",
    "of the manifest",
)


def run(paths: Sequence[Path]) -> None:
    """Print one line for each settings group of some stores.

    Args:
        paths: The stores; none: all of the project.

    Raises:
        MissingInput: When there is none.
    """
    for root in stores(paths):
        project = project_of(root)
        in_use = project.settings_in_use()
        holdings = list(list_store(root, project.present))
        say(f"{root}:" if holdings else f"{root}: empty")
        table = [_COLUMNS, *(_cells(holding, in_use) for holding in holdings)]
        widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS))]
        for row in table if holdings else []:
            say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for holding in holdings:
            _say_where_from(holding)
            _say_what_is_amiss(holding)


def _cells(holding: Holding, in_use: object) -> tuple[str, ...]:
    covered = "unknown" if holding.present is None else f"{holding.present} of {holding.wanted}"
    return (
        holding.fingerprint,
        holding.encoder,
        "yes" if holding.is_current else "no",
        "unknown" if not isinstance(in_use, dict) else "yes" if holding.fingerprint in in_use else "no",
        "unknown" if holding.dim is None else str(holding.dim),
        holding.dtype or "unknown",
        str(holding.clips),
        str(holding.rows),
        str(holding.parts),
        size(holding.bytes),
        covered,
    )


def _say_where_from(holding: Holding) -> None:
    if origin := in_words(holding.provenance):
        say(f"  {holding.fingerprint}: {origin}")
    for versions in holding.versions:
        with_what = ", ".join(f"{library} {version}" for library, version in versions.items())
        say(f"  {holding.fingerprint}: computed with {with_what or 'versions that nobody noted (some parts)'}")


def _say_what_is_amiss(holding: Holding) -> None:
    if holding.damaged:
        what = f"{counted(holding.damaged, 'part')} damaged: see `ecmf-pipe store verify {holding.root}`"
        say(f"  {holding.fingerprint}: {what}")
    if holding.leftovers:
        what = counted(holding.leftovers, "finished batch", "finished batches")
        say(f"  {holding.fingerprint}: {what} in no part yet: of a run that is under way, or was killed")
