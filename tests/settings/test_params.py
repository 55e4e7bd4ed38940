"""Tests of reading and validating params.yaml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.settings.params import Params, load_params


def write_params(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_params_have_the_default_values(repository):
    assert load_params(repository / "params.yaml") == Params()


def test_missing_keys_have_default_values(tmp_path):
    assert load_params(write_params(tmp_path, "media: {frames: 8}\n")).media.frames == 8
    assert load_params(write_params(tmp_path, "")) == Params()


def test_off_is_a_word_as_in_dvc(tmp_path):
    assert load_params(write_params(tmp_path, "report: {thumbnails: off}\n")).report.thumbnails == "off"


def test_home_folder_is_expanded_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    params = load_params(
        write_params(
            tmp_path,
            "corpus: {kind: folder, root: ~/clips, labels: [a~/b, c]}\n"
            "llm: {model: ~/models/llm}\n"
            "vote: {sources: [~/votes.csv, votes~/x.csv]}\n"
            "refine: {verdicts: ~/verdicts.csv}\n"
            "faces: {detector: ~/face.tflite}\n"
            "encoders: {mine: {type: mini_xception, weights: ~/emotion.hdf5}}\n",
        )
    )
    assert params.corpus.root == Path("/home/anna/clips")
    assert params.corpus.labels == ("a~/b", "c")
    assert params.llm.model == "/home/anna/models/llm"
    assert params.vote.sources == ("/home/anna/votes.csv", "votes~/x.csv")
    assert params.refine.verdicts == "/home/anna/verdicts.csv"
    assert params.faces.detector == Path("/home/anna/face.tflite")
    assert params.encoders["mine"].weights == Path("/home/anna/emotion.hdf5")


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("medai: {frames: 8}", "medai", "media"),
        ("media: {frame: 8}", "media.frame", "frames"),
        ("train: {training: {epocs: 3}}", "train.training.epocs", "epochs"),
        ("encoders: {minilm: {type: transformers_text, modle: x}}", "encoders.minilm.modle", "model"),
        ("encoders: {mine: {type: egemaps, batchsize: 1}}", "encoders.mine.batchsize", "batch_size"),
        ("vote: {linear: {componets: 3}}", "vote.linear.componets", "components"),
    ],
)
def test_unknown_key_is_reported_with_the_most_similar_key(tmp_path, text, key, suggestion):
    with pytest.raises(ParamsError, match="unknown key") as caught:
        load_params(write_params(tmp_path, text))
    assert caught.value.keys == (key,)
    assert key in caught.value.message
    assert caught.value.hint == f"did you mean {suggestion!r}?"


def test_unknown_key_without_a_similar_key_is_reported_with_all_keys(tmp_path):
    with pytest.raises(ParamsError) as caught:
        load_params(write_params(tmp_path, "media: {zoom: 2}"))
    assert caught.value.keys == ("media.zoom",)
    assert ", ".join(sorted(MediaConfig.model_fields)) in caught.value.hint


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("media: {frames: many}", "media.frames"),
        ("media: {frames: 0}", "media.frames"),
        ("corpus: {kind: mre, root: x}", "corpus.kind"),
        ("faces: {source: openface}", "faces.source"),
        ("corpus: {kind: mer}", "corpus.root"),
        ("corpus: {root: elsewhere}", "corpus.root"),
        ("extract: {encoders: {face: egemaps}}", "extract.encoders.face"),
        ("extract: {encoders: {face: xception}}", "extract.encoders.face"),
        ("extract: {encoders: {fcae: mini_xception}}", "extract.encoders.fcae"),
        ("encoders: {mine: {type: transformers_vision}}", "encoders.mine.model"),
        ("encoders: {mine: {type: transformers_txt, model: x}}", "encoders.mine"),
        ("models: {names: [minlm]}", "models.names"),
        ("vote: {inputs: [frames]}", "vote.inputs"),
        ("vote: {inputs: [cues]}\nllm: {votes: {cues: []}}", "llm.votes.cues"),
        ("rewrite: {cues: [face]}\nextract: {encoders: {face: efficientnet_lite0}}", "rewrite.cues"),
        ("train: {training: {search: {dropout: [1.5]}}}", "train.training.search.dropout.0"),
        ("train: {training: {search: {layers: [1, -1]}}}", "train.training.search.layers.1"),
        ("train: {training: {search: {layers: []}}}", "train.training.search.layers"),
        ("train: {fusion: {hidden: 96, heads: 6}, training: {search: {trials: 2}}}", "train.training.search.hidden"),
    ],
)
def test_wrong_value_is_reported_with_its_key_only(tmp_path, text, key):
    with pytest.raises(ParamsError) as caught:
        load_params(write_params(tmp_path, text))
    assert caught.value.keys == (key,)
    assert f"{key}: " in caught.value.message


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("extract: {encoders: {face: xception}}", "mini_xception"),
        ("encoders: {mine: {type: transformers_txt, model: x}}", "transformers_text"),
    ],
)
def test_wrong_encoder_name_or_type_is_reported_with_the_most_similar_one(tmp_path, text, suggestion):
    with pytest.raises(ParamsError) as caught:
        load_params(write_params(tmp_path, text))
    assert caught.value.hint == f"did you mean {suggestion!r}?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("media: {frames: 2, frames: 3}", "duplicate key 'frames'"),
        ("- a list", "not a mapping"),
        ("media: {frames: [", "not valid YAML"),
    ],
)
def test_unusable_file_is_reported_with_the_cause(tmp_path, text, message):
    with pytest.raises(ParamsError, match=message) as caught:
        load_params(write_params(tmp_path, text))
    assert caught.value.hint is not None


def test_hidden_sizes_are_checked_only_if_a_search_runs(tmp_path):
    params = load_params(write_params(tmp_path, "train: {fusion: {hidden: 96, heads: 6}}"))
    assert params.train.fusion.heads == 6


def test_all_wrong_keys_are_reported_at_once(tmp_path):
    with pytest.raises(ParamsError) as caught:
        load_params(write_params(tmp_path, "media: {frame: 8}\nfacse: {}\n"))
    assert set(caught.value.keys) == {"media.frame", "facse"}
    assert {"'frames'", "'faces'"} <= set(caught.value.hint.replace("?", "").split())


def test_missing_file_is_reported_with_the_command_that_creates_one(tmp_path):
    with pytest.raises(ParamsError) as caught:
        load_params(tmp_path / "params.yaml")
    assert "ecmf-pipe init" in caught.value.command


def test_reading_params_imports_no_heavy_library():
    code = (
        "import sys; from ecmf_pipeline.settings.params import load_params; load_params();"
        "print([name for name in ('torch', 'transformers', 'sklearn', 'lightgbm', 'zarr', 'mediapipe', 'av', 'pandas')"
        " if name in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout.strip() == "[]"


def test_shipped_params_have_every_key_that_dvc_tracks(repository):
    """DVC fails if a tracked key is missing from params.yaml."""
    shipped = yaml.safe_load((repository / "params.yaml").read_text())
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for key in stage.get("do", stage).get("params", []):
            value = shipped
            for part in key.split("."):
                value = value[part]


def test_file_in_another_encoding_is_reported_with_the_remedy(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes("corpus: {root: 数据}".encode("gbk"))
    with pytest.raises(ParamsError, match="UTF-8") as caught:
        load_params(path)
    assert "UTF-8" in caught.value.hint


def test_invalid_yaml_is_reported_with_its_line(tmp_path):
    with pytest.raises(ParamsError, match="line 2, column 1"):
        load_params(write_params(tmp_path, "media: {}\n\tfaces: {}\n"))


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A temporary workspace of DVC, which is the current directory; its project has a corpus and weights."""
    project = tmp_path / "project"
    folder = project / ".dvc" / "tmp" / "exps" / "tmp1"
    for path in (folder / ".dvc", folder / "tracked", project / "tracked", project / "corpus", project / "weights"):
        path.mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("corpus", "{project}/corpus"),
        ("../shared", "{project}/../shared"),
        ("tracked", "tracked"),
        ("missing", "missing"),
        ("/elsewhere", "/elsewhere"),
    ],
)
def test_relative_corpus_of_the_project_is_found_in_a_temporary_workspace(workspace, given, expected):
    params = load_params(write_params(workspace, f"corpus: {{kind: folder, root: {given}}}"))
    assert params.corpus.root == Path(expected.format(project=workspace.parents[3]))


def test_relative_weights_of_the_project_are_found_in_a_temporary_workspace(workspace):
    text = "encoders: {mine: {type: transformers_text, model: weights}}\nllm: {model: org/name}"
    params = load_params(write_params(workspace, text))
    assert params.encoders["mine"].model_dump()["model"] == str(workspace.parents[3] / "weights")
    assert params.llm.model == "org/name"


def test_paths_of_a_project_are_not_changed(workspace, monkeypatch):
    monkeypatch.chdir(workspace.parents[3])
    assert load_params(write_params(Path(), "corpus: {kind: folder, root: corpus}")).corpus.root == Path("corpus")
