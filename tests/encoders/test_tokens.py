"""Several encoders of a modality in params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.settings.params import Token, validated


@pytest.fixture
def members(tiny_models: Path) -> dict[str, Any]:
    return {name: {"type": "transformers_vision", "model": str(tiny_models / name)} for name in ("vit", "dinov2")}


def test_each_of_several_encoders_has_a_name_and_settings_of_its_own(members):
    members["dinov2"]["frames"] = 4  # they may read different numbers of pictures
    extract = {"encoders": {"face": ["vit", "dinov2"], "global": "vit"}}
    params = validated({"encoders": members, "extract": extract}, where="params.yaml")
    assert params.tokens == {
        "face.vit": Token(Modality.FACE, "vit"),
        "face.dinov2": Token(Modality.FACE, "dinov2"),
        "global": Token(Modality.GLOBAL, "vit"),
    }
    alone = validated({"encoders": members, "extract": {"encoders": {"face": "dinov2"}}}, where="params.yaml")
    prints = {name: fingerprint(params.token_settings(token)) for name, token in params.tokens.items()}
    assert len(set(prints.values())) == 3
    assert prints["face.dinov2"] == fingerprint(alone.settings_of(Modality.FACE)), "features of one are reused"


def test_a_list_of_one_entry_is_that_entry(members):
    params = validated({"encoders": members, "extract": {"encoders": {"face": ["vit"]}}}, where="params.yaml")
    assert params.tokens == {"face": Token(Modality.FACE, "vit")}


@pytest.mark.parametrize(
    ("face", "named"),
    [
        (["vit", "vit"], []),
        ([], []),
        (3, []),
        (["vit", "dino"], ["'dino'", "dinov2"]),
        (["vit", "egemaps"], ["'egemaps'"]),
    ],
)
def test_invalid_lists_are_rejected(members, face, named):
    with pytest.raises(ParamsError) as caught:
        validated({"encoders": members, "extract": {"encoders": {"face": face}}}, where="params.yaml")
    assert caught.value.keys == ("extract.encoders.face",)
    assert all(name in str(caught.value) for name in named)
