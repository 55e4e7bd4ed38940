"""`index` on the zoo: invalid clips are findings, unreadable clips are quarantined, others are listed."""

from __future__ import annotations

import csv

import pytest

from ecmf_pipeline.core.clips import read_manifest, write_manifest
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.folder import read_folder
from ecmf_pipeline.corpora.index import index_corpus
from ecmf_pipeline.corpora.scan import strip_media_extension
from tests.zoo.films import Film
from tests.zoo.specimens import write_healthy, write_zoo


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    root = tmp_path_factory.mktemp("index") / "clips"
    films = write_healthy(root)
    cache = root.parent / "cache.json"
    alone = index_corpus(read_folder(CorpusConfig(kind="folder", root=root)), cache, workers=2)
    specimens = write_zoo(root)
    return films, alone, specimens, index_corpus(read_folder(CorpusConfig(kind="folder", root=root)), cache, workers=2)


def test_each_specimen_is_a_clip_or_a_finding(indexed):
    _, _, specimens, result = indexed
    listed = {clip.path for clip in result.clips}
    messages = [(finding.kind.value, finding.message) for finding in result.findings]
    for specimen in specimens:
        assert (specimen.name in listed) == (not specimen.finding)
        named = [
            kind
            for kind, message in messages
            if repr(specimen.name) in message and kind not in {"duplicate_content", "truncated"}
        ]
        if specimen.finding == "none" or ("NoVideoStream" not in specimen.pictures and not specimen.finding):
            assert named == []
        else:
            assert named == [specimen.finding or "no_video_stream"]


def test_quarantined_specimens_are_unreadable(indexed):
    _, _, specimens, result = indexed
    reasons = {clip_id: measured.reason for clip_id, measured in result.quarantined.items()}
    for specimen in specimens:
        reason = reasons.pop(strip_media_extension(specimen.name), None)
        if reason:
            assert reason in specimen.pictures & specimen.sound
    assert reasons == {}
    assert len(result.quarantined) == 5  # zero bytes, random bytes, text, playlist, no moov


def test_streams_and_durations_match_the_films(indexed):
    _, _, specimens, result = indexed
    quarantined = set(result.quarantined)
    clips = {clip.path: clip for clip in result.clips if clip.clip_id not in quarantined}
    for specimen in specimens:
        if specimen.name not in clips:
            continue
        clip, film = clips[specimen.name], specimen.film
        assert clip.has_video == ("NoVideoStream" not in specimen.pictures)
        assert clip.has_audio == ("NoAudioStream" not in specimen.sound)
        if specimen.pictures == {"right"}:
            assert clip.duration == pytest.approx(film.seconds, abs=0.15)


def test_healthy_clips_are_indexed_as_without_the_zoo(indexed):
    films, alone, _, result = indexed
    assert [clip for clip in result.clips if clip.clip_id in films] == list(alone.clips)
    assert result.reused == len(films)


def test_zoo_manifest_round_trip(indexed, tmp_path):
    _, _, _, result = indexed
    write_manifest(tmp_path / "manifest.csv", result.clips)
    assert read_manifest(tmp_path / "manifest.csv") == sorted(result.clips, key=lambda clip: clip.clip_id)
    with (tmp_path / "manifest.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + len(result.clips)


def test_file_names_are_normalised(tmp_path):
    Film().write(tmp_path / "e\u0301.mp4")
    Film().write(tmp_path / "\u00e9.mp4")
    listing = read_folder(CorpusConfig(kind="folder", root=tmp_path))
    assert [clip.clip_id for clip in listing.clips] == ["\u00e9"]
    assert "duplicate_clip" in {finding.kind.value for finding in listing.findings}
