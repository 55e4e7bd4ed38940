"""Several encoders of one modality in one run: a clip is read once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.core.errors import StoreBusy, TooManyPictures
from ecmf_pipeline.core.files import exclusive_lock, fingerprint
from ecmf_pipeline.core.shards import SHARDS, Shard
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import Branch, extract, open_writers, plan_branch
from ecmf_pipeline.extraction.shards import merge_all_shards, open_shard_writers, shard_tables
from ecmf_pipeline.faces.detector import FaceFinder
from ecmf_pipeline.media import clip_reader
from ecmf_pipeline.runner import RunReport
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureStore, current_fingerprints
from ecmf_pipeline.store.format import lock_path
from tests.extraction.brightness import MEDIA, MeanConfig, Project

GLOBAL, FACE, TEXT = Modality.GLOBAL, Modality.FACE, Modality.TEXT
ENCODERS = {
    "global.a": (GLOBAL, MeanConfig(scale=1.0)),
    "global.b": (GLOBAL, MeanConfig(scale=2.0, frames=3)),
    "face.a": (FACE, MeanConfig(scale=1.0)),
    "face.b": (FACE, MeanConfig(scale=2.0)),
    "text.a": (TEXT, MeanConfig(scale=1.0)),
    "text.b": (TEXT, MeanConfig(scale=2.0, inputs=("original", "enriched"))),
}


@pytest.fixture
def spoken(project) -> Project:
    project.texts = {"face": ClipText("hello", "hello there"), "tree": ClipText("a tree")}
    return project


def settings_of(project: Project, name: str):
    modality, config = ENCODERS[name]
    return branch_settings(modality, config, MEDIA, project.faces)


def run(
    project: Project, *names: str, shard: Shard | None = None, folder: Path | None = None
) -> tuple[Mapping[str, Branch], RunReport]:
    """Run encoders together as the stage does; merge the shards first unless ``shard`` is given."""
    folder = folder or project.folder
    settings = {name: settings_of(project, name) for name in names}
    roots = {name: folder / f"{ENCODERS[name][0].value}.zarr" for name in names}
    tables = {name: (root.with_suffix(".csv"), []) for name, root in roots.items()}
    clips = [clip for clip in project.clips if shard is None or shard.has_clip(clip)]
    opened = (
        open_writers(settings, roots.__getitem__)
        if shard is None
        else open_shard_writers(settings, roots.__getitem__, shard)
    )
    with opened as writers:
        if shard is None:
            merge_all_shards(writers, lambda name: tables[name][0])
        else:
            tables = {name: shard_tables(root, tables[name][0], shard) for name, root in roots.items()}
        branches = {
            name: plan_branch(
                ENCODERS[name][0],
                clips,
                project.texts,
                encoder=ENCODERS[name][1],
                settings=settings[name],
                root=roots[name],
                quarantine_path=tables[name][0],
                name=name,
                earlier_tables=tables[name][1],
                in_use=[fingerprint(settings[other]) for other in names if roots[other] == roots[name]],
            )
            for name in names
        }
        report = extract(
            list(branches.values()),
            clips,
            project.texts,
            writers=writers,
            corpus_root=project.folder,
            media=MEDIA,
            faces=project.faces,
            config=ExtractConfig(batch_size=2, part_size=4, max_quarantined=1.0, workers=0),
        )
    return branches, report


def files(folder: Path, project: Project, name: str) -> dict[str, bytes]:
    """Return the files of an encoder's features."""
    group = folder / f"{ENCODERS[name][0].value}.zarr" / fingerprint(settings_of(project, name))
    return {path.relative_to(group).as_posix(): path.read_bytes() for path in group.rglob("*") if path.is_file()}


@pytest.fixture
def tracks(monkeypatch) -> list[int]:
    """Numbers of the frames in which a face was tracked."""
    tracked: list[int] = []
    track = FaceFinder.track

    def record_and_track(self, frames):
        tracked.append(len(frames))
        return track(self, frames)

    monkeypatch.setattr(FaceFinder, "track", record_and_track)
    return tracked


def test_a_clip_is_decoded_and_its_face_tracked_once_for_all_encoders(spoken, decodes, tracks, tmp_path):
    _, report = run(spoken, *ENCODERS)
    assert decodes == ["face", "mute", "tree"]
    assert tracks == [4, 4, 4]
    assert report.done == {"global.a": 3, "global.b": 3, "face.a": 2, "face.b": 2, "text.a": 2, "text.b": 1}
    for name in ENCODERS:
        run(spoken, name, folder=tmp_path / "alone")
        alone = files(tmp_path / "alone", spoken, name)
        assert alone
        assert files(spoken.folder, spoken, name) == alone
    for modality in (GLOBAL, FACE, TEXT):
        used = [fingerprint(settings_of(spoken, name)) for name in ENCODERS if ENCODERS[name][0] is modality]
        assert current_fingerprints(spoken.root(modality)) == used


def test_an_encoder_that_is_added_is_the_only_one_computed(spoken, decodes):
    run(spoken, "face.a", "text.a")
    before = files(spoken.folder, spoken, "face.a")
    decodes.clear()
    branches, report = run(spoken, "face.a", "face.b", "text.a", "text.b")
    assert decodes == ["face", "mute", "tree"]
    assert report.done == {"face.b": 2, "text.b": 1}
    assert {name: branch.reused for name, branch in branches.items()} == {
        "face.a": 2,
        "face.b": 0,
        "text.a": 2,
        "text.b": 0,
    }
    assert files(spoken.folder, spoken, "face.a") == before
    decodes.clear()
    run(spoken, "face.a", "face.b")
    assert decodes == []


def test_the_quarantine_table_keeps_the_entries_of_all_encoders(spoken):
    expected = {("tree", fingerprint(settings_of(spoken, name)), "NoFaceFound") for name in ("face.a", "face.b")}

    def entries():
        return {
            (entry.clip_id, entry.fingerprint, entry.reason) for entry in read_quarantine(spoken.folder / "face.csv")
        }

    run(spoken, "face.a", "face.b")
    assert entries() == expected
    branches, _ = run(spoken, "face.a", "face.b")
    assert not any(branch.todo for branch in branches.values())
    assert entries() == expected


def test_an_encoder_of_too_many_pictures_fails_alone(spoken, monkeypatch):
    read_samplings = clip_reader.read_samplings

    def read_few(path, config, counts):
        if 4 in counts:
            raise TooManyPictures("too many")
        return read_samplings(path, config, counts)

    monkeypatch.setattr(clip_reader, "read_samplings", read_few)
    _, report = run(spoken, "global.a", "global.b")
    assert report.done == {"global.b": 3}
    assert report.reasons["global.a"] == {"TooManyPictures": 3}


def test_shards_with_several_encoders_have_the_rows_and_entries_of_one_run(spoken, tmp_path):
    names = ("global.a", "global.b", "face.a", "face.b")
    clips = {clip.clip_id: clip for clip in spoken.clips}
    spoken.clips = [replace(clips["mute"], clip_id=f"copy{number}") for number in range(7)] + [clips["tree"]]
    run(spoken, *names, folder=tmp_path / "reference")
    done = [run(spoken, *names, shard=Shard(number, 3))[1].done for number in (1, 2, 3)]
    assert {name: sum(one[name] for one in done) for name in names} == dict(zip(names, (8, 8, 7, 7), strict=True))
    again = [run(spoken, *names, shard=Shard(number, 2))[0] for number in (1, 2)]
    assert not any(branch.todo for branches in again for branch in branches.values())
    branches, report = run(spoken, *names)
    assert report.done.total() == 0
    assert [branches[name].reused for name in names] == [8, 8, 7, 7]
    for name in names:
        key, root = branches[name].fingerprint, f"{ENCODERS[name][0].value}.zarr"
        merged, one = FeatureStore(spoken.folder / root, key), FeatureStore(tmp_path / "reference" / root, key)
        for clip_id in one.newest():
            np.testing.assert_array_equal(merged.row(clip_id).values, one.row(clip_id).values)
    bad = [(entry.clip_id, entry.fingerprint) for entry in read_quarantine(spoken.folder / "face.csv")]
    assert sorted(bad) == sorted(("tree", branches[name].fingerprint) for name in ("face.a", "face.b"))
    assert not (spoken.folder / SHARDS).exists()


def test_writers_of_one_store_share_a_lock_that_excludes_other_runs(spoken):
    settings = {name: settings_of(spoken, name) for name in ("text.a", "text.b")}
    root = spoken.root(TEXT)
    other = open_writers({"text.b": settings["text.b"]}, lambda _: root)
    with open_writers(settings, lambda _: root), pytest.raises(StoreBusy), other:
        pass
    with exclusive_lock(lock_path(root), "the store"), pytest.raises(StoreBusy), open_writers(settings, lambda _: root):
        pass
