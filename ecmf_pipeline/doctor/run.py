"""Make all checks, in the order in which a run would fail on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.core.console import echo, format_bytes, format_count
from ecmf_pipeline.core.errors import EcmfError
from ecmf_pipeline.core.files import write_sealed_json
from ecmf_pipeline.core.paths import KEPT
from ecmf_pipeline.doctor.checks import Check, State, duration, exit_code
from ecmf_pipeline.doctor.corpus import (
    CorpusState,
    check_corpus,
    check_findings,
    check_languages,
    clips_with_transcript,
    probe_clips,
    read_state,
)
from ecmf_pipeline.doctor.models import check_device, check_encoders, check_revisions, check_weights, workers_of
from ecmf_pipeline.doctor.trial import TRIAL_CLIPS, Trial, sample_evenly, try_extraction, try_llm
from ecmf_pipeline.extraction.run import BranchInputs, input_digests
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.store.kept import list_kept

MEASURED = ("device", "llm", "trial ")
"""Starts of the names of the checks whose figures are stored for `plan` and `slurm`."""
_LLM_TEXTS = 2 * TRIAL_CLIPS
_LOADING = " (loading included)"


def run(*, as_json: bool = False) -> int:
    """Make all checks and print them.

    Args:
        as_json: Print one JSON document at the end instead of one line after each check.

    Returns:
        The exit code.

    Raises:
        ParamsError: If params.yaml cannot be used.
    """
    params = load_params()
    checks: list[Check] = []
    for check in examine(params):
        checks.append(check)
        if not as_json:
            echo(check.line())
    measured = {check.name: check.figures for check in checks if check.name.startswith(MEASURED)}
    if paths.DATA.is_dir():
        write_sealed_json(paths.TRIAL, measured)
    code = exit_code(checks)
    if as_json:
        document = {"exit_code": code, "checks": [asdict(check) for check in checks]}
        echo(json.dumps(document, indent=2, ensure_ascii=False))
    return code


def examine(params: Params) -> Iterator[Check]:
    """Yield all checks; they do not change the project, except for cached digests and the stored measurements."""
    yield check_weights(params)
    yield from check_revisions(params)
    yield check_device(params)
    loaded: dict[str, dict[str, Any]] = {}
    yield from check_encoders(params, loaded)
    try:
        corpus = read_state(params)
    except EcmfError as error:
        yield Check.failed("corpus", error)
        return
    yield check_corpus(params, corpus)
    yield from check_findings(corpus)
    yield from check_languages(params, corpus)
    needed: dict[str, float] = {}
    with TemporaryDirectory(prefix="ecmf-doctor-") as name:
        folder = Path(name)
        check, texts = _check_llm(params, corpus, folder)
        yield check
        yield from _check_trial(params, corpus, loaded, texts, folder, needed)
    if needed:
        yield check_disk(needed, shutil.disk_usage(Path.cwd()).free)
    yield from check_kept()


def _check_llm(params: Params, corpus: CorpusState, folder: Path) -> tuple[Check, Mapping[str, ClipText]]:
    """Enrich a few texts with the LLM; return the check and the texts by clip id."""
    clips = clips_with_transcript(corpus, _LLM_TEXTS)
    if not clips:
        return Check("llm", State.OK, "not tried: no clip has a transcript"), {}
    if not params.needs_llm:
        texts: dict[str, ClipText] = {c.clip_id: ClipText(c.transcript, translation=c.translation) for c in clips}
        return Check(
            "llm", State.OK, "not tried: no encoder in use reads enriched transcripts, and it does not vote"
        ), texts
    try:
        trial = try_llm(params, clips, corpus.labels, folder)
    except EcmfError as error:
        return Check.failed("llm", error), {}
    missing, seconds = corpus.unanswered(), trial.seconds or 0.0
    workers = max(1, params.llm.workers or 1)
    total = seconds * missing / workers
    message = (
        f"{params.llm.model} answers in {duration(seconds)} per text{_LOADING if trial.includes_loading else ''}; "
        f"{format_count(missing, 'text')} to do: {duration(total)}"
    )
    figures = {"seconds_a_text": seconds, "missing": missing, "projected_seconds": total, "failed": trial.failed}
    if trial.failed:
        message = f"{message}; {trial.failed} of {len(clips)} texts failed"
        return Check("llm", State.WARNING, message, "rewrite will quarantine such texts", figures), trial.texts
    return Check("llm", State.OK, message, figures=figures), trial.texts


def _check_trial(
    params: Params,
    corpus: CorpusState,
    loaded: dict[str, dict[str, Any]],
    enriched: Mapping[str, ClipText],
    folder: Path,
    needed: dict[str, float],
) -> Iterator[Check]:
    """Extract features of a few clips with each loaded encoder; add the bytes of all missing features to ``needed``."""
    clips, unreadable = probe_clips(corpus, folder, params.index.clip_timeout)
    for clip_id, failure in unreadable.items():
        message = f"{clip_id}: {failure.reason}: {failure.message}"
        yield Check("clip", State.WARNING, message, "index will quarantine such clips")
    texts = dict(list(enriched.items())[:TRIAL_CLIPS])
    clips_of_texts = [clip for clip in corpus.clips if clip.clip_id in texts]
    for features, settings in loaded.items():
        modality, name = params.tokens[features].modality, f"trial {features}"
        if modality is Modality.TEXT and not texts:
            yield Check(name, State.OK, "not tried: there are no texts, see check llm")
            continue
        branch_inputs = BranchInputs.of(params.encoder_of(*params.tokens[features]), params.faces)
        digests = input_digests(modality, clips_of_texts if modality is Modality.TEXT else clips, texts, branch_inputs)
        chosen = sample_evenly(
            [clip for clip in (*clips, *clips_of_texts) if digests.pop(clip.clip_id, "")], TRIAL_CLIPS
        )
        try:
            trial = try_extraction(params, features, settings, chosen, texts, folder)
        except EcmfError as error:
            yield Check.failed(name, error)
            continue
        missing = corpus.missing(modality, settings)
        if trial.bytes_a_clip is not None:
            needed[features] = trial.bytes_a_clip * missing
        if not chosen and clips and branch_inputs.reads_pictures(modality) and not any(c.has_video for c in clips):
            yield Check(name, State.OK, "not used: the sampled clips are sound only")
        else:
            yield project_trial(name, trial, missing, workers_of(params))


def project_trial(name: str, trial: Trial, missing: int, workers: int) -> Check:
    """Project the time of a trial to the ``missing`` clips and the number of workers."""
    if trial.seconds is None:
        return Check(name, State.WARNING, "not tried: none of the sampled clips has an input of this modality")
    total = trial.seconds * missing / workers
    done = trial.tried - len(trial.failed)
    message = (
        f"{done} of {format_count(trial.tried, 'clip')}, "
        f"{duration(trial.seconds)} per clip{_LOADING if trial.includes_loading else ''}; "
        f"{missing} to do with {format_count(workers, 'worker')}: {duration(total)}"
    )
    figures: dict[str, Any] = {
        "tried": trial.tried,
        "absent": trial.absent,
        "failed": [{"clip_id": clip, "reason": reason, "message": message} for clip, reason, message in trial.failed],
        "seconds_a_clip": trial.seconds,
        "bytes_a_clip": trial.bytes_a_clip,
        "opening_share": round(trial.opening_share, 4),
        "files_of_part": trial.files_of_part,
        "missing": missing,
        "projected_seconds": total,
    }
    if not trial.failed:
        return Check(name, State.OK, message, figures=figures)
    failures = "; ".join(f"{clip_id}: {reason}: {text}" for clip_id, reason, text in trial.failed)
    return Check(name, State.WARNING, f"{message}; {failures}", "extract will quarantine such clips", figures)


def check_disk(needed: dict[str, float], free: int) -> Check:
    """Check that the missing features (bytes by modality) fit on the disk (free bytes)."""
    total = sum(needed.values())
    by_modality = ", ".join(f"{name} {format_bytes(count)}" for name, count in needed.items())
    message = f"{format_bytes(free)} free; the missing features need about {format_bytes(total)} ({by_modality})"
    figures = {"free": free, "needed": round(total), "by_modality": {name: round(n) for name, n in needed.items()}}
    if total > free:
        return Check("disk", State.FAILURE, message, "free some disk space, or use encoders with fewer rows", figures)
    if 2 * total > free:
        hint = "the DVC cache needs the same space again, unless the file system shares blocks between copies"
        return Check("disk", State.WARNING, message, hint, figures)
    return Check("disk", State.OK, message, figures=figures)


def check_kept() -> Iterator[Check]:
    """Report the disk space of kept features, answers and transcripts, if there are any."""
    parts = [part for _, parts in list_kept() for part in parts]
    if parts:
        size, only_here = sum(part.bytes for part in parts), sum(part.only_here for part in parts)
        message = f"{KEPT} holds {format_bytes(size)} of features and answers, {format_bytes(only_here)} of it alone"
        hint, command = ("list it", "ecmf-pipe cache ls") if only_here else ("", "")
        yield Check("kept", State.OK, message, hint, {"bytes": size, "only_here": only_here}, command)
