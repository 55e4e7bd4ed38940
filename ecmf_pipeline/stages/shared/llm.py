"""What stages ask of the LLM: where its answers are kept, what it is shown of a clip, and its votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Modality, labels_of
from ecmf_pipeline.core.files import read_json
from ecmf_pipeline.core.formatting import counted
from ecmf_pipeline.core.progress import say
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.extraction.plan import present_digests
from ecmf_pipeline.llm.budget import Budget
from ecmf_pipeline.llm.calibration import LabelCalibration, held_out_calibrations
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.cues import count_words, face_cues, read_cues, speech_rate, voice_cues
from ecmf_pipeline.llm.frames import frame_scores
from ecmf_pipeline.llm.prompt import Prompt, load_prompt
from ecmf_pipeline.llm.rewrite_prompt import Context, Neighbours, load_rewrite_prompt, neighbours_of
from ecmf_pipeline.llm.run import ScoreBooks
from ecmf_pipeline.llm.scoring import Scored, label_scores, without_words
from ecmf_pipeline.llm.votes import prompts_by_fold, votes_from_scores
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.inputs import Corpus, expected_fingerprint, folds_of
from ecmf_pipeline.store import FeatureStore

REWRITE_BOOKS = ScoreBooks("rewrite", paths.REWRITE_CACHE, paths.DATA / ".rewrite.spool", paths.quarantine("rewrite"))
ANSWER_BOOKS = replace(REWRITE_BOOKS, cache=paths.REWRITE_ANSWERS)
"""Of rewrites that the model writes: its answers are no scores."""
VOTE_BOOKS = ScoreBooks(
    "vote",
    paths.VOTE_CACHE,
    paths.DATA / ".votes.spool",
    paths.quarantine("vote"),
    earlier=(REWRITE_BOOKS,),  # what `rewrite` asked is not asked again
)

LLM_SOURCES = {"text": "llm", "cues": "llm/cues", "frames": "llm/frames"}
"""The source of votes that each of ``vote.inputs`` makes: it reads the words, what face and voice do, or pictures."""

_DEEP = 128
"""Columns of mini_xception's features that come before the blendshapes."""


@dataclass(frozen=True, slots=True)
class HowAsked:
    """How a stage is told to ask.

    Attributes:
        workers: Processes side by side; None: as params say.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.
        budget: What may still be sent to a server, where the stage asks in several loops; None: one for each loop.
    """

    workers: int | None = None
    retry_quarantined: bool = False
    budget: Budget | None = None

    def config(self, llm: LlmConfig) -> LlmConfig:
        """The model's params with the workers asked for."""
        return llm if self.workers is None else llm.model_copy(update={"workers": self.workers})


AS_PARAMS_SAY = HowAsked()


def labels_to_ask() -> Sequence[str]:
    """The corpus' labels; MER's six where there is nothing to choose between: words can be enriched all the same."""
    labels: Sequence[str] = read_json(paths.CORPUS, made_by="index")["labels"]
    return labels if len(labels) >= 2 else MER_LABELS


def contexts_of(params: Params, clips: Sequence[Clip]) -> dict[str, Context]:
    """What the rewrite may show of each clip with words, by clip id: the words, their neighbours, cues.

    Args:
        params: Which neighbours and cues are asked for.
        clips: The whole corpus.

    Raises:
        MissingInput: When cues are asked for and `cues` has not run yet.
    """
    config, prompt = params.rewrite, load_rewrite_prompt(params.rewrite.prompt)
    around = neighbours_of(clips, config.neighbours, config.dialogues)
    tables = [read_cues(paths.cues(Modality(kind))) for kind in config.cues]
    contexts = {}
    for clip in clips:
        if clip.transcript.strip():
            names = [name for table in tables for name in table.get(clip.clip_id, ())]
            near = around.get(clip.clip_id, Neighbours())
            contexts[str(clip.clip_id)] = Context(clip.transcript, near.before, near.after, prompt.words_for(names))
    return contexts


def cues_of(params: Params, clips: Sequence[Clip], modality: Modality) -> dict[str, tuple[str, ...]]:
    """Names of the cues that a branch's features show of each clip, by clip id; see `llm.cues`.

    Args:
        params: Which features are in use.
        clips: The whole corpus, since cues are relative to it.
        modality: ``face`` or ``audio``.

    Raises:
        MissingInput: When the features are not extracted yet.
        StaleStore: When params ask for other settings than they were made with.
    """
    store = FeatureStore.open(paths.features(modality), expected_fingerprint(params, modality))
    digests = present_digests(modality, clips, {}, store)
    rows = store.load([clip.clip_id for clip in clips], digests=digests).values.astype(np.float64)
    if store.dim is None:  # no clip has such an input
        rows = np.full((len(clips), 180 if modality is Modality.FACE else 88), np.nan)
    if modality is Modality.FACE:
        found = face_cues(rows[:, _DEEP:])
    else:
        found = voice_cues(rows, np.array([speech_rate(clip.transcript, clip.duration) for clip in clips]))
    return {clip.clip_id: names for clip, names in zip(clips, found, strict=True)}


def llm_votes(
    params: Params, corpus: Corpus, how: HowAsked = AS_PARAMS_SAY
) -> tuple[dict[str, NDArray[np.float64]], list[Scored]]:
    """The LLM's votes on every clip, by what it is shown of it, and what was asked.

    Whatever is learned from labels (examples in the prompt, temperature and bias) is learned on given labels of other
    folds than the clip's own; gold labels are never read.

    Args:
        params: What it is shown (``vote.inputs``), and how its scores become votes.
        corpus: The clips, with all words that are known.
        how: How the stage is told to ask.

    Returns:
        By source (``llm`` reads the words, ``llm/cues`` what face and voice do, ``llm/frames`` sees pictures),
        probabilities, (n, K), rows of NaN where it abstains.
    """
    how = replace(how, budget=how.budget or Budget(params.llm.budget))
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    scores: dict[str, list[Scored]] = {}
    values: dict[str, NDArray[np.float64]] = {}
    if "text" in params.vote.inputs:
        values["llm"], scores["llm"] = _of_words(params, corpus, folds, how)
        values["llm"] = _without_short(values["llm"], corpus, params.vote.llm_least_words)
    if "cues" in params.vote.inputs:
        scores["llm/cues"] = [_of_cues(params, corpus, how)]
        values["llm/cues"] = scores["llm/cues"][0].values
    if "frames" in params.vote.inputs:
        books = replace(VOTE_BOOKS, quarantine=paths.QUARANTINE / "vote-frames.csv", earlier=())
        found = frame_scores(
            params.llm,
            corpus.clips,
            corpus.labels,
            corpus_root=params.corpus.root,
            media=params.media,
            faces=params.faces,
            books=books,
            retry_quarantined=how.retry_quarantined,
            budget=how.budget,
        )
        scores["llm/frames"], values["llm/frames"] = [found], found.values
    if "text" not in params.vote.inputs:
        without_words(0, len(corpus.labels), VOTE_BOOKS)  # DVC waits for the table
    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    votes = {name: _votes(params, name, found, given, folds) for name, found in values.items()}
    return votes, [found for some in scores.values() for found in some]


def llm_scores(
    config: LlmConfig,
    texts: Mapping[str, str],
    books: ScoreBooks,
    *,
    how: HowAsked = AS_PARAMS_SAY,
    prompt: Prompt | None = None,
) -> Scored:
    """The LLM's calibrated scores of texts for the labels of `labels_to_ask`, (n, K), asking only what no cache knows.

    Args:
        config: The model and what it is asked.
        texts: What is judged of each clip, by clip id, (n,); blank ones are not asked.
        books: Where the stage keeps what it has asked.
        how: How the stage is told to ask.
        prompt: The prompt with examples of the corpus; None: as it is packaged.
    """
    labels = labels_to_ask()
    if not any(text.strip() for text in texts.values()):
        return without_words(len(texts), len(labels), books)
    return label_scores(
        how.config(config),
        texts,
        labels,
        books=books,
        prompt=prompt,
        retry_quarantined=how.retry_quarantined,
        budget=how.budget,
    )


def _votes(
    params: Params, source: str, values: NDArray[np.float64], given: NDArray[np.int64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    settings = params.llm.votes
    temperature = None if settings.temperature == "fitted" else settings.temperature
    values, fitted = held_out_calibrations(
        values, given, folds, temperature=temperature, bias=settings.bias == "fitted"
    )
    _tell_calibration(source, fitted)
    return votes_from_scores(values, margin=params.vote.llm_margin)


def _tell_calibration(source: str, fitted: Sequence[LabelCalibration]) -> None:
    counts = [calibration.labelled for calibration in fitted]
    temperatures = [calibration.temperature for calibration in fitted]
    if max(counts, default=0):
        say(
            f"vote: {source} calibrated for each fold on {min(counts)} to {max(counts)} labelled clips of the others; "
            f"folds left as they are: {counts.count(0)} "
            f"(temperature {min(temperatures):.2f} to {max(temperatures):.2f})"
        )
    else:
        say(
            f"vote: {source} not calibrated on labels (turned off, or too few labelled clips in the other folds that "
            "it has scored)"
        )


def _of_words(
    params: Params, corpus: Corpus, folds: NDArray[np.int64], how: HowAsked
) -> tuple[NDArray[np.float64], list[Scored]]:
    texts: dict[str, str] = {clip.clip_id: clip.transcript for clip in corpus.clips}
    if params.llm.votes.examples == "packaged":
        found = llm_scores(params.llm, texts, VOTE_BOOKS, how=how)
        return found.values, [found]
    values, asked = np.full((len(texts), len(corpus.labels)), np.nan), []
    for fold, own in fold_prompts(params, corpus, folds).items():
        rows = np.flatnonzero(folds == fold)
        # A table for each: what was set aside under one prompt says nothing of another.
        books = replace(VOTE_BOOKS, quarantine=paths.QUARANTINE / f"vote-examples-{fold}.csv")
        some: dict[str, str] = {corpus.clips[row].clip_id: corpus.clips[row].transcript for row in rows}
        found = llm_scores(params.llm, some, books, how=how, prompt=own)
        values[rows] = found.values
        asked.append(found)
    return values, asked


def _without_short(values: NDArray[np.float64], corpus: Corpus, least: int) -> NDArray[np.float64]:
    """The scores without those of transcripts of one word or so: what the model says of them is its habit."""
    counts = np.array([count_words(clip.transcript) for clip in corpus.clips])
    short = (counts < least) & np.isfinite(values).all(axis=1)
    if short.any():
        say(f"vote: llm abstains on {counted(int(short.sum()), 'transcript')} of fewer than {least} words")
    return np.where(short[:, None], np.nan, values)


def fold_prompts(params: Params, corpus: Corpus, folds: NDArray[np.int64]) -> dict[int, Prompt]:
    """The prompt of each fold, with examples of the others; see `prompts_by_fold`."""
    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    texts = [clip.transcript for clip in corpus.clips]
    return prompts_by_fold(load_prompt(params.llm.prompt), texts, given, corpus.labels, folds, seed=params.vote.seed)


def cue_texts(params: Params, clips: Sequence[Clip]) -> dict[str, str]:
    """What face and voice do in each clip, in words, by clip id; blank where nothing is unusual.

    Raises:
        MissingInput: When the features are not extracted yet.
    """
    prompt = load_rewrite_prompt(params.rewrite.prompt)
    tables = [cues_of(params, clips, Modality(kind)) for kind in params.llm.votes.cues]
    between = prompt.wording.between
    return {
        clip.clip_id: between.join(prompt.words_for([name for table in tables for name in table[clip.clip_id]]))
        for clip in clips
    }


def asked_about_cues(config: LlmConfig) -> LlmConfig:
    """The model's params with the prompt about cues."""
    return config.model_copy(update={"prompt": config.cues_prompt})


def _of_cues(params: Params, corpus: Corpus, how: HowAsked) -> Scored:
    """Judge what faces and voices do, without the words; a clip that shows nothing unusual is not judged."""
    books = replace(VOTE_BOOKS, quarantine=paths.QUARANTINE / "vote-cues.csv", earlier=())
    return llm_scores(asked_about_cues(params.llm), cue_texts(params, corpus.clips), books, how=how)
