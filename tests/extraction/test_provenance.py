"""Provenance of stored features."""

from __future__ import annotations

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.extraction import step as step_module
from ecmf_pipeline.store import FeatureStore
from tests.extraction.brightness import MeanEncoder


def test_a_store_records_libraries_and_model(project):
    project.run(Modality.GLOBAL, Modality.TEXT)
    store = FeatureStore.open(project.root(Modality.GLOBAL))
    (versions,) = store.versions()
    assert {"ecmf-pipeline", "numpy", "torch"} < set(versions)
    assert store.provenance["versions"] == versions
    assert (store.provenance["model"], store.provenance["precision"]) == ("mean", "fp32")


def test_rows_of_other_library_versions_are_recorded_separately(project, make_clip, monkeypatch):
    project.run(Modality.GLOBAL)
    make_clip(project.folder / "later.mp4", pictures=8)
    project.add(project.folder / "later.mp4")
    monkeypatch.setattr(step_module, "library_versions", lambda *_: {"torch": "99"})
    project.run(Modality.GLOBAL)
    store = FeatureStore.open(project.root(Modality.GLOBAL))
    first, second = store.versions()
    assert second == {"torch": "99"}
    assert store.provenance["versions"] == first


def test_a_store_records_the_names_of_columns(project, monkeypatch):
    monkeypatch.setattr(MeanEncoder, "column_names", ["left", ""])
    project.run(Modality.GLOBAL)
    assert FeatureStore.open(project.root(Modality.GLOBAL)).column_names == ("left", "1")
