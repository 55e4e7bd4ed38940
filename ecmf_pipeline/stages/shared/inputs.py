"""What several stages open: the corpus with its labels, its words, pooled features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.arrays import assign_folds, split_halves
from ecmf_pipeline.core.clips import Clip, Corpus, Modality, labels_of, read_corpus_tables, read_manifest, read_texts
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import CorpusError, MissingInput, ModelError
from ecmf_pipeline.core.files import fingerprint, read_json, sha256_file
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.encoders.config import TextConfig
from ecmf_pipeline.extraction.features import FeatureOrigin, StoredFeatures, open_features
from ecmf_pipeline.labels.tables import read_decisions, read_verdicts, read_votes
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.transcription.table import read_transcripts, with_transcripts

FUSION = "fusion"
"""The fusion model as a source of votes."""


@dataclass(frozen=True, slots=True)
class TrainingLabels:
    """What models learn: clips, their labels as indices, (m,), and how much each counts, (m,)."""

    clips: list[Clip]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]


def read_spoken_manifest(params: Params) -> list[Clip]:
    """The manifest, with what `transcribe` heard in clips of which the corpus knows no words.

    Raises:
        MissingInput: When `index` has not run yet, or `transcribe` has not where params name a model for it.
    """
    return _with_words(params, read_manifest(paths.MANIFEST))


def with_words(params: Params, corpus: Corpus) -> Corpus:
    """The corpus with what `transcribe` heard in clips of which it knows no words.

    Raises:
        MissingInput: When `transcribe` has not run yet and params name a model for it.
    """
    return replace(corpus, clips=_with_words(params, corpus.clips))


def _with_words(params: Params, clips: list[Clip]) -> list[Clip]:
    if params.transcribe.model is None:
        return clips
    return with_transcripts(clips, read_transcripts(paths.TRANSCRIPTS))


def read_labelled_corpus() -> Corpus:
    """Read what `index` wrote of a corpus that can be trained on.

    Raises:
        CorpusError: When fewer than two labels occur.
    """
    corpus = read_corpus_tables()
    known = {clip.given_label for clip in corpus.clips} - {""}
    if len(known) < 2:
        raise CorpusError(
            f"{sum(bool(clip.given_label) for clip in corpus.clips)} clips have a label, of {len(known)} kinds: "
            "there is nothing to train on",
            "label some clips (for a folder: labels.csv with the columns name,label); features are kept",
        )
    return corpus


def folds_of(corpus: Corpus, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of every clip, (n,), labelled or not; no known group stands in two.

    They follow from the given labels alone, so that models trained on given and on refined labels are judged by the
    same rule: a clip is judged by models that saw neither it nor another clip of its group.
    """
    groups = [clip.group for clip in corpus.clips]
    return assign_folds(corpus.given, groups, folds, rng=np.random.default_rng(seed))


def given_labels(corpus: Corpus) -> TrainingLabels:
    """The clips with a given label, all alike in weight."""
    clips = [clip for clip in corpus.clips if clip.given_label]
    return TrainingLabels(clips, np.array(labels_of(clips, corpus.labels), np.int64), np.ones(len(clips)))


def refined_labels(corpus: Corpus) -> TrainingLabels:
    """The clips with a label, given or refined, that `refine` decided on; those of weight 0 stand in folds alone.

    Raises:
        MissingInput: When `refine` has not run yet, or knew labels that the corpus no longer has.
    """
    decisions = {
        decision.clip_id: decision
        for decision in read_decisions(paths.REFINED)
        if decision.weight > 0 or decision.given_label
    }
    clips = [clip for clip in corpus.clips if clip.clip_id in decisions]
    chosen = [decisions[clip.clip_id] for clip in clips]
    index = {label: position for position, label in enumerate(corpus.labels)}
    names = [decision.refined_label or decision.given_label for decision in chosen]
    if not set(names) <= set(index):
        raise MissingInput(f"{paths.REFINED} has labels that the corpus no longer has", "run `ecmf-pipe refine` again")
    labels = np.array([index[name] for name in names], np.int64)
    return TrainingLabels(clips, labels, np.array([decision.weight for decision in chosen]))


def open_stored(params: Params, clips: Sequence[Clip]) -> StoredFeatures:
    """The features of the modalities in use, to be read when they are needed.

    Args:
        params: The project's settings.
        clips: Those of which features may be read.

    Raises:
        StaleStore: When params.yaml asks for other settings than a store was made with.
    """
    return open_features(
        clips,
        read_texts(paths.REWRITES),
        list(params.extract.encoders),
        store_root=paths.features,
        fingerprint_of=lambda modality: expected_fingerprint(params, modality),
    )


def origins_of(params: Params, stored: StoredFeatures) -> dict[str, FeatureOrigin]:
    """Where the features of each modality come from, as saved models remember it."""
    return {
        name: FeatureOrigin(encoders=params.extract.encoders[Modality(name)], settings=store.settings)
        for name, store in stored.stores.items()
    }


def read_features(params: Params, clips: Sequence[Clip]) -> Mapping[str, NDArray[np.float32]]:
    """Pooled features of the modalities in use, (n, D) each, NaN rows where a clip has none.

    Raises:
        StaleStore: When params.yaml asks for other settings than a store was made with.
    """
    return open_stored(params, clips).read([clip.clip_id for clip in clips], params.train.vector_pool)


def all_votes(corpus: Corpus) -> dict[str, NDArray[np.float64]]:
    """The votes that `vote` wrote, and the fusion's: of the last round, or out of fold as `predict` wrote them.

    Raises:
        MissingInput: When either is missing, or about other clips than the manifest.
    """
    table = read_votes(paths.VOTES, corpus.labels)
    fusion = PredictionTable.read(paths.predictions("given") / "fusion.csv")
    for clip_ids, stage in ((table.clip_ids, "vote"), (fusion.clip_ids, "predict")):
        if list(clip_ids) != [clip.clip_id for clip in corpus.clips]:
            what = f"what `{stage}` wrote is about other clips than the manifest"
            raise MissingInput(what, f"run `ecmf-pipe {stage}`")
    return table.votes if FUSION in table.votes else {**table.votes, FUSION: fusion.votes()}


def refined_sha256() -> str:
    """SHA-256 of the refined labels as they are now, "" where there are none."""
    return sha256_file(paths.REFINED) if paths.REFINED.is_file() else ""


def refuse_stale(learned_from: str, what: str, hint: str) -> None:
    """Refuse what goes back to other refined labels than those of now.

    Args:
        learned_from: `refined_sha256` of the labels that were trained on; "" where nobody noted it.
        what: What was trained on them, as the message begins.
        hint: How they are brought together again.

    Raises:
        MissingInput: When refined.csv is there and is another.
    """
    if learned_from and refined_sha256() not in {learned_from, ""}:
        raise MissingInput(f"{what} trained on refined labels as they were before {paths.REFINED} changed", hint)


def read_refined_predictions(path: Path) -> PredictionTable:
    """Predictions by models trained on the refined labels of now.

    Args:
        path: One of the tables that `predict` wrote of these models.

    Raises:
        MissingInput: When `predict` has not run yet, or the models had learned from other refined labels.
        InputError: When a file is damaged.
    """
    table, note = PredictionTable.read(path), paths.trained_on("refined")
    if note.is_file():
        refuse_stale(
            str(read_json(note, made_by="predict").get("labels_sha256", "")),
            f"the predictions in {path} are by models",
            "run `ecmf-pipe train --labels refined`, then `ecmf-pipe predict --labels refined` (or `dvc repro`)",
        )
    return table


def read_corpus_verdicts(path: str | None, corpus: Corpus) -> NDArray[np.int64]:
    """The labels that a person vouches for, (n,), -1 where unknown."""
    if path is None:
        return np.full(len(corpus.clips), -1)
    gold, others = read_verdicts(Path(path), corpus.labels, [clip.clip_id for clip in corpus.clips])
    if others:
        echo(f"  {others} verdicts in {path} are about clips that the corpus does not have")
    return gold


def text_halves(params: Params, features: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The text features of the raw and of the enriched transcript alone, by transcript, where both are embedded.

    Args:
        params: The project's settings.
        features: By modality, (n, D), or (n, T, D) at frame level.
    """
    text = Modality.TEXT
    if text.value not in features or text not in params.extract.encoders:
        return {}
    encoder = params.encoder_of(text)
    if not isinstance(encoder, TextConfig) or encoder.inputs != "both":
        return {}
    raw, enriched = split_halves(features[text.value], params.train.pool)
    return {"raw": raw, "enriched": enriched}


def expected_fingerprint(params: Params, modality: Modality) -> str | None:
    """The settings that params ask of a modality's features; None where its weights are not here to tell."""
    try:
        return fingerprint(params.settings_of(modality))
    except ModelError:
        return None  # features pulled from a colleague are read without the weights that made them
