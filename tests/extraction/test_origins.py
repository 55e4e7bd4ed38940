from __future__ import annotations

from typing import Any

import pytest

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.encoders.config import EgemapsConfig, ImportedConfig, JoinedConfig, TextConfig
from ecmf_pipeline.extraction.features import FeatureOrigin, refuse_other_features
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.settings.params import branch_settings

MEAN = {"text": FeatureOrigin(encoders=("minilm",), settings={"modality": "text", "encoder": {"type": "a", "dim": 8}})}
"""Any origin, of a modality that no test changes."""


def imported(name: str, dtype: Any = "float32") -> FeatureOrigin:
    encoder = ImportedConfig(name=name, dtype=dtype)
    settings = branch_settings(Modality.AUDIO, encoder, MediaConfig(), FaceConfig())
    return FeatureOrigin(encoders=(name,), settings=settings)


def of_text(name: str = "minilm", **changes: Any) -> FeatureOrigin:
    """Of a text encoder; its weights' hash is made up, as there are no weights here."""
    own = {"weights": "w", **changes}
    weights = own.pop("weights")

    class Weighed(TextConfig):
        def weights_settings(self) -> dict[str, Any]:
            return {"files": {"model.safetensors": weights}}

    settings = branch_settings(Modality.TEXT, Weighed(**own), MediaConfig(), FaceConfig())
    return FeatureOrigin(encoders=(name,), settings=settings)


def refusal(was: FeatureOrigin, now: FeatureOrigin, *, columns_alone: bool = False) -> str:
    """What is said; "" where nothing is refused."""
    try:
        refuse_other_features(
            {"audio": was, **MEAN}, {"audio": now, **MEAN}, hint="train again", columns_alone=columns_alone
        )
    except InputError as error:
        return error.message
    return ""


@pytest.mark.parametrize("columns_alone", [True, False])
def test_another_encoder_of_the_same_width_is_refused_by_name(columns_alone: bool) -> None:
    said = refusal(imported("mine"), imported("junk"), columns_alone=columns_alone)
    assert said == "audio: the saved model was trained on features of mine, and they are of junk now"
    assert refusal(imported("mine"), imported("mine"), columns_alone=columns_alone) == ""


def test_every_modality_that_differs_is_named_in_one_message() -> None:
    with pytest.raises(InputError) as caught:
        refuse_other_features(
            {"audio": imported("a"), "face": imported("b")}, {"audio": imported("c"), "face": imported("d")}, hint="h"
        )
    assert caught.value.hint == "h"
    assert "audio: the saved model was trained on features of a" in caught.value.message
    assert "face: the saved model was trained on features of b, and they are of d now" in caught.value.message


def test_other_settings_under_the_same_name_are_refused_and_told() -> None:
    for changes in ({"inputs": "enriched"}, {"layers": "last4_mean"}, {"token_pool": "last"}, {"weights": "other"}):
        (key,) = changes
        told = {"weights": "encoder.weights.files.model.safetensors"}.get(key, f"encoder.{key}")
        for columns_alone in (True, False):
            said = refusal(of_text(), of_text(**changes), columns_alone=columns_alone)
            assert said.endswith(f"of minilm with other settings than minilm has now ({told})")
    swapped = refusal(of_text(inputs="both"), of_text(inputs=("enriched", "original")), columns_alone=True)
    assert "encoder.inputs" in swapped


def test_a_name_alone_makes_no_difference() -> None:
    assert refusal(of_text("minilm"), of_text("sentences")) == ""


def test_what_may_differ_between_corpora_counts_in_its_own_corpus_alone() -> None:
    pairs = [
        (of_text(), of_text(max_tokens=64)),
        (of_text(), of_text(precision="bf16")),
        (of_text(inputs="translation"), of_text(inputs="original")),
        (imported("mine"), imported("mine", "float16")),
        (of_media(MediaConfig()), of_media(MediaConfig(frames=8, reader="pyav"))),
    ]
    for was, now in pairs:
        assert refusal(was, now)
        assert refusal(was, now, columns_alone=True) == ""


def of_media(media: MediaConfig) -> FeatureOrigin:
    """Of a visual encoder without weights: what is compared is what prepares its input."""
    encoder = EgemapsConfig()
    return FeatureOrigin(encoders=("vision",), settings=branch_settings(Modality.GLOBAL, encoder, media, FaceConfig()))


def test_joined_encoders_are_compared_one_by_one() -> None:
    def joined(*members: Any) -> FeatureOrigin:
        encoder = JoinedConfig(members=members)
        settings = branch_settings(Modality.AUDIO, encoder, MediaConfig(), FaceConfig())
        return FeatureOrigin(encoders=("a", "b"), settings=settings)

    one, other = EgemapsConfig(), EgemapsConfig(batch_size=2)
    assert refusal(joined(one, one), joined(one, other)) == ""
    assert refusal(joined(one, one), joined(one, one, one), columns_alone=True).endswith("(encoder.members)")


def test_what_nobody_said_is_let_pass() -> None:
    refuse_other_features({}, {"audio": imported("junk")}, hint="h")
    refuse_other_features({"audio": imported("mine")}, {"text": imported("junk")}, hint="h")
