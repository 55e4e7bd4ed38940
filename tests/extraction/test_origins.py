"""Comparison of feature origins with those of a saved model."""

from __future__ import annotations

from typing import Any

import pytest

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.encoders.config import EgemapsConfig, ImportedConfig, TextConfig
from ecmf_pipeline.extraction.features import FeatureOrigin, check_feature_origins
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.settings.params import branch_settings

MEAN = {"text": FeatureOrigin(encoders=("minilm",), settings={"modality": "text", "encoder": {"type": "a", "dim": 8}})}
"""An origin of a modality that no test changes."""


def imported_origin(name: str, dtype: Any = "float32") -> FeatureOrigin:
    """Return the origin of imported features."""
    encoder = ImportedConfig(name=name, dtype=dtype)
    settings = branch_settings(Modality.AUDIO, encoder, MediaConfig(), FaceConfig())
    return FeatureOrigin(encoders=(name,), settings=settings)


def text_origin(name: str = "minilm", **changes: Any) -> FeatureOrigin:
    """Return the origin of a text encoder with a fake hash of its weights."""
    options = {"weights": "w", **changes}
    weights = options.pop("weights")

    class TextConfigWithFakeWeights(TextConfig):
        def weights_settings(self, *, weights_required: bool = True) -> dict[str, Any]:
            return {"files": {"model.safetensors": weights}}

    settings = branch_settings(Modality.TEXT, TextConfigWithFakeWeights(**options), MediaConfig(), FaceConfig())
    return FeatureOrigin(encoders=(name,), settings=settings)


def error_message(old: FeatureOrigin, new: FeatureOrigin, *, columns_only: bool = False) -> str:
    """Return the error message; "" if there is no error."""
    try:
        check_feature_origins(
            {"audio": old, **MEAN}, {"audio": new, **MEAN}, hint="train again", columns_only=columns_only
        )
    except InputError as error:
        return error.message
    return ""


@pytest.mark.parametrize("columns_only", [True, False])
def test_features_of_another_encoder_are_rejected_with_its_name(columns_only: bool) -> None:
    message = error_message(imported_origin("mine"), imported_origin("other"), columns_only=columns_only)
    assert message.startswith("audio: ")
    assert "features of mine," in message
    assert message.endswith("features are of other")
    assert error_message(imported_origin("mine"), imported_origin("mine"), columns_only=columns_only) == ""


def test_one_message_names_all_modalities_that_differ() -> None:
    with pytest.raises(InputError) as caught:
        check_feature_origins(
            {"audio": imported_origin("a"), "face": imported_origin("b")},
            {"audio": imported_origin("c"), "face": imported_origin("d")},
            hint="h",
        )
    assert caught.value.hint == "h"
    audio, face = caught.value.message.split("; ")
    assert audio.startswith("audio: ")
    assert audio.endswith("features of a, but the current features are of c")
    assert face.startswith("face: ")
    assert face.endswith("features of b, but the current features are of d")


def test_changed_settings_are_rejected_with_their_keys() -> None:
    for changes in ({"inputs": "enriched"}, {"layers": "last4_mean"}, {"token_pool": "last"}, {"weights": "other"}):
        (key,) = changes
        changed_key = {"weights": "encoder.weights.files.model.safetensors"}.get(key, f"encoder.{key}")
        for columns_only in (True, False):
            message = error_message(text_origin(), text_origin(**changes), columns_only=columns_only)
            assert message.startswith("audio: ")
            assert "minilm" in message
            assert message.endswith(f"({changed_key})")
    swapped = error_message(text_origin(inputs="both"), text_origin(inputs=("enriched", "original")), columns_only=True)
    assert "encoder.inputs" in swapped


def test_the_name_of_an_encoder_is_not_compared() -> None:
    assert error_message(text_origin("minilm"), text_origin("sentences")) == ""


def test_settings_that_may_differ_between_corpora_are_compared_only_within_one() -> None:
    pairs = [
        (text_origin(), text_origin(max_tokens=64)),
        (text_origin(), text_origin(precision="bf16")),
        (text_origin(inputs="translation"), text_origin(inputs="original")),
        (imported_origin("mine"), imported_origin("mine", "float16")),
        (visual_origin(MediaConfig()), visual_origin(MediaConfig(frames=8, reader="pyav"))),
    ]
    for old, new in pairs:
        assert error_message(old, new)
        assert error_message(old, new, columns_only=True) == ""


def test_a_model_may_predict_on_another_machine_but_not_with_other_settings() -> None:
    trained = {"global": visual_origin(MediaConfig(reader="decord")), "text": text_origin()}
    other = {"global": visual_origin(MediaConfig(reader="pyav")), "text": text_origin(precision="bf16")}
    check_feature_origins(trained, other, hint="h", other_machine=True)
    for origin in (visual_origin(MediaConfig(frames=8)), visual_origin(MediaConfig(max_side=640))):
        with pytest.raises(InputError):
            check_feature_origins(trained, {"global": origin}, hint="h", other_machine=True)


def visual_origin(media: MediaConfig) -> FeatureOrigin:
    """Return the origin of a visual branch; only the preparation of its input is compared."""
    encoder = EgemapsConfig()
    return FeatureOrigin(encoders=("vision",), settings=branch_settings(Modality.GLOBAL, encoder, media, FaceConfig()))


def test_modalities_without_a_recorded_origin_are_not_checked() -> None:
    check_feature_origins({}, {"audio": imported_origin("other")}, hint="h")
    check_feature_origins({"audio": imported_origin("mine")}, {"text": imported_origin("other")}, hint="h")
