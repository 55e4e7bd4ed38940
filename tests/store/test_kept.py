"""Sealed parts are kept in .ecmf of the DVC project and restored when the store has lost them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.errors import StaleStore
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.extraction.features import open_store
from ecmf_pipeline.llm.answers import AnswerFiles, AnswerWriter, ScoreCache, TextScores, open_drafts, part_files
from ecmf_pipeline.llm.server_run import Draft
from ecmf_pipeline.store import FeatureStore, StoreWriter, create_settings_group, make_current
from ecmf_pipeline.store.compact import compact, drop_settings
from ecmf_pipeline.store.dvc_links import share_with_dvc
from ecmf_pipeline.store.format import current_fingerprint, part_names
from ecmf_pipeline.store.kept import KeptParts, restore_features


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "project" / ".dvc").mkdir(parents=True)
    return tmp_path / "project"


@pytest.fixture
def root(project) -> Path:
    return project / "data" / "features" / "face.zarr"


@pytest.fixture
def store(root, write, row) -> FeatureStore:
    return write(root, [row("a"), row("b")], [row("c")])


def kept_folder(store: FeatureStore) -> Path:
    folder = KeptParts(store.folder).folder
    assert folder is not None
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def temporary_workspace(project: Path) -> Path:
    folder = project / ".dvc" / "tmp" / "exps" / "tmp1"
    (folder / ".dvc").mkdir(parents=True)
    return folder


def test_nothing_is_kept_outside_of_a_dvc_project(tmp_path, write, row):
    store = write(tmp_path / "face.zarr", [row("a")])
    assert KeptParts(store.folder).folder is None
    assert [path.name for path in tmp_path.iterdir() if "ecmf" in path.name] == []


def test_sealed_parts_are_kept_as_hard_links_that_git_and_dvc_ignore(project, store):
    assert sorted(KeptParts(store.folder).names()) == part_names(store.folder)
    for name in part_names(store.folder):
        chunk = Path(name, "values", "c", "0", "0")
        assert (store.folder / chunk).samefile(kept_folder(store) / chunk)
    assert (project / ".ecmf" / ".gitignore").read_text() == (project / ".ecmf" / ".dvcignore").read_text() == "*\n"


def test_a_removed_store_is_restored_by_the_next_writer(store, root):
    before = content(root)
    shutil.rmtree(root)
    with StoreWriter(root, store.fingerprint):
        pass
    assert content(root) == before
    assert current_fingerprint(root) == store.fingerprint
    assert sorted(FeatureStore(root, store.fingerprint).newest()) == ["a", "b", "c"]
    assert list(root.parent.glob(".*.spool")) == []


def test_a_removed_part_is_restored_and_the_others_stay(store, root):
    first, second = part_names(store.folder)
    shutil.rmtree(store.folder / first)
    inode = (store.folder / second / "zarr.json").stat().st_ino
    with StoreWriter(root, store.fingerprint):
        pass
    assert part_names(store.folder) == [first, second]
    assert (store.folder / second / "zarr.json").stat().st_ino == inode


def test_a_reader_that_needs_lost_settings_restores_them(store, root, settings):
    make_current(root, create_settings_group(root, {"encoder": "other"}, dim=5, dtype="float16"))
    shutil.rmtree(store.folder)
    with pytest.raises(StaleStore):
        open_store(root, {"encoder": "third"})
    assert not store.folder.exists()
    assert len(open_store(root, settings)) == 3
    shutil.rmtree(root)
    assert len(open_store(root, settings)) == 3


def test_a_group_that_was_created_anew_without_a_width_gets_the_kept_width(store, root):
    shutil.rmtree(root)
    store.folder.mkdir(parents=True)
    document = json.loads((kept_folder(store) / "zarr.json").read_bytes())
    document["attributes"]["dim"] = None
    (store.folder / "zarr.json").write_text(json.dumps(document))
    with StoreWriter(root, store.fingerprint):
        pass
    assert FeatureStore(root, store.fingerprint).dim == 5


def test_a_damaged_kept_part_is_dropped_with_a_warning(store, root, capsys):
    damaged, intact = part_names(store.folder)
    shutil.rmtree(root)
    flip_bit(kept_folder(store) / damaged / "values" / "c" / "0" / "0")
    with StoreWriter(root, store.fingerprint):
        pass
    assert part_names(store.folder) == [intact]
    assert KeptParts(store.folder).names() == {intact}
    assert damaged in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"", b"{", b'{"attributes": {"fingerprint": "0"}}'])
def test_a_kept_part_with_damaged_attributes_is_dropped(store, root, damage):
    damaged, intact = part_names(store.folder)
    shutil.rmtree(root)
    (kept_folder(store) / damaged / "zarr.json").write_bytes(damage)
    with StoreWriter(root, store.fingerprint):
        pass
    assert part_names(store.folder) == [intact]


def test_rows_that_the_store_has_are_not_restored_twice(store, root, write, row):
    shutil.rmtree(root)
    shutil.move(kept_folder(store), root.parent / "aside")
    write(root, [row("a"), row("b"), row("c")])  # another run computed the same rows in one part
    shutil.copytree(root.parent / "aside", kept_folder(store), dirs_exist_ok=True)
    with StoreWriter(root, store.fingerprint):
        pass
    assert len(part_names(store.folder)) == 1


def test_compaction_drops_the_replaced_parts_and_keeps_the_merged_one(store, root):
    with StoreWriter(root, store.fingerprint) as writer:
        compact(writer, part_size=10)
    (merged,) = part_names(store.folder)
    assert KeptParts(store.folder).names() == {merged}
    shutil.rmtree(root)
    with StoreWriter(root, store.fingerprint):
        pass
    assert part_names(store.folder) == [merged]


def test_parts_that_the_store_has_merged_elsewhere_are_dropped(store, root):
    old = [*content(kept_folder(store))]
    shutil.copytree(kept_folder(store), root.parent / "aside")
    with StoreWriter(root, store.fingerprint) as writer:
        compact(writer, part_size=10)
    merged = part_names(store.folder)
    shutil.copytree(
        root.parent / "aside", kept_folder(store), dirs_exist_ok=True
    )  # as a compaction elsewhere leaves it
    with StoreWriter(root, store.fingerprint):
        pass
    assert old
    assert part_names(store.folder) == sorted(KeptParts(store.folder).names()) == merged


def test_removed_settings_are_not_restored(store, root, fingerprint):
    with StoreWriter(root, "000000000000") as writer:
        drop_settings(writer, fingerprint)
    assert KeptParts(store.folder).folder is not None
    assert not kept_folder(store).exists()
    restore_features(root, fingerprint)
    assert not store.folder.exists()


@pytest.fixture
def refuse_links(monkeypatch) -> Callable[[int], None]:
    """Return a function that makes hard links from and to .ecmf fail with an error number; Zarr makes others."""
    link = os.link

    def refuse(number: int) -> None:
        def fail(source: str, target: Path) -> None:
            if ".ecmf" in f"{source}{target}":
                raise OSError(number, os.strerror(number))
            link(source, target)

        monkeypatch.setattr(os, "link", fail)

    return refuse


def test_files_are_copied_where_links_are_impossible(root, write, row, refuse_links):
    refuse_links(errno.EXDEV)
    store = write(root, [row("a")])
    (name,) = KeptParts(store.folder).names()
    assert content(kept_folder(store) / name) == content(store.folder / name)
    assert not (kept_folder(store) / name / "zarr.json").samefile(store.folder / name / "zarr.json")
    shutil.rmtree(root)
    restore_features(root, store.fingerprint)
    assert len(FeatureStore(root, store.fingerprint)) == 1


def test_a_run_continues_with_a_warning_if_its_parts_cannot_be_kept(root, write, row, refuse_links, capsys):
    refuse_links(errno.ENOSPC)
    store = write(root, [row("a")])
    assert len(store) == 1
    assert KeptParts(store.folder).names() == set()
    assert "forced checkout" in capsys.readouterr().err


def test_parts_of_a_temporary_workspace_are_kept_in_the_main_project(project, root, write, row):
    workspace = temporary_workspace(project)
    store = write(workspace / root.relative_to(project), [row("a")])
    assert kept_folder(store) == project / ".ecmf" / "kept" / "data" / "features" / "face.zarr" / store.fingerprint
    shutil.rmtree(workspace)
    with StoreWriter(root, store.fingerprint):
        pass
    assert sorted(FeatureStore(root, store.fingerprint).newest()) == ["a"]


@pytest.mark.usefixtures("store")
def test_a_temporary_workspace_gets_the_parts_of_the_main_project(project, root, settings):
    theirs = temporary_workspace(project) / root.relative_to(project)
    assert len(open_store(theirs, settings)) == 3


def test_two_processes_restore_at_once(store, root):
    before = content(root)
    shutil.rmtree(root)
    barrier = threading.Barrier(4)
    errors: list[BaseException] = []

    def restore() -> None:
        barrier.wait()
        try:
            restore_features(root, store.fingerprint)
        except BaseException as error:  # noqa: BLE001  (reported by the main thread)
            errors.append(error)

    threads = [threading.Thread(target=restore) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert content(root) == before


def test_files_of_committed_parts_are_shared_with_the_cache_of_dvc(project, store, root):
    # As `dvc commit` leaves them: objects in the cache, and copies in the workspace.
    folder = project / "elsewhere" / "files" / "md5"
    entries = []
    for number, (name, data) in enumerate(sorted(content(root).items())):
        digest = f"{number:032x}"
        (folder / digest[:2]).mkdir(parents=True, exist_ok=True)
        (folder / digest[:2] / digest[2:]).write_bytes(data)
        entries.append({"md5": digest, "relpath": name})
        (root / name).unlink()
        (root / name).write_bytes(data)
    (folder / "ab").mkdir(parents=True)
    (folder / "ab" / "cd.dir").write_text(json.dumps(entries))
    lock = {"stages": {"extract@face": {"outs": [{"path": "data/features/face.zarr", "md5": "abcd.dir"}]}}}
    (project / "dvc.lock").write_text(json.dumps(lock))
    (project / ".dvc" / "config").write_text("[core]\n    analytics = false\n[cache]\n    dir = ../elsewhere\n")
    before = content(kept_folder(store))
    kept = KeptParts(store.folder)
    parts = [path for name in kept.names() for path in (kept_folder(store) / name).rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in parts} == {1}
    share_with_dvc(kept)
    assert {path.stat().st_nlink for path in parts} == {2}
    assert content(kept_folder(store)) == before


@pytest.mark.parametrize("lock", ["", "<<<<<<< HEAD\n", "stages: [1]", "stages: {a: {outs: [{path: data}]}}"])
def test_a_damaged_lock_file_leaves_copies(project, store, root, lock):
    (project / "dvc.lock").write_text(lock)
    shutil.rmtree(root)
    before = content(kept_folder(store))
    share_with_dvc(KeptParts(store.folder))
    assert content(kept_folder(store)) == before


def answers(folder: Path, *texts: str) -> tuple[int, int]:
    """Add the answers to some texts to a cache; return how many were sent, and the number of parts."""
    cache = ScoreCache(folder / "cache", "abc")
    with AnswerWriter(cache, folder / ".spool") as writer:
        sent = writer.append(TextScores.of(sha256_text(text), np.ones(2)) for text in texts)
    return sent, len(part_files(folder / "cache" / "abc"))


def test_removed_answers_are_restored_and_not_sent_again(project):
    assert answers(project, "one", "two") == (2, 1)
    shutil.rmtree(project / "cache")
    assert answers(project, "one", "two", "three") == (1, 2)


def test_a_reader_finds_answers_that_were_removed(project):
    answers(project, "one")
    shutil.rmtree(project / "cache")
    assert sha256_text("one") in ScoreCache(project / "other", "abc", also=[project / "cache"])
    assert not (project / "cache").exists()


def test_changed_answers_are_not_restored(project, capsys):
    answers(project, "one")
    (part,) = (project / ".ecmf").rglob("part-*.jsonl")
    shutil.rmtree(project / "cache")
    part.write_bytes(part.read_bytes().replace(b"1.0", b"2.0"))
    assert answers(project, "one") == (1, 1)
    assert part.name in capsys.readouterr().err


def test_batches_of_a_killed_run_in_a_temporary_workspace_are_adopted(project, root, write, row):
    store = write(root, [row("a")])
    workspace = temporary_workspace(project)
    with StoreWriter(workspace / root.relative_to(project), store.fingerprint) as writer:
        writer.spool.keep("000000-0000", [row("b")])
        with StoreWriter(root, store.fingerprint):  # the first run is active
            assert FeatureStore(root, store.fingerprint).newest() == {"a": "d"}
    shutil.rmtree(workspace)  # as DVC does after a kill
    with StoreWriter(root, store.fingerprint) as writer:
        assert writer.adopted == 1
    assert FeatureStore(root, store.fingerprint).newest() == {"a": "d", "b": "d"}
    assert list((project / ".ecmf" / "spool").iterdir()) == []


def test_paid_answers_of_a_killed_run_in_a_temporary_workspace_are_adopted(project):
    def files(folder: Path) -> AnswerFiles:
        return AnswerFiles("vote", folder / "cache", folder / ".spool", folder / "quarantine.csv")

    workspace = temporary_workspace(project)
    paid, unfinished = TextScores.of(sha256_text("paid"), np.ones(2)), Draft(2)
    with AnswerWriter(ScoreCache(workspace / "cache", "abc"), workspace / ".spool") as writer:
        writer.spool.keep("000000-0000", [paid])
        open_drafts(files(workspace), "abc").add("key", 1, unfinished)
    shutil.rmtree(workspace)
    assert open_drafts(files(project), "abc").get("key", 1) == unfinished
    cache = ScoreCache(project / "cache", "abc")
    with AnswerWriter(cache, project / ".spool") as writer:
        assert writer.adopted == 1
        assert open_drafts(files(project), "abc").get("key", 1) == unfinished
    assert cache[paid.key] == paid
