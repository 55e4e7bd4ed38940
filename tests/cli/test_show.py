"""Tests of `ecmf-pipe status` before features are extracted."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecmf_pipeline.cli.show import show_status
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, write_manifest, write_texts

CLIPS = [
    Clip(ClipId("both"), transcript="你好", translation="hello"),
    Clip(ClipId("late"), transcript="再见", translation="goodbye"),  # not rewritten yet
    Clip(ClipId("one"), transcript="嗯"),
    Clip(ClipId("silent")),
]


@pytest.mark.parametrize(
    ("inputs", "missing", "absent"),
    [("original", "3", "1"), ("translation", "2", "2"), ("[original, translation]", "2", "2")],
)
def test_clips_without_a_text_that_the_encoder_reads_count_as_absent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inputs: str,
    missing: str,
    absent: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        f"encoders: {{words: {{type: transformers_text, model: no/where, inputs: {inputs}}}}}\n"
        "extract: {encoders: {text: words}}\n"
    )
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_manifest(paths.MANIFEST, CLIPS)
    write_texts(paths.REWRITES, {"both": ClipText("你好", "你好 (happy)", "hello"), "one": ClipText("嗯", "嗯 (sad)")})
    show_status()
    rows = {line[:18].strip(): line[18:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["rewrite"][:3] == ["2", "1", "1"]
    assert rows["extract text"][:3] == ["0", missing, absent]


def test_columns_of_the_status_are_as_wide_as_the_names_of_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "encoders: {a_name_of_many_words: {type: transformers_text, model: no/where}}\n"
        "extract: {encoders: {audio: egemaps, text: [minilm, a_name_of_many_words]}}\n"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_manifest(paths.MANIFEST, CLIPS)
    show_status()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("stage", "extract"))]
    assert any(line.split()[1] == "text.a_name_of_many_words" for line in lines)
    assert len(set(map(len, lines))) == 1
