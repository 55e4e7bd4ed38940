"""Each reader reports a Git LFS pointer in place of a file, with the command that fetches the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import (
    ClipError,
    EcmfError,
    InputError,
    ModelError,
    UnreadableMedia,
    UnusableFaceCrops,
    UnusableFeatures,
)
from ecmf_pipeline.core.files import is_lfs_pointer, read_text
from ecmf_pipeline.core.weights import weights_sha256
from ecmf_pipeline.corpora.label_npz import entries_of, read_label_npz
from ecmf_pipeline.corpora.tables import read_table
from ecmf_pipeline.encoders.base_config import ModelSource
from ecmf_pipeline.faces.openface import read_openface
from ecmf_pipeline.interop.feature_sources import npy_header, open_source
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.media.containers import probe_media

POINTER = f"version https://example.org/git-lfs/v1\noid sha256:{'0123456789abcdef' * 4}\nsize 12345\n"


def open_and_close(path: Path) -> None:
    with open_source(path):
        pass


def hash_llm(path: Path) -> None:
    LlmConfig(model=str(path.parent), gguf_file=None).weights()


READERS = {
    "clip.mp4": (probe_media, UnreadableMedia),
    "labels.csv": (lambda path: read_table(path, ("name", "label")), InputError),
    "prompt.yaml": (read_text, InputError),
    "labels.npz": (read_label_npz, InputError),
    "more.npz": (entries_of, InputError),
    "features.npy": (npy_header, UnusableFeatures),
    "features.h5": (open_and_close, InputError),
    "crops.npy": (lambda path: read_openface(path, count=1, size=112), UnusableFaceCrops),
    "weights.pt": (weights_sha256, ModelError),
    "model.safetensors": (lambda path: ModelSource(str(path.parent)).settings(), ModelError),
    "pytorch_model.bin": (hash_llm, ModelError),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("extension", ["", "ext-0-list sha256:00\n"])
def test_a_pointer_is_reported_with_the_command(tmp_path, name, extension):
    lines = POINTER.splitlines(keepends=True)
    path = tmp_path / name
    path.write_text("".join([lines[0], extension, *lines[1:]]))
    read, kind = READERS[name]
    with pytest.raises(EcmfError) as caught:
        read(path)
    assert type(caught.value) is kind
    assert "Git LFS pointer" in caught.value.message
    # Only the message of a clip's error is stored.
    assert "lfs pull" in (caught.value.message if isinstance(caught.value, ClipError) else caught.value.command)


@pytest.mark.parametrize(
    "content", [b"", b"version 2\n", POINTER.encode()[:60], b"name,label\n" + POINTER.encode(), b"\x00" * 3000]
)
def test_other_files_are_no_pointers(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert not is_lfs_pointer(tmp_path / "file")
    assert not is_lfs_pointer(tmp_path / "missing")
    assert not is_lfs_pointer(tmp_path)
