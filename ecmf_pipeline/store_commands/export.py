"""`ecmf-pipe store export`: the features of a store as npy files, or as one HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ecmf_pipeline import layout
from ecmf_pipeline.clips import Modality, read_manifest
from ecmf_pipeline.extraction.plan import present_digests
from ecmf_pipeline.interop.feature_files import export_features
from ecmf_pipeline.interop.file_formats import FileFormat, Level
from ecmf_pipeline.progress import say
from ecmf_pipeline.store import FeatureStore
from ecmf_pipeline.texts import read_texts


def run(root: Path, *, file_format: FileFormat, level: Level, out: Path) -> None:
    """Write the features in use of one store.

    Where the store stands in a project, those of the manifest's clips as they are now; else the newest of every clip.
    """
    store = FeatureStore.open(root)
    report = export_features(
        store, out, file_format=file_format, level=level, digests=_counting_digests(store, root.resolve())
    )
    say(
        f"export: {report.clips} clips of {root} ({store.dim}-d) in {out}; {report.left_out} left out, which the "
        "manifest no longer has as they were"
    )


def _counting_digests(store: FeatureStore, root: Path) -> Mapping[str, str] | None:
    """The digests of the project in which the store stands; None where it stands in none."""
    modality = next((modality for modality in Modality if modality.value == root.stem), None)
    project = root.parents[len(layout.features(Modality.AUDIO).parts) - 1]
    if modality is None or root != project / layout.features(modality) or not (project / layout.MANIFEST).is_file():
        return None
    texts = project / layout.REWRITES
    return present_digests(
        modality,
        read_manifest(project / layout.MANIFEST),
        read_texts(texts) if modality is Modality.TEXT and texts.is_file() else {},
        store,
    )
