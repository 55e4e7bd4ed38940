from __future__ import annotations

from pathlib import Path

import pytest

from ecmf_pipeline.core.clips import Split
from ecmf_pipeline.core.errors import CorpusError, ParamsError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.listing import FindingKind, count_by_kind
from ecmf_pipeline.corpora.registry import read_corpus
from ecmf_pipeline.stages.index import run as index

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"


def write(root: Path, part: str, *rows: tuple[str, str, str, object, object]) -> None:
    lines = [
        f'{n},"{text}",{speaker},{emotion},x,{d},{u},1,1,1,2\n' for n, (text, speaker, emotion, d, u) in enumerate(rows)
    ]
    (root / f"{part}_sent_emo.csv").write_text(HEADER + "".join(lines))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "train",
        ("Oh, no.", "Joey", "sadness", 0, 0),
        ("Eww!", "Rachel", "disgust", 0, 1),
        ("Hey.", "Joey", "joy", 10, 0),
        ("Again", "Joey", "joy", 10, 0),
        ("Lost", "Joey", "joy", "x", 0),
    )
    write(tmp_path, "dev", ("Run!", "Monica", "fear", 0, 0))
    write(tmp_path, "test", ("Zed", "Ross", "anger", 2, 0), ("What?", "Ross", "disgust", 1, 0))
    return tmp_path


def listing(root: Path, **settings: object):
    return read_corpus(CorpusConfig(kind="meld", root=root, **settings))


def test_three_parts_form_one_corpus(root: Path) -> None:
    corpus = listing(root)
    by_id = {clip.clip_id: clip for clip in corpus.clips}
    assert list(by_id) == [
        "dev_dia0_utt0", "test_dia1_utt0", "test_dia2_utt0", "train_dia0_utt0", "train_dia0_utt1", "train_dia10_utt0",
    ]  # fmt: skip
    first = by_id["train_dia0_utt0"]
    assert (first.given_label, first.gold_label, first.split) == ("sad", "", Split.TRAIN)
    assert (first.transcript, first.group, first.path) == ("Oh, no.", "train_dia0", "")
    assert by_id["dev_dia0_utt0"].given_label == "worried"
    assert by_id["dev_dia0_utt0"].group == "dev_dia0"
    disgust = by_id["train_dia0_utt1"]
    assert (disgust.given_label, disgust.split) == ("", Split.UNLABELED)
    test = by_id["test_dia2_utt0"]
    assert (test.given_label, test.gold_label, test.split) == ("", "angry", Split.CANDIDATE)
    assert corpus.candidate_order == ("test_dia2_utt0", "test_dia1_utt0")
    assert corpus.labels == ("neutral", "angry", "happy", "sad", "worried", "surprise")


def test_findings_are_counted(root: Path) -> None:
    corpus = listing(root)
    assert count_by_kind(corpus.findings) == {
        FindingKind.DUPLICATE_ROW.value: 1,
        FindingKind.EMPTY_CLASS.value: 2,
        FindingKind.GOLD_LABEL_NOT_GIVEN.value: 1,
        FindingKind.MALFORMED_ROW.value: 1,
        FindingKind.NO_MEDIA.value: 6,
        FindingKind.UNKNOWN_LABEL.value: 2,
    }
    [message] = {finding.message for finding in corpus.findings if finding.kind is FindingKind.UNKNOWN_LABEL}
    assert "'disgust'" in message
    assert "corpus.mapping" in message


def test_meld_clips_are_found_in_the_folder_of_their_part(root: Path) -> None:
    for path in ("train_splits/dia0_utt0.mp4", "MELD/output_repeated_splits_test/dia2_utt0.mp4", "dia0_utt0.mp4"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"clip")
    corpus = listing(root)
    paths = {clip.clip_id: clip.path for clip in corpus.clips if clip.path}
    assert paths == {
        "train_dia0_utt0": "train_splits/dia0_utt0.mp4",
        "test_dia2_utt0": "MELD/output_repeated_splits_test/dia2_utt0.mp4",
    }
    assert count_by_kind(corpus.findings)[FindingKind.LABEL_WITHOUT_FILE.value] == 4


def test_a_csv_file_may_be_in_the_folder_of_its_part(root: Path) -> None:
    (root / "train").mkdir()
    (root / "train_sent_emo.csv").rename(root / "train/train_sent_emo.csv")
    corpus = listing(root)
    assert len(corpus.clips) == 6
    assert FindingKind.UNREAD_FILES not in count_by_kind(corpus.findings)


def test_custom_mapping_and_groups_are_used(root: Path) -> None:
    mapping = {"joy": "up", "sadness": "down", "fear": "down", "anger": "down", "disgust": "down"}
    corpus = listing(root, mapping=mapping, groups="speaker")
    assert corpus.labels == ("down", "up")
    by_id = {clip.clip_id: clip for clip in corpus.clips}
    assert by_id["train_dia0_utt1"].given_label == "down"
    assert by_id["train_dia0_utt1"].group == "Rachel"
    assert by_id["test_dia1_utt0"].gold_label == "down"


def test_emotion_mapping_ignores_case_and_rejects_unknown_emotions(root: Path) -> None:
    assert listing(root, mapping={"Joy": "happy", "SADNESS": "sad", "surprise": ""}).labels[2] == "happy"
    by_id = {clip.clip_id: clip for clip in listing(root, mapping={"Joy": "happy", "ANGER": "angry"}).clips}
    assert by_id["train_dia10_utt0"].given_label == "happy"
    with pytest.raises(ParamsError) as unknown:
        listing(root, mapping={"joi": "happy", "sadness": "sad", "rage": "angry"})
    assert unknown.value.keys == ("corpus.mapping",)
    assert "'joi'" in unknown.value.message
    assert "'rage'" in unknown.value.message
    assert "sadness" not in unknown.value.message
    assert "anger, disgust, fear, joy, sadness" in (unknown.value.hint or "")
    with pytest.raises(ParamsError) as repeated:
        listing(root, mapping={"joy": "happy", "Joy": "surprise"})
    assert repeated.value.keys == ("corpus.mapping",)
    assert "'joy', 'Joy'" in repeated.value.message


def test_custom_labels_are_printed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printing the labels reveals typing errors, which would become classes."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    summaries = []
    for mapping in ("{Joy: happy, anger: angry, sadness: sadd}", "{joy: happy, anger: angry, sadness: sad}"):
        (project / "params.yaml").write_text(f"corpus: {{kind: meld, root: {root}, mapping: {mapping}}}\n")
        index()
        summaries.append(capsys.readouterr().out.splitlines()[0])
    assert summaries[0].endswith("; manifest written; labels: angry, happy, sadd")
    assert summaries[1].endswith("; manifest written")


def test_folder_without_meld_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        listing(tmp_path)
    assert "train_sent_emo.csv" in caught.value.message
    assert caught.value.hint


def test_real_meld_csv_files_are_listed(shared_data: Path) -> None:
    corpus = listing(shared_data / "meld")
    assert len(corpus.clips) == 9989 + 1109 + 2610
    assert len(corpus.candidate_order) == 2610
    assert count_by_kind(corpus.findings) == {
        FindingKind.MALFORMED_TIME.value: 1,  # an utterance of the test part ends when it starts
        FindingKind.NO_MEDIA.value: 13708,
        FindingKind.UNKNOWN_LABEL.value: 361,
    }


def test_media_files_with_other_names_are_an_error(root: Path) -> None:
    for name in ("train/scene_1.mp4", "dia0_utt0.mp4"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    with pytest.raises(CorpusError) as caught:
        listing(root)
    assert all(part in caught.value.message for part in ("2 media files", "'train/scene_1.mp4'"))
    (root / "train" / "dia0_utt0.mp4").write_bytes(b"x")
    assert count_by_kind(listing(root).findings)["unread_files"] == 2
