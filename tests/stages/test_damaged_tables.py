"""Damage the files between the stages: each mutation gives an error with the file, or the same result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality, read_corpus_tables, read_manifest
from ecmf_pipeline.core.errors import EcmfError, MissingInput
from ecmf_pipeline.core.tables import seal_of
from ecmf_pipeline.stages.shared.inputs import refined_labels
from tools.soak.stage_files import StageFile, write_stage_files
from tools.soak.tables import damage_file

FILES = {
    "manifest": paths.MANIFEST,
    "corpus": paths.CORPUS,
    "refined": paths.REFINED,
    "votes": paths.VOTES,
    "predictions": paths.predictions("given") / "fusion.csv",
    "rewrites": paths.REWRITES,
    "transcripts": paths.TRANSCRIPTS,
    "cues": paths.cues(Modality.FACE),
    "findings": paths.FINDINGS,
    "quarantine": paths.quarantine("extract", Modality.FACE),
    "trained_on": paths.trained_on("refined"),
    "metrics": paths.METRICS / "evaluate.json",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StageFile]]:
    """Write one file of each kind; the tests restore what they change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        yield write_stage_files()


@pytest.fixture
def files(written: list[StageFile]) -> Iterator[dict[Path, StageFile]]:
    contents = {file.path: file.path.read_bytes() for file in written}
    yield {file.path: file for file in written}
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize("mutations", [13, pytest.param(200, marks=pytest.mark.slow)])
def test_each_mutation_is_an_error_with_the_file_or_has_no_effect(written: list[StageFile], mutations: int) -> None:
    for file in written:
        tally = damage_file(file, mutations, seed=7)
        assert tally.faults == []
        assert tally.same == tally.mutations if file.is_cache else tally.refused > tally.mutations / 3, file.path


@pytest.mark.usefixtures("files")
def test_another_result_and_another_exception_are_faults() -> None:
    path = paths.MANIFEST
    assert damage_file(StageFile(path, path.read_bytes), 5, seed=7).faults
    unchecked = damage_file(StageFile(path, lambda: path.read_bytes().decode("ascii")[700]), 13, seed=7)
    assert {fault.split(": ")[1] for fault in unchecked.faults} >= {"UnicodeDecodeError", "another result"}


def replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "row"),
    [
        ("manifest", ",happy,,train,", ",glad,,train,", "row "),
        ("manifest", "2.500", "2.501", ""),
        ("refined", ",train,", ",tarin,", "row 2"),
        ("refined", "c00,", "c99,", ""),
        ("refined", "agree", "doubt", ""),
        ("votes", "c00,face/linear,", "c00,llm,", "row 3"),
        ("votes", "c00,face/linear,", "c00,face/forest,", ""),
        ("predictions", "c01,", "c00,", "row 3"),
        ("predictions", "0.500000\n", "0.400000\n", ""),
        ("corpus", '"labels"', '"label"', ""),
        ("corpus", "false", '"no"', ""),
        ("corpus", '"c20",', "7,", ""),
        ("corpus", "c20", "c99", ""),
        ("corpus", "false", "true", ""),
        ("cues", "smile", "smirk", "row 3"),
        ("cues", "smile ", "", ""),
        ("findings", "missing", "other", ""),
        ("quarantine", "ClipTimeout", "ClipTimedOut", "row 2"),
        ("quarantine", "120.0", "long", "row 2"),
        ("trained_on", "labels", "label", ""),
        ("metrics", "0.75", "0.95", ""),
    ],
)
def test_a_wrong_value_is_reported_with_file_row_and_command(
    files: dict[Path, StageFile], name: str, old: str, new: str, row: str
) -> None:
    path = FILES[name]
    replace_once(path, old, new)
    with pytest.raises(EcmfError) as caught:
        files[path].read()
    assert caught.value.exit_code == 2
    assert path.name in caught.value.message
    assert row in caught.value.message
    assert caught.value.command is not None


@pytest.mark.usefixtures("files")
def test_refined_labels_that_are_cut_at_the_end_of_a_row_are_not_trained_on() -> None:
    assert len(refined_labels(read_corpus_tables()).clips) == 20
    lines = paths.REFINED.read_bytes().splitlines(keepends=True)
    paths.REFINED.write_bytes(b"".join(lines[:12]))
    with pytest.raises(MissingInput, match="'c11'") as caught:
        refined_labels(read_corpus_tables())
    assert caught.value.command == "ecmf-pipe refine"


@pytest.mark.parametrize("name", ["rewrites", "transcripts", "findings"])
def test_partial_tables_that_are_cut_differ_from_their_digest(files: dict[Path, StageFile], name: str) -> None:
    path = FILES[name]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(EcmfError, match=seal_of(path).name):
        files[path].read()


@pytest.mark.usefixtures("files")
def test_a_manifest_that_is_cut_at_the_end_of_a_row_is_rejected_by_stages_that_read_only_it() -> None:
    paths.MANIFEST.write_bytes(b"".join(paths.MANIFEST.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(EcmfError, match="another manifest") as caught:
        read_manifest(paths.MANIFEST)
    assert caught.value.command == "ecmf-pipe index"
