"""Labelled sets on which the fusion is compared with plain models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.arrays import Ints
from ecmf_pipeline.core.errors import MissingInput
from tools.bench.fusion.generated import generate
from tools.bench.fusion.ravdess import read_ravdess
from tools.bench.meld.sample import embedded, read_samples

GENERATED_CLIPS = 2_000
MELD_CLIPS = 3_000
"""Clips of a draw, to limit the time of five seeds."""

TFIDF_COLUMNS = 200
CACHE = Path(".cache/bench-meld")


@dataclass(frozen=True)
class LabelledSet:
    """Clips with features and labels.

    Attributes:
        name: Name in tables.
        features: Features by encoder, (n, D).
        labels: Classes to train on, (n,); -1 if there is none.
        truth: Classes to score, (n,); -1 if the clip is not scored.
        groups: Speaker or dialogue of each clip, (n,), or None.
        folds: Custom folds, (n,), or None.
    """

    name: str
    features: dict[str, NDArray[np.float32]]
    labels: Ints
    truth: Ints
    groups: Sequence[str] | None
    folds: Ints | None = None

    def with_few_labels(self, size: int, seed: int) -> LabelledSet:
        """Return the set with ``size`` labelled clips, of half of the groups; the clips of the others are scored."""
        rng = np.random.default_rng([seed, size])
        groups = np.array(self.groups)
        names = rng.permutation(np.unique(groups))
        trained = np.isin(groups, names[: len(names) // 2])
        chosen = np.zeros(len(groups), np.bool_)
        chosen[rng.choice(np.flatnonzero(trained), size, replace=False)] = True
        used = chosen | ~trained
        labels, truth = np.where(chosen, self.labels, -1), np.where(trained, -1, self.truth)
        folds = np.where(chosen, -1, 0)
        return replace(
            self,
            features={name: values[used] for name, values in self.features.items()},
            labels=labels[used],
            truth=truth[used],
            groups=groups[used].tolist(),
            folds=folds[used],
        )


def ravdess_set() -> LabelledSet:
    """Return RAVDESS: action units and MFCCs, folds by actor."""
    features, labels, actors = read_ravdess()
    classes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return LabelledSet("RAVDESS", features, classes, classes, actors)


def generated_set() -> LabelledSet:
    """Return a generated set of `GENERATED_CLIPS` clips."""
    one = generate(GENERATED_CLIPS, 0)
    labels = one.labels.astype(np.int64)
    return LabelledSet("generated", one.features, labels, labels, None)


def meld_set() -> LabelledSet:
    """Return a draw of MELD's dialogues: MiniLM embeddings, and TF-IDF by words and components of other dialogues."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    sample = read_samples({"train": 10**6}, 7)["train"]
    embeddings = embedded(sample.texts, CACHE).astype(np.float32)
    is_drawn = np.isin(sample.dialogues, _draw_dialogues(sample.dialogues))
    rows, others = np.flatnonzero(is_drawn), np.flatnonzero(~is_drawn)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[!?]")
    components = TruncatedSVD(TFIDF_COLUMNS, random_state=0)
    components.fit(words.fit_transform([sample.texts[row] for row in others.tolist()]))
    tfidf = components.transform(words.transform([sample.texts[row] for row in rows.tolist()])).astype(np.float32)
    labels = sample.truth[rows]
    features = {"minilm": embeddings[rows], "tfidf": tfidf}
    return LabelledSet("MELD", features, labels, labels, sample.dialogues[rows].tolist())


def _draw_dialogues(dialogues: NDArray[np.str_]) -> NDArray[np.str_]:
    """Draw whole dialogues with about `MELD_CLIPS` utterances."""
    names, counts = np.unique(dialogues, return_counts=True)
    order = np.random.default_rng(7).permutation(len(names))
    return names[order[: int(np.searchsorted(np.cumsum(counts[order]), MELD_CLIPS))]]


def default_corpus() -> LabelledSet:
    """Return the default corpus of the current folder, as extracted by ``dvc repro``; scored on its gold labels.

    Raises:
        MissingInput: If its features do not exist.
    """
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.inputs import open_stored, read_project_corpus

    if not paths.MANIFEST.is_file():
        raise MissingInput(f"{paths.MANIFEST} does not exist", "run the pipeline first", command="dvc repro")
    params = load_params()
    corpus = read_project_corpus(params).corpus
    features = open_stored(params, corpus.clips).read([clip.clip_id for clip in corpus.clips], "mean")
    index = {label: position for position, label in enumerate(corpus.labels)}
    gold = np.array([index.get(clip.gold_label, -1) for clip in corpus.clips], np.int64)
    groups = [clip.group for clip in corpus.clips]
    return LabelledSet("default corpus", dict(features), corpus.given, gold, groups)
