from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.index import index_corpus
from ecmf_pipeline.corpora.listing import CorpusListing, count_by_kind
from ecmf_pipeline.corpora.registry import read_corpus

Read = Callable[..., CorpusListing]


def clip(clip_id: str, path: str = "", **rest: Any) -> Clip:
    return Clip(ClipId(clip_id), path, **rest)


LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "video").mkdir()
    for name in ("s_1", "s_2", "s_3", "s_4", "s_5"):
        (tmp_path / "video" / f"{name}.mp4").write_bytes(b"x")
    (tmp_path / "track1_train_disdim.csv").write_text("name,discrete,valence\ns_2,sad,-1.5\ns_1,happy,2\n")
    (tmp_path / "track_all_candidates.csv").write_text("name\ns_4\ns_3\n")
    (tmp_path / "subtitle_chieng.csv").write_text(
        'name,chinese,english\ns_1,我想念,"I miss, a lot"\ns_2,NaN,\ns_4,好,fine\n'
    )
    return tmp_path


def test_raw_mer_layout_is_listed(corpus: Path, read: Read) -> None:
    listing = read(corpus, "mer")
    assert listing.clips == (
        clip(
            "s_1",
            "video/s_1.mp4",
            transcript="I miss, a lot",
            translation="我想念",
            given_label="happy",
            split=Split.TRAIN,
        ),
        clip("s_2", "video/s_2.mp4", given_label="sad", split=Split.TRAIN),
        clip("s_3", "video/s_3.mp4", split=Split.CANDIDATE),
        clip("s_4", "video/s_4.mp4", transcript="fine", translation="好", split=Split.CANDIDATE),
        clip("s_5", "video/s_5.mp4", split=Split.UNLABELED),
    )
    assert listing.labels == LABELS
    assert listing.candidate_order == ("s_4", "s_3")
    assert count_by_kind(listing.findings) == {"file_without_label": 1, "empty_class": 4}
    assert not listing.synthetic


def write_npz(path: Path, **entries: dict[str, str]) -> None:
    nested = {entry: {name: {"emo": label} for name, label in labels.items()} for entry, labels in entries.items()}
    np.savez_compressed(path, **{entry: np.array(names, dtype=object) for entry, names in nested.items()})


def test_baseline_npz_replaces_missing_tables(corpus: Path, read: Read) -> None:
    raw = read(corpus, "mer")
    (corpus / "track1_train_disdim.csv").unlink()
    (corpus / "track_all_candidates.csv").unlink()
    train, test = {"s_2": "sad", "s_1": "Happy", "s_5": "bored"}, {"s_4": "angry", "s_3": "sad"}
    write_npz(corpus / "track1_label_6way.npz", train_corpus=train, test1_corpus=test)
    listing = read(corpus, "mer")
    assert [(c.clip_id, c.given_label, c.split) for c in listing.clips] == [
        (c.clip_id, c.given_label, c.split) for c in raw.clips
    ]
    assert listing.candidate_order == ("s_4", "s_3")
    assert {c.clip_id: c.gold_label for c in listing.clips if c.gold_label} == test
    assert count_by_kind(listing.findings) == {
        "unknown_label": 1,
        "file_without_label": 1,
        "gold_label_not_given": 1,
        "empty_class": 3,
    }
    write_npz(corpus / "track1_label_6way.npz", train_corpus=train, test1_corpus=dict.fromkeys(test, "neutral"))
    listing = read(corpus, "mer")
    assert listing.candidate_order == ("s_4", "s_3")
    assert not any(c.gold_label for c in listing.clips), "identical labels of all candidates are placeholders"


def test_tables_take_precedence_over_baseline_npz(corpus: Path, read: Read) -> None:
    raw = read(corpus, "mer")
    write_npz(corpus / "track1_label_6way.npz", train_corpus={"s_1": "angry"}, test1_corpus={"s_5": "sad"})
    assert read(corpus, "mer").clips == raw.clips


def test_chinese_transcripts_are_selected(corpus: Path, read: Read) -> None:
    clips = read(corpus, "mer", transcripts="chinese").clips
    assert [clip.transcript for clip in clips] == ["我想念", "", "", "好", ""]
    assert [clip.translation for clip in clips] == ["I miss, a lot", "", "", "fine", ""]


def test_subtitles_in_one_language_and_duplicate_subtitles(corpus: Path, read: Read) -> None:
    (corpus / "subtitle_chieng.csv").write_text("name,english\ns_1,fine\n")
    assert [(clip.transcript, clip.translation) for clip in read(corpus, "mer").clips[:2]] == [("fine", ""), ("", "")]
    (corpus / "subtitle_chieng.csv").write_text("name,chinese,english\ns_1,好,fine\ns_1,不,fine\n")
    listing = read(corpus, "mer")
    assert (listing.clips[0].transcript, listing.clips[0].translation) == ("fine", "")
    counts = count_by_kind(listing.findings)
    assert (counts["duplicate_row"], counts["conflicting_row"]) == (1, 1)


def test_mer2026_table_names_are_read(corpus: Path, read: Read) -> None:
    before = read(corpus, "mer")
    (corpus / "track1_train_disdim.csv").rename(corpus / "track1_train.csv")
    (corpus / "track_all_candidates.csv").rename(corpus / "track1_track2_candidate.csv")
    after = read(corpus, "mer")
    assert replace(after, findings=()) == replace(before, findings=())
    assert count_by_kind(after.findings) == count_by_kind(before.findings)
    assert [finding.message.split(":")[0] for finding in after.findings][:1] == ["track1_train.csv"]


def test_second_label_table_is_reported(corpus: Path, read: Read) -> None:
    (corpus / "track1_train.csv").write_text("name,discrete\ns_5,sad\n")
    listing = read(corpus, "mer")
    assert listing.clips[4].given_label == ""
    assert count_by_kind(listing.findings)["unused_table"] == 1


def test_sample_layout_has_gold_and_groups(corpus: Path, read: Read) -> None:
    (corpus / "gold.csv").write_text("name,discrete\ns_1,sad\ns_3,angry\n")
    (corpus / "groups.csv").write_text("name,group\ns_1,anna\ns_9,ben\n")
    listing = read(corpus, "sample")
    assert listing.synthetic
    assert [(clip.given_label, clip.gold_label, clip.group) for clip in listing.clips[:3]] == [
        ("happy", "sad", "anna"),
        ("sad", "", ""),
        ("", "angry", ""),
    ]
    assert count_by_kind(listing.findings)["group_without_clip"] == 1


@pytest.mark.parametrize("name", ["gold.csv", "track1_test_dis.csv", "track1_test.csv"])
def test_each_table_of_gold_labels_is_read(corpus: Path, read: Read, name: str) -> None:
    (corpus / name).write_text("name,discrete\ns_3,angry\n")
    listing = read(corpus, "mer")
    assert {clip.clip_id: clip.gold_label for clip in listing.clips if clip.gold_label} == {"s_3": "angry"}
    assert "unread_files" not in count_by_kind(listing.findings)


@pytest.mark.parametrize(
    "name", ["[1]", "a[b-c]", "-5", "--help", "samplenew3_00012(1)", "a%03d", "a*", "{b}", "s-1.v2"]
)
def test_brackets_and_dashes_in_names_are_kept(tmp_path: Path, make_clip: Any, name: str) -> None:
    make_clip(tmp_path / f"video/{name}.mp4", pictures=3)
    (tmp_path / f"openface_face/{name}").mkdir(parents=True)
    (tmp_path / f"openface_face/{name}/{name}.npy").write_bytes(b"x")
    (tmp_path / "track1_train.csv").write_text(f"name,discrete\n{name}.mp4,sad\n")
    (tmp_path / "subtitle_chieng.csv").write_text(f"name,chinese,english\n{name},x,Hi\n")
    listing = read_corpus(CorpusConfig(kind="mer", root=tmp_path, labels=("sad", "happy")), face_crops=True)
    listing = replace(
        listing,
        findings=[finding for finding in listing.findings if finding.kind not in ("empty_class", "single_label")],
    )
    result = index_corpus(listing, tmp_path / "cache.json", workers=0)
    assert (result.findings, result.quarantined) == ((), {})
    [clip] = result.clips
    assert (clip.clip_id, clip.given_label, clip.transcript, clip.has_video) == (name, "sad", "Hi", True)
    assert clip.face_digest


def test_labels_of_organisers_are_gold(corpus: Path, read: Read) -> None:
    (corpus / "track1_test_dis.csv").write_text("name,discrete\ns_3,angry\ns_4,sad\n")
    assert [clip.gold_label for clip in read(corpus, "mer").clips] == ["", "", "angry", "sad", ""]


def test_candidate_with_label_is_not_trained_on(corpus: Path, read: Read) -> None:
    (corpus / "track1_train_disdim.csv").write_text("name,discrete\ns_1,happy\ns_3,sad\n")
    listing = read(corpus, "mer")
    assert listing.clips[2] == clip("s_3", "video/s_3.mp4", gold_label="sad", split=Split.CANDIDATE)
    assert count_by_kind(listing.findings)["conflicting_split"] == 1


def test_names_without_file_are_listed(corpus: Path, read: Read) -> None:
    for name in ("s_1", "s_4"):
        (corpus / "video" / f"{name}.mp4").unlink()
    listing = read(corpus, "mer")
    assert [clip.path for clip in listing.clips[:1]] == [""]
    assert listing.candidate_order == ("s_4", "s_3")
    assert count_by_kind(listing.findings) == {
        "candidate_without_file": 1,
        "empty_class": 4,
        "file_without_label": 1,
        "label_without_file": 1,
    }


def test_corpus_without_media_is_listed(corpus: Path, read: Read) -> None:
    for path in (corpus / "video").iterdir():
        path.unlink()
    (corpus / "video").rmdir()
    listing = read(corpus, "mer")
    assert [(clip.clip_id, clip.path) for clip in listing.clips] == [(f"s_{i}", "") for i in (1, 2, 3, 4)]
    assert count_by_kind(listing.findings) == {"no_media": 4, "empty_class": 4}


def test_media_without_tables_are_listed(corpus: Path, read: Read) -> None:
    for path in corpus.glob("*.csv"):
        path.unlink()
    listing = read(corpus, "mer")
    assert {clip.split for clip in listing.clips} == {Split.UNLABELED}
    assert count_by_kind(listing.findings) == {"no_labels": 5}


def test_prefix_mismatch_is_reported(corpus: Path, read: Read) -> None:
    for i in range(1, 6):
        (corpus / "video" / f"samplenew3_{i:04d}.mp4").write_bytes(b"x")
    names = [f"samplenew4_{i:04d}" for i in range(1, 7)]
    (corpus / "track_all_candidates.csv").write_text("\n".join(["name", *names]))
    listing = read(corpus, "mer")
    [finding] = [f for f in listing.findings if f.kind == "prefix_mismatch"]
    assert finding.count == 5
    assert "'samplenew4_'" in finding.message
    assert "'samplenew3_'" in finding.message
    assert count_by_kind(listing.findings)["candidate_without_file"] == 6


def test_other_missing_files_are_no_prefix_mismatch(corpus: Path, read: Read) -> None:
    names = [f"t_{i}" for i in range(100, 120)]
    (corpus / "track_all_candidates.csv").write_text("\n".join(["name", *names]))
    assert "prefix_mismatch" not in count_by_kind(read(corpus, "mer").findings)


def test_few_shared_numbers_are_no_prefix_mismatch(corpus: Path, read: Read) -> None:
    for i in (100, 101, 102):
        (corpus / "video" / f"s_{i}.mp4").write_bytes(b"x")
    names = [f"t_{i}" for i in range(100, 120)]
    (corpus / "track_all_candidates.csv").write_text("\n".join(["name", *names]))
    assert "prefix_mismatch" not in count_by_kind(read(corpus, "mer").findings)


def test_duplicate_candidates_are_listed_once(corpus: Path, read: Read) -> None:
    (corpus / "track_all_candidates.csv").write_text("name\ns_4\ns_3\ns_4\ns/../s_5\n")
    listing = read(corpus, "mer")
    assert listing.candidate_order == ("s_4", "s_3")
    counts = count_by_kind(listing.findings)
    assert (counts["duplicate_row"], counts["bad_clip_id"]) == (1, 1)


def test_unknown_label_leaves_the_clip_unlabeled(corpus: Path, read: Read) -> None:
    (corpus / "track1_train_disdim.csv").write_text("name,discrete\ns_1,happy\ns_2,worryed\n")
    listing = read(corpus, "mer")
    assert listing.clips[1] == clip("s_2", "video/s_2.mp4", split=Split.UNLABELED)
    [finding] = [f for f in listing.findings if f.kind == "unknown_label"]
    assert "did you mean 'worried'?" in finding.message


def test_missing_sample_names_the_command(tmp_path: Path, read: Read) -> None:
    with pytest.raises(CorpusError) as caught:
        read(tmp_path / "sample", "sample")
    assert str(tmp_path / "sample") in caught.value.message
    assert caught.value.command == "ecmf-pipe sample"


def test_empty_folder_and_other_layouts_are_rejected(tmp_path: Path, read: Read) -> None:
    with pytest.raises(CorpusError) as empty:
        read(tmp_path, "mer")
    assert "csv files: none" in empty.value.message
    (tmp_path / "train-label.csv").write_text("name,discrete\n")
    with pytest.raises(CorpusError) as other_table:
        read(tmp_path, "mer")
    assert "'train-label.csv'" in other_table.value.message
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(CorpusError) as other_layout:
        read(tmp_path, "mer")
    assert "corpus.kind" in (other_layout.value.hint or "")


def test_subtitles_without_transcript_column_are_rejected(corpus: Path, read: Read) -> None:
    (corpus / "subtitle_chieng.csv").write_text("name,chinese\ns_1,好\n")
    with pytest.raises(CorpusError) as caught:
        read(corpus, "mer")
    assert "subtitle_chieng.csv" in caught.value.message
    assert "'english'" in caught.value.message


def test_real_clips(shared_data: Path, read: Read) -> None:
    listing = read(shared_data / "clips", "mer")
    assert Counter(clip.split.value for clip in listing.clips) == {"train": 20, "candidate": 12}
    assert [(finding.kind, "SOURCES.csv" in finding.message) for finding in listing.findings] == [
        ("unread_files", True)
    ]
    assert sum(bool(clip.transcript) for clip in listing.clips) == 2
    assert len(read(shared_data / "clips" / "video").clips) == 32
