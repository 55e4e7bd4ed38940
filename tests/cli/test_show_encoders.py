"""`ecmf-pipe encoders --list`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.settings.presets import preset_names


def save(folder: Path, **shape: object) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape))
    return str(folder)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path


def shown(project: Path, params: str, *words: str) -> list[str]:
    (project / "params.yaml").write_text(params)
    done = CliRunner().invoke(app, ["encoders", *words])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_all_presets_and_what_is_in_use_are_listed(project):
    lines = shown(project, "preset: ecmf\nextract: {encoders: {face: dinov2_large, text: roberta_large}}", "--list")
    heads = [line for line in lines if not line.startswith(" ")]
    assert [head.split()[1] for head in heads[:-1]] == preset_names()
    assert "preset ecmf (that of params.yaml)" in heads
    assert heads[-1] == "in use: params.yaml over the preset ecmf"
    used = [line.split() for line in lines[lines.index(heads[-1]) + 1 :]]
    assert [row[:3] for row in used if row[0] in {"global", "face", "audio", "text"}] == [
        ["global", "-", "not"],
        ["face", "dinov2_large", "facebook/dinov2-large"],
        ["audio", "-", "not"],
        ["text", "roberta_large", "hfl/chinese-roberta-wwm-ext-large"],
    ]
    assert used[-2][1] == "Qwen/Qwen2.5-7B-Instruct"
    assert used[-1][-3:] == ["clip_large,", "expression_vit,", "hubert_large"]
    assert lines == shown(project, (project / "params.yaml").read_text())


def test_layers_pooling_and_precision_are_told(project):
    model = save(project / "m", hidden_size=20)
    entry = f"{{type: transformers_text, model: {model}, layers: last4_sum, precision: bf16, inputs: both}}"
    (line,) = [
        line
        for line in shown(project, f"encoders: {{mine: {entry}}}\nextract: {{encoders: {{text: mine}}}}")
        if "mine" in line
    ]
    assert line.split()[2:4] == [model, "40-d"]
    assert "layers last4_sum" in line
    assert line.endswith("inputs both, precision bf16")
