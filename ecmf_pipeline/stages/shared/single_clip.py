"""Predict one new clip: enrich its transcript, extract features and run the saved models; nothing is stored."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality, Split, WordsFrom, read_corpus_description
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.languages import format_language
from ecmf_pipeline.corpora.index import index_corpus
from ecmf_pipeline.corpora.languages import detect_languages
from ecmf_pipeline.corpora.listing import CorpusListing
from ecmf_pipeline.corpora.scan import is_sound_file, scan_media, strip_media_extension
from ecmf_pipeline.corpora.sidecars import match_subtitles
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.extraction.features import FeatureOrigin, check_feature_origins, open_features, open_store
from ecmf_pipeline.extraction.run import extract, open_writers, plan_branch
from ecmf_pipeline.llm.answers import AnswerFiles
from ecmf_pipeline.llm.prompt import Context
from ecmf_pipeline.llm.rewriting import enrich_transcripts
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.inputs import missing_models
from ecmf_pipeline.stages.shared.languages import corpus_languages, foreign_columns, llm_transcript
from ecmf_pipeline.transcription.run import transcribe
from ecmf_pipeline.transcription.table import is_transcribed, with_transcripts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecmf_pipeline.fusion.prediction import Ensemble

CLIP_ID = ClipId("clip")
NO_INPUT = "the clip has no input of this modality"


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """Prediction of one clip.

    Attributes:
        label: Most likely label.
        probs: Probability of each label.
        modality_weights: Share of each modality; 0 if it is missing.
        missing: Reason why a modality is missing, by modality.
        enriched: Enriched transcript; "" without a transcript, or if the models do not read it.
        transcript: The words that the models read; "" if there are none.
        words_from: Where they come from: ``corpus`` (the given text) or ``machine``; "" if there are none.
    """

    label: str
    probs: dict[str, float]
    modality_weights: dict[str, float]
    missing: dict[str, str]
    enriched: str
    transcript: str
    words_from: str


def run(video: Path | None, text: str, labels: paths.Labels | None, *, as_json: bool) -> None:
    """Print the label, probabilities and modality weights of one new clip.

    Args:
        video: File of the clip; None: predict from the transcript only.
        text: Transcript of the clip; empty: its speech is recognised if ``transcribe.model`` is set.
        labels: Use the models trained on these labels; None: on refined labels if such models exist.
        as_json: Whether to print JSON only.

    Raises:
        MissingInput: If no models were trained on these labels.
    """
    from ecmf_pipeline.fusion.prediction import Ensemble

    params = load_params()
    if labels is None:
        labels = "refined" if (paths.models_trained_on("refined") / "fusion").is_dir() else "given"
    folder = paths.models_trained_on(labels) / "fusion"
    if not folder.is_dir():
        raise missing_models(labels)
    ensemble = Ensemble.load(folder)
    corpus_labels = read_corpus_description().labels
    if corpus_labels:  # an unlabelled corpus can be predicted with a model from elsewhere
        ensemble.check_label_names(corpus_labels)
    prediction = predict_clip(params, ensemble, video, text, corpus_labels)
    if as_json:
        echo(json.dumps({"clip": str(video or ""), "model": labels, **asdict(prediction)}, ensure_ascii=False))
        return
    echo(f"{video or text}: {prediction.label} (models trained on {labels} labels)")
    echo("  " + ", ".join(f"{name} {prob:.3f}" for name, prob in prediction.probs.items()))
    echo("  weights: " + ", ".join(f"{name} {share:.3f}" for name, share in prediction.modality_weights.items()))
    if prediction.words_from == WordsFrom.MACHINE:
        echo(f"  words (machine): {prediction.transcript}")
    for name, reason in prediction.missing.items():
        echo(f"  {name} is missing: {reason}")


def predict_clip(
    params: Params, ensemble: Ensemble, video: Path | None, text: str, labels: list[str]
) -> ClipPrediction:
    """Predict one clip from the modalities of a saved ensemble.

    Args:
        params: Params of the project, with which the models were trained.
        ensemble: The models.
        video: File of the clip; None: predict from the transcript only.
        text: Transcript of the clip; "" if unknown: subtitles in the file or beside it are read, else its speech is
            recognised.
        labels: Labels that the LLM chooses from.

    Raises:
        InputError: If the file cannot be read, no modality is usable, or the models were trained on features of
            other encoders than params has.
        ModelError: If weights are missing.
    """
    origin = WordsFrom.CORPUS if text.strip() else WordsFrom.NOWHERE
    clip = Clip(CLIP_ID, transcript=" ".join(text.split()), split=Split.UNLABELED, words_from=origin)
    root = Path() if video is None else video.parent
    settings = _settings(params, ensemble)
    with tempfile.TemporaryDirectory(prefix="ecmf-clip-") as name:
        if video is not None:
            clip = measure_clip(clip, video, Path(name))
        reads_texts = "text" in ensemble.modalities and params.text_columns
        if reads_texts and params.transcribe.model is not None and is_transcribed(clip):
            clip = _with_words(params, clip, root, Path(name))
        clip = _with_language(params, clip)
        texts = _enriched(params, clip, Path(name), labels) if reads_texts else {}
        return _predicted(params, ensemble, settings, clip, texts, root, Path(name))


def _settings(params: Params, ensemble: Ensemble) -> dict[Modality, dict[str, Any]]:
    """Return the settings of each modality in use that the models take; they must be those of training."""
    used = [Modality(name) for name in ensemble.modalities if Modality(name) in params.extract.encoders]
    known = {m: params.settings_of(m, weights_required=False) for m in used}  # another encoder is reported first
    origins = {m.value: FeatureOrigin(encoders=params.extract.encoders[m], settings=known[m]) for m in used}
    check_feature_origins(
        ensemble.origins, origins, hint="train the models again", command="ecmf-pipe train", other_machine=True
    )
    return {m: params.settings_of(m) for m in used}


def measure_clip(clip: Clip, video: Path, folder: Path) -> Clip:
    """Measure the file of a clip as `index` does, with the sound and the subtitles beside it.

    Args:
        clip: The clip; if it has a transcript, subtitles are ignored.
        video: The media file.
        folder: A temporary folder.

    Raises:
        InputError: If the file does not exist, cannot be read, or has neither pictures nor sound.
    """
    if not video.is_file():
        raise InputError(f"{video} does not exist", "give the path of a media file as --video")
    beside = scan_media(video.parent, nested=False)
    same_name = (path for path in beside.sounds if strip_media_extension(path) == strip_media_extension(video.name))
    sound = "" if is_sound_file(video.name) else next(same_name, "")
    subtitles, _ = match_subtitles(beside.subtitles, {clip.clip_id: video.name})
    listed = replace(clip, path=video.name, audio_path=sound)
    listing = CorpusListing(video.parent, (listed,), labels=(), candidate_order=(), subtitles=subtitles)
    result = index_corpus(listing, folder / "index.json", workers=0)
    for failed in result.quarantined.values():
        message = f"{video} cannot be read ({failed.reason}: {failed.message})"
        raise InputError(message, "give the path of another media file as --video")
    [measured] = result.clips
    if not (measured.has_video or measured.has_audio):
        raise InputError(f"{video} has neither pictures nor sound", "give the path of another media file as --video")
    return measured


def _with_language(params: Params, clip: Clip) -> Clip:
    language = params.corpus.language
    if clip.transcript and not clip.language and language == "auto":
        [language] = detect_languages([clip.transcript], corpus_languages())
    return replace(clip, language=language) if clip.transcript and language != "auto" else clip


def _with_words(params: Params, clip: Clip, root: Path, folder: Path) -> Clip:
    """Return the clip with the words of speech recognition, if it recognises any."""
    result = transcribe(
        [clip],
        config=params.transcribe.model_copy(update={"workers": 0, "max_quarantined": 1.0}),
        media=params.media,
        corpus_root=root,
        cache_root=folder / "transcripts",
        spool=folder / "transcripts.spool",
        quarantine_path=folder / "transcribe.csv",
    )
    return with_transcripts([clip], result.transcripts)[0]


def _enriched(params: Params, clip: Clip, folder: Path, labels: list[str]) -> dict[str, ClipText]:
    if not clip.transcript:
        return {}
    [foreign] = foreign_columns(params, [clip])
    if not params.needs_enriched_texts:
        return {clip.clip_id: ClipText(clip.transcript, foreign=foreign)}
    if not llm_transcript(params, clip):
        return {clip.clip_id: ClipText(clip.transcript, clip.transcript, foreign=foreign)}
    rewritten = enrich_transcripts(
        params.llm.model_copy(update={"workers": 0, "max_quarantined": 1.0}),
        params.rewrite,
        {clip.clip_id: Context(clip.transcript)},
        labels,
        answer_files=AnswerFiles("rewrite", folder / "cache", folder / "spool", folder / "rewrite.csv"),
    )
    return {clip.clip_id: ClipText(clip.transcript, rewritten.texts[clip.clip_id], foreign=foreign)}


def _predicted(
    params: Params,
    ensemble: Ensemble,
    settings: Mapping[Modality, dict[str, Any]],
    clip: Clip,
    texts: Mapping[str, ClipText],
    root: Path,
    folder: Path,
) -> ClipPrediction:
    import numpy as np

    computed = [m for m in settings if not isinstance(params.encoder_of(m), ImportedConfig)]
    missing = {name: "its features are imported" for name in ensemble.modalities if name not in computed}

    def store(modality: Modality) -> Path:
        return folder / f"{modality.value}.zarr"

    def quarantine_path(modality: Modality) -> Path:
        return folder / f"{modality.value}.csv"

    with open_writers({m: settings[m] for m in computed}, store) as writers:
        branches = [
            plan_branch(
                modality,
                [clip],
                texts,
                encoder=params.encoder_of(modality),
                settings=settings[modality],
                root=store(modality),
                quarantine_path=quarantine_path(modality),
            )
            for modality in computed
        ]
        report = extract(
            branches,
            [clip],
            texts,
            writers=writers,
            corpus_root=root,
            media=params.media,
            faces=params.faces,
            config=params.extract.model_copy(update={"workers": 0, "max_quarantined": 1.0}),
        )
    features: Mapping[str, NDArray[np.float32]] = {}
    if report.done.total():
        stored = open_features(
            [clip],
            texts,
            computed,
            open_modality=lambda modality: open_store(store(modality), settings[modality]),
        )
        features = stored.read([clip.clip_id], ensemble.pool or params.train.pool)
    for modality in computed:
        if modality.value not in features:
            entries = read_quarantine(quarantine_path(modality))
            missing[modality.value] = f"{entries[0].reason}: {entries[0].message}" if entries else NO_INPUT
            if modality is Modality.TEXT and texts and texts[clip.clip_id].foreign:
                language = format_language(clip.language)
                missing[modality.value] = f"the text encoder does not know the language, {language}"
    padded = {name: features.get(name, np.full((1, dim), np.nan, np.float32)) for name, dim in ensemble.dims.items()}
    prediction = ensemble.predict(padded)
    if prediction.classes[0] < 0:
        causes = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise InputError(
            f"{clip.path or '--text'}: no modality of the models is usable ({causes})",
            "give a clip with another modality, or its transcript as --text",
        )
    return ClipPrediction(
        ensemble.label_names[int(prediction.classes[0])],
        dict(zip(ensemble.label_names, map(float, prediction.probs[0]), strict=True)),
        dict(zip(ensemble.modalities, map(float, prediction.modality_weights[0]), strict=True)),
        missing,
        texts[clip.clip_id].enriched if texts else "",
        clip.transcript,
        clip.words_from.value,
    )
