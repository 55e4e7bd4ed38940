"""`report`: write all results to one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline import __version__
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clips, Modality
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import read_sealed_json, write_atomic
from ecmf_pipeline.core.predictions import Basis, PredictionTable
from ecmf_pipeline.core.resources import read_resources
from ecmf_pipeline.core.tables import from_spreadsheet_text, open_table
from ecmf_pipeline.corpora.languages import count_languages, translation_language
from ecmf_pipeline.extraction.run import clip_limits, coverage
from ecmf_pipeline.labels.decision_files import read_decisions
from ecmf_pipeline.report.cards import rows_by_clip
from ecmf_pipeline.report.checks import LabelIssue, find_label_issues, map_decisions, map_features
from ecmf_pipeline.report.contact_sheets import face_sheets
from ecmf_pipeline.report.inputs import FaceSheet, PredictedClips, ReportInput
from ecmf_pipeline.report.neighbours import find_neighbours
from ecmf_pipeline.report.page import render
from ecmf_pipeline.report.sample import choose_clips
from ecmf_pipeline.report.thumbnails import make_thumbnails
from ecmf_pipeline.runner.quarantine import read_all
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.inputs import (
    LabelledCorpus,
    add_transcripts,
    open_modality_store,
    open_stored,
    read_needed_texts,
    read_project_corpus,
    read_refined_predictions,
)
from ecmf_pipeline.stages.shared.languages import language_notes
from ecmf_pipeline.store import FeatureStore

_PICTURES = {"blur": "blurred", "off": "off"}
_SHOWN_VERSIONS = (
    "torch",
    "transformers",
    "numpy",
    "scikit-learn",
    "lightgbm",
    "zarr",
    "dvc",
    "mediapipe",
    "av",
    "opensmile",
    "gguf",
)


def run() -> None:
    """Load the results of all stages and write the page."""
    params = load_params()
    labelled = read_project_corpus(params)
    corpus = add_transcripts(params, labelled.corpus)
    refined = read_decisions(paths.REFINED, votes=True, corpus=corpus)
    predictions = read_refined_predictions(paths.deployed_predictions("refined"), corpus)
    texts = read_needed_texts(params, corpus.clips)
    tokens = params.tokens
    stores = {name: open_modality_store(params, *token) for name, token in tokens.items()}
    covered = {
        name: asdict(
            coverage(
                tokens[name].modality,
                corpus.clips,
                texts,
                root=paths.features(tokens[name].modality),
                quarantine_path=paths.quarantine("extract", tokens[name].modality),
                fingerprint=store.fingerprint,
                limits=clip_limits(params.extract, params.media),
            )
        )
        for name, store in stores.items()
    }
    path = paths.predictions("refined") / "fusion.csv"
    evaluated = read_refined_predictions(path, corpus).with_branches(path, command="ecmf-pipe predict --labels refined")
    absent = [name for name in stores if covered[name]["absent"] == len(corpus.clips)]
    for name in absent:
        del stores[name], covered[name]
    faces = [store for name, store in stores.items() if tokens[name].modality is Modality.FACE]
    clips = corpus.columns
    languages = count_languages(clips.where(clips.has_words).column("language").tolist())
    sheets: Sequence[FaceSheet] = ()
    no_sheets = ""
    if params.report.thumbnails != "show":
        no_sheets = f"No contact sheets: pictures are {_PICTURES[params.report.thumbnails]} (report.thumbnails)."
    elif faces and params.report.contact_sheets:
        sheets, no_sheets = face_sheets(
            faces[0],
            corpus.clips,
            read_all(paths.QUARANTINE, [Modality.FACE]),
            corpus_root=params.corpus.root,
            media=params.media,
            count=params.report.contact_sheets,
        )
    content = ReportInput(
        corpus={
            "kind": params.corpus.kind,
            "root": str(params.corpus.root),
            "labels": corpus.labels,
            "synthetic": corpus.synthetic,
            "basis": labelled.basis.value,
            "verdicts": int((labelled.known >= 0).sum()),
        },
        clips=corpus.clips,
        index=read_sealed_json(paths.INDEX_METRICS, made_by="index"),
        findings=read_findings(),
        quarantine=read_all(paths.QUARANTINE, params.extract.encoders),
        coverage=covered,
        absent=absent,
        encoders={name: store.settings for name, store in stores.items()},
        dims={name: store.dim for name, store in stores.items() if store.dim is not None},
        provenance={name: store.provenance for name, store in stores.items() if store.provenance},
        computed_with={name: store.versions() for name, store in stores.items()},
        evaluate=read_sealed_json(paths.METRICS / "evaluate.json", made_by="evaluate"),
        ablate=read_sealed_json(paths.ABLATE, made_by="ablate") if paths.ABLATE.is_file() else None,
        vote_sources=read_sealed_json(paths.SOURCES, made_by="evaluate"),
        predictions=PredictedClips(predictions),
        evaluated=PredictedClips(evaluated),
        label_issues=_label_issues(labelled, evaluated),
        resources=read_resources(),
        disk=_disk(),
        refined=refined,
        face_sheets=sheets,
        no_face_sheets=no_sheets,
        language_notes=tuple(language_notes(params, languages, translation_language(corpus.clips))),
        params=params.model_dump(mode="json"),
        versions={"ecmf-pipeline": __version__, **{name: version(name) for name in _SHOWN_VERSIONS}},
    )
    content = _with_clips(content, params, stores, evaluated)
    write_atomic(paths.REPORT, render(content, params.report))
    echo(f"report: {paths.REPORT}")


def _with_clips(
    content: ReportInput, params: Params, stores: Mapping[str, FeatureStore], evaluated: PredictionTable
) -> ReportInput:
    """Add near-duplicates and outliers, and the map and the thumbnails of the clips that get a card."""
    stored = open_stored(params, content.clips, stores)

    def read(clip_ids: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        return stored.read(clip_ids, params.train.vector_pool)

    has_features = any(len(store) for store in stores.values())
    if has_features:
        content = replace(content, neighbours=find_neighbours(Clips.of(content.clips).ids, read))
    chosen = choose_clips(content)
    rows = rows_by_clip(content.clips)
    clips = [content.clips[rows[clip_id]] for clip_id in chosen]
    thumbnails = make_thumbnails(clips, root=params.corpus.root, media=params.media, pictures=params.report.thumbnails)
    clip_map = None
    rows = rows_by_clip(content.scored)
    predicted = [rows[clip_id] for clip_id in chosen]
    if evaluated.basis is not Basis.ZERO_SHOT:
        clip_map = map_decisions(evaluated, predicted)
    elif has_features:
        clip_map = map_features(read(chosen), evaluated.probs[predicted], chosen)
    return replace(content, thumbnails=thumbnails, clip_map=clip_map)


def _label_issues(labelled: LabelledCorpus, evaluated: PredictionTable) -> list[LabelIssue] | None:
    """Search the given labels for errors; None if no model was trained on given labels."""
    if labelled.basis is not Basis.GIVEN:
        return None
    probs = np.where((evaluated.out_of_fold & ~evaluated.is_flagged)[:, None], evaluated.probs, np.nan)
    given, names = labelled.corpus.given, evaluated.label_names
    return [
        LabelIssue(
            evaluated.clip_ids[row],
            names[given[row]],
            names[int(probs[row].argmax())],
            float(probs[row, given[row]]),
            float(probs[row].max()),
        )
        for row in find_label_issues(probs.astype(np.float64), given)
    ]


def _disk() -> dict[str, int]:
    """Return the bytes of each store and folder of results."""
    folders = [*sorted(paths.DATA.glob("features/*.zarr")), *sorted(path for path in paths.DATA.glob("*/"))]
    return {
        path.as_posix(): size
        for path in folders
        if path != paths.DATA / "features" and (size := sum(f.stat().st_size for f in path.rglob("*") if f.is_file()))
    }


def read_findings() -> list[dict[str, str]]:
    """Read the table of findings, whose cells are escaped for spreadsheets."""
    table = open_table(paths.FINDINGS, command="ecmf-pipe index")
    columns = table.header()
    return table.parse(lambda row: dict(zip(columns, map(from_spreadsheet_text, row), strict=True)), key=0)
