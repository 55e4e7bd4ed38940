"""What several stages open: the corpus with its labels, pooled features, LLM scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline import layout
from ecmf_pipeline.clips import Clip, Modality, labels_of, read_manifest
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.dataset import load_features
from ecmf_pipeline.encoders.config import TextConfig
from ecmf_pipeline.errors import CorpusError, ModelError
from ecmf_pipeline.extraction.plan import branch_settings
from ecmf_pipeline.files import fingerprint, read_json
from ecmf_pipeline.labels.outside import read_verdicts
from ecmf_pipeline.llm.calibration import LabelCalibration, held_out_calibrations
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.examples import prompts_by_fold
from ecmf_pipeline.llm.label_scores import label_scores
from ecmf_pipeline.llm.prompt import Prompt, load_prompt
from ecmf_pipeline.llm.scoring import ScoreBooks, Scored, votes_from_scores, without_words
from ecmf_pipeline.params import Params
from ecmf_pipeline.predictions import NO_MODALITY, PredictionTable
from ecmf_pipeline.progress import say
from ecmf_pipeline.texts import read_texts

REWRITE_BOOKS = ScoreBooks(
    "rewrite", layout.REWRITE_CACHE, layout.DATA / ".rewrite.spool", layout.quarantine("rewrite")
)
VOTE_BOOKS = ScoreBooks(
    "vote",
    layout.VOTE_CACHE,
    layout.DATA / ".votes.spool",
    layout.quarantine("vote"),
    earlier=(REWRITE_BOOKS,),  # what `rewrite` asked is not asked again
)


_TIE = 1e-5
"""Probabilities nearer than this are alike."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The manifest and what `index` wrote beside it.

    Attributes:
        clips: All clips, sorted by id.
        labels: The labels, in the order of the model's outputs.
        candidates: Clip ids in the order of the submission.
        synthetic: Whether the corpus is generated.
    """

    clips: list[Clip]
    labels: list[str]
    candidates: list[str]
    synthetic: bool


def read_corpus_tables() -> Corpus:
    """Read what `index` wrote.

    Raises:
        MissingInput: When it has not run yet.
    """
    clips = read_manifest(layout.MANIFEST)
    corpus: dict[str, Any] = read_json(layout.CORPUS, made_by="index")
    return Corpus(clips, corpus["labels"], corpus["candidates"], corpus["synthetic"])


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
    from ecmf_pipeline.fusion.folds import assign_folds

    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    groups = [clip.group for clip in corpus.clips]
    return assign_folds(given, groups, folds, rng=np.random.default_rng(seed))


def read_features(params: Params, clips: Sequence[Clip]) -> Mapping[str, NDArray[np.float32]]:
    """Pooled features of the modalities in use, (n, D) each, NaN rows where a clip has none.

    Raises:
        StaleStore: When params.yaml asks for other settings than a store was made with.
    """
    return load_features(
        clips,
        read_texts(layout.REWRITES),
        list(params.extract.encoders),
        store_root=layout.features,
        fingerprint_of=lambda modality: expected_fingerprint(params, modality),
        pool=params.train.pool,
    )


def fusion_votes(table: PredictionTable) -> NDArray[np.float64]:
    """What the fusion model says of every clip, (n, K), NaN where it could not judge one or has learned nothing."""
    ranked = np.sort(table.probs, axis=1)
    # A model that has learned nothing finds all labels alike: that is an abstention, not a vote for the first one.
    decided = ranked[:, -1] - ranked[:, -2] > _TIE
    judged = (np.array([flag != NO_MODALITY for flag in table.flags]) & decided)[:, None]
    return np.where(judged, table.probs, np.nan).astype(np.float64)


def read_corpus_verdicts(path: str | None, corpus: Corpus) -> NDArray[np.int64]:
    """The labels that a person vouches for, (n,), -1 where unknown."""
    if path is None:
        return np.full(len(corpus.clips), -1)
    gold, others = read_verdicts(Path(path), corpus.labels, [clip.clip_id for clip in corpus.clips])
    if others:
        say(f"  {others} verdicts in {path} are about clips that the corpus does not have")
    return gold


def text_halves(params: Params, features: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The text features of the raw and of the enriched transcript alone, (n, D / 2) each, where both are embedded."""
    text = Modality.TEXT
    if text.value not in features or text not in params.extract.encoders:
        return {}
    encoder = params.encoder_of(text)
    if not isinstance(encoder, TextConfig) or encoder.inputs != "both":
        return {}
    statistics = 2 if params.train.pool == "mean_std" else 1  # each of them holds both texts' columns
    values = features[text.value]
    columns = values.reshape(len(values), statistics, 2, -1)
    return {name: columns[:, :, half].reshape(len(values), -1) for half, name in enumerate(("raw", "enriched"))}


def expected_fingerprint(params: Params, modality: Modality) -> str | None:
    """The settings that params ask of a modality's features; None where its weights are not here to tell."""
    try:
        return fingerprint(branch_settings(modality, params.encoder_of(modality), params.media, params.faces))
    except ModelError:
        return None  # features pulled from a colleague are read without the weights that made them


def llm_scores(
    config: LlmConfig,
    clips: Sequence[Clip],
    books: ScoreBooks,
    *,
    workers: int | None = None,
    retry_quarantined: bool = False,
    prompt: Prompt | None = None,
) -> tuple[Sequence[str], Scored]:
    """The LLM's calibrated label scores of what clips say, asking only what no cache knows.

    Args:
        config: The model and what it is asked.
        clips: The clips, (n,).
        books: Where the stage keeps what it has asked.
        workers: Processes side by side; None: as ``config`` says.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.
        prompt: The prompt with examples of the corpus; None: as it is packaged.

    Returns:
        The labels asked for (MER's six where the corpus has fewer than two), and the scores, (n, K).
    """
    labels = labels_to_ask()
    if not any(clip.transcript.strip() for clip in clips):
        return labels, without_words(len(clips), len(labels), books)
    texts: dict[str, str] = {clip.clip_id: clip.transcript for clip in clips}
    return labels, label_scores(
        config if workers is None else config.model_copy(update={"workers": workers}),
        texts,
        labels,
        books=books,
        prompt=prompt,
        retry_quarantined=retry_quarantined,
    )


def labels_to_ask() -> Sequence[str]:
    """The corpus' labels; MER's six where there is nothing to choose between: words can be enriched all the same."""
    labels: Sequence[str] = read_json(layout.CORPUS, made_by="index")["labels"]
    return labels if len(labels) >= 2 else MER_LABELS


def llm_votes(
    params: Params, corpus: Corpus, *, workers: int | None = None, retry_quarantined: bool = False
) -> tuple[NDArray[np.float64], list[Scored]]:
    """The LLM's votes on every clip as probabilities, (n, K), rows of NaN where it abstains, and what was asked.

    Whatever is learned from labels (examples in the prompt, temperature and bias) is learned on given labels of other
    folds than the clip's own; gold labels are never read.
    """
    settings, folds = params.llm.votes, folds_of(corpus, params.vote.folds, params.vote.seed)
    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    values = np.full((len(corpus.clips), len(corpus.labels)), np.nan)
    if settings.examples == "packaged":
        _, found = llm_scores(
            params.llm, corpus.clips, VOTE_BOOKS, workers=workers, retry_quarantined=retry_quarantined
        )
        values, asked = found.values, [found]
    else:
        texts, prompt, asked = [clip.transcript for clip in corpus.clips], load_prompt(params.llm.prompt), []
        prompts = prompts_by_fold(prompt, texts, given, corpus.labels, folds, seed=params.vote.seed)
        for fold, own in prompts.items():
            rows = np.flatnonzero(folds == fold)
            # A table for each: what was set aside under one prompt says nothing of another.
            books = replace(VOTE_BOOKS, quarantine=layout.QUARANTINE / f"vote-examples-{fold}.csv")
            some = [corpus.clips[row] for row in rows]
            _, found = llm_scores(
                params.llm, some, books, workers=workers, retry_quarantined=retry_quarantined, prompt=own
            )
            values[rows] = found.values
            asked.append(found)
    temperature = None if settings.temperature == "fitted" else settings.temperature
    values, fitted = held_out_calibrations(
        values, given, folds, temperature=temperature, bias=settings.bias == "fitted"
    )
    _tell_calibration(fitted)
    return votes_from_scores(values, margin=params.vote.llm_margin), asked


def _tell_calibration(fitted: Sequence[LabelCalibration]) -> None:
    counts = [calibration.labelled for calibration in fitted]
    temperatures = [calibration.temperature for calibration in fitted]
    if max(counts, default=0):
        say(
            f"vote: llm calibrated for each fold on {min(counts)} to {max(counts)} labelled clips of the others; "
            f"folds left as they are: {counts.count(0)} "
            f"(temperature {min(temperatures):.2f} to {max(temperatures):.2f})"
        )
    else:
        say("vote: llm not calibrated on labels (turned off, or too few labelled clips with words in the other folds)")
