"""Weak classifiers: out-of-fold votes of each modality, in one round or several.

A labelled clip is judged by the model that was fitted without its fold, so its own given label never reaches its vote.
Standardisation and principal components are fitted inside the fold's training part too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints, weighted_f1
from ecmf_pipeline.labels.combining import LEAST_GOLD
from ecmf_pipeline.labels.config import LightGbmConfig, LinearConfig, RefineConfig, VoteConfig
from ecmf_pipeline.labels.label_model import assess_labels

ALL = "all"
"""The name of all modalities together, as that of a modality."""


class Voter(Protocol):
    """A classifier that is fitted and asked in one go."""

    def vote(
        self, training: Floats, given: Ints, queries: Floats, *, seed: int, weights: Floats | None = None
    ) -> Floats:
        """Fit on some clips and judge others.

        Args:
            training: Features of the clips to learn from, (m, D).
            given: Their labels, (m,): 0 .. C-1, every one of the C labels present, C > 1.
            queries: Features of the clips to judge, (q, D).
            seed: Seed of whatever is random.
            weights: How much each clip to learn from counts, (m,), above zero; None: alike.

        Returns:
            Probabilities, (q, C).
        """
        ...


class LinearVoter:
    """Multinomial logistic regression on standardised principal components; see `LinearConfig`."""

    def __init__(self, config: LinearConfig) -> None:
        self.config = config

    def vote(
        self, training: Floats, given: Ints, queries: Floats, *, seed: int, weights: Floats | None = None
    ) -> Floats:
        """See `Voter.vote`."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        training, queries = project(training, queries, self.config.components)
        model = LogisticRegression(
            C=self.config.inverse_penalty, max_iter=self.config.iterations, random_state=seed, solver="lbfgs"
        )
        with warnings.catch_warnings():
            # Stopping at the bound of steps costs a weak voter nothing that the label model would not discount.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(training, given, sample_weight=clip_weights(given, self.config.balance, weights))
        probs: Floats = model.predict_proba(queries)
        return probs


class LightGbmVoter:
    """Gradient boosted trees on principal components; see `LightGbmConfig`.

    A leaf holds at least ``min_child_samples`` clips, but no more than half a class of average size (m / 2C, one at the
    least): with 77 clips of six classes the usual 30 would leave no split to make.
    """

    def __init__(self, config: LightGbmConfig) -> None:
        self.config = config

    def vote(
        self, training: Floats, given: Ints, queries: Floats, *, seed: int, weights: Floats | None = None
    ) -> Floats:
        """See `Voter.vote`."""
        import lightgbm

        training, queries = project(training, queries, self.config.components)
        classes = int(given.max()) + 1
        settings = {
            "objective": "multiclass",
            "num_class": classes,
            "num_leaves": self.config.num_leaves,
            "learning_rate": self.config.learning_rate,
            "min_data_in_leaf": max(1, min(self.config.min_child_samples, len(given) // (2 * classes))),
            "feature_fraction": self.config.feature_fraction,
            "bagging_fraction": self.config.bagging_fraction,
            "bagging_freq": 1,
            "lambda_l2": self.config.lambda_l2,
            "num_threads": self.config.num_threads,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbose": -1,
        }
        data = lightgbm.Dataset(
            training,
            label=given,
            weight=clip_weights(given, self.config.balance, weights),
            params={"verbose": -1, "feature_pre_filter": False},
        )
        model = lightgbm.train(settings, data, num_boost_round=self.config.rounds)
        probs: Floats = np.asarray(model.predict(queries, num_threads=self.config.num_threads), np.float64)
        probs /= probs.sum(axis=1, keepdims=True)
        return probs


def build_voter(config: LinearConfig | LightGbmConfig) -> Voter:
    """The voter with these settings."""
    return LinearVoter(config) if isinstance(config, LinearConfig) else LightGbmVoter(config)


def build_voters(config: VoteConfig) -> dict[str, Voter]:
    """The voters of each modality, by kind."""
    return {one.kind: build_voter(one) for one in (config.linear, config.lightgbm) if one is not None}


def out_of_fold_votes(
    features: NDArray[np.floating],
    given: NDArray[np.integer],
    folds: NDArray[np.integer],
    voter: Voter,
    *,
    n_classes: int,
    seed: int = 0,
    weights: Mapping[int, Floats] | None = None,
) -> Floats:
    """Judge every clip with models that have not seen its given label.

    Args:
        features: One row a clip, (n, D); a row with a NaN is missing and is not judged.
        given: Given labels, (n,), -1 where there is none.
        folds: The fold of each labelled clip, (n,), anything elsewhere. Clips of one group belong in one fold.
        voter: What judges.
        n_classes: K; labels that a training part lacks get probability 0.
        seed: Seed of the voter.
        weights: By fold that is held out, how much each clip counts for the models that judge it, (n,); those of
            weight 0 are not learned from.

    Returns:
        Probabilities, (n, K): a labelled clip's by the model that held its fold out, an unlabeled clip's the mean of
        all folds' models. NaN, an abstention, where the features are missing or no model had two labels to tell apart.

    Raises:
        ValueError: When shapes differ or a feature is infinite.
    """
    features = np.asarray(features)
    given = np.asarray(given, np.int64)
    if features.ndim != 2 or given.shape != features.shape[:1] or folds.shape != given.shape:
        raise ValueError(f"features {features.shape}, given {given.shape} and folds {folds.shape} do not match")
    if np.isinf(features).any():
        raise ValueError("a feature is infinite")
    if given.max(initial=-1) >= n_classes:
        raise ValueError(f"given label {given.max()} is beyond {n_classes} classes")
    present = ~np.isnan(features).any(axis=1)
    labelled = present & (given >= 0)
    unlabeled = np.flatnonzero(present & (given < 0))
    votes = np.full((len(given), n_classes), np.nan)
    total, models = np.zeros((len(unlabeled), n_classes)), 0
    for fold in np.unique(folds[labelled]).tolist():
        counts = np.ones(len(given)) if weights is None else weights[fold]
        training = np.flatnonzero(labelled & (folds != fold) & (counts > 0))
        held_out = np.flatnonzero(labelled & (folds == fold))
        known, compact = np.unique(given[training], return_inverse=True)
        if len(known) < 2:
            continue  # nothing to tell apart: this fold's clips get no vote
        asked = np.concatenate([held_out, unlabeled])
        probs = np.zeros((len(asked), n_classes))
        probs[:, known] = voter.vote(
            np.asarray(features[training], np.float64),
            compact,
            np.asarray(features[asked], np.float64),
            seed=seed,
            weights=None if weights is None else counts[training],
        )
        votes[held_out] = probs[: len(held_out)]
        total += probs[len(held_out) :]
        models += 1
    if models:
        votes[unlabeled] = total / models
    return votes


def joined(features: Mapping[str, NDArray[np.floating]]) -> Floats:
    """All modalities side by side, (n, sum of D + M): what one voter sees who judges by all of them.

    A modality that a clip lacks is filled with its mean over the clips that have it, and a column a modality says which
    clips do. A clip that lacks all is a row of NaN.
    """
    columns, have = [], []
    for values in features.values():
        block = np.array(values, np.float64)
        present = ~np.isnan(block).any(axis=1)
        have.append(present)
        if present.any():
            block[~present] = block[present].mean(axis=0)
            columns.append(block)
    masks = np.stack(have, axis=1)  # (n, M)
    rows = np.concatenate([*columns, masks.astype(np.float64)], axis=1)
    rows[~masks.any(axis=1)] = np.nan
    return rows


def family_of(source: str) -> str:
    """Sources that judge by the same input are one family: all voters of a modality; the LLM reads the words.

    What it is told of face and voice comes from both branches' features; the pictures it sees are those of `global`.
    """
    families = {"llm": "text", "llm/cues": ALL, "llm/frames": "global", "fusion": ALL}
    return families.get(source, source.partition("/")[0])


def project(training: Floats, queries: Floats, components: int) -> tuple[Floats, Floats]:
    """Standardise, then keep at most ``components`` principal components, both fitted on the training rows alone."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(training)
    training, queries = scaler.transform(training), scaler.transform(queries)
    kept = min(components, len(training) - 1, training.shape[1])
    if kept >= training.shape[1]:
        return training, queries  # few columns: rotating them gains nothing
    # Both solvers are exact; which one is cheap depends on the shape. The third, randomised, would need a seed.
    solver = "covariance_eigh" if len(training) > training.shape[1] else "full"
    with np.errstate(invalid="ignore"):  # all rows alike: no variance to take shares of
        pca = PCA(n_components=kept, svd_solver=solver).fit(training)
    return pca.transform(training), pca.transform(queries)


def clip_weights(given: Ints, balance: float, weights: Floats | None = None) -> Floats:
    """A weight for each clip, (m,), mean about one: the inverse frequency of its label to the power ``balance``.

    Clips that count differently, by ``weights``, (m,), count so in the frequencies too.
    """
    own = np.ones(len(given)) if weights is None else weights
    counts = np.bincount(given, own)
    balanced: Floats = own * (own.sum() / (np.count_nonzero(counts) * counts[given])) ** balance
    return balanced


class JointVoter(Protocol):
    """Who judges by all modalities at once, has its own features, and trains a model a fold: the fusion."""

    def votes(self, given: Ints, folds: Ints, weights: Mapping[int, Floats] | None = None) -> Floats:
        """Out-of-fold probabilities, (n, K), NaN where it abstains.

        Args:
            given: Given labels, (n,), -1 where there is none.
            folds: The fold of each clip, (n,): it is judged by models that saw no label of its fold.
            weights: By fold that is held out, how much each clip counts for the models that judge it, (n,).
        """
        ...


@dataclass(frozen=True, slots=True)
class Panel:
    """Who votes on what.

    Attributes:
        features: One row a clip by name of the modality, (n, D) each, NaN where a clip has none.
        voters: The voters of each modality, by kind.
        n_classes: K.
        seed: Seed of the voters.
        joint: Who judges by all modalities at once, by name.
    """

    features: Mapping[str, NDArray[np.floating]]
    voters: Mapping[str, Voter]
    n_classes: int
    seed: int
    joint: Mapping[str, JointVoter] = field(default_factory=dict)

    def votes(self, given: Ints, folds: Ints, weights: Mapping[int, Floats] | None = None) -> dict[str, Floats]:
        """Out-of-fold votes by source, (n, K); see `out_of_fold_votes`."""
        found = {
            f"{name}/{kind}": out_of_fold_votes(
                values, given, folds, voter, n_classes=self.n_classes, seed=self.seed, weights=weights
            )
            for name, values in self.features.items()
            for kind, voter in self.voters.items()
        }
        return found | {name: voter.votes(given, folds, weights) for name, voter in self.joint.items()}


def build_panel(
    config: VoteConfig,
    features: Mapping[str, NDArray[np.floating]],
    n_classes: int,
    joint: Mapping[str, JointVoter],
) -> Panel:
    """The voters of each modality, and of `ALL` together where there are several; see `Panel`."""
    together = {ALL: joined(features)} if len(features) > 1 else {}
    return Panel({**features, **together}, build_voters(config), n_classes, config.seed, joint)


@dataclass(frozen=True, slots=True)
class Rounds:
    """The votes of the best round, and how each round did on held-out labels, the first one first."""

    votes: dict[str, Floats]
    scores: tuple[float, ...]

    @property
    def best(self) -> int:
        """The round whose votes these are, from 1 up."""
        return int(np.argmax(self.scores)) + 1


def vote_in_rounds(
    panel: Panel,
    given: Ints,
    folds: Ints,
    *,
    rounds: int,
    score: Callable[[Floats], float],
    config: RefineConfig,
) -> Rounds:
    """Vote, and vote again with labels weighed by what the last round made of them, until that gains nothing.

    Args:
        panel: Who votes on what.
        given: Given labels, (n,), -1 where there is none.
        folds: The fold of each labelled clip, (n,), for joint voters of every clip.
        rounds: The most rounds; 1 takes labels as they are given.
        score: How good mean probabilities, (n, K), are; NaN rows where nobody votes.
        config: Below which belief a label is dropped, and what the label model believes at first.
    """
    votes = panel.votes(given, folds)
    scores = [score(_mean(votes))]
    best = votes
    beliefs: dict[int, Floats] | None = None
    for _ in range(rounds - 1):
        beliefs = {
            fold: _beliefs(panel, given, folds, fold, beliefs, config) for fold in np.unique(folds[given >= 0]).tolist()
        }
        votes = panel.votes(given, folds, beliefs)
        scores.append(score(_mean(votes)))
        if scores[-1] <= max(scores[:-1]):
            break
        best = votes
    return Rounds(best, tuple(scores))


def held_out_score(probs: Floats, *, given: Ints, verdicts: Ints) -> float:
    """Weighted F1 of out-of-fold probabilities, (n, K): by verdicts where there are enough, else by given labels.

    Given labels may be wrong, but the models that judged a clip saw neither its label nor its fold's.
    """
    judged = verdicts >= 0
    truth = verdicts if judged.sum() >= LEAST_GOLD else given
    known = (truth >= 0) & ~np.isnan(probs[:, 0])
    if not known.any():
        return 0.0
    return weighted_f1(truth[known].astype(str).tolist(), probs[known].argmax(axis=1).astype(str).tolist())


def _beliefs(
    panel: Panel, given: Ints, folds: Ints, fold: int, before: Mapping[int, Floats] | None, config: RefineConfig
) -> Floats:
    """What is believed of each label, (n,), without the labels of one fold; 0 where it is dropped."""
    visible = np.where(folds == fold, -1, given)
    inner = None if before is None else dict.fromkeys(np.unique(folds[visible >= 0]).tolist(), before[fold])
    votes = panel.votes(visible, folds, inner)
    posterior = assess_labels(votes, visible, folds=folds, config=config.label_model).posterior
    belief = np.where(visible >= 0, posterior[np.arange(len(given)), visible], 0.0)
    silent = np.isnan(np.stack([probs[:, 0] for probs in votes.values()])).all(axis=0)
    belief[silent & (visible >= 0)] = 1.0  # nobody spoke against it
    kept: Floats = np.where(belief < config.drop_below, 0.0, belief)
    return kept


def _mean(votes: Mapping[str, Floats]) -> Floats:
    stacked = np.stack(list(votes.values()))  # (S, n, K)
    voting = ~np.isnan(stacked[:, :, :1])
    total = voting.sum(axis=0)
    summed = np.where(voting, stacked, 0.0).sum(axis=0)
    mean: Floats = np.divide(summed, total, out=np.full(stacked.shape[1:], np.nan), where=total > 0)
    return mean
