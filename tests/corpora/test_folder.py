from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.listing import CorpusListing, count_by_kind

Read = Callable[..., CorpusListing]


def clip(clip_id: str, path: str = "", **rest: Any) -> Clip:
    return Clip(ClipId(clip_id), path, **rest)


def touch_files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def by_id(listing: CorpusListing) -> dict[str, Clip]:
    return {clip.clip_id: clip for clip in listing.clips}


def test_labels_groups_splits_and_transcripts(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "b.MKV", "c.webm", "d.mov", "e.avi", "f.flv", "notes.txt", "._a.mp4", ".trash/z.mp4")
    (tmp_path / "labels.csv").write_text(
        "name,label,gold,group,split\na,joy,,anna,\nb,fear,joy,ben,train\nc,fear,,,test\nd,,fear,,\ne,joy,,,unlabelled\n"
    )
    (tmp_path / "transcripts.csv").write_text('name,text\na,"Well, ""yes"""\nb,NaN\n')
    listing = read(tmp_path)
    assert listing.labels == ("fear", "joy")
    assert listing.candidate_order == ("c", "d", "f")
    assert listing.clips == (
        clip("a", "a.mp4", transcript='Well, "yes"', given_label="joy", split=Split.TRAIN, group="anna"),
        clip("b", "b.MKV", given_label="fear", gold_label="joy", split=Split.TRAIN, group="ben"),
        clip("c", "c.webm", gold_label="fear", split=Split.CANDIDATE),
        clip("d", "d.mov", gold_label="fear", split=Split.CANDIDATE),
        clip("e", "e.avi", gold_label="joy", split=Split.UNLABELED),
        clip("f", "f.flv", split=Split.CANDIDATE),
    )
    assert count_by_kind(listing.findings) == {"file_without_label": 2}
    assert not listing.synthetic


def test_translations_are_read(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "transcripts.csv").write_text("name,translation,text\na,I miss her,我想她\nb,,好\n")
    assert [(clip.transcript, clip.translation) for clip in read(tmp_path).clips] == [
        ("我想她", "I miss her"),
        ("好", ""),
    ]


def test_misspelt_column_is_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels.csv").write_text("name,label,groups,remarks\na,joy,anna,x\nb,fear,ben,y\n")
    messages = [finding.message for finding in read(tmp_path).findings]
    assert any("'groups'" in message and "did you mean 'group'?" in message for message in messages)
    assert any("'remarks'" in message and "name, label, gold, group, split" in message for message in messages)


def test_missing_folder_is_rejected(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "file")
    for name in ("nowhere", "file"):
        with pytest.raises(CorpusError) as caught:
            read(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
        assert "corpus.root" in (caught.value.hint or "")


def test_empty_folder_is_rejected(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "readme.txt")
    with pytest.raises(CorpusError) as caught:
        read(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert "video or sound files" in caught.value.message


def test_corpus_without_labels_is_listed(tmp_path: Path, read: Read) -> None:
    listing = read(touch_files(tmp_path, "a.mp4", "b.mp4"))
    assert listing.labels == MER_LABELS
    assert listing.candidate_order == ("a", "b")
    assert count_by_kind(listing.findings) == {"no_labels": 2}
    assert read(tmp_path, labels=("x", "y")).labels == ("x", "y")


def test_labels_without_media_are_listed(tmp_path: Path, read: Read) -> None:
    (tmp_path / "labels.csv").write_text("name,label\na.mp4,joy\nsub/b.mp4,fear\n")
    listing = read(tmp_path)
    assert [(clip.clip_id, clip.path) for clip in listing.clips] == [("a", ""), ("sub__b", "")]
    assert count_by_kind(listing.findings) == {"no_media": 2}


def test_labels_without_file_and_files_without_label_are_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "labels.csv").write_text("name,label\na,joy\nz,fear\n")
    listing = read(tmp_path)
    assert count_by_kind(listing.findings) == {"file_without_label": 2, "label_without_file": 1}
    assert by_id(listing)["z"] == clip("z", given_label="fear", split=Split.TRAIN)


def test_csv_names_may_be_ids_paths_or_bare_names(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "anna/001.mp4", "ben/001.mp4", "ben/002.mp4", "ben/003.mp4", "ben/004.MP4", "005.mp4")
    (tmp_path / "labels.csv").write_text(
        "name,label\nanna__001,joy\nben/001.mp4,fear\nben\\002,joy\n003,fear\n004.mp4,joy\n./005.mp4,fear\n"
    )
    listing = read(tmp_path)
    assert {clip_id: clip.given_label for clip_id, clip in by_id(listing).items()} == {
        "005": "fear",
        "anna__001": "joy",
        "ben__001": "fear",
        "ben__002": "joy",
        "ben__003": "fear",
        "ben__004": "joy",
    }
    assert listing.findings == ()


def test_ambiguous_bare_name_is_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "anna/001.mp4", "ben/001.mp4")
    (tmp_path / "labels.csv").write_text("name,label\n001,joy\nanna/001,fear\n")
    listing = read(tmp_path)
    assert [clip.given_label for clip in listing.clips] == ["fear", ""]
    assert count_by_kind(listing.findings)["ambiguous_name"] == 1
    message = next(f.message for f in listing.findings if f.kind == "ambiguous_name")
    assert all(name in message for name in ("'001'", "'anna__001'", "'ben__001'"))


def test_ids_do_not_change_when_clips_are_added(tmp_path: Path, read: Read) -> None:
    before = {clip.path: clip.clip_id for clip in read(touch_files(tmp_path, "anna/001.mp4", "b.mp4")).clips}
    after = {clip.path: clip.clip_id for clip in read(touch_files(tmp_path, "ben/001.mp4", "001.mp4")).clips}
    assert before.items() < after.items()


def test_files_that_differ_only_in_extension_are_reported(tmp_path: Path, read: Read) -> None:
    listing = read(touch_files(tmp_path, "a.mp4", "a.avi"))
    assert [clip.path for clip in listing.clips] == ["a.avi"]
    [finding] = [f for f in listing.findings if f.kind == "duplicate_clip"]
    assert finding.clip_id == "a"
    assert finding.message.startswith("'a.mp4' is skipped")
    assert "'a.avi'" in finding.message


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../b", "..", "", "..\\x", "a\nb", "z" * 300])
def test_unsafe_names_are_rejected(tmp_path: Path, read: Read, name: str) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels.csv").write_text(f'name,label\na,joy\n"{name}",fear\n')
    listing = read(tmp_path)
    assert [clip.clip_id for clip in listing.clips] == ["a", "b"]
    assert count_by_kind(listing.findings)["bad_clip_id"] == 1


def test_unusual_names_are_listed(tmp_path: Path, read: Read) -> None:
    names = ["妈妈 你好", 'say "hi", twice', "it's 100%", "n" * 230, "two  spaces", "clip.v2", "e\u0301te\u0301"]
    touch_files(tmp_path, *(f"{name}.mp4" for name in names))
    rows = "".join('"{}",joy\r\n'.format(name.replace('"', '""')) for name in names)
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + f"name,label\r\n{rows}".encode())
    listing = read(tmp_path)
    assert len(listing.clips) == len(names)
    assert all(clip.given_label == "joy" for clip in listing.clips)
    assert count_by_kind(listing.findings) == {"single_label": len(names)}


def test_invalid_file_names_are_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "b\nc.mp4", " d.mp4", "bad\rfolder/e.mp4", "x" * 120 + "/" + "y" * 130 + ".mp4")
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    listing = read(tmp_path)
    assert [clip.clip_id for clip in listing.clips] == ["a"]
    assert count_by_kind(listing.findings)["bad_clip_id"] == 5
    assert all(finding.message.isprintable() for finding in listing.findings)


def test_unknown_labels_are_ignored_with_a_suggestion(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, *(f"{name}.mp4" for name in "abcd"))
    (tmp_path / "labels.csv").write_text("name,label,gold\na,Happy,\nb,SAD,happpy\nc,hapy,sad\nd,happy,sad\n")
    listing = read(tmp_path, labels=("happy", "sad"))
    clips = by_id(listing)
    assert (clips["a"].given_label, clips["b"].given_label, clips["b"].gold_label) == ("happy", "sad", "")
    assert clips["c"] == clip("c", "c.mp4", gold_label="sad", split=Split.CANDIDATE)
    messages = {f.clip_id: f.message for f in listing.findings if f.kind == "unknown_label"}
    assert messages.keys() == {"b", "c"}
    assert "did you mean 'happy'?" in messages["c"]


def test_mostly_unknown_labels_are_an_error(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "labels.csv").write_text("name,label\na,joy\nb,fear\nc,sad\n")
    with pytest.raises(CorpusError) as caught:
        read(tmp_path, labels=("happy", "sad"))
    assert "2 of 3 labels" in caught.value.message
    assert "'fear', 'joy'" in caught.value.message
    assert "corpus.labels" in (caught.value.hint or "")


def test_labels_that_differ_in_case_are_merged(tmp_path: Path, read: Read) -> None:
    (tmp_path / "labels.csv").write_text("name,label\na,Joy\nb,joy\nc,Fear\n")
    assert read(tmp_path).labels == ("Fear", "joy")


def test_duplicate_and_conflicting_rows_are_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "labels.csv").write_text("name,label\na,joy\na.mp4,joy\nb,joy\nb,fear\nb,joy\nc,fear\n")
    listing = read(tmp_path)
    assert [clip.given_label for clip in listing.clips] == ["joy", "", "fear"]
    counts = count_by_kind(listing.findings)
    assert (counts["duplicate_row"], counts["conflicting_row"]) == (2, 1)


def test_conflicting_split_is_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels.csv").write_text("name,label,split\na,joy,TRAIN\nb,,Train\n")
    listing = read(tmp_path)
    assert [clip.split for clip in listing.clips] == [Split.TRAIN, Split.CANDIDATE]
    assert count_by_kind(listing.findings)["conflicting_split"] == 1


def test_unknown_split_is_rejected_since_the_clip_may_be_held_out(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels.csv").write_text("name,label,split\na,joy,train\nb,fear,tets\n")
    with pytest.raises(CorpusError) as caught:
        read(tmp_path)
    assert all(part in caught.value.message for part in ("1 clip", "'tets'", "'b'"))
    assert "did you mean 'test'" in (caught.value.hint or "")


@pytest.mark.parametrize("column", ["refined_label", "out_of_fold"])
def test_computed_labels_are_no_given_labels(tmp_path: Path, read: Read, column: str) -> None:
    touch_files(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels.csv").write_text(f"clip_id,label,{column}\na,joy,joy\nb,fear,fear\n")
    with pytest.raises(CorpusError):
        read(tmp_path)


def test_transcripts_without_clip_are_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4")
    (tmp_path / "transcripts.csv").write_text("name,text\na,hi\nb,ho\nc,ha\n")
    listing = read(tmp_path)
    assert listing.clips[0].transcript == "hi"
    assert count_by_kind(listing.findings)["transcript_without_clip"] == 2


def test_link_loops_end_and_real_folders_precede_links(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "real/a.mp4", "elsewhere/b.mp4")
    corpus = tmp_path / "real"
    (corpus / "again").symlink_to(corpus)
    (corpus / "known").symlink_to(corpus / "inside")
    (corpus / "alias").symlink_to(corpus / "inside")
    (corpus / "linked").symlink_to(tmp_path / "elsewhere")
    (corpus / "file.mp4").symlink_to(tmp_path / "elsewhere" / "b.mp4")
    (corpus / "self.mp4").symlink_to("self.mp4")
    (corpus / "gone.mp4").symlink_to("nowhere.mp4")
    touch_files(corpus, "inside/c.mp4")
    os.mkfifo(corpus / "pipe.mp4")
    listing = read(corpus)
    assert [clip.path for clip in listing.clips] == ["a.mp4", "file.mp4", "inside/c.mp4", "linked/b.mp4"]
    assert count_by_kind(listing.findings)["unreadable"] == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_without_read_permission_is_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "closed/b.mp4")
    (tmp_path / "closed").chmod(0)
    try:
        listing = read(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert [clip.clip_id for clip in listing.clips] == ["a"]
    assert count_by_kind(listing.findings)["unreadable"] == 1
