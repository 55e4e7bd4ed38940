"""Compute out-of-fold votes of weak classifiers on each modality, in one or several rounds.

The vote on a labelled clip comes from a model that was fitted without the clip's fold, so its given label never
influences its own vote. Standardisation and PCA are fitted on the training part of the fold too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints, weighted_f1
from ecmf_pipeline.labels.config import LightGbmConfig, LinearConfig, RefineConfig, VoteConfig
from ecmf_pipeline.labels.label_model import assess_labels
from ecmf_pipeline.labels.verdicts import MIN_GOLD

ALL = "all"
"""Name of the modality that joins all modalities."""

_BLOCK = 65_536
"""Clips that are projected and predicted together."""

VoterConfig = LinearConfig | LightGbmConfig


def configured_voters(config: VoteConfig) -> dict[str, VoterConfig]:
    """Return the configured voters of each modality, by kind."""
    return {voter.kind: voter for voter in (config.linear, config.lightgbm) if voter is not None}


def vote(
    config: VoterConfig,
    features: NDArray[np.floating],
    given: Ints,
    training: Ints,
    queries: Ints,
    *,
    seed: int,
    weights: Floats | None = None,
) -> Floats:
    """Fit a classifier on labelled clips and predict others, a block of clips after the other.

    Args:
        config: Settings of the classifier.
        features: Features of all clips, (n, D).
        given: Labels of the training clips, (m,): 0 .. C-1, each of the C labels present, C > 1.
        training: Rows of the training clips, (m,).
        queries: Rows of the clips to predict, (q,).
        seed: Random seed.
        weights: Positive weight of each training clip, (m,); None: equal weights.

    Returns:
        Probabilities, (q, C).
    """
    inputs, project = fit_projection(np.asarray(features[training], np.float64), config.components)
    counts = clip_weights(given, config.balance, weights)
    fit = _fit_linear if isinstance(config, LinearConfig) else _fit_lightgbm
    predict = fit(config, inputs, given, counts, seed)  # type: ignore[arg-type]
    probs = np.empty((len(queries), int(given.max()) + 1))
    for start in range(0, len(queries), _BLOCK):
        rows = queries[start : start + _BLOCK]
        probs[start : start + _BLOCK] = predict(project(np.asarray(features[rows], np.float64)))
    return probs


Predictor = Callable[[Floats], Floats]
"""Function from projected features, (q, P), to probabilities, (q, C)."""


def _fit_linear(config: LinearConfig, inputs: Floats, given: Ints, counts: Floats, seed: int) -> Predictor:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=config.inverse_penalty, max_iter=config.iterations, random_state=seed, solver="lbfgs")
    with warnings.catch_warnings():
        # The label model gives a voter that has not converged a lower weight.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs, given, sample_weight=counts)
    predict: Predictor = model.predict_proba
    return predict


def _fit_lightgbm(config: LightGbmConfig, inputs: Floats, given: Ints, counts: Floats, seed: int) -> Predictor:
    """Fit LightGBM.

    A leaf needs at most half a class of average size (m / 2C) as ``min_data_in_leaf``: with the usual 30 of 77 clips
    there would be no split.
    """
    import lightgbm

    classes = int(given.max()) + 1
    settings = {
        "objective": "multiclass",
        "num_class": classes,
        "num_leaves": config.num_leaves,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": max(1, min(config.min_child_samples, len(given) // (2 * classes))),
        "feature_fraction": config.feature_fraction,
        "bagging_fraction": config.bagging_fraction,
        "bagging_freq": 1,
        "lambda_l2": config.lambda_l2,
        "num_threads": config.num_threads,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    quiet = {"verbose": -1, "feature_pre_filter": False}
    data = lightgbm.Dataset(inputs, label=given, weight=counts, params=quiet)
    model = lightgbm.train(settings, data, num_boost_round=config.rounds)

    def predict(queries: Floats) -> Floats:
        probs: Floats = np.asarray(model.predict(queries, num_threads=config.num_threads), np.float64)
        probs /= probs.sum(axis=1, keepdims=True)
        return probs

    return predict


def out_of_fold_votes(
    features: NDArray[np.floating],
    given: NDArray[np.integer],
    folds: NDArray[np.integer],
    voter: VoterConfig,
    *,
    n_classes: int,
    seed: int = 0,
    weights: Mapping[int, Floats] | None = None,
) -> Floats:
    """Predict each clip with models that were not fitted to its given label.

    Args:
        features: One row per clip, (n, D); a row with a NaN counts as missing.
        given: Given labels, (n,); -1 if there is none.
        folds: Fold of each labelled clip, (n,); ignored for unlabelled clips. Clips of one group must share a fold.
        voter: Settings of the classifier.
        n_classes: K; labels missing from a training part get probability 0.
        seed: Seed of the classifier.
        weights: For each held-out fold, the weight of each clip in training, (n,); clips of weight 0 are excluded.

    Returns:
        Probabilities, (n, K). A labelled clip is predicted by the model that held out its fold, an unlabelled clip by
        the mean of the models of all folds. NaN (abstention) if the features are missing or no model had two classes.

    Raises:
        ValueError: If shapes differ or a feature is infinite.
    """
    features = np.asarray(features)
    given = np.asarray(given, np.int64)
    if features.ndim != 2 or given.shape != features.shape[:1] or folds.shape != given.shape:
        raise ValueError(f"features {features.shape}, given {given.shape} and folds {folds.shape} do not match")
    if np.isinf(features).any():
        raise ValueError("features contain infinite values")
    if given.max(initial=-1) >= n_classes:
        raise ValueError(f"given label {given.max()} is out of range for {n_classes} classes")
    present = ~np.isnan(features).any(axis=1)
    labelled = present & (given >= 0)
    unlabelled = np.flatnonzero(present & (given < 0))
    votes = np.full((len(given), n_classes), np.nan)
    summed, models = np.zeros((len(unlabelled), n_classes)), 0
    for fold in np.unique(folds[labelled]).tolist():
        fold_weights = np.ones(len(given)) if weights is None else weights[fold]
        training = np.flatnonzero(labelled & (folds != fold) & (fold_weights > 0))
        held_out = np.flatnonzero(labelled & (folds == fold))
        classes, class_indices = np.unique(given[training], return_inverse=True)
        if len(classes) < 2:
            continue  # a classifier needs two classes: the clips of this fold get no vote
        queries = np.concatenate([held_out, unlabelled])
        probs = np.zeros((len(queries), n_classes))
        probs[:, classes] = vote(
            voter,
            features,
            class_indices,
            training,
            queries,
            seed=seed,
            weights=None if weights is None else fold_weights[training],
        )
        votes[held_out] = probs[: len(held_out)]
        summed += probs[len(held_out) :]
        models += 1
    if models:
        votes[unlabelled] = summed / models
    return votes


def join_modalities(features: Mapping[str, NDArray[np.floating]]) -> Floats:
    """Concatenate all modalities, (n, sum of D + M), as input of a voter on all modalities.

    A missing modality is filled with its mean over the clips that have it. M more columns mark which modalities each
    clip has. A clip without any modality is a row of NaN.
    """
    columns, masks_by_modality = [], []
    for values in features.values():
        block = np.array(values, np.float64)
        present = ~np.isnan(block).any(axis=1)
        masks_by_modality.append(present)
        if present.any():
            block[~present] = block[present].mean(axis=0)
            columns.append(block)
    masks = np.stack(masks_by_modality, axis=1)  # (n, M)
    rows = np.concatenate([*columns, masks.astype(np.float64)], axis=1)
    rows[~masks.any(axis=1)] = np.nan
    return rows


def source_family(source: str) -> str:
    """Return the family of a source: sources with the same input count as one.

    All voters of a modality form one family. The LLM votes by the transcript, so it belongs to ``text``. Its prompt
    with cues describes both face and voice (``all``), and its frames are those of ``global``.
    """
    families = {"llm": "text", "llm/cues": ALL, "llm/frames": "global", "fusion": ALL}
    return families.get(source, source.partition("/")[0])


def fit_projection(training: Floats, components: int) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Standardise, then keep at most ``components`` principal components, both fitted on the training rows.

    Returns:
        The projected training rows, (m, P), and a function that projects other rows.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(training)
    scaled = scaler.transform(training)
    n_components = min(components, len(scaled) - 1, scaled.shape[1])
    if n_components >= scaled.shape[1]:
        return scaled, scaler.transform  # PCA would only rotate them
    # Both solvers are exact; the shape decides which is faster. The randomised solver would need a seed.
    solver = "covariance_eigh" if len(scaled) > scaled.shape[1] else "full"
    with np.errstate(invalid="ignore"):  # identical rows have no variance
        pca = PCA(n_components=n_components, svd_solver=solver).fit(scaled)
    return pca.transform(scaled), lambda rows: pca.transform(scaler.transform(rows))


def clip_weights(given: Ints, balance: float, weights: Floats | None = None) -> Floats:
    """Return a weight per clip, (m,), mean about one: the inverse frequency of its label to the power ``balance``.

    Args:
        given: Labels, (m,).
        balance: Exponent; 0 leaves the frequencies as they are, 1 balances the classes.
        weights: Weight of each clip, (m,), which also counts in the frequencies; None: equal weights.
    """
    base_weights = np.ones(len(given)) if weights is None else weights
    counts = np.bincount(given, base_weights)
    balanced: Floats = base_weights * (base_weights.sum() / (np.count_nonzero(counts) * counts[given])) ** balance
    return balanced


JointVoter = Callable[[Ints, Ints, Mapping[int, Floats] | None], Floats]
"""Votes from all modalities with its own features and one model per fold: the fusion.

Called with given labels, (n,), -1 if there is none; the fold of each clip, (n,); and, for each held-out fold, the
weight of each clip in training, (n,). Returns out-of-fold probabilities, (n, K), NaN for abstentions. A clip is
predicted by models that saw no label of its fold.
"""


@dataclass(frozen=True, slots=True)
class VoterPanel:
    """All voters with their inputs.

    Attributes:
        features: Features by modality, one row per clip, (n, D) each; NaN if the clip lacks the modality.
        voters: Voters of each modality, by kind.
        n_classes: K.
        seed: Seed of the voters.
        joint: Voters on all modalities at once, by name.
    """

    features: Mapping[str, NDArray[np.floating]]
    voters: Mapping[str, VoterConfig]
    n_classes: int
    seed: int
    joint: Mapping[str, JointVoter] = field(default_factory=dict)

    def votes(self, given: Ints, folds: Ints, weights: Mapping[int, Floats] | None = None) -> dict[str, Floats]:
        """Return out-of-fold votes by source, (n, K); see `out_of_fold_votes`."""
        votes = {
            f"{name}/{kind}": out_of_fold_votes(
                values, given, folds, voter, n_classes=self.n_classes, seed=self.seed, weights=weights
            )
            for name, values in self.features.items()
            for kind, voter in self.voters.items()
        }
        return votes | {name: joint_voter(given, folds, weights) for name, joint_voter in self.joint.items()}


@dataclass(frozen=True, slots=True)
class Rounds:
    """Votes of the best round, and the held-out score of each round in order."""

    votes: dict[str, Floats]
    scores: tuple[float, ...]

    @property
    def best(self) -> int:
        """Number of the best round, starting at 1."""
        return int(np.argmax(self.scores)) + 1


def vote_in_rounds(
    panel: VoterPanel,
    given: Ints,
    folds: Ints,
    *,
    rounds: int,
    score: Callable[[Floats], float],
    config: RefineConfig,
) -> Rounds:
    """Repeat voting, with labels weighted by the previous round's posterior, until the held-out score stops improving.

    Args:
        panel: The voters.
        given: Given labels, (n,); -1 if there is none.
        folds: Fold of each labelled clip, (n,); joint voters need the fold of every clip.
        rounds: Maximum number of rounds; 1 weights all given labels equally.
        score: Score of mean probabilities, (n, K), with NaN rows where all sources abstain.
        config: Threshold below which a label is dropped, and the priors of the label model.
    """
    votes = panel.votes(given, folds)
    scores = [score(_mean_votes(votes))]
    best_votes = votes
    weights: dict[int, Floats] | None = None
    for _ in range(rounds - 1):
        weights = {
            fold: _label_weights(panel, given, folds, fold, weights, config)
            for fold in np.unique(folds[given >= 0]).tolist()
        }
        votes = panel.votes(given, folds, weights)
        scores.append(score(_mean_votes(votes)))
        if scores[-1] <= max(scores[:-1]):
            break
        best_votes = votes
    return Rounds(best_votes, tuple(scores))


def held_out_score(probs: Floats, *, given: Ints, human_labels: Ints) -> float:
    """Return the weighted F1 of out-of-fold probabilities, (n, K).

    Human labels are the truth if there are at least `MIN_GOLD`, else the given labels. Given labels may be wrong, but
    the models that predicted a clip saw no label of its fold.

    Args:
        probs: Probabilities, (n, K); NaN rows are skipped.
        given: Given labels, (n,); -1 if there is none.
        human_labels: Human labels, (n,); -1 if there is none.
    """
    has_human_label = human_labels >= 0
    truth = human_labels if has_human_label.sum() >= MIN_GOLD else given
    scored = (truth >= 0) & ~np.isnan(probs[:, 0])
    if not scored.any():
        return 0.0
    return weighted_f1(truth[scored].astype(str).tolist(), probs[scored].argmax(axis=1).astype(str).tolist())


def _label_weights(
    panel: VoterPanel, given: Ints, folds: Ints, fold: int, previous: Mapping[int, Floats] | None, config: RefineConfig
) -> Floats:
    """Return the posterior of each given label, (n,), computed without the labels of one fold; 0 if dropped."""
    visible_labels = np.where(folds == fold, -1, given)
    inner_weights = (
        None if previous is None else dict.fromkeys(np.unique(folds[visible_labels >= 0]).tolist(), previous[fold])
    )
    votes = panel.votes(visible_labels, folds, inner_weights)
    posterior = assess_labels(votes, visible_labels, folds=folds, config=config.label_model).posterior
    posterior_of_given = np.where(visible_labels >= 0, posterior[np.arange(len(given)), visible_labels], 0.0)
    all_abstain = np.isnan(np.stack([probs[:, 0] for probs in votes.values()])).all(axis=0)
    posterior_of_given[all_abstain & (visible_labels >= 0)] = 1.0  # no vote contradicts the label
    kept: Floats = np.where(posterior_of_given < config.drop_below, 0.0, posterior_of_given)
    return kept


def _mean_votes(votes: Mapping[str, Floats]) -> Floats:
    stacked = np.stack(list(votes.values()))  # (S, n, K)
    voting = ~np.isnan(stacked[:, :, :1])
    total = voting.sum(axis=0)
    summed = np.where(voting, stacked, 0.0).sum(axis=0)
    mean: Floats = np.divide(summed, total, out=np.full(stacked.shape[1:], np.nan), where=total > 0)
    return mean
