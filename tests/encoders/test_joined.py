"""Several encoders joined for one modality."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.core.errors import ModelError, ParamsError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.encoders.base import Encoder, Encoding, join_encodings
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig, best_precision
from ecmf_pipeline.encoders.config import (
    AudioConfig,
    EgemapsConfig,
    JoinedConfig,
    MiniXceptionConfig,
    TextConfig,
    VisionConfig,
    has_imported_features,
    text_columns,
)
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.settings.params import validated
from ecmf_pipeline.store.state import encoder_name

from .test_contract import EncoderContract


def encoding(kept: list[int], width: int = 1, scale: float = 1.0) -> Encoding:
    """Return rows that contain the index of the picture they describe."""
    values = np.repeat(np.array(kept, np.float32)[:, None] * scale, width, axis=1)
    return Encoding(values, np.array(kept, np.int64))


def test_picture_has_a_row_if_every_member_has_one():
    joined = join_encodings(
        [encoding([0, 2, 3, 5]), encoding([0, 1, 3, 4, 5], 2, 10)], [False, False], has_pictures=True
    )
    assert joined.kept.tolist() == [0, 3, 5]
    assert joined.values.tolist() == [[0, 0, 0], [3, 30, 30], [5, 50, 50]]


def test_clip_level_row_is_repeated_for_each_row_of_the_others():
    clip_level = Encoding(np.array([[7.0, 8.0]], np.float32))
    joined = join_encodings([encoding([1, 4]), clip_level], [False, True], has_pictures=True)
    assert joined.kept.tolist() == [1, 4]
    assert joined.values.tolist() == [[1, 7, 8], [4, 7, 8]]
    joined = join_encodings([clip_level, clip_level], [True, True], has_pictures=True)
    assert joined.values.tolist() == [[7, 8, 7, 8]]


def test_single_row_of_a_picture_is_not_a_clip_level_row():
    joined = join_encodings([encoding([0, 1, 2]), encoding([0])], [False, False], has_pictures=True)
    assert joined.kept.tolist() == [0]


@pytest.mark.parametrize("has_pictures", [True, False])
def test_clip_without_row_of_one_member_has_no_row(has_pictures):
    joined = join_encodings([encoding([0, 1]), Encoding.empty(3)], [False, True], has_pictures=has_pictures)
    assert joined.values.shape == (0, 4)


def test_members_without_common_pictures_give_no_rows():
    assert join_encodings([encoding([0, 1]), encoding([2, 3])], [False, False], has_pictures=True).values.shape == (
        0,
        2,
    )


def test_audio_at_different_rates_raises_model_error():
    with pytest.raises(ModelError, match="3 and 2 rows"):
        join_encodings([encoding([0, 1, 2]), encoding([0, 1])], [False, False], has_pictures=False)


class JoinedContract(EncoderContract):
    """The contract for joined encoders. Their config is not a params entry, and their members have own batch sizes."""

    def test_config_is_a_valid_params_entry(self, config: Any) -> None:
        assert JoinedConfig.model_validate(config.model_dump(mode="json")) == config
        assert config.modalities

    def test_rows_do_not_depend_on_batch_size(self, config: Any, encoder: Encoder[Any], views: list[Any]) -> None:
        members = tuple(member.model_copy(update={"batch_size": 1}) for member in config.members)
        unbatched = build_encoder(config.model_copy(update={"members": members}), "cpu")
        for one, many in zip(unbatched.encode(views), encoder.encode(views), strict=True):
            np.testing.assert_allclose(one.values, many.values, atol=self.tolerance, rtol=self.tolerance)
        assert unbatched.settings == encoder.settings
        unbatched.close()

    def test_columns_are_those_of_the_members(self, config: Any, encoder: Encoder[Any], views: list[Any]) -> None:
        member_encodings = []
        for member in config.members:
            member_encoder = build_encoder(member, "cpu")
            member_encodings.append(member_encoder.encode(views))
            member_encoder.close()
        for joined, *parts in zip(encoder.encode(views), *member_encodings, strict=True):
            start = 0
            for part in parts:
                columns = joined.values[:, start : start + part.values.shape[1]]
                expected = dict(zip(part.kept.tolist(), part.values, strict=True))
                for kept, row in zip(joined.kept.tolist(), columns, strict=True):
                    np.testing.assert_array_equal(row, expected[kept] if len(part.kept) > 1 else part.values[0])
                start += part.values.shape[1]
            assert start == encoder.dim

    def with_other_weights(self, config: Any, folder: Path) -> list[BaseEncoderConfig]:
        shutil.copytree(config.members[0].model, folder / "model")
        moved = config.members[0].model_copy(update={"model": str(folder / "model")})
        weights = folder / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes() + b" ")
        return [config.model_copy(update={"members": (moved, *config.members[1:])})]


class TestFaces(JoinedContract):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, models: Path, tiny_models: Path) -> JoinedConfig:
        expressions = MiniXceptionConfig(
            weights=models / "mini_xception" / "emotion_model.hdf5",
            face_landmarker=models / "face_landmarker" / "face_landmarker.task",
        )
        return JoinedConfig(members=(VisionConfig(model=str(tiny_models / "vit"), batch_size=3), expressions))

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, tracks: list[Any]) -> list[Any]:
        return tracks

    def test_crops_without_row_of_one_member_have_no_row(self, encoder: Encoder[Any], views: list[Any]) -> None:
        assert [each.kept.tolist() for each in encoder.encode(views)] == [[0, 2], [0], []]


class TestSound(JoinedContract):
    tolerance = 1e-4

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, tiny_models: Path) -> JoinedConfig:
        speech = [AudioConfig(model=str(tiny_models / name), batch_size=2) for name in ("hubert", "wavlm")]
        return JoinedConfig(members=(*speech, EgemapsConfig()))

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, sounds: list[Any]) -> list[Any]:
        return sounds

    def test_dtype_is_float32_if_one_member_needs_it(self, encoder: Encoder[Any]) -> None:
        assert encoder.dtype == "float32"


class TestTexts(JoinedContract):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, tiny_models: Path) -> JoinedConfig:
        return JoinedConfig(members=tuple(TextConfig(model=str(tiny_models / name)) for name in ("bert", "sentence")))

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls) -> list[Any]:
        return [ClipText("i am so very happy today"), ClipText("sad"), ClipText("i miss my mother")]


def test_encoding_audio_at_different_rates_raises_model_error(tiny_models, sounds):
    members = (
        AudioConfig(model=str(tiny_models / "hubert")),
        AudioConfig(model=str(tiny_models / "wavlm"), frames_per_row=3),
    )
    encoder = build_encoder(JoinedConfig(members=members), "cpu")
    with pytest.raises(ModelError, match="rows for one clip"):
        encoder.encode(sounds)


def test_text_columns_are_those_of_all_members(tiny_models):
    both, translated = (
        TextConfig(model=str(tiny_models / "bert"), inputs=inputs) for inputs in ("both", "translation")
    )
    joined = JoinedConfig(members=(translated, both))
    assert joined.text_columns == ("translation", "original", "enriched")
    assert text_columns({"encoder": joined.settings()}) == joined.text_columns


@pytest.fixture
def members(tiny_models: Path) -> Iterator[dict[str, Any]]:
    return {name: {"type": "transformers_vision", "model": str(tiny_models / name)} for name in ("vit", "dinov2")}


def test_params_list_joins_entries_in_order(members):
    extract = {"encoders": {"face": ["vit", "dinov2"], "global": "vit"}}
    params = validated({"encoders": members, "extract": extract}, where="params.yaml")
    joined = params.encoder_of(Modality.FACE)
    assert isinstance(joined, JoinedConfig)
    assert joined.members == (params.encoders["vit"], params.encoders["dinov2"])
    reversed_ = JoinedConfig(members=joined.members[::-1])
    assert fingerprint(joined.settings()) != fingerprint(reversed_.settings())
    assert joined.settings()["members"] == [params.encoders[name].settings() for name in ("vit", "dinov2")]
    assert params.encoder_of(Modality.GLOBAL) == params.encoders["vit"]
    assert encoder_name({"encoder": joined.settings()}) == "transformers_vision + transformers_vision"
    assert not has_imported_features({"encoder": joined.settings()})


def test_params_list_of_one_entry_is_that_entry(members):
    extract = {"encoders": {"face": ["vit"]}}
    params = validated({"encoders": members, "extract": extract}, where="params.yaml")
    assert params.encoder_of(Modality.FACE) == params.encoders["vit"]


@pytest.mark.parametrize(
    ("face", "named"),
    [
        (["vit", "vit"], []),
        ([], []),
        (3, []),
        (["vit", "dino"], ["'dino'", "dinov2"]),
        (["vit", "egemaps"], ["'egemaps'"]),
        (["vit", "imported_face"], ["'imported_face'"]),
    ],
)
def test_invalid_params_list_raises_params_error(members, face, named):
    encoders = members | {"imported_face": {"type": "imported"}}
    with pytest.raises(ParamsError) as caught:
        validated({"encoders": encoders, "extract": {"encoders": {"face": face}}}, where="params.yaml")
    assert caught.value.keys == ("extract.encoders.face",)
    assert all(name in str(caught.value) for name in named)


def test_members_must_read_the_same_number_of_pictures(members):
    members["vit"]["frames"] = 4
    with pytest.raises(ParamsError, match="frames") as caught:
        validated({"encoders": members, "extract": {"encoders": {"face": ["vit", "dinov2"]}}}, where="params.yaml")
    assert caught.value.keys == ("extract.encoders.face",)
    members["dinov2"]["frames"] = 4
    params = validated({"encoders": members, "extract": {"encoders": {"face": ["vit", "dinov2"]}}}, where="params.yaml")
    assert getattr(params.encoder_of(Modality.FACE), "frames", None) == 4


def test_auto_precision_is_resolved_for_each_member(members):
    members["vit"]["precision"] = "auto"
    params = validated({"encoders": members, "extract": {"encoders": {"face": ["vit", "dinov2"]}}}, where="params.yaml")
    joined = params.encoder_of(Modality.FACE)
    assert [member.precision for member in joined.members] == [best_precision("auto"), "fp32"]
