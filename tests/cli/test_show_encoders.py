"""Tests of `ecmf-pipe encoders`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.settings.presets import preset_names


def save_config(folder: Path, **config: object) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path


def list_encoders(project: Path, params: str, *arguments: str) -> list[str]:
    (project / "params.yaml").write_text(params)
    result = CliRunner().invoke(app, ["encoders", *arguments])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_encoders_of_all_presets_and_in_use_are_listed(project):
    params = "preset: ecmf\nextract: {encoders: {face: dinov2_large, text: roberta_large}}"
    lines = list_encoders(project, params, "--list")
    titles = [line for line in lines if not line.startswith(" ")]
    assert [title.split()[1] for title in titles[:-1]] == preset_names()
    assert [title for title in titles if "(selected in params.yaml)" in title] == [
        "preset ecmf (selected in params.yaml)"
    ]
    assert titles[-1].startswith("in use: params.yaml")
    used = [line.split() for line in lines[lines.index(titles[-1]) + 1 :]]
    assert [row[:3] for row in used if row[0] in {"global", "face", "audio", "text"}] == [
        ["global", "-", "not"],
        ["face", "dinov2_large", "facebook/dinov2-large@47b73eefe95e"],
        ["audio", "-", "not"],
        ["text", "roberta_large", "hfl/chinese-roberta-wwm-ext-large@a25cc9e05974"],
    ]
    assert used[-2][1] == "Qwen/Qwen2.5-7B-Instruct"
    assert used[-1][-3:] == ["clip_large,", "expression_vit,", "hubert_large"]
    assert lines == list_encoders(project, params)


def test_width_layers_and_precision_are_listed(project):
    model = save_config(project / "m", hidden_size=20)
    entry = f"{{type: transformers_text, model: {model}, layers: last4_sum, precision: bf16, inputs: both}}"
    lines = list_encoders(project, f"encoders: {{mine: {entry}}}\nextract: {{encoders: {{text: mine}}}}")
    (line,) = [line for line in lines if "mine" in line]
    assert line.split()[2:4] == [model, "40-d"]
    assert "layers last4_sum" in line
    assert line.endswith("inputs both, precision bf16")
