"""One new clip through everything: words enriched, features extracted, the saved models asked. Nothing is kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality, Split, read_corpus_tables
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import ClipError, InputError
from ecmf_pipeline.core.files import fingerprint, sha256_file
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.extraction.features import FeatureOrigin, open_features, refuse_other_features
from ecmf_pipeline.extraction.run import extract, plan_branch, writing
from ecmf_pipeline.llm.answers import ScoreBooks
from ecmf_pipeline.llm.prompt import Context
from ecmf_pipeline.llm.rewriting import enrich_texts
from ecmf_pipeline.media.containers import probe_media
from ecmf_pipeline.settings.params import Params, load_params

if TYPE_CHECKING:
    from ecmf_pipeline.fusion.prediction import Ensemble

CLIP_ID = ClipId("clip")
NO_INPUT = "the clip has no such input"


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """What the models say of one clip.

    Attributes:
        label: The likeliest label.
        probs: Probability of each label.
        modality_weights: Share of each modality; 0 where it is missing.
        missing: Why a modality is missing, by modality.
        enriched: The enriched words; "" without words.
    """

    label: str
    probs: dict[str, float]
    modality_weights: dict[str, float]
    missing: dict[str, str]
    enriched: str


def run(video: Path | None, text: str, labels: paths.Labels | None, *, as_json: bool) -> None:
    """Print the label, probabilities and modality weights of one new clip.

    Args:
        video: The clip; None: there are words alone.
        text: What is said in it.
        labels: Which models judge; None: those trained on refined labels where there are any.
        as_json: Whether to print JSON alone.
    """
    from ecmf_pipeline.fusion.prediction import Ensemble

    params = load_params()
    if labels is None:
        labels = "refined" if (paths.models_trained_on("refined") / "fusion").is_dir() else "given"
    ensemble = Ensemble.load(paths.models_trained_on(labels) / "fusion")
    known = read_corpus_tables().labels
    if known:  # a corpus without labels has none that a model from elsewhere could differ from
        ensemble.refuse_other_labels(known)
    found = predict_clip(params, ensemble, video, text, known)
    if as_json:
        echo(json.dumps({"clip": str(video or ""), "model": labels, **asdict(found)}, ensure_ascii=False))
        return
    echo(f"{video or text}: {found.label} (models trained on {labels} labels)")
    echo("  " + ", ".join(f"{name} {prob:.3f}" for name, prob in found.probs.items()))
    echo("  weights: " + ", ".join(f"{name} {share:.3f}" for name, share in found.modality_weights.items()))
    for name, reason in found.missing.items():
        echo(f"  {name} is missing: {reason}")


def predict_clip(
    params: Params, ensemble: Ensemble, video: Path | None, text: str, labels: list[str]
) -> ClipPrediction:
    """Run one clip through the branches that a saved ensemble listens to.

    Args:
        params: The project's settings: those the models were trained with.
        ensemble: The models.
        video: The clip; None: there are words alone.
        text: What is said in it; "" when that is not known.
        labels: The labels that the LLM is asked about.

    Raises:
        InputError: When the file cannot be read, no modality could be used, or the models were trained on features of
            other encoders than params name.
        ModelError: When weights are missing.
    """
    words = Clip(CLIP_ID, transcript=" ".join(text.split()), split=Split.UNLABELED)
    clip = words if video is None else _with_media(words, video)
    root = Path() if video is None else video.parent
    settings = _settings(params, ensemble)
    with tempfile.TemporaryDirectory(prefix="ecmf-clip-") as name:
        texts = _enriched(params, clip, Path(name), labels) if "text" in ensemble.modalities else {}
        return _predicted(params, ensemble, settings, clip, texts, root, Path(name))


def _settings(params: Params, ensemble: Ensemble) -> dict[Modality, dict[str, Any]]:
    """Of each branch in use that the models listen to; how clips are read may differ from where they were trained."""
    used = [Modality(name) for name in ensemble.modalities if Modality(name) in params.extract.encoders]
    settings = {m: params.settings_of(m) for m in used}
    now = {m.value: FeatureOrigin(encoders=params.extract.encoders[m], settings=settings[m]) for m in used}
    refuse_other_features(ensemble.origins, now, hint="run `ecmf-pipe train` again", columns_alone=True)
    return settings


def _with_media(words: Clip, video: Path) -> Clip:
    if not video.is_file():
        raise InputError(f"{video} is missing", "give the path of a clip")
    try:
        probe = probe_media(video)
    except ClipError as error:
        raise InputError(f"{video} cannot be read ({error.reason}: {error})", "give another clip") from error
    return replace(
        words,
        path=video.name,
        digest=sha256_file(video),
        bytes=video.stat().st_size,
        duration=probe.duration,
        has_video=probe.has_video,
        has_audio=probe.has_audio,
    )


def _enriched(params: Params, clip: Clip, folder: Path, labels: list[str]) -> dict[str, ClipText]:
    if not clip.transcript:
        return {}
    found = enrich_texts(
        params.llm.model_copy(update={"workers": 0, "max_quarantined": 1.0}),
        params.rewrite,
        {clip.clip_id: Context(clip.transcript)},
        labels,
        books=ScoreBooks("rewrite", folder / "cache", folder / "spool", folder / "rewrite.csv"),
    )
    return {clip.clip_id: ClipText(clip.transcript, found.texts[clip.clip_id])}


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
    missing = {name: "its features come from elsewhere" for name in ensemble.modalities if name not in computed}

    def store(modality: Modality) -> Path:
        return folder / f"{modality.value}.zarr"

    with writing({m: settings[m] for m in computed}, store) as writers:
        branches = [
            plan_branch(
                modality,
                [clip],
                texts,
                encoder=params.encoder_of(modality),
                settings=settings[modality],
                root=store(modality),
                quarantine_path=folder / f"{modality.value}.csv",
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
    stored = open_features(
        [clip],
        texts,
        computed,
        store_root=store,
        fingerprint_of=lambda modality: fingerprint(settings[modality]),
    )
    features = stored.read([clip.clip_id], ensemble.pool or params.train.pool)
    for modality in computed:
        if modality.value not in features:
            reasons = report.reasons[modality.value]
            missing[modality.value] = next(iter(reasons)) if reasons else NO_INPUT
    whole = {name: features.get(name, np.full((1, dim), np.nan, np.float32)) for name, dim in ensemble.dims.items()}
    found = ensemble.predict(whole)
    if found.classes[0] < 0:
        raise InputError(f"{clip.path or 'the words alone'}: no modality that the models know could be used: {missing}")
    return ClipPrediction(
        ensemble.label_names[int(found.classes[0])],
        dict(zip(ensemble.label_names, map(float, found.probs[0]), strict=True)),
        dict(zip(ensemble.modalities, map(float, found.modality_weights[0]), strict=True)),
        missing,
        texts[clip.clip_id].enriched if texts else "",
    )
