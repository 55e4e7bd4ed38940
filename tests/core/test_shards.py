"""Shards: parsing, and which clips they take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Clips
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.shards import SHARDS, Shard, remove_if_empty, starting


@pytest.mark.parametrize("text", ["", "3", "a/b", "1/8/2", "-1/8", "1.0/2", "0/8", "9/8", "1/0", "1/9999999"])
def test_a_shard_of_another_form_or_out_of_range_is_wrong_input(text):
    with pytest.raises(InputError) as caught:
        Shard.parse(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_each_clip_is_in_exactly_one_shard_of_similar_size(count):
    clips = [Clip(ClipId(f"clip{number:05d}"), f"{number}.mp4") for number in range(6400)]
    shards = [Shard.parse(f"{number}/{count}") for number in range(1, count + 1)]
    sizes = [sum(map(shard.has_clip, clips)) for shard in shards]
    assert sum(sizes) == len(clips)
    assert all(any(shard.has_clip(clip) for shard in shards) for clip in clips)
    columns = Clips.of(clips)
    assert [clip for shard in shards for clip in shard.clips_of(columns) if not shard.has_clip(clip)] == []
    assert sum(len(shard.clips_of(columns)) for shard in shards) == len(clips)
    assert min(sizes) > 0.6 * len(clips) / count


def test_neighbouring_parts_of_a_recording_share_a_shard():
    parts = [Clip(ClipId(f"part{start}"), "film.mkv", start=start, end=start + 3.0) for start in range(0, 600, 3)]
    assert [len(Shard(number, 5).clips_of(Clips.of(parts))) for number in range(1, 6)].count(200) == 1
    assert sum(all(map(Shard(number, 5).has_clip, parts)) for number in range(1, 6)) == 1


def test_a_shard_may_start_while_a_merge_removes_the_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = tmp_path / SHARDS
    with starting(base):
        pass
    (lock,) = base.iterdir()
    unlink = Path.unlink

    def unlink_and_start(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        lock.touch()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_and_start)
        remove_if_empty(base)
    assert lock.is_file()
    opened = os.open
    removed = iter([True])

    def open_removed(path: Path, *arguments: int) -> int:
        if next(removed, False):
            raise FileNotFoundError(path)
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", open_removed)
    with starting(base):
        assert lock.is_file()
