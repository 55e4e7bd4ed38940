"""A small example of each file that a stage or a cache reads again, with the function that reads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import (
    Clip,
    ClipId,
    ClipText,
    Corpus,
    Modality,
    Split,
    read_corpus_tables,
    read_manifest,
    read_texts,
    write_corpus_tables,
    write_texts,
)
from ecmf_pipeline.core.errors import EcmfError
from ecmf_pipeline.core.files import FileState, cached_sha256, read_sealed_json, write_sealed_json
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.core.tables import seal_of, write_sealed_csv
from ecmf_pipeline.corpora.last_scan import LastScan
from ecmf_pipeline.corpora.measuring import CacheWriter, FileToMeasure, IndexCache, Measurement
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.ensemble_files import CONFIG_FILE, FOLDS_FILE, WEIGHTS_FILE
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.labels.decision_files import read_decisions, write_refined
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.labels.verdicts import read_answers
from ecmf_pipeline.labels.vote_files import read_external_votes, read_votes, write_votes
from ecmf_pipeline.llm.answers import AnswerCache, AnswerWriter, FormAnswer, TextScores, part_files
from ecmf_pipeline.llm.cues import read_cues, write_cues
from ecmf_pipeline.llm.server_run import DRAFTS_FILE, Draft, Drafts
from ecmf_pipeline.runner.quarantine import Quarantine, read_quarantine
from ecmf_pipeline.stages.report import read_findings
from ecmf_pipeline.stages.shared.inputs import read_given_predictions, read_refined_predictions, refined_sha256
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group
from ecmf_pipeline.store.writer import pack_rows, read_batch
from ecmf_pipeline.transcription.table import (
    Transcript,
    TranscriptRecord,
    Utterance,
    Verdict,
    read_transcripts,
    write_transcripts,
)

LABELS = ["happy", "sad"]
CLIPS = 28
Read = Callable[[], Any]


@dataclass(frozen=True)
class StageFile:
    """A file that is read again.

    Attributes:
        path: The file, relative to the project.
        read: Function that reads it, and returns what a stage gets from it.
        is_editable: Whether another valid value cannot be detected: people write the file, or it has no digest.
        is_cache: Whether a damaged file is dropped without an error, and its content computed again.
    """

    path: Path
    read: Read
    is_editable: bool = False
    is_cache: bool = False


def write_stage_files() -> list[StageFile]:
    """Write a project into the current folder, which is empty, and return its files."""
    rng = np.random.default_rng(0)
    corpus = _write_corpus(rng)
    clip_ids: list[str] = [clip.clip_id for clip in corpus.clips]
    return [
        StageFile(paths.MANIFEST, read_corpus_tables),
        StageFile(paths.MANIFEST, partial(read_manifest, paths.MANIFEST)),
        StageFile(paths.CORPUS, read_corpus_tables),
        *_label_files(corpus, clip_ids, rng),
        *_text_files(clip_ids),
        *_people_files(clip_ids),
        *_answer_files(),
        *_index_files(),
        *_fusion_files(clip_ids, rng),
        *_store_files(rng),
    ]


def _write_corpus(rng: np.random.Generator) -> Corpus:
    clips = [
        Clip(
            ClipId(f"c{row:02d}"),
            path=f"c{row:02d}.mp4",
            digest=f"{row:064x}",
            bytes=1000 + row,
            duration=2.5,
            has_video=True,
            transcript=f'She said "{row}", then left.',
            given_label=LABELS[label] if row < 20 else "",
            gold_label=LABELS[label] if row % 2 else "",
            split=Split.TRAIN if row < 20 else Split.CANDIDATE,
        )
        for row, label in enumerate(rng.integers(0, 2, CLIPS).tolist())
    ]
    corpus = Corpus(clips, LABELS, [clip.clip_id for clip in clips[20:]], synthetic=False)
    write_corpus_tables(corpus)
    return corpus


def _label_files(corpus: Corpus, clip_ids: list[str], rng: np.random.Generator) -> list[StageFile]:
    votes = {name: rng.dirichlet((1, 1), CLIPS) for name in ("face/linear", "llm")}
    votes["llm"][::5] = np.nan
    write_votes(paths.VOTES, clip_ids, votes, LABELS)
    decisions = [
        Decision(
            clip.clip_id,
            clip.split,
            clip.given_label,
            clip.given_label,
            LabelAction.KEEP,
            0.5,
            0.8,
            0.5,
            "agree",
            "happy",
            "sad",
            1.5,
            0.5,
            0.75,
            0.25,
        )
        if clip.given_label
        else Decision(
            clip.clip_id,
            clip.split,
            "",
            "",
            LabelAction.LEAVE,
            0.0,
            0.6,
            float("nan"),
            "unsure",
            "sad",
            "happy",
            0.5,
            0.25,
            0.0,
            0.25,
        )
        for clip in corpus.clips
    ]
    write_refined(paths.REFINED, decisions, votes, rng.dirichlet((1, 1), CLIPS), LABELS)
    table = PredictionTable(
        clip_ids=tuple(clip_ids),
        splits=tuple(clip.split.value for clip in corpus.clips),
        out_of_fold=np.ones(CLIPS, bool),
        flags=("",) * CLIPS,
        label_names=tuple(LABELS),
        probs=rng.dirichlet((1, 1), CLIPS).astype(np.float32),
        modalities=("face", "text"),
        modality_weights=np.full((CLIPS, 2), 0.5, np.float32),
    )
    given, refined = (paths.predictions(labels) / "fusion.csv" for labels in ("given", "refined"))  # type: ignore[arg-type]
    table.write(given)
    table.write(refined)
    write_sealed_json(paths.trained_on("refined"), {"labels_sha256": refined_sha256()})
    return [
        StageFile(paths.REFINED, lambda: read_decisions(paths.REFINED, votes=True, corpus=read_corpus_tables())),
        StageFile(paths.VOTES, lambda: read_votes(paths.VOTES, LABELS, clip_ids)),
        StageFile(given, lambda: read_given_predictions("fusion", read_corpus_tables())),
        StageFile(paths.trained_on("refined"), lambda: read_refined_predictions(refined, read_corpus_tables())),
    ]


def _text_files(clip_ids: list[str]) -> list[StageFile]:
    write_texts(paths.REWRITES, {name: ClipText(f"text {name}", "enriched") for name in clip_ids[::3]})
    write_transcripts(
        paths.TRANSCRIPTS,
        {name: Transcript("Hi.", Verdict.USED, language="en", confidence=-0.5) for name in clip_ids[::4]},
    )
    cues = paths.cues(Modality.FACE)
    write_cues(cues, {name: ("smile", "jaw_open") if number % 2 else () for number, name in enumerate(clip_ids)})
    findings = [["missing_file", name, f"'=the file of {name} is missing", 1] for name in clip_ids[::5]]
    write_sealed_csv(paths.FINDINGS, ["kind", "clip_id", "message", "count"], findings)
    quarantine = Quarantine(paths.quarantine("extract", Modality.FACE), stage="extract", modality="face")
    for name in clip_ids[::5]:
        quarantine.add(name, "ClipTimeout", "120 s", f"digest {name}", 120.0)
    quarantine.write()
    Quarantine(paths.quarantine("index"), stage="index").write()
    write_sealed_json(paths.INDEX_METRICS, {"clips": CLIPS, "findings": {"missing_file": len(findings)}})
    metrics = paths.METRICS / "evaluate.json"
    by_label = {"clips": CLIPS, "accuracy": 0.75}
    write_sealed_json(metrics, {"weighted_f1": 0.7, "judged_by": "gold", "fusion": {"refined": by_label}})
    return [
        StageFile(paths.REWRITES, lambda: read_texts(paths.REWRITES)),
        StageFile(seal_of(paths.REWRITES), lambda: read_texts(paths.REWRITES)),
        StageFile(paths.TRANSCRIPTS, lambda: read_transcripts(paths.TRANSCRIPTS)),
        StageFile(cues, lambda: read_cues(cues, clip_ids)),
        StageFile(paths.FINDINGS, read_findings),
        StageFile(quarantine.path, lambda: read_quarantine(quarantine.path), is_editable=True),
        StageFile(paths.INDEX_METRICS, lambda: read_sealed_json(paths.INDEX_METRICS, made_by="index")),
        StageFile(metrics, lambda: read_sealed_json(metrics, made_by="evaluate")),
    ]


def _people_files(clip_ids: list[str]) -> list[StageFile]:
    verdicts, votes = Path("verdicts.csv"), Path("votes.csv")
    verdicts.write_text("clip_id,label\n" + "".join(f"{name},happy\n" for name in clip_ids[::3]))
    votes.write_text("clip_id,source,p_happy,p_sad\n" + "".join(f"{name},other,0.25,0.75\n" for name in clip_ids[::2]))
    return [
        StageFile(verdicts, lambda: read_answers(verdicts, LABELS, clip_ids), is_editable=True),
        StageFile(votes, lambda: read_external_votes(votes, LABELS, clip_ids), is_editable=True),
    ]


def _answer_files() -> list[StageFile]:
    keys = [f"{number:064x}" for number in range(6)]
    scores = {key: TextScores(key, (0.25, number / 8)) for number, key in enumerate(keys)}
    forms = {key: FormAnswer(key, {"emotion": "happy"}) for key in keys}
    records = {key: TranscriptRecord(key, "en", 0.5, (Utterance("Hello.", (), -0.5, 0.0, 1.0, -20.0),)) for key in keys}
    files = []
    caches: list[tuple[Path, Any, Any]] = [
        (paths.VOTE_CACHE, scores, TextScores.parse),
        (paths.REWRITE_ANSWERS, forms, FormAnswer.parse),
        (paths.TRANSCRIPT_CACHE, records, TranscriptRecord.parse),
    ]
    spool = paths.DATA / ".votes.spool"
    for folder, rows, parse in caches:
        cache: AnswerCache[Any] = AnswerCache(folder, "f", parse)
        with AnswerWriter(cache, spool) as writer:
            writer.append(rows.values())
        files.append(StageFile(part_files(folder / "f")[0], partial(_read_answers, folder, parse)))
    adopting = AnswerWriter(AnswerCache(Path("adopted"), "f", TextScores.parse), spool)
    adopting.spool.keep("0", list(scores.values()))
    batch = next(adopting.spool.folder.glob("*.batch"))
    drafts = spool / "g" / DRAFTS_FILE
    stored = Drafts(drafts)
    for number, key in enumerate(keys):
        stored.add(key, number, Draft(number % 2, ""))

    def adopt() -> Any:
        for path in Path("adopted", "f").glob("*"):
            path.unlink()
        with AnswerWriter(AnswerCache(Path("adopted"), "f", TextScores.parse), spool) as writer:
            return [writer.cache.get(key) or scores[key] for key in keys]

    return [
        *files,
        StageFile(batch, adopt, is_cache=True),
        StageFile(
            drafts,
            lambda: [Drafts(drafts).get(key, number) or Draft(number % 2, "") for number, key in enumerate(keys)],
            is_cache=True,
        ),
    ]


def _read_answers(folder: Path, parse: Callable[[bytes], Any]) -> Any:
    return sorted(AnswerCache(folder, "f", parse).rows(), key=lambda row: str(row.key))


def _index_files() -> list[StageFile]:
    root, names = Path("corpus"), [f"c{number}.mp4" for number in range(6)]
    root.mkdir()
    files = []
    for number, name in enumerate(names):
        (root / name).write_text(name)
        measurement = Measurement(f"{number:064x}", 2.5, 2.5, has_video=True, has_audio=False)
        files.append((FileToMeasure(name, FileState.of(root / name)), measurement))
    cache = IndexCache(paths.INDEX_CACHE, root)
    for file, measured in files:
        cache.put(file.path, file.state, measured)
    cache.save()
    adopting = Path("adopted.json")
    spool = CacheWriter(IndexCache(adopting, root)).spool
    spool.keep("0", files)
    batch = next(spool.folder.glob("*.batch"))

    def measurements(cache: IndexCache) -> Any:
        return [cache.get(file.path, file.state) or measured for file, measured in files]

    def adopt() -> Any:
        adopting.unlink(missing_ok=True)
        adopted = IndexCache(adopting, root)
        with CacheWriter(adopted):
            return measurements(adopted)

    write_sealed_csv(
        paths.CORPUS_VOTES, ["clip_id", "source"], []
    )  # an output of `index`, by which a scan is remembered
    scan = LastScan("settings", [root], [])
    time.sleep(0.06)  # files that changed just before are not remembered
    scan.remember("28 clips", started_ns=time.time_ns())
    cached_sha256(root / names[0])
    return [
        StageFile(paths.INDEX_CACHE, lambda: measurements(IndexCache(paths.INDEX_CACHE, root)), is_cache=True),
        StageFile(batch, adopt, is_cache=True),
        StageFile(paths.LAST_SCAN, lambda: scan.summary() or "28 clips", is_cache=True),
        StageFile(paths.DIGESTS, lambda: cached_sha256(root / names[0]), is_cache=True),
    ]


def _fusion_files(clip_ids: list[str], rng: np.random.Generator) -> list[StageFile]:
    folder = paths.models_trained_on("given") / "fusion"
    features = {"face": rng.normal(size=(CLIPS, 3)).astype(np.float32)}
    fit(
        features,
        np.arange(CLIPS) % 2,
        clip_ids=clip_ids,
        label_names=LABELS,
        fusion=FusionConfig(hidden=4, heads=1),
        training=TrainingConfig(folds=2, seeds=1, epochs=1, patience=1),
    ).save(folder)

    def predict() -> Any:
        ensemble = Ensemble.load(folder)
        prediction = ensemble.predict(features, ensemble.held_out(clip_ids))
        folds, trained = ensemble.held_out(clip_ids), ensemble.trained_on(clip_ids)
        return [prediction.probs, prediction.label_names, folds.tolist(), trained.tolist(), ensemble.pool]

    return [StageFile(folder / name, predict) for name in (CONFIG_FILE, WEIGHTS_FILE, FOLDS_FILE)]


def _store_files(rng: np.random.Generator) -> list[StageFile]:
    root = paths.features(Modality.FACE)
    times = {"times": np.arange(3, dtype=np.float32)}
    rows = [FeatureRow(f"c{n}", "d", rng.normal(size=(3, 5)).astype(np.float32), times) for n in range(4)]
    fingerprint = create_settings_group(root, {"encoder": {"type": "test"}}, dim=5, dtype="float16")
    with StoreWriter(root, fingerprint) as writer:
        for part in (rows[:2], rows[2:]):
            writer.append(part)
    batch = root.with_name("run.0.batch")
    batch.write_bytes(pack_rows(rows))

    def read() -> Any:
        store = FeatureStore.open(root, fingerprint)
        digests = dict.fromkeys([row.clip_id for row in rows], "d")
        loaded = store.load(list(digests), digests=digests).values
        stored = [store.row(row.clip_id) for row in rows]
        return [loaded, [asdict(row) for row in stored], store.settings]

    files = sorted(path for path in root.rglob("*") if path.is_file())
    return [StageFile(batch, lambda: read_batch(batch)), *(StageFile(path, read) for path in files)]


def outcome(file: StageFile) -> tuple[EcmfError | None, Any]:
    """Return the error of reading a file, or what was read as comparable text."""
    try:
        return None, _as_text(file.read())
    except EcmfError as error:
        return error, None


def _as_text(value: Any) -> Any:
    """Convert to plain values; NaN equals NaN."""
    if isinstance(value, np.ndarray):
        return value.astype(str).tolist()
    if isinstance(value, dict):
        return {str(key): _as_text(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return [_as_text(getattr(value, name)) for name in value.__dataclass_fields__]
    return repr(value)
