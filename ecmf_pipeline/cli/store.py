"""Commands of `ecmf-pipe store`; a command imports its implementation only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecmf_pipeline.cli.usage import CommandGroup
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.interop.file_formats import FileFormat, Level

store_app = typer.Typer(
    cls=CommandGroup,
    help="List, verify and compact feature stores; export and import features.",
    epilog="Example: ecmf-pipe store ls",
)

StoresArgument = Annotated[
    list[Path] | None, typer.Argument(help="Feature stores. Default: all stores in data/features.")
]
StoreArgument = Annotated[Path, typer.Argument(help="A feature store, such as data/features/audio.zarr.")]


@store_app.command("ls", epilog="Example: ecmf-pipe store ls data/features/audio.zarr")
def ls_command(paths: StoresArgument = None) -> None:
    """List the contents of each store by settings: clips, parts, bytes, share of the manifest, whether in use."""
    from ecmf_pipeline.cli.store_commands import list_stores

    list_stores(paths or [])


@store_app.command("verify", epilog="Example: ecmf-pipe store verify --mend")
def verify_command(
    paths: StoresArgument = None,
    *,
    mend: Annotated[
        bool,
        typer.Option("--mend", help="Move damaged parts out of the store, without deletion, to be computed again."),
    ] = False,
) -> None:
    """Read every byte and report damaged or superfluous files and how to repair them; exit code 1 if any is damaged."""
    from ecmf_pipeline.cli.store_commands import verify

    if not verify(paths or [], repair=mend):
        raise typer.Exit(1)


@store_app.command("compact", epilog="Example: ecmf-pipe store compact --drop-absent")
def compact_command(
    paths: StoresArgument = None,
    *,
    drop_absent: Annotated[
        bool, typer.Option("--drop-absent", help="Drop rows of clips that are no longer in the manifest.")
    ] = False,
    drop_other_settings: Annotated[
        bool, typer.Option("--drop-other-settings", help="Remove features of settings that are not in use.")
    ] = False,
) -> None:
    """Merge small parts up to extract.part_size and drop replaced rows; safe to kill and run again."""
    from ecmf_pipeline.cli.store_commands import compact_stores

    compact_stores(paths or [], drop_absent=drop_absent, drop_other_settings=drop_other_settings)


@store_app.command(
    "export", epilog="Example: ecmf-pipe store export data/features/audio.zarr --format npy --level utt --out audio-utt"
)
def export_command(
    store: StoreArgument,
    *,
    file_format: Annotated[
        FileFormat,
        typer.Option("--format", help="npy: a folder of <clip>.npy; hdf5: one file with one dataset for each clip."),
    ],
    level: Annotated[Level, typer.Option(help="utt: the mean of each clip, (D,); frm: all its rows, (T, D).")],
    out: Annotated[Path, typer.Option(help="The new folder or file.")],
) -> None:
    """Export the features in use as float32 for other programs."""
    from ecmf_pipeline.cli.store_commands import export

    export(store, file_format=file_format, level=level, out=out)


@store_app.command("import", epilog="Example: ecmf-pipe store import hubert-utt --modality audio --encoder hubert")
def import_command(
    path: Annotated[
        Path, typer.Argument(help="A folder of <clip>.npy, or an HDF5 file with one dataset for each clip.")
    ],
    *,
    modality: Annotated[Modality, typer.Option(help="Modality of the features.")],
    encoder: Annotated[str, typer.Option(help="Name of their entry of type `imported` in params.yaml.")],
) -> None:
    """Import features that were computed elsewhere; unchanged features are not imported again."""
    from ecmf_pipeline.cli.store_commands import import_into_store

    if not import_into_store(path, modality=modality, encoder=encoder):
        raise typer.Exit(1)
