"""Files that look like a part of the corpus are read, or a finding reports them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind
from ecmf_pipeline.corpora.registry import scanned_folders
from ecmf_pipeline.corpora.scan import MEDIA_EXTENSIONS

Read = Callable[..., CorpusListing]
MELD_HEADER = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\n"


def touch_files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def of_kind(listing: CorpusListing, kind: FindingKind) -> list[Finding]:
    return [finding for finding in listing.findings if finding.kind is kind]


def unread(listing: CorpusListing) -> dict[str, int]:
    """Return the count of each finding by the first file that it names."""
    return {finding.message.split("'")[1]: finding.count for finding in of_kind(listing, FindingKind.UNREAD_FILES)}


@pytest.mark.parametrize("extension", MEDIA_EXTENSIONS)
def test_each_media_extension_is_a_clip_in_every_layout(tmp_path: Path, read: Read, extension: str) -> None:
    for spelling in (extension, extension.upper()):
        root = tmp_path / spelling
        touch_files(root / "folder", f"a{spelling}")
        touch_files(root / "mer", f"video/a{spelling}")
        touch_files(root / "meld", f"train_splits/dia0_utt0{spelling}")
        (root / "meld/train_sent_emo.csv").write_text(f"{MELD_HEADER}Hi,A,joy,0,0\n")
        for kind in ("folder", "mer", "meld"):
            [clip] = read(root / kind, kind).clips
            assert Path(clip.path).suffix == spelling


def test_unread_files_are_reported_by_kind_with_counts(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", *(f"video/{number}.y4m" for number in range(100)), "b.Y4M", "d.rmvb")
    touch_files(tmp_path, "a.lrc", "a.txt", "README.txt", "README.md", "e.xlsx", "sub/labels.csv", "x.npy", ".h.y4m")
    touch_files(tmp_path, "frames/1.jpg", "train.tar.gz")
    (tmp_path / "labels.csv").write_text("name,label\na,sad\n")
    (tmp_path / "transcripts.csv").write_text("name,text\na,Hi\n")
    listing = read(tmp_path)
    assert [clip.clip_id for clip in listing.clips] == ["a"]
    counts = unread(listing)
    assert sorted(counts.values()) == [1, 1, 2, 2, 102]
    assert counts["a.lrc"] == 2  # and a.txt, which has the name of a clip
    assert counts["e.xlsx"] == 2  # and sub/labels.csv
    [videos] = [finding for finding in listing.findings if finding.count == 102]
    assert all(part in videos.message for part in ("100 .y4m", "1 .Y4M", "1 .rmvb"))


@pytest.mark.parametrize(
    "name",
    [
        "a.qt",
        "a.mod",
        "a.trp",
        "a.nut",
        "a.heic",
        "a.sbv",
        "a.ttml",
        "a.idx",
        "a.feather",
        "a.h5",
        "a.zst",
        "a.mp4.part",
    ],
)
def test_rare_extensions_are_reported(tmp_path: Path, read: Read, name: str) -> None:
    touch_files(tmp_path, "clip.mp4", name)
    assert unread(read(tmp_path)) == {name: 1}


def test_label_of_an_unread_file_names_the_file(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.mp4", "sub/b.qt", "c.mp4.dvc", "d.mp4", "d.mp4.dvc")
    (tmp_path / "labels.csv").write_text("name,label\na,sad\nsub/b.qt,joy\nsub/b,joy\nc.mp4,joy\nd,sad\nnone,sad\n")
    listing = read(tmp_path)
    missing = {finding.clip_id: finding.message for finding in of_kind(listing, FindingKind.LABEL_WITHOUT_FILE)}
    assert missing.keys() == {"sub__b.qt", "sub__b", "c", "none"}
    assert "'sub/b.qt'" in missing["sub__b.qt"]
    assert "'sub/b.qt'" in missing["sub__b"]
    assert "dvc pull" in missing["c"]
    assert "exists" not in missing["none"]
    [finding] = of_kind(listing, FindingKind.NOT_FETCHED)
    assert finding.count == 1
    assert "'c.mp4.dvc'" in finding.message
    assert "dvc pull" in finding.message


def test_corpus_of_unread_files_only_names_them_in_the_error(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "a.qt")
    with pytest.raises(CorpusError, match=r"'a\.qt'"):
        read(tmp_path)


def test_missing_corpus_folder_that_dvc_tracks_names_the_command(tmp_path: Path, read: Read) -> None:
    (tmp_path / "corpus.dvc").write_text("outs: []\n")
    with pytest.raises(CorpusError) as caught:
        read(tmp_path / "corpus")
    assert caught.value.command == f"dvc pull {tmp_path / 'corpus.dvc'}"


def test_unread_files_of_mer_are_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "video/a.mp4", "video/b.qt", "video/more/c.mp4", "d.mp4", "track1_v2.csv", "gold.csv.dvc")
    (tmp_path / "track1_train.csv").write_text("name,discrete\na,sad\nb,happy\n")
    listing = read(tmp_path, "mer")
    assert unread(listing) == {"video/b.qt": 1, "d.mp4": 2, "track1_v2.csv": 1}
    assert len(of_kind(listing, FindingKind.NOT_FETCHED)) == 1
    [missing] = of_kind(listing, FindingKind.LABEL_WITHOUT_FILE)
    assert "'video/b.qt'" in missing.message


def test_unread_and_repeated_files_of_meld_are_reported(tmp_path: Path, read: Read) -> None:
    touch_files(tmp_path, "train_splits/dia0_utt0.mp4", "train_splits/dia0_utt1.mkv", "train_splits/dia7_utt7.mp4")
    touch_files(tmp_path, "train_splits/more/dia0_utt0.mp4", "dia0_utt0.mp4", "test/final_dia0_utt0.mp4", "a.csv")
    (tmp_path / "train_sent_emo.csv").write_text(f"{MELD_HEADER}Hi,A,joy,0,0\nYes,B,joy,0,1\n")
    listing = read(tmp_path, "meld")
    assert [clip.path for clip in listing.clips] == ["train_splits/dia0_utt0.mp4", "train_splits/dia0_utt1.mkv"]
    assert unread(listing) == {"dia0_utt0.mp4": 2, "a.csv": 1}
    [repeated] = of_kind(listing, FindingKind.DUPLICATE_CLIP)
    assert "'train_splits/more/dia0_utt0.mp4'" in repeated.message
    [extra] = of_kind(listing, FindingKind.FILE_WITHOUT_LABEL)
    assert "train_dia7_utt7" in extra.message


def test_subfolders_of_meld_are_scanned_for_changes(tmp_path: Path) -> None:
    """Clips are in subfolders; `index` must not return early if one of them changes."""
    assert scanned_folders(CorpusConfig(kind="meld", root=tmp_path)) == ([], [tmp_path])
