"""Predict one new clip: enrich its transcript, extract features and run the saved models; nothing is stored."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality, Split, read_corpus_description
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import ClipError, InputError
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.extraction.features import FeatureOrigin, check_feature_origins, open_features, open_store
from ecmf_pipeline.extraction.run import extract, open_writers, plan_branch
from ecmf_pipeline.llm.answers import AnswerFiles
from ecmf_pipeline.llm.prompt import Context
from ecmf_pipeline.llm.rewriting import enrich_transcripts
from ecmf_pipeline.media.containers import probe_media
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.inputs import missing_models

if TYPE_CHECKING:
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
    """

    label: str
    probs: dict[str, float]
    modality_weights: dict[str, float]
    missing: dict[str, str]
    enriched: str


def run(video: Path | None, text: str, labels: paths.Labels | None, *, as_json: bool) -> None:
    """Print the label, probabilities and modality weights of one new clip.

    Args:
        video: File of the clip; None: predict from the transcript only.
        text: Transcript of the clip.
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
        text: Transcript of the clip; "" if unknown.
        labels: Labels that the LLM chooses from.

    Raises:
        InputError: If the file cannot be read, no modality is usable, or the models were trained on features of
            other encoders than params has.
        ModelError: If weights are missing.
    """
    clip = Clip(CLIP_ID, transcript=" ".join(text.split()), split=Split.UNLABELED)
    if video is not None:
        clip = _with_media(clip, video)
    root = Path() if video is None else video.parent
    settings = _settings(params, ensemble)
    with tempfile.TemporaryDirectory(prefix="ecmf-clip-") as name:
        reads_texts = "text" in ensemble.modalities and params.text_columns
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


def _with_media(clip: Clip, video: Path) -> Clip:
    if not video.is_file():
        raise InputError(f"{video} does not exist", "give the path of a media file as --video")
    try:
        probe = probe_media(video)
    except ClipError as error:
        message = f"{video} cannot be read ({error.reason}: {error.message})"
        raise InputError(message, "give the path of another media file as --video") from error
    digest = sha256_file(video)
    return replace(
        clip,
        path=video.name,
        digest=digest,
        file_digest=digest,
        bytes=video.stat().st_size,
        duration=probe.duration,
        has_video=probe.has_video,
        has_audio=probe.has_audio,
    )


def _enriched(params: Params, clip: Clip, folder: Path, labels: list[str]) -> dict[str, ClipText]:
    if not clip.transcript:
        return {}
    if not params.needs_enriched_texts:
        return {clip.clip_id: ClipText(clip.transcript)}
    rewritten = enrich_transcripts(
        params.llm.model_copy(update={"workers": 0, "max_quarantined": 1.0}),
        params.rewrite,
        {clip.clip_id: Context(clip.transcript)},
        labels,
        answer_files=AnswerFiles("rewrite", folder / "cache", folder / "spool", folder / "rewrite.csv"),
    )
    return {clip.clip_id: ClipText(clip.transcript, rewritten.texts[clip.clip_id])}


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
        extract(
            branches,
            [clip],
            texts,
            writers=writers,
            corpus_root=root,
            media=params.media,
            faces=params.faces,
            config=params.extract.model_copy(update={"workers": 0, "max_quarantined": 1.0}),
        )
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
    )
