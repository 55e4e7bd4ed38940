"""Tests of `ecmf-pipe store ls`, `verify` and `compact` in a project."""

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
from ecmf_pipeline.core.files import exclusive_lock, fingerprint
from ecmf_pipeline.extraction.run import text_digest
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group, make_current
from ecmf_pipeline.store.format import lock_path, spool_folder
from ecmf_pipeline.store.writer import pack_rows

AUDIO = paths.features(Modality.AUDIO)
OTHER = {"modality": "audio", "encoder": {"type": "other"}}


def store(*arguments: str) -> Result:
    """Run a command and raise its `EcmfError`, if any."""
    result = CliRunner().invoke(store_app, list(arguments))
    if isinstance(result.exception, EcmfError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


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
    """Return a function that writes a manifest of clips with audio."""

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
    """Create a project with eGeMAPS features of four clips in two parts; return the fingerprint of their settings."""
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


def test_ls_shows_settings_in_use_and_coverage_of_the_manifest(project, manifest):
    other = write_store(AUDIO, OTHER, rows(["a"], length=7))
    manifest(["a", "b", "e"])
    lines = store("ls").stdout.splitlines()
    assert lines[0] == f"{AUDIO}:"
    cells = {line.split()[0]: line.split() for line in lines[2:]}
    assert cells[project][1:9] == ["egemaps", "no", "yes", "3", "float32", "4", "4", "2"]
    assert cells[project][-3:] == ["2", "of", "3"]
    assert cells[other][1:9] == ["other", "yes", "no", "3", "float32", "1", "7", "1"]


def test_ls_reports_unfinished_batches_and_damage(project):
    spool = spool_folder(AUDIO, project)
    spool.mkdir(parents=True, exist_ok=True)
    (spool / "dead.0.batch").write_bytes(pack_rows(rows(["e"])))
    (parts(project)[0] / "zarr.json").write_text("{")
    output = store("ls").stdout
    assert f"{project}: 1 damaged part" in output
    assert f"ecmf-pipe store verify {AUDIO}" in output
    assert f"{project}: 1 finished batch" in output


def test_ls_works_without_params_and_manifest(project):
    paths.PARAMS.unlink()
    paths.MANIFEST.unlink()
    line = store("ls", str(AUDIO)).stdout.splitlines()[2]
    assert line.split()[:4] == [project, "egemaps", "yes", "unknown"]
    assert line.endswith("unknown")


def test_store_commands_work_outside_a_project(project, tmp_path):
    moved = shutil.copytree(AUDIO, tmp_path / "elsewhere" / "features.zarr")
    assert project in store("ls", str(moved)).stdout
    assert "intact" in store("verify", str(moved)).stdout
    assert "2 -> 1 part" in store("compact", str(moved)).stdout


def test_missing_stores_are_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("preset: embedded\n")
    for command in ("ls", "verify", "compact"):
        with pytest.raises(MissingInput) as caught:
            store(command)
        assert "data/features" in caught.value.message
        assert caught.value.command == "ecmf-pipe extract"
        with pytest.raises(MissingInput) as caught:
            store(command, "absent.zarr")
        assert "absent.zarr" in caught.value.message


@pytest.mark.usefixtures("project")
def test_verify_of_an_intact_store_exits_with_code_0():
    result = store("verify")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{AUDIO}: 2 parts, 4 clips")
    assert "intact" in result.stdout


@pytest.mark.usefixtures("project")
def test_verify_reports_superfluous_rows_and_exits_with_code_0(manifest):
    manifest(["a", "b", "c"])
    result = store("verify")
    assert result.exit_code == 0
    assert "1 note" in result.stdout
    assert f"ecmf-pipe store compact --drop-absent {AUDIO}" in result.stdout


def test_damage_exits_with_code_1_and_mend_removes_only_its_clips(project):
    corrupt(parts(project)[1])
    result = store("verify")
    assert result.exit_code == 1
    assert "damaged (1 finding)" in result.stdout
    assert "2 clips" in result.stdout
    assert f"ecmf-pipe store verify --mend {AUDIO}" in result.stdout
    assert len(parts(project)) == 2
    result = store("verify", "--mend")
    assert result.exit_code == 0
    assert "moved" in result.stdout
    assert set(FeatureStore.open(AUDIO).newest()) == {"a", "b"}
    assert len(list((AUDIO.parent / ".audio.zarr.damaged").rglob("part-*"))) == 1
    assert store("verify").exit_code == 0


def test_damaged_settings_document_is_restored_from_params(project):
    document = AUDIO / project / "zarr.json"
    before = document.read_text()
    document.write_text("{")
    assert store("verify").exit_code == 1
    assert store("verify", "--mend").exit_code == 0
    assert document.read_text() == before


@pytest.mark.usefixtures("project")
def test_damage_that_mend_cannot_repair_exits_with_code_1():
    other = write_store(AUDIO, OTHER, rows(["a"]))
    (AUDIO / other / "zarr.json").write_text("{")
    result = store("verify", "--mend")
    assert result.exit_code == 1
    assert "still damaged: 1 finding" in result.stdout


def test_mend_and_compact_fail_if_another_run_writes_to_the_store(project):
    corrupt(parts(project)[1])
    with exclusive_lock(lock_path(AUDIO), "the store"):
        assert store("verify").exit_code == 1
        for arguments in (["verify", "--mend"], ["compact"]):
            with pytest.raises(StoreBusy):
                store(*arguments)


@pytest.mark.usefixtures("project")
def test_compact_merges_parts_and_reports_the_result():
    before = FeatureStore.open(AUDIO).load(["a", "b", "c", "d"]).values
    result = store("compact")
    assert result.exit_code == 0
    assert "2 -> 1 part" in result.stdout
    assert "dvc push" in result.stdout
    np.testing.assert_array_equal(FeatureStore.open(AUDIO).load(["a", "b", "c", "d"]).values, before)
    assert "nothing to do" in store("compact").stdout


@pytest.mark.usefixtures("project")
def test_compact_uses_the_part_size_of_params():
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("part_size: 1024", "part_size: 3"))
    assert "2 parts, nothing to do" in store("compact").stdout


def test_compact_drops_superseded_rows_and_on_request_absent_clips(project, manifest):
    manifest(["a", "b", "c"], digest="1")
    with StoreWriter(AUDIO, project) as writer:
        writer.append(rows(["a", "b"], digest="1"))
    assert "rows dropped: 2 superseded" in store("compact").stdout
    assert FeatureStore.open(AUDIO).digests() == {"a": ["1"], "b": ["1"], "c": ["0"], "d": ["0"]}
    assert "rows dropped: 1 of clips no longer in the manifest" in store("compact", "--drop-absent").stdout
    assert set(FeatureStore.open(AUDIO).newest()) == {"a", "b", "c"}


def test_compact_needs_a_manifest_to_drop_absent_clips(project):
    paths.MANIFEST.unlink()
    with pytest.raises(MissingInput, match="--drop-absent") as caught:
        store("compact", "--drop-absent")
    assert caught.value.command == "ecmf-pipe index"
    assert len(parts(project)) == 2


def test_compact_removes_other_settings_on_request(project):
    other = write_store(AUDIO, OTHER, rows(["a"]), rows(["b"]))
    store("compact")
    assert FeatureStore.open(AUDIO).fingerprint == other
    output = store("compact", "--drop-other-settings").stdout
    assert f"{other} (other): removed" in output
    assert "2 clips" in output
    assert not (AUDIO / other).exists()
    assert FeatureStore.open(AUDIO).fingerprint == project
    assert store("verify").exit_code == 0


def test_compact_never_removes_all_settings(project):
    shutil.rmtree(AUDIO / project)
    write_store(AUDIO, OTHER, rows(["a"]))
    with pytest.raises(InputError, match="--drop-other-settings") as caught:
        store("compact", "--drop-other-settings")
    assert str(AUDIO) in caught.value.message
    assert (AUDIO / fingerprint(OTHER)).is_dir()


def test_recovering_batches_of_a_killed_run_keeps_the_settings_in_use(project):
    other = write_store(AUDIO, OTHER, rows(["a"]))
    make_current(AUDIO, project)
    spool = spool_folder(AUDIO, other)
    spool.mkdir(parents=True, exist_ok=True)
    (spool / "dead.0.batch").write_bytes(pack_rows(rows(["e"])))
    assert "1 row recovered" in store("compact").stdout
    assert FeatureStore.open(AUDIO).fingerprint == project
    assert set(FeatureStore.open(AUDIO, other).newest()) == {"a", "e"}


def test_compact_does_not_change_a_damaged_store(project):
    corrupt(parts(project)[1])
    with pytest.raises(StoreError):
        store("compact")
    assert len(parts(project)) == 2


@pytest.mark.usefixtures("project")
def test_compact_keeps_the_newest_imported_features():
    settings = {"modality": "audio", "encoder": {"type": "imported", "name": "hubert", "dtype": "float32"}}
    key = write_store(AUDIO, settings, rows(["a", "b"], digest="x"), rows(["a"], digest="y"))
    store("compact")
    assert FeatureStore.open(AUDIO, key).digests() == {"a": ["y"], "b": ["x"]}


@pytest.mark.usefixtures("project")
def test_compact_drops_features_of_earlier_texts():
    root = paths.features(Modality.TEXT)
    text = ClipText("Hello.", "Hello, she output happily.")
    former, present = text_digest(ClipText("Hello!")), text_digest(text)
    key = write_store(root, {"modality": "text"}, rows(["a"], digest=present), rows(["a"], digest=former))
    store("compact", str(root))
    assert FeatureStore(root, key).digests() == {"a": [present, former]}  # the current digest is unknown without texts
    write_texts(paths.REWRITES, {"a": text})
    store("compact", str(root))
    assert FeatureStore(root, key).digests() == {"a": [present]}
