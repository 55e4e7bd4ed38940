"""Read the inputs of stages: the corpus with labels and transcripts, features, votes and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.arrays import assign_folds, split_halves
from ecmf_pipeline.core.clips import (
    Clip,
    Clips,
    ClipText,
    Corpus,
    Modality,
    read_corpus_tables,
    read_manifest,
    read_texts,
)
from ecmf_pipeline.core.console import echo, format_count, warn
from ecmf_pipeline.core.errors import CorpusError, MissingInput
from ecmf_pipeline.core.files import read_sealed_json, sha256_file
from ecmf_pipeline.core.predictions import Basis, PredictionTable
from ecmf_pipeline.encoders.config import E5Config, TextConfig
from ecmf_pipeline.extraction.features import FeatureOrigin, StoredFeatures, open_features, open_store
from ecmf_pipeline.labels.basis import can_train, describe_verdicts, known_labels, training_basis
from ecmf_pipeline.labels.decision_files import read_decisions
from ecmf_pipeline.labels.label_model import Assessment, assess
from ecmf_pipeline.labels.verdicts import MIN_GOLD, Verdicts, combine_answers, read_answers, verdicts_path
from ecmf_pipeline.labels.vote_files import read_votes
from ecmf_pipeline.labels.zero_shot import assess_without_labels
from ecmf_pipeline.settings.params import Params, Token
from ecmf_pipeline.sharing.versions import keep_version
from ecmf_pipeline.store import FeatureStore
from ecmf_pipeline.store.dvc_links import share_with_dvc
from ecmf_pipeline.store.kept import KeptParts
from ecmf_pipeline.transcription.table import is_transcribed, read_transcripts, with_transcripts

FUSION = "fusion"
"""Name of the fusion model as a source of votes."""


@dataclass(frozen=True, slots=True)
class TrainingLabels:
    """Training clips, their labels as indices, (m,), and their weights, (m,)."""

    clips: Sequence[Clip]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]


def read_manifest_with_transcripts(params: Params) -> Clips:
    """Read the manifest and add the transcripts of `transcribe`: recognised and corrected ones.

    Raises:
        MissingInput: If `index` has not run yet, or `transcribe` has not run although params need its transcripts.
    """
    return _add_transcripts_to(params, read_manifest(paths.MANIFEST))


def add_transcripts(params: Params, corpus: Corpus) -> Corpus:
    """Return the corpus with the transcripts of `transcribe` added: recognised and corrected ones.

    Raises:
        MissingInput: If `transcribe` has not run yet although params need its transcripts.
    """
    return replace(corpus, clips=_add_transcripts_to(params, corpus.columns))


def _add_transcripts_to(params: Params, clips: Clips) -> Clips:
    has_corrections = params.transcribe.find_corrections() is not None
    recognises = params.transcribe.model is not None and any(map(is_transcribed, clips.where(~clips.has_words)))
    if not params.needs_transcripts or not (has_corrections or recognises):
        return clips
    return with_transcripts(clips, read_transcripts(paths.TRANSCRIPTS))


@dataclass(frozen=True, slots=True)
class LabelledCorpus:
    """The corpus and the labels that its models are trained on.

    Attributes:
        corpus: The corpus. With the basis ``verdicts``, the verdicts are its given labels.
        basis: What models are trained on; with ``zero-shot`` there are too few labels, and nothing is trained.
        known: Labels known to be right, (n,), -1 if unknown: the verdicts. If there are too few given labels to train
            on, these count as verdicts too.
        verdicts: The answers of people, with clips on which they differ and clips that they call bad.
    """

    corpus: Corpus
    basis: Basis
    known: NDArray[np.int64]
    verdicts: Verdicts

    @property
    def is_zero_shot(self) -> bool:
        """Whether there are too few labels to train on."""
        return self.basis is Basis.ZERO_SHOT


def read_project_corpus(params: Params) -> LabelledCorpus:
    """Read the corpus and the verdicts, and decide which labels models are trained on; see `labels.basis`.

    Raises:
        MissingInput: If `index` has not run yet, or the verdicts that params name do not exist.
        InputError: If a file is damaged.
    """
    corpus = read_corpus_tables()
    verdicts = read_corpus_verdicts(params, corpus)
    basis = training_basis(corpus.given, verdicts.gold)
    if basis is Basis.GIVEN:
        return LabelledCorpus(corpus, basis, verdicts.gold, verdicts)
    known = known_labels(corpus.given, verdicts.gold)
    if basis is Basis.VERDICTS:
        names = np.array([*corpus.labels, ""], object)
        corpus = replace(corpus, clips=corpus.columns.replaced("given_label", names[known]))
    return LabelledCorpus(corpus, basis, known, verdicts)


def echo_nothing_to_train(stage: str, labelled: LabelledCorpus) -> None:
    """Print that a stage has nothing to do, because there are too few labels to train on."""
    n_known = int((labelled.known >= 0).sum())
    echo(
        f"{stage}: {'too few' if n_known else 'no'} labels: nothing to train; {describe_verdicts(labelled.known)}; the "
        "labels of `refine` are zero-shot, unverified"
    )


def read_labelled_corpus() -> Corpus:
    """Read the corpus and check that it can be trained on.

    Raises:
        CorpusError: If fewer than two labels occur.
    """
    corpus = read_corpus_tables()
    labelled = corpus.given[corpus.given >= 0]
    if len(np.unique(labelled)) < 2:
        raise CorpusError(
            f"the corpus has {format_count(len(labelled), 'labelled clip')} with "
            f"{format_count(len(np.unique(labelled)), 'different label')}; training needs at least two labels",
            "label some clips (in a folder corpus: labels.csv with the columns name,label); features are kept",
        )
    return corpus


def folds_of(corpus: Corpus, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each clip, (n,), labelled or not; no known group is split across folds.

    The folds depend on the given labels only. Models trained on given and on refined labels are therefore evaluated
    on equal folds: a clip is predicted by models that were trained on neither it nor its group. Without labels to train
    on, all clips are in one fold.
    """
    if not can_train(corpus.given):
        return np.zeros(len(corpus.clips), np.int64)
    return assign_folds(corpus.given, corpus.columns.groups, folds, rng=np.random.default_rng(seed))


def given_labels(corpus: Corpus) -> TrainingLabels:
    """Return the clips with a given label, all with weight 1."""
    given = corpus.given
    clips = corpus.columns.where(given >= 0)
    return TrainingLabels(clips, given[given >= 0], np.ones(len(clips)))


def refined_labels(corpus: Corpus) -> TrainingLabels:
    """Return the clips with a given or refined label in refined.csv; clips with weight 0 only take part in folds.

    Raises:
        MissingInput: If `refine` has not run yet, or ran on other clips or labels.
    """
    decisions = read_decisions(paths.REFINED, corpus=corpus)
    given, refined = (decisions.indices(name, corpus.labels) for name in ("given_label", "refined_label"))
    chosen = decisions.is_trained | (given >= 0)
    labels = np.where(refined >= 0, refined, given)[chosen]
    return TrainingLabels(corpus.columns.where(chosen), labels, decisions.column("weight")[chosen])


def read_needed_texts(params: Params, clips: Sequence[Clip]) -> dict[str, ClipText]:
    """Read the texts by clip id; empty if no encoder in use computes features of texts.

    Raises:
        MissingInput: If `rewrite` has not run yet, or ran when params needed no transcripts or no enriched ones.
        InputError: If the table is damaged.
    """
    if not params.text_columns:
        return {}
    texts = read_texts(paths.REWRITES)
    needed = [column for column in ("original", "enriched") if column in params.text_columns]
    if Clips.of(clips).has_words.any():
        for column in needed:
            if not any(getattr(text, column).strip() for text in texts.values()):
                raise MissingInput(
                    f"{paths.REWRITES} holds no {column} transcripts, which an encoder in use reads",
                    "write it again",
                    command="ecmf-pipe rewrite",
                )
    return texts


def open_modality_store(params: Params, modality: Modality, encoder: str = "") -> FeatureStore:
    """Open the features of an encoder of a modality, which must have the settings in params; see `open_store`.

    Every command that reads stored features of the project opens them by this function.

    Args:
        params: The params of the project.
        modality: A modality in use.
        encoder: Name of one of its encoders; empty: the first.

    Raises:
        MissingInput: If there are no features.
        StaleStore: If there are only features of other settings.
        ModelError: If embedded weights were altered.
    """
    token = Token(modality, encoder or params.extract.encoders[modality][0])
    store = open_store(paths.features(modality), params.token_settings(token, weights_required=False))
    share_with_dvc(KeptParts(store.folder))  # `dvc repro` has committed them since they were extracted
    return store


def open_stored(
    params: Params, clips: Sequence[Clip], opened: Mapping[str, FeatureStore] | None = None
) -> StoredFeatures:
    """Open the features of the modalities in use, without reading them.

    Args:
        params: The params of the project.
        clips: Clips whose features may be read.
        opened: Stores that are open already, by the name of their features (`Params.tokens`).

    Raises:
        StaleStore: If a store was made with other settings than params.yaml has.
    """
    opened = opened or {}
    return open_features(
        clips,
        read_needed_texts(params, clips),
        {name: token.modality for name, token in params.tokens.items()},
        open_named=lambda name: opened[name] if name in opened else open_modality_store(params, *params.tokens[name]),
    )


def feature_origins(params: Params, stored: StoredFeatures) -> dict[str, FeatureOrigin]:
    """Return the origin of each modality's features, which is saved with the models."""
    return {
        name: FeatureOrigin(encoders=(params.tokens[name].encoder,), settings=store.settings)
        for name, store in stored.stores.items()
    }


def read_features(params: Params, clips: Sequence[Clip]) -> Mapping[str, NDArray[np.float32]]:
    """Read pooled features of the modalities in use, (n, D) each, with NaN rows for clips without features.

    Raises:
        StaleStore: If a store was made with other settings than params.yaml has.
    """
    return open_stored(params, clips).read(Clips.of(clips).ids, params.train.vector_pool)


def all_votes(corpus: Corpus) -> dict[str, NDArray[np.float64]]:
    """Read the votes of all sources, including the fusion model (from its last voting round or from `predict`).

    Raises:
        MissingInput: If `vote` or `predict` has not run yet, or ran on other clips than the manifest lists.
    """
    table = read_votes(paths.VOTES, corpus.labels, corpus.columns.ids)
    fusion = read_given_predictions("fusion", corpus)
    return table.votes if FUSION in table.votes else {**table.votes, FUSION: fusion.votes()}


def votes_of_sources(labelled: LabelledCorpus) -> dict[str, NDArray[np.float64]]:
    """Read the votes of all sources; the fusion model is one only if there are labels to train it on.

    Raises:
        MissingInput: If `vote` or `predict` has not run yet, or ran on other clips than the manifest lists.
    """
    if not labelled.is_zero_shot:
        return all_votes(labelled.corpus)
    corpus = labelled.corpus
    return read_votes(paths.VOTES, corpus.labels, corpus.columns.ids).votes


def assess_project(params: Params, labelled: LabelledCorpus, votes: Mapping[str, NDArray[np.float64]]) -> Assessment:
    """Estimate the label of each clip with the label model that fits to the basis of the labels."""
    if labelled.is_zero_shot:
        accuracy = params.vote.zero_shot.accuracy
        return assess_without_labels(votes, labelled.known, accuracy, other=accuracy["other"])
    folds = folds_of(labelled.corpus, params.vote.folds, params.vote.seed)
    config = params.refine.label_model
    return assess(votes, labelled.corpus.given, labelled.known, folds=folds, seed=params.vote.seed, config=config)


def read_given_predictions(variant: str, corpus: Corpus) -> PredictionTable:
    """Read the predictions of a model that was trained on the given labels.

    Args:
        variant: ``fusion`` or a modality.
        corpus: The corpus, each clip of which must have a prediction.

    Raises:
        MissingInput: If `predict` has not run yet, or ran on other clips or labels.
        InputError: If the file is damaged.
    """
    return _read_predictions(paths.predictions("given") / f"{variant}.csv", corpus, command="ecmf-pipe predict")


def _read_predictions(path: Path, corpus: Corpus, *, command: str) -> PredictionTable:
    table = PredictionTable.read(path, command=command, clips=corpus.clips)
    if list(table.label_names) != corpus.labels:
        raise MissingInput(
            f"{path} has the labels {', '.join(table.label_names)} instead of {', '.join(corpus.labels)}",
            "train the models again and predict",
            command=command.replace("predict", "train") + f" && {command}",
        )
    return table


def refined_sha256() -> str:
    """Return the SHA-256 of the refined labels, "" if the file does not exist."""
    return sha256_file(paths.REFINED) if paths.REFINED.is_file() else ""


def missing_models(labels: paths.Labels) -> MissingInput:
    """Return the error that no models were trained on these labels."""
    if paths.no_models(labels).is_file():
        return MissingInput(
            f"{paths.models_trained_on(labels)} holds no models: there were too few labels to train on",
            f"write labels for {MIN_GOLD} clips of {paths.NEXT} into {paths.VERDICTS}, then run the pipeline",
            command="dvc repro",
        )
    return MissingInput(
        f"{paths.models_trained_on(labels)} holds no models",
        f"train the models on {labels} labels",
        command=f"ecmf-pipe train --labels {labels}",
    )


def check_trained_on_current_labels(labels_sha256: str, models: str, hint: str, *, command: str) -> None:
    """Check that the refined labels have not changed since models were trained on them.

    Args:
        labels_sha256: `refined_sha256` at the time of training; "" if unknown.
        models: Name of the models, for the message.
        hint: How to fix the error.
        command: Shell command that fixes it.

    Raises:
        MissingInput: If the file of refined labels exists and has changed.
    """
    if labels_sha256 and refined_sha256() not in {labels_sha256, ""}:
        raise MissingInput(f"{models} were trained before {paths.REFINED} changed", hint, command=command)


def read_refined_predictions(path: Path, corpus: Corpus) -> PredictionTable:
    """Read predictions of the models that were trained on the current refined labels.

    Args:
        path: One of the tables that `predict` wrote for these models.
        corpus: The corpus, each clip of which must have a prediction.

    Raises:
        MissingInput: If `predict` has not run yet, or ran on other clips or labels, or the models were trained on other
            refined labels.
        InputError: If a file is damaged.
    """
    table = _read_predictions(path, corpus, command="ecmf-pipe predict --labels refined")
    record = paths.trained_on("refined")
    if record.is_file():
        check_trained_on_current_labels(
            read_sealed_json(record, made_by="predict --labels refined")["labels_sha256"],
            f"the models behind {path}",
            "train the models again and predict",
            command="ecmf-pipe train --labels refined && ecmf-pipe predict --labels refined",
        )
    return table


def read_corpus_verdicts(params: Params, corpus: Corpus) -> Verdicts:
    """Read the answers of people about the clips of the corpus, combined to one verdict for each clip.

    Raises:
        MissingInput: If the file does not exist and is not the default, `paths.VERDICTS`.
        InputError: If the file is damaged, does not fit to the corpus, or is in `paths.DATA`.
    """
    path = verdicts_path(params.refine.verdicts)
    if path is not None:
        keep_version(path)
    if path is None or (path == paths.VERDICTS and not path.is_file()):
        return combine_answers([], corpus.clips, corpus.labels)
    answers, _ = read_answers(path, corpus.labels, corpus.columns.ids)
    verdicts = combine_answers(answers, corpus.clips, corpus.labels)
    if verdicts.outdated:
        warn(
            f"{path}: {format_count(verdicts.outdated, 'verdict')} ignored: the files of the clips have changed since",
            "look at these clips again",
            "ecmf-pipe review",
        )
    return verdicts


def text_halves(params: Params, features: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Split the text features into those of the raw and those of the enriched transcript.

    Args:
        params: The params of the project.
        features: Features by modality, (n, D), or (n, T, D) at frame level.

    Returns:
        Features under ``raw`` and ``enriched``; empty if the encoder does not embed both.
    """
    text = Modality.TEXT
    if text.value not in features or text not in params.extract.encoders:
        return {}
    encoder = params.encoder_of(text)
    if not isinstance(encoder, TextConfig | E5Config) or encoder.inputs != "both":
        return {}
    raw, enriched = split_halves(features[text.value], params.train.pool)
    return {"raw": raw, "enriched": enriched}
