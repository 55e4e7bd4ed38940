"""The table of corrected transcripts is read like the other tables that people write."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.corrections import read_corrections

CLIPS = [Clip(ClipId(name)) for name in ("folder__a", "b", "c")]


def write(folder: Path, text: str) -> Path:
    path = folder / "transcripts.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("header", ["name,text", "clip_id,transcript", "Clip_ID;Text"])
def test_names_match_as_in_other_tables(tmp_path: Path, header: str) -> None:
    mark = ";" if ";" in header else ","
    rows = [header, f"folder/a.mp4{mark}Hello.", f"B{mark}", "", f"c{mark}Yes."]
    assert read_corrections(write(tmp_path, "\ufeff" + "\r\n".join(rows)), CLIPS) == {
        "folder__a": "Hello.",
        "b": "",
        "c": "Yes.",
    }


def test_unknown_names_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "name,text\nb,Yes.\nother,No.\n")
    assert read_corrections(path, CLIPS) == {"b": "Yes."}
    assert "'other'" in capsys.readouterr().err
    with pytest.raises(InputError) as caught:
        read_corrections(write(tmp_path, "name,text\nother,No.\n"), CLIPS)
    assert "'other'" in caught.value.message


@pytest.mark.parametrize("text", ["name,text\nb,Yes.\nB.mp4,No.\n", "name\nb\n", "name,text\nb,Yes, really.\n", ""])
def test_unusable_tables_are_rejected(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_corrections(path, CLIPS)
    assert str(path) in caught.value.message


def test_only_the_default_table_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert TranscribeConfig(corrections=None).find_corrections() is None
    assert TranscribeConfig().find_corrections() is None
    with pytest.raises(MissingInput):
        TranscribeConfig(corrections="mine.csv").find_corrections()
    paths.CORRECTIONS.parent.mkdir()
    paths.CORRECTIONS.write_text("name,text\n")
    assert TranscribeConfig().find_corrections() == paths.CORRECTIONS
