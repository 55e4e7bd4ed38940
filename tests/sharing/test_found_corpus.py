from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.registry import read_corpus
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.sharing.found_corpus import find_corpus, write_corpus
from tests.corpora import trees

TREES = ("ravdess", "cremad", "iemocap", "mosei", "chsims", "emodb", "tess", "savee", "table")


@pytest.mark.parametrize("kind", TREES)
def test_params_of_a_recognised_corpus_can_be_read(
    kind: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = getattr(trees, kind)(tmp_path / 'my "corpus" # 1')
    found = find_corpus(root)
    shutil.copyfile(repository / "params.yaml", tmp_path / "params.yaml")
    write_corpus(tmp_path / "params.yaml", found.config)
    monkeypatch.chdir(tmp_path)
    corpus = load_params().corpus
    assert (corpus.kind, corpus.root) == (kind, root)
    assert len(read_corpus(corpus).labels) >= 2
    before, after = ((folder / "params.yaml").read_text().splitlines() for folder in (repository, tmp_path))
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == (3 if kind in {"iemocap", "table"} else 2)
    assert all(old.partition("  #")[2].strip() == new.rpartition("  #")[2].strip() for old, new in changed)
    assert sum(line.startswith("found ") for line in found.lines) == 1


def test_groups_labels_votes_and_what_is_left_out_are_listed(tmp_path: Path) -> None:
    lines = "\n".join(find_corpus(trees.cremad(tmp_path)).lines)
    for text in (
        "67 clips of 67 files",
        "sad (12)",
        "12 groups (actor)",
        "votes of crowd/face: 66 clips",
        "MP3 copies",
    ):
        assert text in lines


def test_git_lfs_pointers_are_named(tmp_path: Path) -> None:
    trees.touch(tmp_path, [f"AudioWAV/1001_DFA_{emotion}_XX.wav" for emotion in ("ANG", "SAD")], trees.LFS_POINTER)
    assert any("git lfs pull" in line for line in find_corpus(tmp_path).lines)


@pytest.mark.parametrize(
    ("paths", "kind"),
    [
        (["train_sent_emo.csv"], "meld"),
        (["track1_train_disdim.csv", "video/a.mp4"], "mer"),
        (["a/x.mp4", "b/y.wav"], "folder"),
        (["deep/er/Actor_01/03-01-01-01-01-01-01.wav"], "ravdess"),
    ],
)
def test_other_layouts_are_recognised(paths: list[str], kind: str, tmp_path: Path) -> None:
    header = "utterance,speaker,emotion,dialogue_id,utterance_id\nHi,Joey,joy,0,0\n"
    trees.touch(tmp_path, paths, "name,discrete\na,sad\n" if kind == "mer" else header)
    assert find_corpus(tmp_path).config.kind == kind


def test_a_folder_without_corpus_lists_what_it_holds_and_the_layouts(tmp_path: Path) -> None:
    trees.touch(tmp_path, ["notes/a.txt"])
    with pytest.raises(CorpusError, match=r"1 \.txt such as 'notes/a.txt'") as caught:
        find_corpus(tmp_path)
    assert "ravdess: files such as" in str(caught.value.hint)


def upper_case(root: Path) -> Path:
    for path in [path for path in root.rglob("*") if path.is_file() and path.suffix != ".py"]:
        path.rename(path.with_suffix(path.suffix.upper()))
    return root


@pytest.mark.parametrize("kind", TREES)
def test_extensions_in_upper_case_change_nothing(kind: str, tmp_path: Path) -> None:
    root = getattr(trees, kind)(tmp_path / kind)
    before = read_corpus(find_corpus(root).config)
    after = read_corpus(find_corpus(upper_case(root)).config)
    assert [(c.clip_id, c.given_label, c.group, c.transcript, bool(c.path), c.end) for c in after.clips] == [
        (c.clip_id, c.given_label, c.group, c.transcript, bool(c.path), c.end) for c in before.clips
    ]
    assert after.votes == before.votes


@pytest.mark.parametrize("kind", TREES)
def test_a_corpus_two_folders_deeper_is_found(kind: str, tmp_path: Path) -> None:
    getattr(trees, kind)(tmp_path / kind / "archive" / "data")
    listing = read_corpus(find_corpus(tmp_path / kind).config)
    there = read_corpus(find_corpus(tmp_path / kind / "archive" / "data").config)
    assert [(clip.clip_id, clip.given_label) for clip in listing.clips] == [
        (clip.clip_id, clip.given_label) for clip in there.clips
    ]
    assert sum(bool(clip.path) for clip in listing.clips) == sum(bool(clip.path) for clip in there.clips)


@pytest.mark.parametrize("below", ["Session1", "Session1/dialog"])
def test_a_session_of_iemocap_is_found(below: str, tmp_path: Path) -> None:
    clips = read_corpus(find_corpus(trees.iemocap(tmp_path) / below).config).clips
    assert len(clips) == 30
    assert all(clip.path.endswith(".avi") and clip.transcript for clip in clips)


def test_the_folder_of_one_speaker_of_savee_is_found(tmp_path: Path) -> None:
    listing = read_corpus(find_corpus(trees.savee(tmp_path) / "AudioData/KL").config)
    assert len(listing.clips) == 35
    assert {(clip.group, clip.clip_id[:3]) for clip in listing.clips} == {("speaker KL", "KL_")}


MMSA = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode"


@pytest.mark.parametrize(
    ("name", "row", "kind"),
    [
        ("CMU-MOSI", ("03bSnISJMiM", 0, "Hi", -2.4, "", "", "", "x", "train"), "mosi"),
        ("MOSEI", ("03bSnISJMiM", 0, "Hi", -2.4, "", "", "", "x", "train"), "mosei"),
        ("a", ("03bSnISJMiM", 0, "Hi", -2.4, "", "", "", "x", "train"), None),
        ("a", ("video_0001", 0, "Hi", 1, "", "", "", "x", "train"), "chsims"),
        ("a", ("aqgy4_0004", 0, "Hi", 1, 0.2, "", "", "x", "train"), "chsims"),
        ("a", ("x", 0, "Hi", "happy", "", "", "", "x", "train"), "folder"),
    ],
)
def test_tables_of_sentiment_are_told_apart(name: str, row: tuple[object, ...], kind: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="corpora") as folder:  # the name of the test is not part of the path
        root = Path(folder) / "x" / name
        trees.write_table(root / "label.csv", MMSA, [row])
        trees.touch(root, [f"Raw/{row[0]}/0.mp4"])
        if kind:
            assert find_corpus(root).config.kind == kind
            return
        with pytest.raises(CorpusError, match="mosi or mosei"):
            find_corpus(root)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("Path;Emotion\na.mp4;joy\nb.mp4;sad\n", "utf-8-sig"),
        ("path\tlabel\na.mp4\tjoy\nb.mp4\tsad\n", "utf-8"),
        ("path,label\na.mp4,joy\nb.mp4,sad\n", "utf-16"),
    ],
)
def test_tables_of_spreadsheets_are_recognised(content: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(content, encoding=encoding)
    trees.touch(tmp_path, ["a.mp4", "b.mp4"])
    clips = read_corpus(find_corpus(tmp_path).config).clips
    assert [(clip.path, clip.given_label) for clip in clips] == [("a.mp4", "joy"), ("b.mp4", "sad")]


def test_a_table_in_a_folder_below_names_files_of_the_corpus_folder(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "corpus"
    trees.write_table(root / "meta/labels.csv", "path,label", [("clips/a.mp4", "joy"), ("clips/b.mp4", "sad")])
    trees.touch(root, ["clips/a.mp4", "clips/b.mp4"])
    shutil.copyfile(repository / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    write_corpus(Path("params.yaml"), find_corpus(Path("corpus")).config)
    config = load_params().corpus
    assert (config.root, config.table) == (root, "meta/labels.csv")
    assert [clip.path for clip in read_corpus(config).clips] == ["clips/a.mp4", "clips/b.mp4"]


def test_a_column_mode_without_splits_is_no_split(tmp_path: Path) -> None:
    trees.write_table(tmp_path / "labels.csv", "path,label,mode", [("a.mp4", "joy", "film"), ("b.mp4", "sad", "film")])
    trees.touch(tmp_path, ["a.mp4", "b.mp4"])
    assert "split" not in find_corpus(tmp_path).config.columns


def test_a_home_folder_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    trees.savee(tmp_path / "SAVEE")
    assert find_corpus(Path("~/SAVEE")).config.root == (tmp_path / "SAVEE").resolve()
    with pytest.raises(CorpusError, match="is not a folder"):
        find_corpus(tmp_path / "SAVEE/AudioData/DC/a01.wav")
