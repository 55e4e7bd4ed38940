"""The fusion models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.fusion.config import FusionConfig
from ecmf_pipeline.fusion.ecmf import EcmfFusion
from ecmf_pipeline.fusion.kinds import build_model
from ecmf_pipeline.fusion.model import FeatureDropout, FusionModel, Standardiser

DIMS = {"global": 9, "face": 6, "audio": 4, "text": 5}
BATCH = 5


def make_model(dims: dict[str, int] = DIMS, **settings: Any) -> FusionModel:
    """Build a model with random values for all parameters, like after training."""
    generator = torch.Generator().manual_seed(0)
    model = build_model(FusionConfig(**{"hidden": 8, "heads": 2, **settings}), dims, 3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model.eval()


def fit_standardiser(model: FusionModel, index: int, values: Tensor) -> None:
    standardiser = model.standardisers[index]
    assert isinstance(standardiser, Standardiser)
    standardiser.fit(values)


def make_features(dims: dict[str, int] = DIMS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, dim, generator=generator) for dim in dims.values()]


masks = arrays(np.bool_, (BATCH, len(DIMS))).filter(lambda mask: bool(mask.any(axis=1).all()))
fillers = st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, 0.0])


KINDS = ["ecmf", "attention", "concat", "gated", "mean_probs"]


@pytest.mark.parametrize("kind", [*KINDS, "single:audio"])
def test_output_shapes(kind: str) -> None:
    output = make_model(kind=kind)(make_features(), torch.ones(BATCH, 4, dtype=torch.bool))
    assert output.logits.shape == (BATCH, 3)
    assert output.weights.shape == (BATCH, 4)


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), mask=masks, filler=fillers)
def test_values_of_missing_rows_do_not_change_the_output(kind: str, mask: np.ndarray, filler: float) -> None:
    present = torch.from_numpy(mask)
    features = make_features()
    altered = [
        torch.where(has_modality[:, None], values, filler)
        for values, has_modality in zip(features, present.unbind(1), strict=True)
    ]
    model = make_model(layers=2, kind=kind)
    plain, other = model(features, present), model(altered, present)
    assert torch.equal(plain.logits, other.logits)
    assert torch.equal(plain.weights, other.weights)


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), mask=masks)
def test_weights_sum_to_one_and_are_zero_only_for_missing_modalities(kind: str, mask: np.ndarray) -> None:
    weights = make_model(kind=kind)(make_features(), torch.from_numpy(mask)).weights
    np.testing.assert_allclose(weights.detach().sum(dim=1), 1, rtol=1e-5)
    assert np.array_equal(weights.detach().numpy() > 0, mask)


def test_missing_rows_cause_no_nan_in_gradients() -> None:
    features = make_features()
    features[1] = torch.full_like(features[1], torch.nan)
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    present[:, 1] = False
    model = make_model()
    torch.autograd.backward(model(features, present).logits.square().sum())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_missing_modality_gives_the_output_of_a_model_without_it() -> None:
    model, features = make_model(), make_features()
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    present[:, 3] = False
    removed = [["branches", "3"], ["standardisers", "3"], ["join", "layers", "3"]]
    three = make_model({name: DIMS[name] for name in ("global", "face", "audio")})
    state = {
        name: value
        for name, value in model.state_dict().items()
        if not any(name.split(".")[: len(prefix)] == prefix for prefix in removed)
    }
    three.load_state_dict(
        {name: value[:3] if name in {"reliability", "seen"} else value for name, value in state.items()}
    )
    torch.testing.assert_close(model(features, present).logits, three(features[:3], present[:, :3]).logits)


def test_dynamic_weights_differ_between_clips() -> None:
    weights = make_model()(make_features(), torch.ones(BATCH, 4, dtype=torch.bool)).weights
    assert float(weights.detach().std(dim=0).min()) > 0.003


def test_attention_changes_the_output() -> None:
    features = make_features()
    model, without = make_model(), make_model(layers=0)
    without.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("attention")})
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    assert not torch.allclose(model(features, present).logits, without(features, present).logits)


def test_zero_attention_passes_the_tokens_to_the_classifier() -> None:
    model, without = make_model(), make_model(layers=0)
    nn.init.zeros_(model.get_parameter("attention.0.project.weight"))
    nn.init.zeros_(model.get_parameter("attention.0.project.bias"))
    without.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("attention")})
    features, present = make_features(), torch.ones(BATCH, 4, dtype=torch.bool)
    assert torch.equal(model(features, present).logits, without(features, present).logits)
    # With the branch logits disabled, tokens still reach the classifier.
    for index in range(len(DIMS)):
        nn.init.zeros_(model.get_parameter(f"branches.{index}.head.weight"))
    before = model(features, present).logits
    features[2] = features[2] + 1.0
    assert not torch.allclose(before, model(features, present).logits)


def test_an_untrained_model_gives_uniform_outputs() -> None:
    output = EcmfFusion(FusionConfig(), DIMS, 3).eval()(make_features(), torch.ones(BATCH, 4, dtype=torch.bool))
    np.testing.assert_array_equal(output.logits.detach(), 0)
    np.testing.assert_allclose(output.weights.detach(), 0.25)


def test_a_single_modality_has_weight_one() -> None:
    dims = {"face": 6}
    output = make_model(dims)(make_features(dims), torch.ones(BATCH, 1, dtype=torch.bool))
    np.testing.assert_array_equal(output.weights.detach(), 1)


def test_a_clip_without_any_modality_is_rejected() -> None:
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    present[2] = False
    with pytest.raises(ValueError, match="no modality"):
        make_model()(make_features(), present)


def test_a_modality_absent_from_training_is_ignored() -> None:
    model, features = make_model(), make_features()
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    trained = present.clone()
    trained[:, 1] = False
    model.see(trained)
    output = model(features, present)
    np.testing.assert_array_equal(output.weights.detach()[:, 1], 0)


def test_standardisation_uses_present_rows_and_handles_constant_columns() -> None:
    model, features = make_model(), make_features()
    features[0] = features[0] * 1e4 + 1e6
    features[0][:, 0] = 42.0
    features[0][4] = torch.nan
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    present[4, 0] = False
    for index in range(len(features)):
        fit_standardiser(model, index, features[index][present[:, index]])
    torch.testing.assert_close(model.get_buffer("standardisers.0.mean"), features[0][:4].mean(dim=0))
    logits = model(features, present).logits
    assert bool(logits.isfinite().all())
    features[0][:, 0] = -7.0  # weights of a column that is constant in the training rows are random
    torch.testing.assert_close(model(features, present).logits, logits, rtol=0, atol=0)


def test_hidden_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        FusionConfig(hidden=10, heads=4)


def test_one_hot_weights_select_the_logits_of_a_branch() -> None:
    """One-hot weights select the logits of one branch."""
    model, features = make_model(token_path=False), make_features()
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    assert isinstance(model, EcmfFusion)
    _, branch_logits = model.branch_outputs(model.standardise(features, present))  # (B, M, C)
    nn.init.zeros_(model.score.weight)
    for index, name in enumerate(DIMS):
        with torch.no_grad():
            model.reliability.fill_(-1e9)[index] = 0.0
        output = model(features, present)
        assert torch.equal(output.weights, torch.eye(4)[index].expand(BATCH, 4))
        torch.testing.assert_close(output.logits, model.gain.exp() * branch_logits[:, index])
        single = make_model(kind=f"single:{name}")
        state = {key: value for key, value in model.state_dict().items() if key in single.state_dict()}
        single.load_state_dict(state | {"seen": single.get_buffer("seen")})
        torch.testing.assert_close(single(features, present).logits, branch_logits[:, index])


@pytest.mark.parametrize("joint", ["mlp", "sum"])
def test_the_join_is_zero_until_trained_and_mlp_distinguishes_modalities(joint: str) -> None:
    untrained = EcmfFusion(FusionConfig(hidden=8, heads=2, joint=joint), DIMS, 3)  # type: ignore[arg-type]
    tokens, weights = torch.randn(BATCH, 4, 8, generator=torch.Generator().manual_seed(2)), torch.full((BATCH, 4), 0.25)
    np.testing.assert_array_equal(untrained.join(tokens, weights).detach(), 0)
    join = make_model(joint=joint).get_submodule("join")
    swapped = tokens[:, [1, 0, 2, 3]]
    same = torch.allclose(join(tokens, weights), join(swapped, weights))
    assert same == (joint == "sum"), "only separate layers distinguish the modalities"


def test_missing_tokens_do_not_change_the_join() -> None:
    join = make_model().get_submodule("join")
    tokens, weights = torch.randn(BATCH, 4, 8), torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(BATCH, 4)
    changed = tokens.clone()
    changed[:, 2:] = 7.0
    assert torch.equal(join(tokens, weights), join(changed, weights))


def test_layer_norm_can_be_disabled() -> None:
    names = [name for name, part in make_model(layer_norm=False).named_modules() if isinstance(part, nn.LayerNorm)]
    assert names == []
    assert any(isinstance(part, nn.LayerNorm) for part in make_model().modules())


def test_one_hot_weights_exclude_other_modalities_from_the_token_path() -> None:
    model, features = make_model(layers=0), make_features()
    assert isinstance(model, EcmfFusion)
    nn.init.zeros_(model.score.weight)
    with torch.no_grad():
        model.reliability.fill_(-1e9)[2] = 0.0
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    alone = present & (torch.arange(4) == 2)
    torch.testing.assert_close(model(features, present).logits, model(features, alone).logits)


def test_a_single_modality_model_ignores_others_and_rejects_clips_without_it() -> None:
    model, features = make_model(kind="single:audio"), make_features()
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    before = model(features, present)
    features[0] = features[0] + 1.0
    assert torch.equal(model(features, present).logits, before.logits)
    np.testing.assert_array_equal(before.weights.detach(), np.eye(4)[[2] * BATCH])
    present[1, 2] = False
    with pytest.raises(ValueError, match="no modality"):
        model(features, present)
    with pytest.raises(InputError, match="'smell'") as caught:
        make_model(kind="single:smell")
    assert caught.value.hint


def test_mean_probs_is_the_mean_of_single_modality_probabilities() -> None:
    model, features = make_model(kind="mean_probs"), make_features()
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    present[0, 1] = False
    singles = [make_model(kind=f"single:{name}") for name in DIMS]
    for single in singles:
        single.load_state_dict(model.state_dict() | {"seen": single.get_buffer("seen")})
    all_present = torch.ones_like(present)
    single_probs = torch.stack([single(features, all_present).logits.softmax(dim=1) for single in singles])  # (M, B, C)
    probs = model(features, present).logits.exp()
    torch.testing.assert_close(probs[1:], single_probs[:, 1:].mean(dim=0))
    torch.testing.assert_close(probs[0], single_probs[[0, 2, 3], 0].mean(dim=0))


@pytest.mark.parametrize("kind", [*KINDS, "single:face"])
@pytest.mark.parametrize("temporal", ["attention", "mean"])
def test_missing_frames_do_not_change_the_output(kind: str, temporal: str) -> None:
    """Padding a clip of three frames to five does not change its output."""
    model = make_model(kind=kind, temporal=temporal)
    short = [values[:, None].repeat(1, 3, 1) + torch.arange(3.0)[:, None] for values in make_features()]
    padded = [torch.cat([values, torch.full_like(values[:, :2], torch.nan)], dim=1) for values in short]
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    torch.testing.assert_close(model(short, present).logits, model(padded, present).logits)


def test_temporal_attention_weights_frames_and_the_mean_does_not() -> None:
    steps = torch.linspace(-1, 1, 4)[:, None]  # within the clipping limit of features
    frames = [values[:, None] + steps for values in make_features()]
    means = [values.mean(dim=1) for values in frames]
    present = torch.ones(BATCH, 4, dtype=torch.bool)
    mean, attention = (make_model(temporal=temporal, layers=0) for temporal in ("mean", "attention"))
    torch.testing.assert_close(mean(frames, present).logits, mean(means, present).logits)
    assert not torch.allclose(attention(frames, present).logits, attention(means, present).logits, atol=1e-3)


def test_frames_are_standardised_by_present_frames() -> None:
    model, features = make_model(), make_features()
    frames = [torch.stack([values, values + 1, torch.full_like(values, torch.nan)], dim=1) for values in features]
    fit_standardiser(model, 1, frames[1])
    torch.testing.assert_close(model.get_buffer("standardisers.1.mean"), features[1].mean(dim=0) + 0.5)


def test_feature_dropout_drops_the_configured_share() -> None:
    torch.manual_seed(0)
    dropout, ones = FeatureDropout(0.3), torch.ones(200, 101)
    dropped = dropout(ones)
    assert float((dropped == 0).float().mean()) == pytest.approx(77 / 256, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(dropout.eval()(ones), ones)


def test_at_least_one_path_must_be_enabled() -> None:
    with pytest.raises(ValueError, match="own_path and token_path"):
        FusionConfig(own_path=False, token_path=False)
    with pytest.raises(ValueError, match="pattern"):
        FusionConfig(kind="best")
