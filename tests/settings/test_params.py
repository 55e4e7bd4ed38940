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
    ("text", "message"),
    [
        ("medai: {frames: 8}", "unknown key `medai`; did you mean `media`?"),
        ("media: {frame: 8}", "unknown key `media.frame`; did you mean `frames`?"),
        ("train: {training: {epocs: 3}}", "unknown key `train.training.epocs`; did you mean `epochs`?"),
        (
            "encoders: {minilm: {type: transformers_text, modle: x}}",
            "unknown key `encoders.minilm.modle`; did you mean `model`?",
        ),
        ("vote: {linear: {componets: 3}}", "unknown key `vote.linear.componets`; did you mean `components`?"),
        ("media: {frames: many}", "`media.frames`: Input should be a valid integer"),
        ("media: {frames: 0}", "`media.frames`: Input should be greater than 0"),
        ("corpus: {kind: mre, root: x}", "`corpus.kind`: Input should be 'sample', 'mer', 'folder' or 'meld'"),
        (
            "faces: {source: openface}",
            "faces.source: openface crops come with corpora of corpus.kind mer alone",
        ),
        ("corpus: {kind: mer}", "corpus.root: say where the mer corpus stands"),
        ("corpus: {root: elsewhere}", "corpus.root: the generated corpus stands in data/sample"),
        ("extract: {encoders: {face: egemaps}}", "extract.encoders.face: 'egemaps' cannot serve this modality"),
        ("extract: {encoders: {face: xception}}", "no encoder is named 'xception'; did you mean `mini_xception`?"),
        ("extract: {encoders: {fcae: mini_xception}}", "`extract.encoders.fcae`"),
        ("models: {names: [minlm]}", "no embedded model is named 'minlm'"),
        (
            "train: {training: {search: {dropout: [1.5]}}}",
            "`train.training.search.dropout.0`: Input should be less than 1",
        ),
        (
            "train: {fusion: {hidden: 96, heads: 6}, training: {search: {trials: 2}}}",
            "train.training.search.hidden: 64, 128, 256: each must be a multiple of train.fusion.heads (6)",
        ),
        ("media: {frames: 2, frames: 3}", "key 'frames' stands twice"),
        ("- a list", "holds no sections"),
        ("media: {frames: [", "is not valid YAML"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, text, message):
    with pytest.raises(ParamsError) as caught:
        load_params(params(tmp_path, text))
    assert message in str(caught.value)


def test_a_wrong_value_in_a_list_is_the_only_one_that_is_named(tmp_path):
    with pytest.raises(ParamsError) as caught:
        load_params(params(tmp_path, "train: {training: {search: {layers: [1, -1]}}}"))
    assert str(caught.value).count("train.training.search") == 1
    with pytest.raises(ParamsError, match=r"`train.training.search.layers`: name at least one value"):
        load_params(params(tmp_path, "train: {training: {search: {layers: []}}}"))


def test_what_is_not_searched_need_not_fit(tmp_path):
    found = load_params(params(tmp_path, "train: {fusion: {hidden: 96, heads: 6}}"))
    assert found.train.fusion.heads == 6


def test_every_wrong_key_is_named_at_once(tmp_path):
    with pytest.raises(ParamsError) as caught:
        load_params(params(tmp_path, "media: {frame: 8}\nfacse: {}\n"))
    assert "media.frame" in str(caught.value)
    assert "facse" in str(caught.value)


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
