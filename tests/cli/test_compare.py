"""`ecmf-pipe compare`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ecmf_pipeline.cli import main as command_line
from ecmf_pipeline.core.clips import ClipId
from tests.evaluation.versions import make_clips, truth_of, write_version


@pytest.fixture
def versions(tmp_path, monkeypatch) -> Path:
    """Two folders, ``one`` and ``two``; the second is the current directory."""
    clips = make_clips(12)
    truth = truth_of(clips)
    write_version(tmp_path / "one", clips, predicted={"given/fusion": ["sad"] * 12})
    params = {"preset": "ecmf", "train": {"fusion": {"hidden": 128}}}
    changed = [replace(clips[0], transcript="new"), *clips[1:]]
    write_version(tmp_path / "two", changed, predicted={"given/fusion": [*truth[:-1], "happy"]}, params=params)
    monkeypatch.chdir(tmp_path / "two")
    return tmp_path


def run(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ecmf-pipe", "compare", *words])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    return int(stopped.value.code or 0)


def test_the_second_version_is_the_current_directory(versions, monkeypatch, capsys):
    assert run(monkeypatch, "../one") == 0
    text = capsys.readouterr().out
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "compare: ../one, then the working tree"
    assert 'preset: "embedded", then "ecmf"' in lines
    assert "clips: 12 shared, 0 added, 0 removed, 1 changed (transcript 1)" in lines
    assert "fusion, given labels: 6 clips won, 1 lost" in lines
    assert "won clip0 (happy): sad, then happy" in lines
    assert "lost clip11 (sad): sad, then happy" in lines
    assert max(map(len, text.splitlines())) <= 120


def test_long_lists_are_cut_except_in_json(versions, monkeypatch, capsys):
    clips = [replace(clip, given_label="happy") for clip in make_clips(40)]
    write_version(versions / "one", clips, predicted={})
    write_version(versions / "two", make_clips(40), predicted={})
    run(monkeypatch, "../one")
    assert "    ... and 10 more; --json lists all" in capsys.readouterr().out.splitlines()
    run(monkeypatch, "../one", "--json")
    assert len(json.loads(capsys.readouterr().out)["labels"]["given"]) == 20


@pytest.mark.parametrize("name", ["nonsense", "..", "", " "])
def test_names_of_no_version_exit_2_with_one_error(versions, monkeypatch, capsys, name):
    assert run(monkeypatch, name) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("error: ")) == ("", 1)


def test_corpora_that_share_no_clip_exit_2(versions, monkeypatch, capsys):
    others = [replace(clip, clip_id=ClipId(f"other{number}")) for number, clip in enumerate(make_clips(3))]
    write_version(versions / "one", others, predicted={})
    assert run(monkeypatch, "../one") == 2
    assert "share no clip" in capsys.readouterr().err.splitlines()[0]


def test_a_page_that_cannot_be_written_exits_2_with_one_error(versions, monkeypatch, capsys):
    assert run(monkeypatch, "../one", "--html", str(versions)) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("error: ")) == ("", 1)
    assert not list(versions.parent.glob(f".{versions.name}.*"))  # nothing is left of it
