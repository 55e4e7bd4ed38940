"""All checks, in the order in which a run would stumble over what they find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.core.console import echo, format_bytes, format_count
from ecmf_pipeline.core.errors import EcmfError
from ecmf_pipeline.doctor.checks import Check, State, duration, exit_code
from ecmf_pipeline.doctor.corpus import Ahead, check_corpus, look_ahead, measured_clips, spoken_clips
from ecmf_pipeline.doctor.models import check_device, check_encoders, check_weights, workers_of
from ecmf_pipeline.doctor.trial import TRIAL_CLIPS, Trial, ask_llm, spread, try_extraction
from ecmf_pipeline.extraction.run import Reading, input_digests
from ecmf_pipeline.settings.params import Params, load_params

_LLM_TEXTS = 2 * TRIAL_CLIPS
_LOADING = " (loading included)"


def run(*, as_json: bool = False) -> int:
    """Make all checks and print them.

    Args:
        as_json: Print one JSON document at the end instead of a line as soon as it is known.

    Returns:
        The exit code.

    Raises:
        ParamsError: When params.yaml cannot be read.
    """
    params = load_params()
    checks: list[Check] = []
    for check in examine(params):
        checks.append(check)
        if not as_json:
            echo(check.line())
    code = exit_code(checks)
    if as_json:
        document = {"exit_code": code, "checks": [asdict(check) for check in checks]}
        echo(json.dumps(document, indent=2, ensure_ascii=False))
    return code


def examine(params: Params) -> Iterator[Check]:
    """Make all checks, one after another; none of them changes the project, but for remembered digests."""
    yield check_weights(params)
    yield check_device(params)
    loaded: dict[Modality, dict[str, Any]] = {}
    yield from check_encoders(params, loaded)
    try:
        ahead = look_ahead(params)
    except EcmfError as error:
        yield Check.failed("corpus", error)
        return
    yield check_corpus(params, ahead)
    needed: dict[Modality, float] = {}
    with TemporaryDirectory(prefix="ecmf-doctor-") as name:
        folder = Path(name)
        check, texts = _check_llm(params, ahead, folder)
        yield check
        yield from _check_trial(params, ahead, loaded, texts, folder, needed)
    if needed:
        yield check_disk(needed, shutil.disk_usage(Path.cwd()).free)


def _check_llm(params: Params, ahead: Ahead, folder: Path) -> tuple[Check, Mapping[str, ClipText]]:
    """Ask the LLM about a few texts; they come back enriched."""
    clips = spoken_clips(ahead, _LLM_TEXTS)
    if not clips:
        return Check("llm", State.OK, "no clip has words: it is not asked"), {}
    try:
        asked = ask_llm(params, clips, ahead.labels, folder)
    except EcmfError as error:
        return Check.failed("llm", error), {}
    unasked, seconds = ahead.unasked(), asked.seconds or 0.0
    workers = max(1, params.llm.workers or 1)
    total = seconds * unasked / workers
    message = (
        f"{params.llm.model} answers, {duration(seconds)} a text{_LOADING if asked.includes_loading else ''}; "
        f"{format_count(unasked, 'text')} to ask: {duration(total)}"
    )
    figures = {"seconds_a_text": seconds, "missing": unasked, "projected_seconds": total, "failed": asked.failed}
    if asked.failed:
        lost = f"{message}; {asked.failed} of {len(clips)} texts could not be asked about"
        return Check("llm", State.WARNING, lost, "`ecmf-pipe rewrite` quarantines such texts", figures), asked.texts
    return Check("llm", State.OK, message, figures=figures), asked.texts


def _check_trial(
    params: Params,
    ahead: Ahead,
    loaded: dict[Modality, dict[str, Any]],
    answered: Mapping[str, ClipText],
    folder: Path,
    needed: dict[Modality, float],
) -> Iterator[Check]:
    """Try each encoder that loads on a few clips; ``needed`` takes up the bytes of each modality's missing features."""
    clips, unreadable = measured_clips(ahead, folder, params.index.clip_timeout)
    for clip_id, bad in unreadable.items():
        message = f"{clip_id}: {bad.reason}: {bad.message}"
        yield Check("clip", State.WARNING, message, "`ecmf-pipe index` quarantines such clips")
    texts = dict(list(answered.items())[:TRIAL_CLIPS])
    spoken = [clip for clip in ahead.listing.clips if clip.clip_id in texts]
    for modality, settings in loaded.items():
        name = f"trial {modality.value}"
        if modality is Modality.TEXT and not texts:
            yield Check(name, State.OK, "not tried: the LLM gave no texts, see above")
            continue
        reading = Reading.of(params.encoder_of(modality), params.faces)
        having = input_digests(modality, spoken if modality is Modality.TEXT else clips, texts, reading)
        chosen = spread([clip for clip in (*clips, *spoken) if having.pop(clip.clip_id, "")], TRIAL_CLIPS)
        try:
            trial = try_extraction(params, modality, settings, chosen, texts, folder)
        except EcmfError as error:
            yield Check.failed(name, error)
            continue
        missing = ahead.missing(modality, settings)
        if trial.bytes_a_clip is not None:
            needed[modality] = trial.bytes_a_clip * missing
        yield projected(name, trial, missing, workers_of(params))


def projected(name: str, trial: Trial, missing: int, workers: int) -> Check:
    """What a trial of a few clips says of the ``missing`` ones that are still to do, by so many workers."""
    if trial.seconds is None:
        return Check(name, State.WARNING, "none of the clips looked at has such an input: nothing was tried")
    total = trial.seconds * missing / workers
    done = trial.tried - len(trial.failed)
    message = (
        f"{done} of {format_count(trial.tried, 'clip')}, "
        f"{duration(trial.seconds)} each{_LOADING if trial.includes_loading else ''}; "
        f"{missing} to do by {format_count(workers, 'worker')}: {duration(total)}"
    )
    figures: dict[str, Any] = {
        "tried": trial.tried,
        "absent": trial.absent,
        "failed": [{"clip_id": clip, "reason": reason, "message": why} for clip, reason, why in trial.failed],
        "seconds_a_clip": trial.seconds,
        "bytes_a_clip": trial.bytes_a_clip,
        "missing": missing,
        "projected_seconds": total,
    }
    if not trial.failed:
        return Check(name, State.OK, message, figures=figures)
    named = "; ".join(f"{clip}: {reason}: {why}" for clip, reason, why in trial.failed)
    return Check(name, State.WARNING, f"{message}; {named}", "`ecmf-pipe extract` quarantines such clips", figures)


def check_disk(needed: dict[Modality, float], free: int) -> Check:
    """Whether the features that are still to be computed (bytes by modality) fit on the disk (bytes free)."""
    total = sum(needed.values())
    each = ", ".join(f"{modality.value} {format_bytes(count)}" for modality, count in needed.items())
    message = f"{format_bytes(free)} free; features to come need about {format_bytes(total)} ({each})"
    figures = {"free": free, "needed": round(total), "by_modality": {m.value: round(n) for m, n in needed.items()}}
    if total > free:
        return Check("disk", State.FAILURE, message, "free some space, or use encoders with fewer rows", figures)
    if 2 * total > free:
        hint = "DVC keeps a copy in its cache unless the file system can share blocks: that needs as much again"
        return Check("disk", State.WARNING, message, hint, figures)
    return Check("disk", State.OK, message, figures=figures)
