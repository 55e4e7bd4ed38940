"""Names in tables that differ from those of the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core.clips import ClipId
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.listing import CorpusListing, FindingKind, count_by_kind
from ecmf_pipeline.corpora.names import match_by_rule, match_names
from ecmf_pipeline.corpora.registry import read_corpus
from tests.corpora.spreadsheets import write_xlsx

FILES = ("V001.mp4", "V002.mp4", "V003.mp4", "V004.mp4")


def make_folder(root: Path, names: list[str], files: tuple[str, ...] = FILES) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    rows = [f"{name},{('joy', 'fear')[i % 2]}" for i, name in enumerate(names)]
    (root / "labels.csv").write_text("\n".join(["name,label", *rows]) + "\n")
    return root


def read(root: Path, kind: str = "folder") -> CorpusListing:
    return read_corpus(CorpusConfig(kind=kind, root=root))


@pytest.mark.parametrize(
    ("form", "ignored"),
    [
        ("V00{}.npy", "the extension"),
        ("/data/old/V00{}.mp4", "the folders"),
        ("D:\\clips\\V00{}.mp4", "the folders"),
        ("../clips/V00{}", "the folders"),
        ("v00{}", "case"),
        ("V{}", "leading zeros"),
        ("clips/v0000{}.AVI", "leading zeros"),
    ],
)
def test_names_that_differ_in_one_rule_match_and_are_reported(tmp_path: Path, form: str, ignored: str) -> None:
    listing = read(make_folder(tmp_path, [form.format(number) for number in (1, 2, 3, 4)]))
    assert {clip.path: clip.given_label for clip in listing.clips} == dict(
        zip(FILES, ("joy", "fear", "joy", "fear"), strict=True)
    )
    [finding] = listing.findings
    assert (finding.kind, finding.count) == (FindingKind.NAMES_BY_RULE, 4)
    assert ignored in finding.message
    assert repr(form.format(1)) in finding.message


def test_folder_in_front_of_the_files_is_ignored(tmp_path: Path) -> None:
    files = tuple(f"media/{speaker}/{number}.mp4" for speaker in ("anna", "ben") for number in (1, 2))
    root = make_folder(tmp_path, [file.removeprefix("media/") for file in files], files)
    listing = read(root)
    assert [clip.given_label for clip in listing.clips] == ["joy", "fear", "joy", "fear"]
    assert count_by_kind(listing.findings) == {"names_by_rule": 4}


@pytest.mark.parametrize(
    ("names", "files", "matched"),
    [
        (["V1"], ["V01", "V001"], {}),
        (["V1", "v01"], ["V001"], {}),
        (["a/1", "b/1"], ["1"], {}),
        (["a/1"], ["b/1"], {}),
        (["a/../V001"], ["V001"], {}),
        (["V1", "V001"], ["V001"], {}),
        (["V1", "W1"], ["V001", "X1"], {"V1": "V001"}),
        (["10"], ["100", "010"], {"10": "010"}),
    ],
)
def test_rules_are_applied_only_without_doubt(names: list[str], files: list[str], matched: dict[str, str]) -> None:
    paths = {ClipId(file): file for file in files}
    taken = set(names) & set(files)
    found: dict[str, str] = {}
    for by_rule in match_by_rule(set(names) - taken, paths, taken).values():
        found |= by_rule
    assert found == matched


def test_names_of_clip_ids_match_in_another_spelling() -> None:
    known = ("anna__1", "B", "C", "c")
    names = ("anna/1.mp4", "b.npy", "b", "C", "c", "x")
    matched = {"anna/1.mp4": "anna__1", "b.npy": "B", "b": "B", "C": "C", "c": "c"}
    assert match_names(names, known) == {name: matched[name] for name in matched if name != "b.npy"}
    assert match_names(["b.npy"], known) == {"b.npy": "B"}


def test_mer_tables_match_by_rule(tmp_path: Path) -> None:
    for name in ("s_01", "s_02", "s_03"):
        (tmp_path / "video").mkdir(exist_ok=True)
        (tmp_path / "video" / f"{name}.mp4").write_bytes(b"x")
    write_xlsx(tmp_path / "track1_train.xlsx", [["Name", "Label"], ["video/S_1.mp4", "happy"], ["s_2", "sad"]])
    (tmp_path / "track_all_candidates.csv").write_text("name\nS_03\n")
    listing = read(tmp_path, "mer")
    assert [(clip.clip_id, clip.given_label, clip.path != "") for clip in listing.clips] == [
        ("s_01", "happy", True),
        ("s_02", "sad", True),
        ("s_03", "", True),
    ]
    assert listing.candidate_order == ("s_03",)
    assert count_by_kind(listing.findings) == {"empty_class": 4, "names_by_rule": 3}


@pytest.mark.parametrize("kind", ["folder", "mer"])
def test_half_of_the_names_must_match(tmp_path: Path, kind: str) -> None:
    media = tmp_path / "video" if kind == "mer" else tmp_path
    media.mkdir(exist_ok=True)
    for file in FILES:
        (media / file).write_bytes(b"x")
    table = tmp_path / ("track1_train.csv" if kind == "mer" else "labels.csv")
    rows = ["V001,happy", "V002,sad", "other_a,sad", "other_b,happy"]
    table.write_text("\n".join(["name,label", *rows]))
    assert count_by_kind(read(tmp_path, kind).findings)["label_without_file"] == 2
    table.write_text("\n".join(["name,label", *rows, "other_c,sad"]))
    with pytest.raises(CorpusError) as caught:
        read(tmp_path, kind)
    assert all(part in caught.value.message for part in (table.name, "2 of 5", "'other_a'", "V003.mp4"))


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ([f"film_{number}" for number in (1, 2, 3, 4)], "'film_' in the table is 'V' in the files"),
        ([f"{folder}/V{n}" for folder in "ab" for n in (1, 2, 3, 4)], "leading zeros"),
        (["V.001", "v-002", "V 003"], "without spaces and punctuation"),
        ([f"film{number}_part1" for number in (1, 2, 3, 4)], "belongs to this corpus"),
        (["x", "y", "z"], "belongs to this corpus"),
    ],
)
def test_hint_names_the_likely_rule(tmp_path: Path, names: list[str], hint: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read(make_folder(tmp_path, names))
    assert hint in (caught.value.hint or "")


def test_labels_without_any_media_are_allowed(tmp_path: Path) -> None:
    assert count_by_kind(read(make_folder(tmp_path, ["x", "y"], ())).findings) == {"no_media": 2}


def test_index_ends_before_it_reads_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "clips", [f"film_{number}" for number in range(10, 20)])
    (tmp_path / "params.yaml").write_text("corpus: {kind: folder, root: clips}\n")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["index"])
    assert isinstance(result.exception, CorpusError)
    assert result.exception.exit_code == 2
    assert all(repr(f"film_{number}") in result.exception.message for number in range(10, 15))
    assert all(repr(file) in result.exception.message for file in FILES)
    assert not (tmp_path / "data").exists()
