"""The length of a file is compared with the length in the tables of its corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.corpora.index import IndexResult, index_corpus
from ecmf_pipeline.corpora.lengths import parse_seconds, spans_past_end
from ecmf_pipeline.corpora.listing import CorpusListing, FindingKind, count_by_kind

Read = Callable[..., CorpusListing]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:16:16,059", 976.059),
        ("1:02:03.5", 3723.5),
        ("01:02", 62),
        ("2.25", 2.25),
        ("7", 7),
        ("", None),
        ("two", None),
        ("nan", None),
        ("inf", None),
        ("1,5", None),
    ],
)
def test_times_are_parsed(text: str, seconds: float | None) -> None:
    assert parse_seconds(text) == (None if seconds is None else pytest.approx(seconds))


def write_clip(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(round(4 * seconds)):
            image = np.full((32, 32, 3), number % 250, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def wrong_clips(result: IndexResult) -> list[str]:
    return [finding.clip_id for finding in result.findings if finding.kind is FindingKind.WRONG_LENGTH]


def index(listing: CorpusListing, cache: Path) -> IndexResult:
    return index_corpus(listing, cache, workers=0)


def test_files_of_another_length_are_reported_and_quarantined_on_request(tmp_path: Path, read: Read) -> None:
    root = tmp_path / "corpus"
    for name, seconds in (("a", 2), ("b", 20), ("c", 2.75), ("d", 20), ("e", 2), ("f", 8)):
        write_clip(root / f"{name}.mp4", seconds)
    (root / "labels.csv").write_text(
        "name,label,start,end,duration\na,joy,10,12,\nb,joy,10,12,\nc,sad,,,2\nd,sad,,,\ne,sad,12,12,\nf,sad,1,2,10\n"
    )
    listing = read(root)
    assert count_by_kind(listing.findings) == {"malformed_time": 1}  # the start of e is its end
    kept = index(listing, tmp_path / "cache.json")
    assert wrong_clips(kept) == ["b"]
    [message] = [finding.message for finding in kept.findings if finding.kind is FindingKind.WRONG_LENGTH]
    assert "20 s" in message
    assert "2 s" in message
    assert not kept.quarantined
    strict = index(read(root, wrong_length="quarantine"), tmp_path / "cache.json")
    assert strict.hashed == 0, "the measurements are those in the cache"
    assert {clip_id: bad.reason for clip_id, bad in strict.quarantined.items()} == {"b": "WrongLength"}
    assert strict.quarantined["b"].digest
    assert [clip.clip_id for clip in strict.clips if not clip.has_video] == ["b"]
    assert index(listing, tmp_path / "cache.json").quarantined == {}, "the setting does not change the cache"


def test_start_and_end_of_meld_are_compared(tmp_path: Path, read: Read) -> None:
    root = tmp_path / "meld"
    write_clip(root / "train_splits/dia0_utt0.mp4", 2)
    write_clip(root / "train_splits/dia0_utt1.mp4", 10)
    header = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID,StartTime,EndTime"
    rows = [f'Hi,A,joy,0,{number},"00:00:10,000","00:00:12,000"' for number in (0, 1)]
    (root / "train_sent_emo.csv").write_text("\n".join([header, *rows]))
    assert wrong_clips(index(read(root, "meld"), tmp_path / "cache.json")) == ["train_dia0_utt1"]


@dataclass
class Seconds:
    duration: float


def test_parts_after_the_end_of_their_file_are_reported() -> None:
    times = {"in": (0, 9), "rounded": (8, 10.9), "longer": (8, 12), "outside": (10, 11), "whole": (0, 0)}
    clips = [Clip(ClipId(name), "a.avi", start=start, end=end) for name, (start, end) in times.items()]
    found = list(
        spans_past_end([*clips, Clip(ClipId("unknown"), "b.avi", start=99, end=100)], {"a.avi": Seconds(10.0)})
    )
    assert [(finding.kind, finding.count) for finding in found] == [(FindingKind.WRONG_LENGTH, 1)] * 2
    assert "'outside from 10 s of 10 s'" in found[0].message
    assert "'longer to 12 s of 10 s'" in found[1].message
