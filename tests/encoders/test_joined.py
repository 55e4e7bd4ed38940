"""Several encoders for one modality."""

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
    settings_of_imported,
    text_columns,
)
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.settings.params import validated
from ecmf_pipeline.store.state import encoder_name

from .test_contract import EncoderContract


def encoding(kept: list[int], width: int = 1, scale: float = 1.0) -> Encoding:
    """Rows that hold the number of the item they describe."""
    values = np.repeat(np.array(kept, np.float32)[:, None] * scale, width, axis=1)
    return Encoding(values, np.array(kept, np.int64))


def test_a_picture_has_a_row_where_every_member_describes_it():
    joined = join_encodings(
        [encoding([0, 2, 3, 5]), encoding([0, 1, 3, 4, 5], 2, 10)], [False, False], has_pictures=True
    )
    assert joined.kept.tolist() == [0, 3, 5]
    assert joined.values.tolist() == [[0, 0, 0], [3, 30, 30], [5, 50, 50]]


def test_the_row_of_a_whole_clip_stands_beside_each_row_of_the_others():
    whole = Encoding(np.array([[7.0, 8.0]], np.float32))
    joined = join_encodings([encoding([1, 4]), whole], [False, True], has_pictures=True)
    assert joined.kept.tolist() == [1, 4]
    assert joined.values.tolist() == [[1, 7, 8], [4, 7, 8]]
    assert join_encodings([whole, whole], [True, True], has_pictures=True).values.tolist() == [[7, 8, 7, 8]]


def test_a_single_row_of_one_picture_is_not_taken_for_one_of_the_whole_clip():
    joined = join_encodings([encoding([0, 1, 2]), encoding([0])], [False, False], has_pictures=True)
    assert joined.kept.tolist() == [0]


@pytest.mark.parametrize("has_pictures", [True, False])
def test_a_clip_that_one_member_does_not_describe_has_no_row(has_pictures):
    joined = join_encodings([encoding([0, 1]), Encoding.empty(3)], [False, True], has_pictures=has_pictures)
    assert joined.values.shape == (0, 4)


def test_members_that_share_no_picture_describe_none():
    assert join_encodings([encoding([0, 1]), encoding([2, 3])], [False, False], has_pictures=True).values.shape == (
        0,
        2,
    )


def test_sound_at_different_rates_is_a_clear_error():
    with pytest.raises(ModelError, match=r"3 and 2 rows of one clip[\s\S]*one rate"):
        join_encodings([encoding([0, 1, 2]), encoding([0, 1])], [False, False], has_pictures=False)


class JoinedContract(EncoderContract):
    """The contract; what a list of entries makes is no entry itself, and its members have batch sizes of their own."""

    def test_its_config_is_an_entry_of_params(self, config: Any) -> None:
        assert JoinedConfig.model_validate(config.model_dump(mode="json")) == config
        assert config.modalities

    def test_batch_size_does_not_matter(self, config: Any, encoder: Encoder[Any], views: list[Any]) -> None:
        members = tuple(member.model_copy(update={"batch_size": 1}) for member in config.members)
        one_by_one = build_encoder(config.model_copy(update={"members": members}), "cpu")
        for one, many in zip(one_by_one.encode(views), encoder.encode(views), strict=True):
            np.testing.assert_allclose(one.values, many.values, atol=self.tolerance, rtol=self.tolerance)
        assert one_by_one.settings == encoder.settings
        one_by_one.close()

    def test_it_is_as_wide_as_its_members_and_says_what_they_say(
        self, config: Any, encoder: Encoder[Any], views: list[Any]
    ) -> None:
        of_members = []
        for member in config.members:
            built = build_encoder(member, "cpu")
            of_members.append(built.encode(views))
            built.close()
        for joined, *parts in zip(encoder.encode(views), *of_members, strict=True):
            start = 0
            for part in parts:
                columns = joined.values[:, start : start + part.values.shape[1]]
                wanted = dict(zip(part.kept.tolist(), part.values, strict=True))
                for kept, row in zip(joined.kept.tolist(), columns, strict=True):
                    np.testing.assert_array_equal(row, wanted[kept] if len(part.kept) > 1 else part.values[0])
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
    def config(cls, models: Path, tiny: Path) -> JoinedConfig:
        expressions = MiniXceptionConfig(
            weights=models / "mini_xception" / "emotion_model.hdf5",
            face_landmarker=models / "face_landmarker" / "face_landmarker.task",
        )
        return JoinedConfig(members=(VisionConfig(model=str(tiny / "vit"), batch_size=3), expressions))

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, tracks: list[Any]) -> list[Any]:
        return tracks

    def test_crops_that_one_member_cannot_describe_have_no_row(self, encoder: Encoder[Any], views: list[Any]) -> None:
        assert [each.kept.tolist() for each in encoder.encode(views)] == [[0, 2], [0], []]


class TestSound(JoinedContract):
    tolerance = 1e-4

    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, tiny: Path) -> JoinedConfig:
        speech = [AudioConfig(model=str(tiny / name), batch_size=2) for name in ("hubert", "wavlm")]
        return JoinedConfig(members=(*speech, EgemapsConfig()))

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls, sounds: list[Any]) -> list[Any]:
        return sounds

    def test_what_one_member_stores_wide_all_are_stored_wide(self, encoder: Encoder[Any]) -> None:
        assert encoder.dtype == "float32"


class TestTexts(JoinedContract):
    @pytest.fixture(scope="class")
    @classmethod
    def config(cls, tiny: Path) -> JoinedConfig:
        return JoinedConfig(members=tuple(TextConfig(model=str(tiny / name)) for name in ("bert", "sentence")))

    @pytest.fixture(scope="class")
    @classmethod
    def views(cls) -> list[Any]:
        return [ClipText("i am so very happy today"), ClipText("sad"), ClipText("i miss my mother")]


def test_different_rates_are_refused_when_they_are_met(tiny, sounds):
    members = (AudioConfig(model=str(tiny / "hubert")), AudioConfig(model=str(tiny / "wavlm"), frames_per_row=3))
    encoder = build_encoder(JoinedConfig(members=members), "cpu")
    with pytest.raises(ModelError, match="rows of one clip"):
        encoder.encode(sounds)


def test_a_clip_needs_the_texts_that_any_member_reads(tiny):
    both, translated = (TextConfig(model=str(tiny / "bert"), inputs=inputs) for inputs in ("both", "translation"))
    joined = JoinedConfig(members=(translated, both))
    assert joined.text_columns == ("translation", "original", "enriched")
    assert text_columns({"encoder": joined.settings()}) == joined.text_columns


@pytest.fixture
def members(tiny: Path) -> Iterator[dict[str, Any]]:
    return {name: {"type": "transformers_vision", "model": str(tiny / name)} for name in ("vit", "dinov2")}


def test_a_list_in_params_joins_entries_in_its_order(members):
    extract = {"encoders": {"face": ["vit", "dinov2"], "global": "vit"}}
    params = validated({"encoders": members, "extract": extract}, where="params.yaml")
    joined = params.encoder_of(Modality.FACE)
    assert isinstance(joined, JoinedConfig)
    assert joined.members == (params.encoders["vit"], params.encoders["dinov2"])
    turned = JoinedConfig(members=joined.members[::-1])
    assert fingerprint(joined.settings()) != fingerprint(turned.settings())
    assert joined.settings()["members"] == [params.encoders[name].settings() for name in ("vit", "dinov2")]
    assert params.encoder_of(Modality.GLOBAL) == params.encoders["vit"]
    assert encoder_name({"encoder": joined.settings()}) == "transformers_vision + transformers_vision"
    assert not settings_of_imported({"encoder": joined.settings()})


def test_a_list_of_one_is_that_one(members):
    extract = {"encoders": {"face": ["vit"]}}
    params = validated({"encoders": members, "extract": extract}, where="params.yaml")
    assert params.encoder_of(Modality.FACE) == params.encoders["vit"]


@pytest.mark.parametrize(
    ("face", "message"),
    [
        (["vit", "vit"], "`extract.encoders.face`: an encoder is named twice"),
        ([], "`extract.encoders.face`: name an entry under `encoders`, or a list of several"),
        (3, "`extract.encoders.face`: name an entry under `encoders`, or a list of several"),
        (["vit", "dino"], "`extract.encoders.face`: no encoder is named 'dino'; did you mean `dinov2`?"),
        (["vit", "egemaps"], "`extract.encoders.face`: 'egemaps' cannot serve this modality"),
        (["vit", "elsewhere"], "`extract.encoders.face`: 'elsewhere' stands for imported features"),
    ],
)
def test_a_wrong_list_is_named(members, face, message):
    encoders = members | {"elsewhere": {"type": "imported"}}
    with pytest.raises(ParamsError) as caught:
        validated({"encoders": encoders, "extract": {"encoders": {"face": face}}}, where="params.yaml")
    assert message in str(caught.value)


def test_members_must_read_the_same_pictures(members):
    members["vit"]["frames"] = 4
    with pytest.raises(ParamsError, match=r"`extract\.encoders\.face`: encoders that are joined must say the same of"):
        validated({"encoders": members, "extract": {"encoders": {"face": ["vit", "dinov2"]}}}, where="params.yaml")
    members["dinov2"]["frames"] = 4
    params = validated({"encoders": members, "extract": {"encoders": {"face": ["vit", "dinov2"]}}}, where="params.yaml")
    assert getattr(params.encoder_of(Modality.FACE), "frames", None) == 4


def test_what_is_left_to_the_device_is_decided_for_each_member(members):
    members["vit"]["precision"] = "auto"
    params = validated({"encoders": members, "extract": {"encoders": {"face": ["vit", "dinov2"]}}}, where="params.yaml")
    joined = params.encoder_of(Modality.FACE)
    assert [member.precision for member in joined.members] == [best_precision("auto"), "fp32"]
