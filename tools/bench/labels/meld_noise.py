"""Measure the gain in training from each treatment of noisy labels, on MELD utterances with flipped labels.

The classes are the six that MELD shares with MER. The classifier is a logistic regression on TF-IDF of words and
punctuation. The treatments use only the noisy labels and out-of-fold votes (folds by dialogue) of the same classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.label_model import assess
from ecmf_pipeline.labels.refine import decide
from ecmf_pipeline.labels.voters import clip_weights

EMOTIONS = {
    "neutral": "neutral",
    "anger": "angry",
    "joy": "happy",
    "sadness": "sad",
    "fear": "worried",
    "surprise": "surprise",
}
CONFUSED_WITH = {"neutral": "sad", "angry": "worried", "happy": "surprise", "sad": "neutral", "worried": "angry"}
"""Wrong label of each class in class-dependent flips (surprise: happy)."""

BALANCE = 0.5
"""Exponent of the class weights, as in the voters and in the training of the fusion."""


@dataclass(frozen=True, slots=True)
class Text:
    """TF-IDF features, labels and dialogues of the training part; features and labels of the test part."""

    training: Any
    truth: Ints
    dialogues: Ints
    test: Any
    test_truth: Ints


def read(folder: Path) -> Text:
    """Read the csv files of MELD, without disgust, which is not one of the six classes."""
    parts = {}
    for part in ("train", "test"):
        frame = pd.read_csv(folder / f"{part}_sent_emo.csv", keep_default_na=False)
        parts[part] = frame[frame["Emotion"].isin(list(EMOTIONS))]
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    training = vectoriser.fit_transform(parts["train"]["Utterance"])
    labels = {
        part: np.array([MER_LABELS.index(EMOTIONS[name]) for name in frame["Emotion"]], np.int64)
        for part, frame in parts.items()
    }
    dialogues = parts["train"]["Dialogue_ID"].to_numpy(np.int64)
    return Text(training, labels["train"], dialogues, vectoriser.transform(parts["test"]["Utterance"]), labels["test"])


def transitions() -> dict[str, Floats]:
    """Return P(noisy label | true label) of each kind of noise, (K, K)."""
    classes = len(MER_LABELS)
    class_dependent = np.eye(classes)
    for name, other in {**CONFUSED_WITH, "surprise": "happy"}.items():
        class_dependent[MER_LABELS.index(name)] *= 0.7
        class_dependent[MER_LABELS.index(name), MER_LABELS.index(other)] = 0.3

    def symmetric(rate: float) -> Floats:
        return np.eye(classes) * (1 - rate) + (1 - np.eye(classes)) * rate / (classes - 1)

    return {
        "clean": np.eye(classes),
        "20% symmetric": symmetric(0.2),
        "30% symmetric": symmetric(0.3),
        "30% class-dependent": class_dependent,
    }


def flip(truth: Ints, transition: Floats, seed: int) -> Ints:
    """Draw noisy labels, (n,)."""
    drawn = np.random.default_rng(seed).random(len(truth))
    flipped = (drawn[:, None] > transition[truth].cumsum(axis=1)).sum(axis=1)
    return np.minimum(flipped, len(transition) - 1).astype(np.int64)


QUICK = ("clean", "30% symmetric")
"""Kinds of noise that are measured without ``--full``."""


def bench(folder: Path, seeds: Sequence[int], noises: Sequence[str], echo: Callable[[str], None]) -> None:
    """Print the test weighted F1 of each treatment under each kind of noise: mean and 95% interval over the seeds."""
    text = read(folder)
    clean = {balance: score(text, text.truth, np.ones(len(text.truth)), balance) for balance in (0.0, BALANCE)}
    echo("\nMELD, test weighted F1 x 100; gains are means with 95% intervals over the seeds")
    echo(f"reference: clean labels {100 * clean[0.0]:.2f}, rebalanced {100 * clean[BALANCE]:.2f}")
    for name in noises:
        transition = transitions()[name]
        runs = [_treatments(text, flip(text.truth, transition, seed), seed) for seed in seeds]
        echo(f"{name}, seeds {list(seeds)}")
        echo(f"  {'labels':<34}{'F1':>7}{'minus noisy labels':>28}{'minus rebalanced':>28}")
        baseline = np.array([run["noisy labels"] for run in runs])
        rebalanced = np.array([run["rebalanced"] for run in runs])
        for treatment in runs[0]:
            scores = np.array([run[treatment] for run in runs])
            gains = f"{interval(scores - baseline):>28}{interval(scores - rebalanced):>28}"
            echo(f"  {treatment:<34}{100 * scores.mean():>7.2f}{gains}")
        if name != "clean":
            default = np.array([run["refined (default), rebalanced"] for run in runs])
            plain = _recovered(default - baseline, clean[0.0] - baseline.mean())
            both = _recovered(default - rebalanced, clean[BALANCE] - rebalanced.mean())
            echo(f"  share of the loss to clean labels that is recovered: {plain}; if both are rebalanced: {both}")


def _recovered(gains: Floats, loss: float) -> str:
    """Format the gains, (s,), as a share of the average loss, with the 95% interval of their mean."""
    half = _half(gains)
    return f"{gains.mean() / loss:.0%} ({(gains.mean() - half) / loss:.0%} to {(gains.mean() + half) / loss:.0%})"


def out_of_fold(text: Text, noisy: Ints, seed: int) -> tuple[Floats, Ints]:
    """Return out-of-fold probabilities, folds by dialogue, (n, K), and the fold of each utterance, (n,)."""
    dialogues = np.unique(text.dialogues)
    fold_of = dict(zip(dialogues.tolist(), (np.random.default_rng(seed).permutation(len(dialogues)) % 5), strict=True))
    folds = np.array([fold_of[dialogue] for dialogue in text.dialogues.tolist()], np.int64)
    votes = np.empty((len(noisy), len(MER_LABELS)))
    for fold in range(5):
        training = folds != fold
        model = _fit(text.training[training], noisy[training], clip_weights(noisy[training], BALANCE))
        votes[~training] = model.predict_proba(text.training[~training])
    return votes, folds


def clips_of(noisy: Ints) -> list[Clip]:
    """Return the utterances as clips of the training split."""
    return [
        Clip(ClipId(f"utterance{i:05d}"), given_label=MER_LABELS[label], split=Split.TRAIN)
        for i, label in enumerate(noisy.tolist())
    ]


def _treatments(text: Text, noisy: Ints, seed: int) -> dict[str, float]:
    votes, folds = out_of_fold(text, noisy, seed)
    config = RefineConfig()
    unknown = np.full(len(noisy), -1)
    assessment = assess({"text": votes}, noisy, unknown, folds=folds, seed=seed, config=config.label_model)
    decisions = decide(assessment, clips_of(noisy), list(MER_LABELS), config, families={"text": "text"})
    weights = np.array([decision.weight for decision in decisions])
    ones = np.ones(len(noisy))
    overwritten = np.where(assessment.confidence > 0.8, assessment.labels, noisy)
    return {
        "noisy labels": score(text, noisy, ones, 0.0),
        "rebalanced": score(text, noisy, ones, BALANCE),
        "dropped only, rebalanced": score(text, noisy, (weights > 0).astype(np.float64), BALANCE),
        "overwritten above 0.8, rebalanced": score(text, overwritten, ones, BALANCE),
        "refined (default)": score(text, noisy, weights, 0.0),
        "refined (default), rebalanced": score(text, noisy, weights, BALANCE),
    }


def score(text: Text, labels: Ints, weights: Floats, balance: float) -> float:
    """Return the test weighted F1 of a classifier trained with these labels, (n,), and sample weights, (n,)."""
    used = weights > 0
    counts = np.bincount(labels, weights, minlength=len(MER_LABELS))
    by_class = (counts.sum() / (len(counts) * np.maximum(counts, 1.0))) ** balance
    model = _fit(text.training[used], labels[used], (weights * by_class[labels])[used])
    return float(f1_score(text.test_truth, model.predict(text.test), average="weighted"))


def _fit(rows: Any, labels: Ints, weights: Floats) -> LogisticRegression:
    return LogisticRegression(C=2.0, max_iter=100, tol=1e-3).fit(rows, labels, sample_weight=weights)


def interval(gains: Floats) -> str:
    """Format the mean of gains in points, (s,), and its 95% interval over the seeds."""
    half = _half(gains)
    return f"{100 * gains.mean():+.2f} ({100 * (gains.mean() - half):+.2f} to {100 * (gains.mean() + half):+.2f})"


def _half(gains: Floats) -> float:
    """Return half the width of the 95% interval of the mean (Student's t)."""
    if len(gains) < 2:
        return float("nan")
    return float(stdtrit(len(gains) - 1, 0.975) * gains.std(ddof=1) / np.sqrt(len(gains)))
