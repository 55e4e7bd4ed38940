"""Count done, missing, absent and quarantined clips, by stage and modality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipText, Modality, read_manifest, read_texts
from ecmf_pipeline.core.errors import EcmfError, MissingInput, StaleStore
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.weights import embedded_model
from ecmf_pipeline.extraction.run import BranchInputs, clip_limits, coverage
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.settings.params import Params, Token
from ecmf_pipeline.stages.shared.inputs import open_modality_store
from ecmf_pipeline.transcription.table import read_transcripts, with_transcripts

Row = tuple[str, int | str, int | str, int | str, int | str]
"""Stage, done, missing, absent, quarantined."""


def stage_rows(params: Params) -> Iterator[Row]:
    """Yield a row for each stage and modality, in the order of the pipeline.

    Raises:
        InputError: If a table that a stage wrote is damaged.
    """
    present = sum(embedded_model(name).is_present(paths.MODELS) for name in params.models.names)
    yield "models", present, len(params.models.names) - present, "", ""
    if not paths.MANIFEST.is_file():
        yield "index", 0, "all", "", ""
        return
    clips = read_manifest(paths.MANIFEST)
    if params.needs_transcripts and paths.TRANSCRIPTS.is_file():
        clips = with_transcripts(clips, read_transcripts(paths.TRANSCRIPTS))
    quarantined = len(read_quarantine(paths.quarantine("index")))
    without_file = sum(not clip.path for clip in clips)
    yield "index", len(clips) - quarantined - without_file, 0, without_file, quarantined
    yield from _clip_rows(params, clips)
    for name, path in _outputs():
        yield name, output_state(path), "", "", ""


def output_state(path: Path) -> str:
    """Return whether a stage is done; ``no labels`` if there was nothing to train."""
    has_nothing_to_train = (path.parent / paths.NO_MODELS).is_file()
    return "no labels" if has_nothing_to_train else "yes" if path.exists() else "no"


def _clip_rows(params: Params, clips: Sequence[Clip]) -> Iterator[Row]:
    texts = read_texts(paths.REWRITES) if paths.REWRITES.is_file() and params.text_columns else {}
    with_text = {
        clip.clip_id: (clip.transcript, clip.translation)
        for clip in clips
        if params.text_columns and (clip.transcript.strip() or clip.translation.strip())
    }
    rewritten = {
        clip_id: (text.original, text.translation)
        for clip_id, text in texts.items()
        if text.enriched or not (text.original and params.needs_enriched_texts)
    }
    done = sum(rewritten.get(clip_id) == text for clip_id, text in with_text.items())
    yield "rewrite", done, len(with_text) - done, len(clips) - len(with_text), ""
    for name, (modality, encoder) in params.tokens.items():
        counts = coverage(
            modality,
            clips,
            texts,
            root=paths.features(modality),
            quarantine_path=paths.quarantine("extract", modality),
            fingerprint=_fingerprint_in_use(params, modality, encoder),
            branch_inputs=BranchInputs.of(params.encoder_of(modality, encoder), params.faces),
            limits=clip_limits(params.extract, params.media),
        )
        # Texts that are not rewritten yet count as missing, not as absent.
        pending = 0
        if modality is Modality.TEXT and params.text_columns:
            pending = _count_pending(clips, texts, params.encoder_of(modality, encoder).text_columns)
        row = (counts.done, counts.missing + pending, counts.absent - pending, counts.quarantined)
        yield f"extract {name}", *row


def _fingerprint_in_use(params: Params, modality: Modality, encoder: str) -> str:
    """Return the fingerprint of the features that other stages would read; one without features if there are none."""
    try:
        return open_modality_store(params, modality, encoder).fingerprint
    except (MissingInput, StaleStore):
        try:
            return fingerprint(params.token_settings(Token(modality, encoder)))  # shards may have features
        except EcmfError:  # no weights
            return "none"


def _count_pending(clips: Sequence[Clip], texts: Mapping[str, ClipText], columns: Sequence[str]) -> int:
    """Count the clips that lack some of ``columns`` and will have all of them after `rewrite`."""
    empty = ClipText("")
    expected = [ClipText(clip.transcript, enriched=clip.transcript, translation=clip.translation) for clip in clips]
    return sum(
        bool(text.having(columns))
        and not (stored := texts.get(clip.clip_id, empty)).having(columns)
        and not stored.foreign
        for clip, text in zip(clips, expected, strict=True)
    )


def _outputs() -> list[tuple[str, Path]]:
    return [
        ("train given", paths.models_trained_on("given") / "fusion"),
        ("predict given", paths.predictions("given") / "fusion.csv"),
        ("vote", paths.VOTES),
        ("refine", paths.REFINED),
        ("train refined", paths.models_trained_on("refined") / "fusion"),
        ("predict refined", paths.predictions("refined") / "fusion.csv"),
        ("evaluate", paths.METRICS / "evaluate.json"),
        ("report", paths.REPORT),
    ]
