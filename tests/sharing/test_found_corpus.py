from __future__ import annotations

import shutil
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
