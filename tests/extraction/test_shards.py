"""Shards of an extraction: disjoint, resumable with another number, merged by the run without a shard."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import StoreBusy
from ecmf_pipeline.core.files import exclusive_lock
from ecmf_pipeline.core.shards import SHARDS, Shard
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import extract, open_writers, plan_branch
from ecmf_pipeline.extraction.shards import merge_all_shards, open_shard_writers, shard_tables
from ecmf_pipeline.runner.quarantine import Quarantine, merge_tables, read_quarantine
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group
from ecmf_pipeline.store.format import lock_path, read_parts, spool_folder
from ecmf_pipeline.store.shards import shard_root, shard_roots
from ecmf_pipeline.store.verify import verify_store
from tests.extraction.brightness import MEDIA, MeanConfig, Project, reasons

GLOBAL = Modality.GLOBAL


@pytest.fixture
def many(project) -> Project:
    """The project with twenty copies of a clip."""
    clip = project.clips[-1]
    project.clips = [replace(clip, clip_id=f"copy{number:02d}") for number in range(20)]
    return project


def run(project: Project, shard: Shard | None = None, modality: Modality = GLOBAL):
    """Run a shard, or merge and run without one; return the plan and the report."""
    config = MeanConfig()
    settings = {modality: branch_settings(modality, config, MEDIA, project.faces)}
    table = project.folder / f"{modality.value}.csv"
    clips = [clip for clip in project.clips if shard is None or shard.has_clip(clip)]
    opened = (
        open_writers(settings, project.root) if shard is None else open_shard_writers(settings, project.root, shard)
    )
    with opened as writers:
        own, earlier = table, []
        if shard is None:
            merge_all_shards(writers, lambda _: table)
        else:
            own, earlier = shard_tables(project.root(modality), table, shard)
        branch = plan_branch(
            modality,
            clips,
            {},
            encoder=config,
            settings=settings[modality],
            root=project.root(modality),
            quarantine_path=own,
            earlier_tables=earlier,
        )
        report = extract(
            [branch],
            clips,
            {},
            writers=writers,
            corpus_root=project.folder,
            media=MEDIA,
            faces=project.faces,
            config=ExtractConfig(batch_size=2, part_size=4, max_quarantined=1.0, workers=0),
        )
    return branch, report


def rows(root: Path) -> dict[str, bytes]:
    store = FeatureStore.open(root)
    return {clip_id: store.row(clip_id).values.tobytes() for clip_id in store.newest()}


def test_the_union_of_shards_has_the_rows_of_one_run(many, tmp_path):
    run(many)
    expected = rows(many.root(GLOBAL))
    many.root(GLOBAL).rename(tmp_path / "reference.zarr")
    done = [run(many, Shard(number, 3))[1].done["global"] for number in (1, 2, 3)]
    assert sum(done) == 20
    assert all(done)
    assert not many.root(GLOBAL).exists(), "a shard wrote to the store"
    branch, report = run(many)
    assert (branch.reused, report.done["global"]) == (20, 0)
    assert rows(many.root(GLOBAL)) == expected
    assert not [finding for finding in verify_store(many.root(GLOBAL)).findings if finding.kind.is_damage]
    assert not (many.folder / SHARDS).exists()
    branch, report = run(many)
    assert (branch.reused, report.done["global"]) == (20, 0)


def test_shards_of_another_number_compute_only_what_is_missing(many):
    first = run(many, Shard(1, 2))[1].done["global"]
    others = [run(many, Shard(number, 3))[1].done["global"] for number in (1, 2, 3)]
    assert first + sum(others) == 20


def test_a_clip_of_two_shards_is_stored_once(many):
    run(many, Shard(1, 1))
    part = FeatureStore.open(shard_root(many.root(GLOBAL), Shard(1, 1)))
    twice = [part.row(clip_id) for clip_id in ("copy00", "copy01")]
    other = shard_root(many.root(GLOBAL), Shard(2, 5))  # as if it had run at the same time
    create_settings_group(other, part.settings, dim=part.dim, dtype=part.dtype.name)
    new = FeatureRow("copy99", "digest", twice[0].values, twice[0].side)
    with StoreWriter(other, part.fingerprint) as writer:
        writer.append([*twice, new])
    branch, _ = run(many)
    assert branch.reused == 20
    parts = read_parts(many.root(GLOBAL) / part.fingerprint, part.fingerprint).intact
    stored = [clip_id for one in parts.values() for clip_id in one.clip_id]
    assert sorted(stored) == sorted({*stored}) == [*(f"copy{number:02d}" for number in range(20)), "copy99"]


def test_finished_batches_of_a_killed_shard_are_not_computed_again(many):
    branch, _ = run(many, Shard(1, 2))
    root = shard_root(many.root(GLOBAL), Shard(1, 2))
    clip = next(clip for clip in many.clips if not Shard(1, 2).has_clip(clip))
    with StoreWriter(root, branch.fingerprint) as writer:
        task = [FeatureRow(clip.clip_id, clip.digest, np.ones((1, 2), np.float32), {"times": np.zeros(1)})]
    writer.spool.folder.mkdir(parents=True)
    writer.spool.keep("000000-0000", task)  # a killed run leaves it
    others = [run(many, Shard(number, 3)) for number in (1, 2, 3)]
    assert clip.clip_id not in frozenset[str]().union(*(branch.todo for branch, _ in others))
    assert run(many)[0].reused == 20


def test_a_bad_clip_of_a_shard_reaches_the_table_of_the_stage_and_is_not_tried_again(project):
    for number in (1, 2):
        run(project, Shard(number, 2), Modality.FACE)
    again = [run(project, Shard(number, 5), Modality.FACE) for number in range(1, 6)]
    assert sum(report.done["face"] + len(branch.todo) for branch, report in again) == 0
    branch, report = run(project, modality=Modality.FACE)
    assert reasons(project, Modality.FACE) == {"tree": "NoFaceFound"}
    assert (branch.reused, len(branch.todo), report.quarantined["face"]) == (2, 0, 1)
    assert not shard_roots(project.root(Modality.FACE))


def test_a_merge_keeps_the_batches_of_another_encoder(many):
    run(many, Shard(1, 2))
    root = shard_root(many.root(GLOBAL), Shard(1, 2))
    batch = spool_folder(root, "other") / "000000-0000.batch"  # a killed shard leaves it
    batch.parent.mkdir(parents=True)
    batch.touch()
    run(many)
    assert batch.is_file()
    assert shard_roots(many.root(GLOBAL)) == [root], "the next merge does not find it"


def test_entries_of_two_encoders_on_one_clip_are_both_merged(tmp_path):
    tables = [tmp_path / name for name in ("1.csv", "2.csv")]
    for path, names in zip(tables, (("first", "second"), ("first",)), strict=True):
        for name in names:
            own = Quarantine(
                path, stage="extract", modality="face", fingerprint=name, others={"first", "second"} - {name}
            )
            own.add("clip", "NoFaceFound", path.name, "digest")
            own.write()
    merge_tables(tmp_path / "face.csv", tables)
    merged = read_quarantine(tmp_path / "face.csv")
    assert {entry.fingerprint: entry.message for entry in merged} == {"first": "2.csv", "second": "1.csv"}
    assert len(merged) == 2


def test_an_entry_of_a_clip_that_another_shard_computed_is_dropped(many):
    run(many, Shard(1, 1))
    table = many.folder / SHARDS / "2-of-9" / "global.csv"
    branch, _ = run(many, Shard(2, 9))
    branch.quarantine.add("copy03", "ClipTimeout", "too slow", many.clips[0].digest, 1.0)
    branch.quarantine.write()
    assert table.is_file()
    run(many)
    assert read_quarantine(many.folder / "global.csv") == []


def test_two_runs_of_one_shard_fail_with_store_busy(many):
    run(many, Shard(1, 2))
    with exclusive_lock(lock_path(shard_root(many.root(GLOBAL), Shard(1, 2))), "shard"):
        with pytest.raises(StoreBusy, match="1-of-2"):
            run(many, Shard(1, 2))
        run(many, Shard(2, 2))  # another shard
        with pytest.raises(StoreBusy, match="1-of-2"):
            run(many)  # nothing is merged while a shard is running
    assert len(shard_roots(many.root(GLOBAL))) == 2
    assert run(many)[0].reused == 20


def test_shards_at_the_same_time_do_not_wait_for_each_other(many):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=partial(run, many, Shard(number, 4))) for number in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert run(many)[0].reused == 20
