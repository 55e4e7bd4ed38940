"""params.yaml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.settings.params import Params, load_params


def params(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_the_repository_ships_says_the_defaults(repository):
    assert load_params(repository / "params.yaml") == Params()


def test_what_is_left_out_has_its_default(tmp_path):
    assert load_params(params(tmp_path, "media: {frames: 8}\n")).media.frames == 8
    assert load_params(params(tmp_path, "")) == Params()


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
def test_an_unknown_key_is_named_with_the_key_that_is_most_like_it(tmp_path, text, key, suggestion):
    with pytest.raises(ParamsError, match=rf"unknown key `{key}`; did you mean `{suggestion}`\?") as caught:
        load_params(params(tmp_path, text))
    assert caught.value.keys == (key,)


def test_an_unknown_key_that_is_like_no_other_is_named_with_all_there_are(tmp_path):
    with pytest.raises(ParamsError, match=r"unknown key `media\.zoom`; there are frames, max_side, reader"):
        load_params(params(tmp_path, "media: {zoom: 2}"))


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
def test_a_wrong_value_is_named_by_its_key_alone(tmp_path, text, key):
    with pytest.raises(ParamsError) as caught:
        load_params(params(tmp_path, text))
    assert caught.value.keys == (key,)
    assert f"`{key}`: " in str(caught.value)


def test_a_wrong_name_of_an_encoder_is_shown_with_the_one_that_is_most_like_it(tmp_path):
    with pytest.raises(ParamsError, match=r"did you mean `mini_xception`\?"):
        load_params(params(tmp_path, "extract: {encoders: {face: xception}}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("media: {frames: 2, frames: 3}", "key 'frames' stands twice"),
        ("- a list", "holds no sections"),
        ("media: {frames: [", "is not valid YAML"),
    ],
)
def test_a_file_that_holds_no_params_says_why(tmp_path, text, message):
    with pytest.raises(ParamsError, match=message):
        load_params(params(tmp_path, text))


def test_what_is_not_searched_need_not_fit(tmp_path):
    found = load_params(params(tmp_path, "train: {fusion: {hidden: 96, heads: 6}}"))
    assert found.train.fusion.heads == 6


def test_every_wrong_key_is_named_at_once(tmp_path):
    with pytest.raises(ParamsError) as caught:
        load_params(params(tmp_path, "media: {frame: 8}\nfacse: {}\n"))
    assert set(caught.value.keys) == {"media.frame", "facse"}


def test_a_missing_file_says_where_one_is_made(tmp_path):
    with pytest.raises(ParamsError, match="ecmf-pipe init"):
        load_params(tmp_path / "params.yaml")


def test_reading_params_loads_nothing_heavy():
    code = (
        "import sys; from ecmf_pipeline.settings.params import load_params; load_params();"
        "print([name for name in ('torch', 'transformers', 'sklearn', 'lightgbm', 'zarr', 'mediapipe', 'av', 'pandas')"
        " if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert found.stdout.strip() == "[]"


def test_every_parameter_that_dvc_tracks_is_there(repository):
    """DVC fails where a tracked key is missing from params.yaml."""
    shipped = yaml.safe_load((repository / "params.yaml").read_text())
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for key in stage.get("do", stage).get("params", []):
            value = shipped
            for part in key.split("."):
                value = value[part]
