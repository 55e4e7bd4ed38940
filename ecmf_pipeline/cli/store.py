"""`ecmf-pipe store`: what can be done with feature stores. A command imports what it needs only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.interop.file_formats import FileFormat, Level

store_app = typer.Typer(
    help="Look at, check and tidy feature stores; write features for other programs, and take theirs.",
    no_args_is_help=True,
)

StoresArgument = Annotated[list[Path] | None, typer.Argument(help="Feature stores. Default: all of data/features.")]
StoreArgument = Annotated[Path, typer.Argument(help="A feature store, such as data/features/audio.zarr.")]


@store_app.command("ls")
def ls_command(paths: StoresArgument = None) -> None:
    """Show what each store holds, by settings: clips, parts, bytes, how much of the manifest, and what is in use."""
    from ecmf_pipeline.cli.store_commands import list_stores

    list_stores(paths or [])


@store_app.command("verify")
def verify_command(
    paths: StoresArgument = None,
    *,
    mend: Annotated[
        bool,
        typer.Option("--mend", help="Move damaged parts out of the store (nothing is deleted), to be computed again."),
    ] = False,
) -> None:
    """Read every byte; say what is damaged or superfluous and how to mend it (exit code 1 when anything is damaged)."""
    from ecmf_pipeline.cli.store_commands import verify

    if not verify(paths or [], mends=mend):
        raise typer.Exit(1)


@store_app.command("compact")
def compact_command(
    paths: StoresArgument = None,
    *,
    drop_absent: Annotated[
        bool, typer.Option("--drop-absent", help="Drop rows of clips that the manifest no longer has.")
    ] = False,
    drop_other_settings: Annotated[
        bool, typer.Option("--drop-other-settings", help="Remove features of settings that are not in use.")
    ] = False,
) -> None:
    """Merge small parts up to extract.part_size, and drop rows that others replace; may be killed and run again."""
    from ecmf_pipeline.cli.store_commands import compact_stores

    compact_stores(paths or [], drop_absent=drop_absent, drop_other_settings=drop_other_settings)


@store_app.command("export")
def export_command(
    store: StoreArgument,
    *,
    file_format: Annotated[
        FileFormat,
        typer.Option("--format", help="npy: a folder of <clip>.npy; hdf5: one file, one dataset a clip."),
    ],
    level: Annotated[Level, typer.Option(help="utt: a clip's mean, (D,); frm: its rows, (T, D).")],
    out: Annotated[Path, typer.Option(help="The new folder, or file.")],
) -> None:
    """Write the features in use as float32, for other programs."""
    from ecmf_pipeline.cli.store_commands import export

    export(store, file_format=file_format, level=level, out=out)


@store_app.command("import")
def import_command(
    path: Annotated[Path, typer.Argument(help="A folder of <clip>.npy, or an HDF5 file with one dataset a clip.")],
    *,
    modality: Annotated[Modality, typer.Option(help="The branch that they serve.")],
    encoder: Annotated[str, typer.Option(help="Their name: the entry of type `imported` in params.yaml.")],
) -> None:
    """Take features that were computed elsewhere; what is there already is not taken twice."""
    from ecmf_pipeline.cli.store_commands import import_into_store

    if not import_into_store(path, modality=modality, encoder=encoder):
        raise typer.Exit(1)
