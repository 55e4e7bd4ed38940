"""`ecmf-pipe store`: what can be done with feature stores. A command imports what it needs only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecmf_pipeline.clips import Modality
from ecmf_pipeline.interop.file_formats import FileFormat, Level

store_app = typer.Typer(
    help="Look at, check and tidy feature stores; write features for other programs, and take theirs.",
    no_args_is_help=True,
)

StoreArgument = Annotated[Path, typer.Argument(help="A feature store, such as data/features/audio.zarr.")]


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
    from ecmf_pipeline.store_commands import export

    export.run(store, file_format=file_format, level=level, out=out)


@store_app.command("import")
def import_command(
    path: Annotated[Path, typer.Argument(help="A folder of <clip>.npy, or an HDF5 file with one dataset a clip.")],
    *,
    modality: Annotated[Modality, typer.Option(help="The branch that they serve.")],
    encoder: Annotated[str, typer.Option(help="Their name: the entry of type `imported` in params.yaml.")],
) -> None:
    """Take features that were computed elsewhere; what is there already is not taken twice."""
    from ecmf_pipeline.store_commands import import_

    if not import_.run(path, modality=modality, encoder=encoder):
        raise typer.Exit(1)
