"""Predict a new clip, or the clips of a new recording, with the saved models; no features are stored."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality, Split, WordsFrom, read_corpus_description
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.languages import format_language
from ecmf_pipeline.corpora.index import index_corpus
from ecmf_pipeline.corpora.languages import detect_languages
from ecmf_pipeline.corpora.listing import CorpusListing
from ecmf_pipeline.corpora.scan import is_sound_file, scan_media, strip_media_extension
from ecmf_pipeline.corpora.segments import CutRecording, Segment, segment_id
from ecmf_pipeline.corpora.sidecars import match_subtitles
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.extraction.features import FeatureOrigin, check_feature_origins, open_features, open_store
from ecmf_pipeline.extraction.run import extract, open_writers, plan_branch
from ecmf_pipeline.fusion.config import modality_of
from ecmf_pipeline.llm.answers import AnswerFiles
from ecmf_pipeline.llm.prompt import Context
from ecmf_pipeline.llm.rewriting import enrich_transcripts
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.segmentation.run import segment
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.inputs import missing_models, read_project_corpus
from ecmf_pipeline.stages.shared.languages import corpus_languages, foreign_columns, llm_transcript
from ecmf_pipeline.stages.shared.timeline import moments_of, write_timeline
from ecmf_pipeline.transcription.run import transcribe
from ecmf_pipeline.transcription.table import is_transcribed, with_transcripts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecmf_pipeline.fusion.prediction import Ensemble, Prediction

CLIP_ID = ClipId("clip")
INDEX_CACHE = "index.json"
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
        words_from: Origin of the words: ``corpus`` (the given text), ``subtitles`` or ``machine``; "" without words.
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
    params = load_params()
    ensemble, labels, corpus_labels = _load(labels)
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


def run_recording(recording: Path, timeline: Path, labels: paths.Labels | None) -> None:
    """Cut a new recording into clips, predict them, and write their timeline.

    Args:
        recording: The file; with subtitles it is cut by them, else by speech, unless ``segment.by`` is set.
        timeline: The file to write, csv or JSON by its name.
        labels: See `run`.

    Raises:
        InputError: If the file cannot be read, or has no subtitles and no speech.
        MissingInput: If no models were trained on these labels.
    """
    params = load_params()
    ensemble, labels, corpus_labels = _load(labels)
    settings = _settings(params, ensemble)
    with tempfile.TemporaryDirectory(prefix="ecmf-recording-") as name:
        folder = Path(name)
        clips, texts = _read_words(
            params, ensemble, cut_recording(params, recording, folder), recording.parent, folder, corpus_labels
        )
        prediction, _ = _predicted(params, ensemble, settings, clips, texts, recording.parent, folder)
    basis = read_project_corpus(params).basis
    moments = moments_of(clips, prediction.probs, ensemble.label_names, basis)
    write_timeline(timeline, moments, ensemble.label_names)
    counts = Counter(moment.label or "unusable" for moment in moments)
    shares = ", ".join(f"{label} {count}" for label, count in counts.most_common())
    echo(f"{recording}: {format_count(len(clips), 'clip')} ({shares}; models trained on {labels} labels) in {timeline}")


def _load(labels: paths.Labels | None) -> tuple[Ensemble, paths.Labels, list[str]]:
    """Return the models, the labels that they were trained on, and those of the corpus."""
    from ecmf_pipeline.fusion.prediction import Ensemble

    if labels is None:
        labels = "refined" if (paths.models_trained_on("refined") / "fusion").is_dir() else "given"
    folder = paths.models_trained_on(labels) / "fusion"
    if not folder.is_dir():
        raise missing_models(labels)
    ensemble = Ensemble.load(folder)
    corpus_labels = read_corpus_description().labels
    if corpus_labels:  # an unlabelled corpus can be predicted with a model from elsewhere
        ensemble.check_label_names(corpus_labels)
    return ensemble, labels, corpus_labels


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
        (clip,), texts = _read_words(params, ensemble, [clip], root, Path(name), labels)
        prediction, missing = _predicted(params, ensemble, settings, [clip], texts, root, Path(name))
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


def _read_words(
    params: Params, ensemble: Ensemble, clips: Sequence[Clip], root: Path, folder: Path, labels: list[str]
) -> tuple[list[Clip], dict[str, ClipText]]:
    """Return the clips with recognised words and languages, and the texts that the models read."""
    reads_texts = "text" in map(modality_of, ensemble.modalities) and params.text_columns
    if reads_texts and params.transcribe.model is not None and any(map(is_transcribed, clips)):
        clips = with_words(params, clips, root, folder)
    clips = _with_languages(params, clips)
    return [*clips], _enriched(params, clips, folder, labels) if reads_texts else {}


def _settings(params: Params, ensemble: Ensemble) -> dict[str, dict[str, Any]]:
    """Return the settings of the features in use that the models take, by name; they must be those of training."""
    used = {name: token for name, token in params.tokens.items() if name in ensemble.modalities}
    origins = {
        name: FeatureOrigin(
            encoders=(token.encoder,),
            settings=params.token_settings(token, weights_required=False),  # another encoder is reported first
        )
        for name, token in used.items()
    }
    check_feature_origins(
        ensemble.origins, origins, hint="train the models again", command="ecmf-pipe train", other_machine=True
    )
    return {name: params.token_settings(token) for name, token in used.items()}


def measure_clip(clip: Clip, video: Path, folder: Path) -> Clip:
    """Measure the file of a clip as `index` does, with the sound and the subtitles beside it.

    Args:
        clip: The clip; if it has a transcript, subtitles are ignored.
        video: The media file.
        folder: A temporary folder.

    Raises:
        InputError: If the file does not exist, cannot be read, or has neither pictures nor sound.
    """
    [measured] = _indexed(_listing(clip, video), folder)
    if not (measured.has_video or measured.has_audio):
        raise InputError(f"{video} has neither pictures nor sound", "give the path of another media file as --video")
    return measured


def _listing(clip: Clip, video: Path) -> CorpusListing:
    """Return a file as a clip, with the sound and the subtitles beside it."""
    if not video.is_file():
        raise InputError(f"{video} does not exist", "give the path of a media file as --video")
    beside = scan_media(video.parent, nested=False)
    same_name = (path for path in beside.sounds if strip_media_extension(path) == strip_media_extension(video.name))
    sound = "" if is_sound_file(video.name) else next(same_name, "")
    subtitles, _ = match_subtitles(beside.subtitles, {clip.clip_id: video.name})
    listed = replace(clip, path=video.name, audio_path=sound)
    return CorpusListing(video.parent, (listed,), labels=(), candidate_order=(), subtitles=subtitles)


def _indexed(listing: CorpusListing, folder: Path) -> Sequence[Clip]:
    result = index_corpus(listing, folder / INDEX_CACHE, workers=0)
    for failed in result.quarantined.values():
        message = f"{listing.root / listing.clips[0].path} cannot be read ({failed.reason}: {failed.message})"
        raise InputError(message, "give the path of another media file as --video")
    return result.clips


def cut_recording(params: Params, recording: Path, folder: Path) -> list[Clip]:
    """Return the clips of a recording, indexed; a short one is one clip.

    Args:
        params: Params of the project; its `segment` section has the lengths of clips.
        recording: The file; subtitle files beside it are used.
        folder: Folder of caches.

    Raises:
        InputError: If it cannot be read, or no clips are found.
    """
    listing = _listing(Clip(CLIP_ID, split=Split.UNLABELED), recording)
    (whole,) = indexed = _indexed(listing, folder)
    ways = [params.segment.by] if params.segment.by else ["subtitles", "speech"]
    for way in ways:
        config = params.segment.model_copy(update={"by": way, "workers": 1, "max_quarantined": 1.0})
        found = segment(
            listing,
            indexed,
            config=config,
            cache_root=folder / f"segments-{way}",
            spool=folder / f"segments-{way}.spool",
            quarantine_path=folder / f"segments-{way}.csv",
            index_cache=folder / INDEX_CACHE,
        )
        cut = found.recordings.get(recording.name)
        if cut is None and not found.findings:
            cut = CutRecording("", (Segment(0.0, whole.duration, whole.transcript),))
        if cut is not None and cut.segments:
            parts = tuple(
                replace(
                    listing.clips[0],
                    clip_id=segment_id(CLIP_ID, one),
                    start=one.start,
                    end=one.end,
                    transcript=one.text,
                    language=one.language,
                    words_from=WordsFrom.SUBTITLES if one.text else WordsFrom.NOWHERE,
                )
                for one in cut.segments
            )
            return [*_indexed(replace(listing, clips=parts), folder)]
    raise InputError(found.findings[0].message, "add a subtitle file beside it")


def _with_languages(params: Params, clips: Sequence[Clip]) -> list[Clip]:
    language = params.corpus.language
    unknown = [clip.transcript for clip in clips if clip.transcript and not clip.language]
    found = dict(zip(unknown, detect_languages(unknown, corpus_languages()), strict=True)) if language == "auto" else {}
    return [
        replace(clip, language=found.get(clip.transcript, clip.language) if language == "auto" else language)
        if clip.transcript
        else clip
        for clip in clips
    ]


def with_words(params: Params, clips: Sequence[Clip], root: Path, folder: Path) -> Sequence[Clip]:
    """Return the clips with the words of speech recognition, if it recognises any.

    Args:
        params: Params of the project.
        clips: The clips.
        root: The folder of their files.
        folder: A folder for temporary files.
    """
    result = transcribe(
        clips,
        config=params.transcribe.model_copy(update={"workers": 0, "max_quarantined": 1.0}),
        media=params.media,
        corpus_root=root,
        cache_root=folder / "transcripts",
        spool=folder / "transcripts.spool",
        quarantine_path=folder / "transcribe.csv",
        index_cache=folder / INDEX_CACHE,
    )
    return with_transcripts(clips, result.transcripts)


def _enriched(params: Params, clips: Sequence[Clip], folder: Path, labels: list[str]) -> dict[str, ClipText]:
    spoken = [clip for clip in clips if clip.transcript]
    foreign = foreign_columns(params, spoken) if spoken else []
    asked: dict[str, Context] = {
        c.clip_id: Context(c.transcript) for c in spoken if params.needs_enriched_texts and llm_transcript(params, c)
    }
    enriched: dict[str, str] = {clip.clip_id: clip.transcript for clip in spoken if params.needs_enriched_texts}
    if asked:
        enriched |= enrich_transcripts(
            params.llm.model_copy(update={"workers": 0, "max_quarantined": 1.0}),
            params.rewrite,
            asked,
            labels,
            answer_files=AnswerFiles("rewrite", folder / "cache", folder / "spool", folder / "rewrite.csv"),
        ).texts
    return {
        clip.clip_id: ClipText(clip.transcript, enriched.get(clip.clip_id, ""), foreign=columns)
        for clip, columns in zip(spoken, foreign, strict=True)
    }


def _predicted(
    params: Params,
    ensemble: Ensemble,
    settings: Mapping[str, dict[str, Any]],
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    root: Path,
    folder: Path,
) -> tuple[Prediction, dict[str, str]]:
    """Return the predictions of clips, and why the first lacks features, by name."""
    import numpy as np

    tokens = {
        name: params.tokens[name]
        for name in settings
        if not isinstance(params.encoder_of(*params.tokens[name]), ImportedConfig)
    }
    missing = {name: "its features are imported" for name in ensemble.modalities if name not in tokens}
    n_done = _extracted(params, {name: settings[name] for name in tokens}, clips, texts, root, folder) if tokens else 0
    features: Mapping[str, NDArray[np.float32]] = {}
    if n_done:
        stored = open_features(
            clips,
            texts,
            {name: token.modality for name, token in tokens.items()},
            open_named=lambda name: open_store(folder / f"{name}.zarr", settings[name]),
        )
        features = stored.read([clip.clip_id for clip in clips], ensemble.pool or params.train.pool)
    for name, token in tokens.items():
        if name not in features:
            entries = read_quarantine(folder / f"{name}.csv")
            missing[name] = f"{entries[0].reason}: {entries[0].message}" if entries else NO_INPUT
            first = clips[0]
            if token.modality is Modality.TEXT and first.clip_id in texts and texts[first.clip_id].foreign:
                language = format_language(first.language)
                missing[name] = f"the text encoder does not know the language, {language}"
    padded = {
        name: features.get(name, np.full((len(clips), dim), np.nan, np.float32)) for name, dim in ensemble.dims.items()
    }
    return ensemble.predict(padded), missing


def _extracted(
    params: Params,
    settings: Mapping[str, dict[str, Any]],
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    root: Path,
    folder: Path,
) -> int:
    """Extract the named features into stores of their names, and return how many were computed."""
    with open_writers(settings, lambda name: folder / f"{name}.zarr") as writers:
        branches = [
            plan_branch(
                params.tokens[name].modality,
                clips,
                texts,
                encoder=params.encoder_of(*params.tokens[name]),
                settings=settings[name],
                root=folder / f"{name}.zarr",
                quarantine_path=folder / f"{name}.csv",
                name=name,
            )
            for name in settings
        ]
        report = extract(
            branches,
            clips,
            texts,
            writers=writers,
            corpus_root=root,
            media=params.media,
            faces=params.faces,
            index_cache=folder / INDEX_CACHE,
            config=params.extract.model_copy(
                update={"workers": 0 if len(clips) == 1 else params.extract.workers, "max_quarantined": 1.0}
            ),
        )
    return report.done.total()
