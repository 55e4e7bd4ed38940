"""`ecmf-pipe store export`: the features of a store as npy files, or as one HDF5 file."""

from __future__ import annotations

from pathlib import Path

from ecmf_pipeline.interop.feature_files import export_features
from ecmf_pipeline.interop.file_formats import FileFormat, Level
from ecmf_pipeline.progress import say
from ecmf_pipeline.store import FeatureStore
from ecmf_pipeline.store_commands.project import project_of


def run(root: Path, *, file_format: FileFormat, level: Level, out: Path) -> None:
    """Write the features in use of one store.

    Where the store stands in a project, those of the manifest's clips as they are now; else the newest of every clip.
    """
    store = FeatureStore.open(root)
    present = project_of(root).present(store.settings, store.newest())
    digests = None if present is None else {clip_id: digest for clip_id, digest in present.items() if digest}
    report = export_features(store, out, file_format=file_format, level=level, digests=digests)
    say(
        f"export: {report.clips} clips of {root} ({store.dim}-d) in {out}; {report.left_out} left out, which the "
        "manifest no longer has as they were"
    )
