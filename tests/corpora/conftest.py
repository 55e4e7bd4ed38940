"""Small corpora, written anew for each test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.listing import CorpusListing
from ecmf_pipeline.corpora.registry import read_corpus

WriteMedia = Callable[..., Path]
ReadCorpus = Callable[..., CorpusListing]


def _encode(path: Path, codec: str | None, *, sound: bool, shade: int) -> None:
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(codec, rate=10, width=32, height=32, pix_fmt="yuv420p") if codec else None
        speech = container.add_stream("aac", rate=16000) if sound else None
        if pictures:
            for _ in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode())
        if speech:
            for start in range(0, 8192, 1024):
                samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 16000, start, Fraction(1, 16000)
                container.mux(speech.encode(samples))
            container.mux(speech.encode())


@pytest.fixture(scope="session")
def media_bytes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Half a second of pictures, of sound, and the same in other containers."""
    folder = tmp_path_factory.mktemp("media")

    def encoded(name: str, codec: str | None, *, sound: bool = False, shade: int = 0) -> bytes:
        _encode(folder / name, codec, sound=sound, shade=shade)
        return (folder / name).read_bytes()

    return {
        "pictures": encoded("pictures.mp4", "mpeg4"),
        "other pictures": encoded("other.mp4", "mpeg4", shade=200),
        "sound": encoded("sound.mp4", None, sound=True),
        "both": encoded("both.mkv", "mpeg4", sound=True),
        "webm": encoded("pictures.webm", "libvpx"),
    }


@pytest.fixture
def write_media(media_bytes: dict[str, bytes]) -> WriteMedia:
    """Write a clip whose bytes no other clip has (a trailing `free` box), unless told not to."""

    def write(path: Path, what: str = "pictures", *, mark: str | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (path.name if mark is None else mark).encode("utf-8", "surrogateescape")
        box = (8 + len(text)).to_bytes(4, "big") + b"free" + text
        path.write_bytes(media_bytes[what] + box)
        return path

    return write


@pytest.fixture
def read() -> ReadCorpus:
    def read(
        root: Path, kind: str = "folder", labels: Sequence[str] | None = None, **settings: object
    ) -> CorpusListing:
        return read_corpus(CorpusConfig(kind=kind, root=root, labels=labels, **settings))

    return read
