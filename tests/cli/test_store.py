"""`ecmf-pipe store ls`, `verify` and `compact`, as a user runs them in a project."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from ecmf_pipeline.cli.store import store_app
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality, write_manifest, write_texts
from ecmf_pipeline.core.errors import EcmfError, InputError, MissingInput, StoreBusy, StoreError
from ecmf_pipeline.core.files import exclusive, fingerprint
from ecmf_pipeline.extraction.run import text_digest
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group, make_current
from ecmf_pipeline.store.format import lock_path, spool_folder
from ecmf_pipeline.store.writer import pack_rows

AUDIO = paths.features(Modality.AUDIO)
OTHER = {"modality": "audio", "encoder": {"type": "other"}}


def store(*words: str) -> Result:
    """Run a command; errors of the user's are raised, as `cli.main` gets them."""
    done = CliRunner().invoke(store_app, list(words))
    if isinstance(done.exception, EcmfError):
        raise done.exception
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def rows(clip_ids: Sequence[str], digest: str = "0", length: int = 1) -> list[FeatureRow]:
    return [FeatureRow(clip_id, digest, np.full((length, 3), 1, np.float32)) for clip_id in clip_ids]


def write_store(root: Path, settings: dict[str, Any], *batches: Sequence[FeatureRow]) -> str:
    key = create_settings_group(root, settings, dim=3, dtype="float32")
    with StoreWriter(root, key) as writer:
        for batch in batches:
            writer.append(batch)
    make_current(root, key)
    return key


@pytest.fixture
def manifest() -> Callable[..., None]:
    """Writes the manifest of some clips with sound."""

    def write(clip_ids: Sequence[str], digest: str = "0") -> None:
        write_manifest(
            paths.MANIFEST,
            [
                Clip(ClipId(clip_id), path=f"{clip_id}.mp4", digest=digest, bytes=1, duration=1, has_audio=True)
                for clip_id in clip_ids
            ],
        )

    return write


@pytest.fixture
def project(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, manifest: Callable[..., None]) -> str:
    """A project with four clips whose eGeMAPS features stand in two parts; the fingerprint of their settings."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(repository / "params.yaml", paths.PARAMS)
    manifest(["a", "b", "c", "d"])
    return write_store(AUDIO, audio_settings(), rows(["a", "b"]), rows(["c", "d"]))


def audio_settings() -> dict[str, Any]:
    params = load_params()
    return params.settings_of(Modality.AUDIO)


def parts(key: str) -> list[Path]:
    return sorted((AUDIO / key).glob("part-*"))


def corrupt(part: Path) -> None:
    chunk = part / "values/c/0/0"
    chunk.write_bytes(b"?" + chunk.read_bytes()[1:])


def test_ls_tells_what_is_in_use_and_how_much_of_the_manifest_is_there(project, manifest):
    other = write_store(AUDIO, OTHER, rows(["a"], length=7))
    manifest(["a", "b", "e"])
    lines = store("ls").stdout.splitlines()
    assert lines[0] == f"{AUDIO}:"
    cells = {line.split()[0]: line.split() for line in lines[2:]}
    assert cells[project][1:9] == ["egemaps", "no", "yes", "3", "float32", "4", "4", "2"]
    assert cells[project][-3:] == ["2", "of", "3"]
    assert cells[other][1:9] == ["other", "yes", "no", "3", "float32", "1", "7", "1"]


def test_ls_names_leftovers_and_damage(project):
    spool = spool_folder(AUDIO, project)
    spool.mkdir(parents=True, exist_ok=True)
    (spool / "dead.0.batch").write_bytes(pack_rows(rows(["e"])))
    (parts(project)[0] / "zarr.json").write_text("{")
    said = store("ls").stdout
    assert f"{project}: 1 part damaged" in said
    assert f"{project}: 1 finished batch in no part yet" in said


def test_ls_works_without_params_and_manifest(project):
    paths.PARAMS.unlink()
    paths.MANIFEST.unlink()
    line = store("ls", str(AUDIO)).stdout.splitlines()[2]
    assert line.split()[:4] == [project, "egemaps", "yes", "unknown"]
    assert line.endswith("unknown")


def test_a_store_outside_of_any_project_can_be_looked_at(project, tmp_path):
    moved = shutil.copytree(AUDIO, tmp_path / "elsewhere" / "features.zarr")
    assert project in store("ls", str(moved)).stdout
    assert "sound" in store("verify", str(moved)).stdout
    assert "2 -> 1 part" in store("compact", str(moved)).stdout


def test_no_store_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("ls", "verify", "compact"):
        with pytest.raises(MissingInput, match="no feature stores"):
            store(command)
        with pytest.raises(MissingInput, match=r"absent\.zarr is missing"):
            store(command, "absent.zarr")


@pytest.mark.usefixtures("project")
def test_verify_of_a_sound_store_ends_with_0():
    done = store("verify")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{AUDIO}: 2 parts, 4 clips")
    assert "sound" in done.stdout


@pytest.mark.usefixtures("project")
def test_verify_notes_superfluous_rows_and_ends_with_0(manifest):
    manifest(["a", "b", "c"])
    done = store("verify")
    assert done.exit_code == 0
    assert "rows of absent clips" in done.stdout
    assert f"ecmf-pipe store compact --drop-absent {AUDIO}" in done.stdout


def test_damage_ends_with_1_and_mending_sets_its_clips_aside_alone(project):
    corrupt(parts(project)[1])
    done = store("verify")
    assert done.exit_code == 1
    assert "corrupted chunk" in done.stdout
    assert "(2 clips)" in done.stdout
    assert f"ecmf-pipe store verify --mend {AUDIO}" in done.stdout
    assert len(parts(project)) == 2
    done = store("verify", "--mend")
    assert done.exit_code == 0
    assert "moved" in done.stdout
    assert set(FeatureStore.open(AUDIO).newest()) == {"a", "b"}
    assert len(list((AUDIO.parent / ".audio.zarr.damaged").rglob("part-*"))) == 1
    assert store("verify").exit_code == 0


def test_a_damaged_settings_document_is_mended_by_what_params_ask_for(project):
    document = AUDIO / project / "zarr.json"
    before = document.read_text()
    document.write_text("{")
    assert store("verify").exit_code == 1
    assert store("verify", "--mend").exit_code == 0
    assert document.read_text() == before


@pytest.mark.usefixtures("project")
def test_what_cannot_be_mended_ends_with_1():
    other = write_store(AUDIO, OTHER, rows(["a"]))
    (AUDIO / other / "zarr.json").write_text("{")
    done = store("verify", "--mend")
    assert done.exit_code == 1
    assert "1 finding left" in done.stdout


def test_neither_mending_nor_compacting_disturbs_a_run(project):
    corrupt(parts(project)[1])
    with exclusive(lock_path(AUDIO), "the store"):
        assert store("verify").exit_code == 1
        for words in (["verify", "--mend"], ["compact"]):
            with pytest.raises(StoreBusy):
                store(*words)


@pytest.mark.usefixtures("project")
def test_compact_merges_and_says_what_was_gained():
    before = FeatureStore.open(AUDIO).load(["a", "b", "c", "d"]).values
    done = store("compact")
    assert done.exit_code == 0
    assert "2 -> 1 part" in done.stdout
    assert "dvc push" in done.stdout
    np.testing.assert_array_equal(FeatureStore.open(AUDIO).load(["a", "b", "c", "d"]).values, before)
    assert "nothing to do" in store("compact").stdout


@pytest.mark.usefixtures("project")
def test_compact_keeps_to_the_part_size_of_params():
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("part_size: 1024", "part_size: 3"))
    assert "2 parts, nothing to do" in store("compact").stdout


def test_compact_drops_rows_of_former_inputs_and_absent_clips_on_demand(project, manifest):
    manifest(["a", "b", "c"], digest="1")
    with StoreWriter(AUDIO, project) as writer:
        writer.append(rows(["a", "b"], digest="1"))
    assert "rows dropped: 2 superseded" in store("compact").stdout
    assert FeatureStore.open(AUDIO).digests() == {"a": ["1"], "b": ["1"], "c": ["0"], "d": ["0"]}
    assert "1 of clips that the manifest no longer has" in store("compact", "--drop-absent").stdout
    assert set(FeatureStore.open(AUDIO).newest()) == {"a", "b", "c"}


def test_compact_needs_a_manifest_to_drop_absent_clips(project):
    paths.MANIFEST.unlink()
    with pytest.raises(MissingInput, match="--drop-absent"):
        store("compact", "--drop-absent")
    assert len(parts(project)) == 2


def test_compact_removes_other_settings_on_demand(project):
    other = write_store(AUDIO, OTHER, rows(["a"]), rows(["b"]))
    store("compact")
    assert FeatureStore.open(AUDIO).fingerprint == other
    said = store("compact", "--drop-other-settings").stdout
    assert f"{other} (other): removed" in said
    assert "2 clips" in said
    assert not (AUDIO / other).exists()
    assert FeatureStore.open(AUDIO).fingerprint == project
    assert store("verify").exit_code == 0


def test_compact_never_removes_all_settings(project):
    shutil.rmtree(AUDIO / project)
    write_store(AUDIO, OTHER, rows(["a"]))
    with pytest.raises(InputError, match="no features of the settings in use"):
        store("compact", "--drop-other-settings")
    assert (AUDIO / fingerprint(OTHER)).is_dir()


def test_taking_up_what_a_killed_run_left_does_not_change_what_is_in_use(project):
    other = write_store(AUDIO, OTHER, rows(["a"]))
    make_current(AUDIO, project)
    spool = spool_folder(AUDIO, other)
    spool.mkdir(parents=True, exist_ok=True)
    (spool / "dead.0.batch").write_bytes(pack_rows(rows(["e"])))
    assert "1 row taken up" in store("compact").stdout
    assert FeatureStore.open(AUDIO).fingerprint == project
    assert set(FeatureStore.open(AUDIO, other).newest()) == {"a", "e"}


def test_compact_leaves_a_damaged_store_alone(project):
    corrupt(parts(project)[1])
    with pytest.raises(StoreError, match="nothing was changed"):
        store("compact")
    assert len(parts(project)) == 2


@pytest.mark.usefixtures("project")
def test_of_imported_features_the_newest_count():
    settings = {"modality": "audio", "encoder": {"type": "imported", "name": "hubert", "dtype": "float32"}}
    key = write_store(AUDIO, settings, rows(["a", "b"], digest="x"), rows(["a"], digest="y"))
    store("compact")
    assert FeatureStore.open(AUDIO, key).digests() == {"a": ["y"], "b": ["x"]}


@pytest.mark.usefixtures("project")
def test_of_texts_the_digest_follows_from_the_transcripts():
    root = paths.features(Modality.TEXT)
    text = ClipText("Hello.", "Hello, she said happily.")
    former, present = text_digest(ClipText("Hello.", "Hello.")), text_digest(text)
    key = write_store(root, {"modality": "text"}, rows(["a"], digest=present), rows(["a"], digest=former))
    store("compact", str(root))
    assert FeatureStore(root, key).digests() == {"a": [present, former]}  # without transcripts nobody can tell
    write_texts(paths.REWRITES, {"a": text})
    store("compact", str(root))
    assert FeatureStore(root, key).digests() == {"a": [present]}
