"""The kernel path: its fit, its shares, and models that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.gaussian_process.kernels import RBF

from ecmf_pipeline.fusion import kernel
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import Inputs
from ecmf_pipeline.fusion.kernel import KernelPath, Shares, fit_kernel_path, fit_shares
from ecmf_pipeline.fusion.member import Examples
from ecmf_pipeline.fusion.model import Standardiser
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import cross_validate, fit

ROWS, CLASSES = 90, 3
UNCHANGED = [Standardiser(4), Standardiser(3)]


@pytest.fixture(scope="module")
def examples() -> Examples:
    rng = np.random.default_rng(5)
    labels = np.arange(ROWS) % CLASSES
    tables = [rng.normal(size=(CLASSES, dim))[labels] + rng.normal(size=(ROWS, dim)) for dim in (4, 3)]
    features = tuple(torch.from_numpy(table.astype(np.float32)) for table in tables)
    present = torch.ones(ROWS, 2, dtype=torch.bool)
    return Examples(Inputs(features, present), torch.from_numpy(labels), torch.ones(ROWS))


def test_the_path_is_a_kernel_ridge_regression(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "PENALTIES", (0.5,))
    monkeypatch.setattr(kernel, "_relevances", lambda *_: [1.0, 1.0])
    monkeypatch.setattr(kernel, "_fit_logits", lambda *_: (0.0, 8.0, np.zeros(CLASSES)))
    weights = 1 + examples.labels.float()
    validation = np.arange(80, ROWS)
    path = fit_kernel_path(examples, weights, np.arange(80), [validation], CLASSES, UNCHANGED, seed=1).path

    joined = torch.cat(examples.inputs.features, dim=1).double().numpy()
    centered = joined - joined[:80].mean(axis=0)
    width = np.sqrt(kernel.WIDTH / 2 * (centered[:80] ** 2).sum(axis=1).mean())  # all seven components are kept
    similarity = RBF(width)(centered, centered[:80])  # (90, 80)
    share = weights[:80].double().numpy() / weights[:80].double().numpy().mean()
    one_hot = np.eye(CLASSES)[examples.labels[:80].numpy()]
    gram = similarity[:80]
    mean, prior = share @ gram / share.sum(), share @ one_hot / share.sum()
    left = (gram - mean).T @ ((gram - mean) * share[:, None]) + 0.5 * gram
    expected = (similarity - mean) @ np.linalg.lstsq(
        left, (gram - mean).T @ ((one_hot - prior) * share[:, None]), rcond=1e-12
    )[0] + prior
    log_probs = path.log_probs(examples.inputs).double().numpy()
    scores = log_probs - log_probs.mean(axis=1, keepdims=True)  # the scale is free
    centered_scores = expected - expected.mean(axis=1, keepdims=True)
    scale = (scores * centered_scores).sum() / (centered_scores**2).sum()
    assert scale > 1
    np.testing.assert_allclose(scores / scale, centered_scores, atol=2e-3)


def test_held_out_rows_are_predicted_without_their_labels(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "PENALTIES", (0.5,))
    monkeypatch.setattr(kernel, "_fit_logits", lambda *_: (0.0, 8.0, np.zeros(CLASSES)))
    validation = np.arange(0, ROWS, 5)
    labels = examples.labels.clone()
    labels[validation] = (labels[validation] + 1) % CLASSES
    held_out = [
        fit_kernel_path(
            Examples(examples.inputs, given, examples.weights),
            torch.ones(ROWS),
            np.arange(ROWS),
            [validation, np.arange(1, ROWS, 5)],
            CLASSES,
            UNCHANGED,
            seed=1,
        ).held_out
        for given in (examples.labels, labels)
    ]
    torch.testing.assert_close(held_out[0][0], held_out[1][0])
    assert (held_out[0][1] - held_out[1][1]).abs().max() > 0.1


def test_sequences_are_represented_by_the_mean_of_their_frames(examples: Examples) -> None:
    path = fit_kernel_path(
        examples, torch.ones(ROWS), np.arange(ROWS), [np.arange(10)], CLASSES, UNCHANGED, seed=1
    ).path
    first, second = examples.inputs.features
    present = examples.inputs.present
    frames = torch.stack([first - 1, first + 1, torch.full_like(first, torch.nan)], dim=1)
    torch.testing.assert_close(
        path.log_probs(Inputs((frames, second), present)), path.log_probs(examples.inputs), rtol=1e-4, atol=1e-4
    )


def test_means_of_frames_need_no_copy_of_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    nanmean = torch.Tensor.nanmean

    def record(values: torch.Tensor, dim: int) -> torch.Tensor:
        sizes.append(len(values))
        return nanmean(values, dim=dim)

    monkeypatch.setattr(torch.Tensor, "nanmean", record)
    frames = torch.randn(1000, 3, 5)
    frames[::2, 1] = torch.nan
    examples = Examples(
        Inputs((frames,), torch.ones(1000, 1, dtype=torch.bool)), torch.arange(1000) % 2, torch.ones(1000)
    )
    fit_kernel_path(examples, torch.ones(1000), np.arange(1000), [np.arange(10)], 2, [Standardiser(5)], seed=1)
    assert sum(sizes) == 1000, "once for each row"
    assert max(sizes) <= 256


@pytest.mark.parametrize("rows", [3, 3000])
def test_shares_are_equal_with_few_rows_and_learned_with_many(rows: int) -> None:
    labels = torch.arange(rows) % CLASSES
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(rows, generator=generator) < 0.2
    shown = torch.where(wrong, (labels + 1) % CLASSES, labels)
    good = torch.nn.functional.one_hot(shown, CLASSES).float().mul(2).log_softmax(dim=1)
    noise = torch.randn(rows, CLASSES, generator=generator).log_softmax(dim=1)
    shares = fit_shares(noise, good, torch.ones(rows, 1), labels, torch.ones(rows))
    assert (shares.own, shares.path) == pytest.approx((0.5, 0.5) if rows == 3 else (0, 1), abs=0.35)


def test_the_share_of_missing_modalities_goes_to_the_model() -> None:
    own, path = torch.tensor([[-1.0, -2.0]] * 3), torch.tensor([[-4.0, -3.0]] * 3)
    mixed = Shares(0.2, 0.8).mix(own, path, torch.tensor([[0.0], [0.5], [1.0]]))
    torch.testing.assert_close(mixed, torch.tensor([[-1.0, -2.0], [-2.2, -2.4], [-3.4, -2.8]]))


def test_members_of_a_fold_share_the_path(ensemble: Ensemble) -> None:
    assert all(member.path is not None and member.shares is not None for member in ensemble.members)
    by_fold: dict[int, list[KernelPath | None]] = {}
    for member in ensemble.members:
        by_fold.setdefault(member.fold, []).append(member.path)
    assert all(one is paths[0] for paths in by_fold.values() for one in paths)
    assert len({id(paths[0]) for paths in by_fold.values()}) == len(by_fold) == 3


@pytest.mark.parametrize("changes", [{"kind": "mean_probs"}, {"kind": "attention"}, {"kernel_path": False}])
def test_other_kinds_have_no_path(corpus: Any, quick: TrainingConfig, tmp_path: Path, changes: dict[str, Any]) -> None:
    fusion = FusionConfig(hidden=16, heads=2, **changes)
    trained = fit(corpus.features, corpus.labels, fusion=fusion, training=quick.model_copy(update={"seeds": 1}))
    trained.save(tmp_path)
    assert all(member.path is None for member in Ensemble.load(tmp_path).members)
    assert not [name for name in load_file(tmp_path / "weights.safetensors") if name.startswith("path")]


def test_interactions_that_linear_models_miss_are_learned() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(240, 4)).astype(np.float32)
    labels = ((values**2).sum(axis=1) > 3.4).astype(int)  # inside and outside of a sphere
    features = {"face": values[:, :2], "audio": values[:, 2:]}
    training = TrainingConfig(folds=2, seeds=1, epochs=3, calibration="none")
    accuracy = {
        used: cross_validate(
            features, labels, fusion=FusionConfig(hidden=8, heads=2, kernel_path=used), training=training
        ).metrics["accuracy"]
        for used in (True, False)
    }
    assert accuracy[True] > 0.8 > accuracy[False] + 0.1


def test_models_standardise_by_their_own_training_rows(ensemble: Ensemble) -> None:
    """The validation rows of a model must differ from its training rows as much as those of its fold do."""
    means: dict[int, set[float]] = {member.fold: set() for member in ensemble.members}
    for member in ensemble.members:
        means[member.fold].add(float(member.model.get_buffer("standardisers.0.mean")[0]))
    assert [len(values) for values in means.values()] == [2, 2, 2]


@pytest.mark.parametrize(("rows", "lowest", "highest"), [(30, 0.4, 1.0), (3000, 0.05, 0.4)])
def test_encoders_of_noise_are_scaled_down_if_many_clips_show_it(rows: int, lowest: float, highest: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % CLASSES
    noise = torch.randn(rows, 100, generator=generator)
    good = torch.randn(rows, 100, generator=generator) + 0.2 * torch.randn(CLASSES, 100, generator=generator)[labels]
    factors = kernel._relevances([noise, good], labels, torch.arange(rows))
    assert lowest < factors[0] / factors[1] <= highest
