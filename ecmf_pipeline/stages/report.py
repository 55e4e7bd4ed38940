"""`report`: write all results to one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

from ecmf_pipeline import __version__
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import read_sealed_json, write_atomic
from ecmf_pipeline.core.tables import from_spreadsheet_text, open_table
from ecmf_pipeline.corpora.languages import count_languages, translation_language
from ecmf_pipeline.extraction.run import clip_limits, coverage
from ecmf_pipeline.labels.tables import read_decisions
from ecmf_pipeline.report.contact_sheets import face_sheets
from ecmf_pipeline.report.inputs import FaceSheet, PredictedClips, ReportInput
from ecmf_pipeline.report.page import render
from ecmf_pipeline.runner.quarantine import read_all
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    add_transcripts,
    open_modality_store,
    read_needed_texts,
    read_project_corpus,
    read_refined_predictions,
)
from ecmf_pipeline.stages.shared.languages import language_notes

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
    absent = [name for name in stores if covered[name]["absent"] == len(corpus.clips)]
    for name in absent:
        del stores[name], covered[name]
    faces = [store for name, store in stores.items() if tokens[name].modality is Modality.FACE]
    clips = corpus.columns
    languages = count_languages(clips.where(clips.has_words).column("language").tolist())
    sheets: Sequence[FaceSheet] = ()
    no_sheets = ""
    if faces and params.report.contact_sheets:
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
        refined=refined,
        face_sheets=sheets,
        no_face_sheets=no_sheets,
        language_notes=tuple(language_notes(params, languages, translation_language(corpus.clips))),
        params=params.model_dump(mode="json"),
        versions={"ecmf-pipeline": __version__, **{name: version(name) for name in _SHOWN_VERSIONS}},
    )
    write_atomic(paths.REPORT, render(content, params.report))
    echo(f"report: {paths.REPORT}")


def read_findings() -> list[dict[str, str]]:
    """Read the table of findings, whose cells are escaped for spreadsheets."""
    table = open_table(paths.FINDINGS, command="ecmf-pipe index")
    columns = table.header()
    return table.parse(lambda row: dict(zip(columns, map(from_spreadsheet_text, row), strict=True)), key=0)
