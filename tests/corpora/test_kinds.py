from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ecmf_pipeline.core.clips import Clip, Half, Split
from ecmf_pipeline.core.errors import CorpusError, ParamsError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.listing import CorpusListing, FindingKind, count_by_kind
from ecmf_pipeline.corpora.registry import read_corpus
from tests.corpora import trees


def listing(kind: str, root: Path, **settings: object) -> CorpusListing:
    return read_corpus(CorpusConfig(kind=kind, root=root, **settings))


def by_id(corpus: CorpusListing) -> Mapping[str, Clip]:
    return {clip.clip_id: clip for clip in corpus.clips}


def labels(corpus: CorpusListing) -> Counter[str]:
    return Counter(clip.given_label or clip.gold_label for clip in corpus.clips)


def findings(corpus: CorpusListing) -> dict[str, int]:
    return count_by_kind(corpus.findings)


def test_ravdess_three_modalities_of_a_take_are_one_clip(tmp_path: Path) -> None:
    corpus = listing("ravdess", trees.ravdess(tmp_path))
    clips = by_id(corpus)
    assert len(clips) == 66
    film = clips["01-05-01-01-01-03"]
    assert (film.path, film.audio_path) == ("Actor_03/01-01-05-01-01-01-03.mp4", "")
    assert (film.given_label, film.group, film.split) == ("angry", "actor 03", Split.TRAIN)
    assert film.transcript == "Kids are talking by the door."
    silent = clips["02-05-01-01-01-11"]
    assert (silent.path, silent.audio_path) == (
        "Actor_11/02-02-05-01-01-01-11.mp4",
        "Actor_11/03-02-05-01-01-01-11.wav",
    )
    assert corpus.labels == ("neutral", "sad", "angry", "surprise")
    assert findings(corpus) == {FindingKind.UNREAD_FILES: 1}


def test_ravdess_song_has_neither_disgust_nor_surprise(tmp_path: Path) -> None:
    trees.touch(tmp_path, (f"Song/Actor_01/03-02-0{emotion}-01-01-01-01.wav" for emotion in range(1, 7)))
    corpus = listing("ravdess", tmp_path)
    assert corpus.labels == ("neutral", "calm", "happy", "sad", "angry", "fear")
    assert by_id(corpus)["02-01-01-01-01-01"].path.endswith("03-02-01-01-01-01-01.wav")


def test_cremad_prefers_films_and_has_the_votes_of_people(tmp_path: Path) -> None:
    corpus = listing("cremad", trees.cremad(tmp_path))
    clips = by_id(corpus)
    assert len(clips) == 67
    clip = clips["1002_DFA_SAD_XX"]
    assert (clip.path, clip.audio_path) == ("VideoFlash/1002_DFA_SAD_XX.flv", "AudioWAV/1002_DFA_SAD_XX.wav")
    assert (clip.given_label, clip.group, clip.transcript) == ("sad", "actor 1002", "Don't forget a jacket.")
    assert clips["1040_ITH_SAD_XX"].path == "AudioWAV/1040_ITH_SAD_X.wav"
    assert corpus.votes["crowd/voice"]["1002_DFA_SAD_XX"] == {"angry": 1.0}
    assert corpus.votes["crowd/face"]["1002_DFA_SAD_XX"] == {"angry": 0.5, "neutral": 0.5}
    assert len(corpus.votes["crowd/both"]) == 66


def test_cremad_ties_of_the_summary_are_votes_in_equal_parts(tmp_path: Path) -> None:
    (trees.cremad(tmp_path) / "processedResults/tabulatedVotes.csv").unlink()
    corpus = listing("cremad", tmp_path)
    assert corpus.votes["crowd/face"] == {"1001_DFA_ANG_XX": {"angry": 0.5, "neutral": 0.5}}
    assert corpus.votes["crowd/voice"] == {"1001_DFA_ANG_XX": {"angry": 1.0}}


def test_votes_on_emotions_without_label_are_left_out(tmp_path: Path) -> None:
    corpus = listing("cremad", trees.cremad(tmp_path), mapping={"neutral": "calm", "Sad": "sad"})
    assert corpus.labels == ("calm", "sad")
    assert corpus.votes["crowd/face"]["1002_DFA_SAD_XX"] == {"calm": 1.0}
    assert "crowd/voice" not in corpus.votes


def test_iemocap_clips_are_parts_of_the_film_of_their_dialogue(tmp_path: Path) -> None:
    corpus = listing("iemocap", trees.iemocap(tmp_path))
    assert len(corpus.clips) == 150
    clip = by_id(corpus)["Ses02F_impro01_F002"]
    assert (clip.path, clip.start, clip.end) == ("Session2/dialog/avi/DivX/Ses02F_impro01.avi", 2.25, 3.12)
    assert clip.audio_path == "Session2/dialog/wav/Ses02F_impro01.wav"
    assert (clip.given_label, clip.group, clip.transcript) == ("happy", "session 2", "Words 2.")
    assert labels(corpus) == {"neutral": 30, "angry": 15, "happy": 30, "sad": 15, "": 60}
    assert by_id(corpus)["Ses02F_impro01_F006"].split is Split.UNLABELED  # the annotators do not agree


@pytest.mark.parametrize(
    ("marked_half", "marked", "other"),
    [("left", Half.LEFT, Half.RIGHT), ("right", Half.RIGHT, Half.LEFT), (None, Half.WHOLE, Half.WHOLE)],
)
def test_iemocap_clips_are_the_half_of_their_speaker(
    tmp_path: Path, marked_half: str | None, marked: Half, other: Half
) -> None:
    clips = by_id(listing("iemocap", trees.iemocap(tmp_path), marked_half=marked_half))
    assert clips["Ses02F_impro01_F002"].half is marked
    assert clips["Ses02F_script01_1_M003"].half is other


@pytest.mark.parametrize(
    ("sentences", "path", "end"),
    [
        (True, "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav", 0.0),
        (False, "Session1/dialog/wav/Ses01F_impro01.wav", 2.12),
    ],
)
def test_iemocap_without_films(tmp_path: Path, path: str, end: float, *, sentences: bool) -> None:
    corpus = listing("iemocap", trees.iemocap(tmp_path, films=False, sentences=sentences))
    clip = by_id(corpus)["Ses01F_impro01_M001"]
    assert (clip.path, clip.end, clip.audio_path, clip.half) == (path, end, "", Half.WHOLE)


def test_iemocap_six_classes_by_params(tmp_path: Path) -> None:
    six = {name: name for name in ("neutral", "angry", "happy", "excited", "sad", "frustrated")}
    corpus = listing("iemocap", trees.iemocap(tmp_path), mapping=six)
    assert labels(corpus) == {
        "neutral": 30,
        "angry": 15,
        "happy": 15,
        "excited": 15,
        "sad": 15,
        "frustrated": 15,
        "": 45,
    }


def test_mosei_clips_are_parts_of_films(tmp_path: Path) -> None:
    corpus = listing("mosei", trees.mosei(tmp_path))
    clips = by_id(corpus)
    assert len(clips) == 150
    last, first = clips["film03-_x_0"], clips["film03-_x_1"]
    assert (last.path, last.start, last.end) == ("Raw/Videos/Full/Combined/film03-_x.mp4", 19.916, 24.0)
    assert (last.transcript, last.given_label, last.group) == ("Part 4.", "negative", "film03-_x")
    assert (first.start, first.transcript, first.given_label) == (0.0, "Part 0.", "negative")
    assert clips["film03-_x_2"].given_label == "neutral"
    assert Counter(clip.split for clip in corpus.clips) == {Split.TRAIN: 70, Split.CANDIDATE: 70, Split.UNLABELED: 10}
    assert clips["film20-_x_4"].gold_label == "positive"
    assert len(corpus.candidate_order) == 70
    assert findings(corpus) == {FindingKind.CONFLICTING_SPLIT: 10, FindingKind.MALFORMED_TIME: 30}


def test_mosei_emotions_name_ties_and_clips_without_any(tmp_path: Path) -> None:
    corpus = listing("mosei", trees.mosei(tmp_path, folds=False), target="emotion")
    assert labels(corpus) == {"sad": 30, "happy": 30, "angry": 30, "": 60}
    found = [f.message for f in corpus.findings if f.kind is FindingKind.UNKNOWN_LABEL]
    assert len(found) == 2
    assert "30 clips with equally strong emotions: 'film00-_x_1'" in found[0]
    assert corpus.splits.startswith("no published split")


def test_mosei_cut_films_without_the_whole_ones(tmp_path: Path) -> None:
    for film in (trees.mosei(tmp_path) / "Raw/Videos/Full/Combined").iterdir():
        film.unlink()
    clip = by_id(listing("mosei", tmp_path))["film03-_x_0"]
    assert (clip.path, clip.end) == ("Raw/Videos/Segmented/Combined/film03-_x_4.mp4", 0.0)


@pytest.mark.parametrize("kind", ["mosi", "table"])
def test_files_without_a_row_are_reported(tmp_path: Path, kind: str) -> None:
    if kind == "mosi":
        trees.mosi(tmp_path)
    else:
        trees.write_table(tmp_path / "labels.csv", "path,label", [("a.mp4", "joy"), ("b.mp4", "anger")])
        trees.touch(tmp_path, ["a.mp4", "b.mp4", "c.wav"])
    unread = [one for one in listing(kind, tmp_path).findings if one.kind is FindingKind.UNREAD_FILES]
    assert [one.count for one in unread] == [1]
    assert ("11.mp4" if kind == "mosi" else "c.wav") in unread[0].message


def test_mosi_in_the_layout_of_mmsa(tmp_path: Path) -> None:
    rows = [("03bSnISJMiM", n, "WORDS", score, "", "", "", "x", "train") for n, score in enumerate((-3, 0.0, 2.4))]
    trees.write_table(
        tmp_path / "label.csv", "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode", rows
    )
    trees.touch(tmp_path, (f"Raw/03bSnISJMiM/{n}.mp4" for n in range(3)))
    corpus = listing("mosi", tmp_path)
    assert [clip.given_label for clip in corpus.clips] == ["negative", "neutral", "positive"]
    assert corpus.clips[1].path == "Raw/03bSnISJMiM/1.mp4"
    assert not corpus.votes


@pytest.mark.parametrize("zeros", [True, False])
def test_chsims_keeps_zero_padding_and_published_splits(tmp_path: Path, *, zeros: bool) -> None:
    corpus = listing("chsims", trees.chsims(tmp_path, zeros=zeros))
    clip = by_id(corpus)["video_0002_0004"]
    assert (clip.path, clip.given_label, clip.group) == ("Raw/video_0002/0004.mp4", "positive", "video_0002")
    assert clip.transcript == "我不想嫁给李茶"
    assert by_id(corpus)["video_0002_0003"].given_label == "neutral"  # a score that equals a threshold
    assert by_id(corpus)["video_0002_0001"].given_label == "negative"
    assert Counter(clip.split for clip in corpus.clips) == {Split.TRAIN: 149, Split.CANDIDATE: 50, Split.UNLABELED: 1}
    assert {source: votes[clip.clip_id] for source, votes in corpus.votes.items()} == {
        "people/text": {"negative": 1.0},
        "people/audio": {"neutral": 1.0},
        "people/video": {"positive": 1.0},
    }


def test_chsims_v2_has_clip_numbers_of_five_digits(tmp_path: Path) -> None:
    trees.write_table(tmp_path / "meta.csv", "video_id,clip_id,text,label,label_T", [("aqgy4_0004", 23, "Hi", 0.4, 0)])
    trees.touch(tmp_path, ["Raw/aqgy4_0004/00023.mp4"])
    [clip] = listing("chsims", tmp_path).clips
    assert (clip.clip_id, clip.path) == ("aqgy4_0004_00023", "Raw/aqgy4_0004/00023.mp4")


def test_thresholds_make_other_classes(tmp_path: Path) -> None:
    trees.chsims(tmp_path)
    assert listing("chsims", tmp_path, thresholds=[0]).labels == ("negative", "positive")
    five = listing("chsims", tmp_path, thresholds=[-0.7, -0.1, 0.1, 0.7])
    assert five.labels == ("negative", "weakly negative", "neutral", "positive")
    named = listing("chsims", tmp_path, thresholds=[-0.5, 0, 0.05, 0.5], labels=["--", "-", "0", "+", "++"])
    assert labels(named) == {"--": 40, "-": 79, "+": 40, "++": 40, "": 1}
    with pytest.raises(ParamsError) as caught:
        listing("chsims", tmp_path, thresholds=[-0.5, 0, 0.5])
    assert "corpus.thresholds" in caught.value.keys


def test_emodb_letters_speakers_and_texts(tmp_path: Path) -> None:
    corpus = listing("emodb", trees.emodb(tmp_path))
    assert len(corpus.clips) == 203
    clip = by_id(corpus)["16b10Wb"]
    assert (clip.path, clip.given_label, clip.group) == ("wav/16b10Wb.WAV", "angry", "speaker 16")
    assert clip.transcript.startswith("Die wird auf dem Platz")
    assert by_id(corpus)["03a01F"].given_label == "happy"
    assert set(corpus.labels) == {"angry", "bored", "disgust", "fear", "happy", "sad", "neutral"}
    assert findings(corpus) == {FindingKind.UNREAD_FILES: 1}


def test_tess_twice_on_disk_is_read_once(tmp_path: Path) -> None:
    corpus = listing("tess", trees.tess(tmp_path))
    clips = by_id(corpus)
    assert len(clips) == 98
    assert (clips["OA_bite_neutral"].group, clips["OAF_back_ps"].group) == ("speaker OAF", "speaker OAF")
    assert (clips["YAF_back_ps"].given_label, clips["YAF_back_ps"].group) == ("surprise", "speaker YAF")
    assert clips["YAF_back_ps"].transcript.endswith("the word back.")
    assert findings(corpus) == {FindingKind.DUPLICATE_CLIP: 98}


@pytest.mark.parametrize("flat", [True, False])
def test_savee_film_and_sound_of_a_sentence_are_one_clip(tmp_path: Path, *, flat: bool) -> None:
    corpus = listing("savee", trees.savee(tmp_path, flat=flat))
    clip = by_id(corpus)["DC_sa02"]
    assert len(corpus.clips) == 140
    assert (clip.given_label, clip.group) == ("sad", "speaker DC")
    expected = ("DC_sa02.wav", "") if flat else ("AudioVisualClip/DC/sa02.avi", "AudioData/DC/sa02.wav")
    assert (clip.path, clip.audio_path) == expected


def test_table_with_columns_named_in_params(tmp_path: Path) -> None:
    corpus = listing("table", trees.table(tmp_path), columns={"label": "emotion"})
    clips = by_id(corpus)
    assert len(clips) == 801
    clip = clips["rec__007_0004"]
    assert (clip.path, clip.start, clip.end, clip.group) == ("rec/007.mp4", 3.0, 3.9, "s2")
    assert (clip.split, clip.given_label, clip.gold_label, clip.transcript) == (Split.CANDIDATE, "", "anger", "Hi")
    assert corpus.labels == ("anger", "joy")
    assert findings(corpus) == {FindingKind.LABEL_WITHOUT_FILE: 1, FindingKind.MALFORMED_TIME: 1}


def test_table_names_columns_that_it_does_not_read(tmp_path: Path) -> None:
    corpus = listing("table", trees.table(tmp_path))
    [unused] = [f for f in corpus.findings if f.kind is FindingKind.UNUSED_COLUMN]
    assert "'emotion'" in unused.message
    with pytest.raises(CorpusError):
        listing("table", tmp_path, columns={"label": "emotions"})


TREES: Mapping[str, Callable[[Path], Path]] = {
    kind: getattr(trees, kind)
    for kind in ("ravdess", "cremad", "iemocap", "chsims", "mosei", "emodb", "tess", "savee", "table")
}


@pytest.mark.parametrize(
    ("wrong", "kind"), [*itertools.pairwise([*TREES, "ravdess"]), ("meld", "savee"), ("mer", "mosei")]
)
def test_a_wrong_kind_is_one_error_with_the_kind_that_fits(tmp_path: Path, wrong: str, kind: str) -> None:
    TREES[kind](tmp_path)
    with pytest.raises(CorpusError) as caught:
        listing(wrong, tmp_path)
    assert caught.value.hint == f"set corpus.kind in params.yaml to {kind}"
    assert f"fits kind {kind}" in caught.value.message


def test_a_wrong_folder_is_described(tmp_path: Path) -> None:
    trees.touch(tmp_path, ["notes/a.txt", "notes/b.txt", "c.pdf"])
    with pytest.raises(CorpusError, match=r"RAVDESS.*Actor_12.*2 \.txt such as 'notes/a.txt', 1 \.pdf") as caught:
        listing("ravdess", tmp_path)
    assert "corpus.root" in str(caught.value.hint)


def test_a_folder_without_labels_that_is_a_published_corpus_is_named(tmp_path: Path) -> None:
    corpus = listing("folder", trees.tess(tmp_path))
    assert any("set corpus.kind to tess" in f.message for f in corpus.findings if f.kind is FindingKind.NO_LABELS)
    trees.touch(tmp_path / "other", ["a.mp4", "b.mp4"])
    assert not any("corpus.kind" in f.message for f in listing("folder", tmp_path / "other").findings)


def test_mapping_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        listing("emodb", trees.emodb(tmp_path), mapping={"joyful": "happy"})
    assert caught.value.keys == ("corpus.mapping",)


def table_of(root: Path, header: str, *rows: tuple[object, ...]) -> CorpusListing:
    trees.write_table(root / "labels.csv", header, rows)
    trees.touch(root, ["a.mp4", "b.mp4"])
    return listing("table", root)


def test_paths_of_a_table_stay_in_the_corpus_folder(tmp_path: Path) -> None:
    rows = ((tmp_path / "a.mp4", "joy"), ("c/../b.mp4", "sad"), ("../x.mp4", "joy"), ("/etc/y.mp4", "joy"))
    corpus = table_of(tmp_path, "path,label", *rows)
    assert {clip_id: clip.path for clip_id, clip in by_id(corpus).items()} == {
        "a": "a.mp4", "b": "b.mp4", "x": "", "etc__y": "",
    }  # fmt: skip
    assert any("outside of the corpus folder: '../x.mp4', '/etc/y.mp4'" in f.message for f in corpus.findings)


def test_a_clip_with_two_labels_has_none(tmp_path: Path) -> None:
    corpus = table_of(tmp_path, "path,label", ("a.mp4", "joy"), ("./a.mp4", "sad"), ("b.mp4", "sad"), ("b.mp4", "sad"))
    assert [(clip.given_label, clip.split) for clip in corpus.clips] == [
        ("", Split.UNLABELED), ("sad", Split.TRAIN),
    ]  # fmt: skip
    assert findings(corpus)[FindingKind.CONFLICTING_ROW] == 1
    assert findings(corpus)[FindingKind.DUPLICATE_ROW] == 2


@pytest.mark.parametrize("name", ["labels.csv", "label.csv"])
def test_a_table_without_rows_is_an_error(name: str, tmp_path: Path) -> None:
    trees.write_table(tmp_path / name, "path,video_id,clip_id,label", [])
    trees.touch(tmp_path, ["a.mp4"])
    with pytest.raises(CorpusError, match="has no rows"):
        listing("table" if name == "labels.csv" else "mosi", tmp_path)


def test_damaged_words_and_folds_of_the_sdk(tmp_path: Path) -> None:
    trees.mosei(tmp_path)
    words = "film00-_x___0___abc___4___Lost\nfilm00-_x___0___-0.084___4___Kept"
    trees.touch(tmp_path, ["Raw/Transcript/Segmented/Combined/film00-_x.txt"], words)
    assert by_id(listing("mosei", tmp_path))["film00-_x_1"].transcript == "Kept"
    for folds in ("standard_test_fold = [1\n", "standard_test_fold = names()\n", "standard_test_fold = 3\n"):
        trees.touch(tmp_path, ["cmu_mosei_std_folds.py"], folds)
        with pytest.raises(CorpusError, match="folds of the SDK"):
            listing("mosei", tmp_path)


def test_scores_and_times_that_are_no_numbers_are_not_used(tmp_path: Path) -> None:
    import h5py
    import numpy as np

    trees.touch(tmp_path, ["v.mp4"])
    with h5py.File(tmp_path / "CMU_MOSEI_Labels.csd", "w") as file:
        times = [[0, 1], [1, np.nan], [np.nan, 2], [2, np.inf], [3, 4]]
        file["All Labels/data/v/intervals"] = np.array(times)
        file["All Labels/data/v/features"] = np.array([[np.nan] + [0] * 6, *[[3.0] + [0] * 6] * 4])
    corpus = listing("mosei", tmp_path)
    assert [(clip.clip_id, clip.given_label) for clip in corpus.clips] == [("v_0", ""), ("v_4", "positive")]
    assert findings(corpus)[FindingKind.MALFORMED_TIME] == 3


def test_chsims_rows_without_video_or_clip_are_reported(tmp_path: Path) -> None:
    rows = [("video_0001", "0001", "Hi", "inf"), ("video_0001", "", "Hi", 1), ("", "0002", "Hi", 1)]
    trees.write_table(tmp_path / "label.csv", "video_id,clip_id,text,label", rows)
    trees.touch(tmp_path, ["Raw/video_0001/0001.mp4"])
    corpus = listing("chsims", tmp_path)
    assert [(clip.clip_id, clip.given_label) for clip in corpus.clips] == [("video_0001_0001", "")]
    assert findings(corpus)[FindingKind.MALFORMED_ROW] == 3
