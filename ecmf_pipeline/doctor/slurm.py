"""Write the jobs of a Slurm cluster that process the missing clips in shards, and then merge them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality, read_manifest, read_texts
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.shards import SHARDS, shard_folders
from ecmf_pipeline.doctor.checks import duration
from ecmf_pipeline.doctor.machines import Machine
from ecmf_pipeline.doctor.projection import read_trial, seconds_of_clip, seconds_of_text
from ecmf_pipeline.extraction.run import BranchInputs, clip_limits, coverage
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.inputs import read_manifest_with_transcripts, read_needed_texts

STAGES = ("extract", "transcribe", "rewrite", "vote")
_USED_SHARE = 0.8
"""Share of the time limit that is planned: jobs start slowly, and clips differ."""
_TERM_SECONDS = 120
"""Seconds before the time limit at which a job is asked to store its work and end."""
_MERGE_HOURS = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """What each job of the array gets.

    Attributes:
        hours: Time limit.
        machine: Its GPU, if any, and its cores.
        memory: Memory in GB.
        options: Further options of sbatch.
    """

    hours: float
    machine: Machine
    memory: int = 16
    options: Sequence[str] = ()


def show_jobs(params: Params, stage: str, modalities: Sequence[Modality], job: Job, shards: int | None = None) -> None:
    """Print a shell script that submits an array job for the present plan, and the job that merges its results.

    If nothing is missing, only a comment is printed.

    Args:
        params: The params of the project.
        stage: One of `STAGES`.
        modalities: The modalities to extract; empty: all in use.
        job: What each job gets.
        shards: Number of shards; None: chosen from the trial of `doctor` and the time limit.

    Raises:
        MissingInput: If the number of shards is to be chosen and nothing was measured.
        InputError: If the stage has no shards.
    """
    if stage not in STAGES:
        raise InputError(f"stage {stage!r} has no shards", f"use one of {', '.join(STAGES)}")
    used = [modality for modality in (modalities or params.extract.encoders) if modality in params.extract.encoders]
    missing = _missing(params, stage, used)
    if missing and not any(missing.values()):
        folder = paths.DATA / "features" / SHARDS if stage == "extract" else paths.DATA / SHARDS / stage
        unmerged = "; its shards are not merged yet" if shard_folders(folder) else ""
        echo(f"# {stage}: nothing is missing, so there is no job to submit{unmerged}")
        if unmerged:
            echo(f"# run: ecmf-pipe {stage}")
        return
    about = ", ".join(f"{name} {count:,}" for name, count in missing.items()) or "unknown"
    lines = [f"# {stage}: missing clips: {about}"]
    if shards is None:
        if not missing:
            raise MissingInput("the time of this stage is not measured", "give the number of jobs with --shards")
        seconds = _seconds(params, missing, job, read_trial())
        shards = max(1, math.ceil(seconds / (job.hours * 3600 * _USED_SHARE)))
        shards = min(shards, max(1, *missing.values()))
        jobs = format_count(shards, "shard")
        lines.append(f"# about {duration(seconds)} of one job by the trial of `ecmf-pipe doctor`: {jobs}")
    words = ["ecmf-pipe", stage]
    if stage == "extract" and modalities:
        words += [word for modality in used for word in ("--modality", modality.value)]
    for line in _script(stage, shlex.join(words), job, shards, lines):
        echo(line)


def _missing(params: Params, stage: str, used: Sequence[Modality]) -> dict[str, int]:
    """Return the number of missing clips or texts, by features (`Params.tokens`) or stage; empty if it is unknown."""
    answers_are_reused = (
        tuple(params.vote.inputs) == ("text",)
        and params.llm.votes.examples == "packaged"
        and params.rewrite.how == "scored"
    )
    if stage == "transcribe" or (stage == "vote" and not answers_are_reused):
        return {}
    if stage != "extract":
        texts = read_texts(paths.REWRITES) if paths.REWRITES.is_file() else {}
        clips = read_manifest_with_transcripts(params)
        enriched = {text.original for text in texts.values() if text.enriched}
        return {stage: len(set(filter(str.strip, clips.column("transcript").tolist())) - enriched)}
    clips = read_manifest(paths.MANIFEST)
    texts = read_needed_texts(params, clips) if Modality.TEXT in used else {}
    tokens = {name: token for name, token in params.tokens.items() if token.modality in used}
    settings = {name: params.token_settings(token) for name, token in tokens.items()}
    return {
        name: coverage(
            tokens[name].modality,
            clips,
            texts,
            root=paths.features(tokens[name].modality),
            quarantine_path=paths.quarantine("extract", tokens[name].modality),
            fingerprint=fingerprint(one),
            branch_inputs=BranchInputs.of_settings(one),
            limits=clip_limits(params.extract, params.media),
        ).missing
        for name, one in settings.items()
    }


def _seconds(params: Params, missing: Mapping[str, int], job: Job, trial: Mapping[str, Any]) -> float:
    """Return the seconds that one job would take for all missing clips."""
    total = 0.0
    for name, count in missing.items():
        if name in {"rewrite", "vote"}:
            seconds = seconds_of_text(params, trial, job.machine)
        else:
            figures, on_gpu = trial.get(f"trial {name}", {}), params.encoder_of(*params.tokens[name]).uses_torch
            seconds = None
            if figures.get("seconds_a_clip"):
                measured_on = trial.get("device", {}).get("gpu", "")
                seconds, _ = seconds_of_clip(figures, job.machine, on_gpu=on_gpu, measured_on=measured_on)
        if seconds is None and count:
            raise MissingInput(
                f"the trial of doctor has no time of {name}", "give --shards, or measure it", command="ecmf-pipe doctor"
            )
        total += (seconds or 0.0) * count
    return total


def _script(stage: str, command: str, job: Job, shards: int, comments: Sequence[str]) -> list[str]:
    options = [
        f"#SBATCH --cpus-per-task={job.machine.cores}",
        f"#SBATCH --mem={job.memory}G",
        *(["#SBATCH --gres=gpu:1"] if job.machine.gpu else []),
        *(f"#SBATCH {option}" for option in job.options),
    ]
    folder = shlex.quote(str(Path.cwd()))
    return [
        "#!/bin/bash",
        "# Submit with: bash THIS_FILE",
        *comments,
        "set -eu",
        "array=$(sbatch --parsable <<'JOB'",
        "#!/bin/bash",
        f"#SBATCH --job-name=ecmf-{stage}",
        f"#SBATCH --array=1-{shards}",
        f"#SBATCH --time={_time(job.hours)}",
        f"#SBATCH --signal=B:TERM@{_TERM_SECONDS}",
        "#SBATCH --requeue --open-mode=append",
        f"#SBATCH --output=ecmf-{stage}-%A_%a.log",
        *options,
        f"cd {folder}",
        f"exec {command} --workers {_workers(job)} --shard $SLURM_ARRAY_TASK_ID/{shards}",
        "JOB",
        ")",
        "# Starts after all jobs have ended, also if some failed: merges what is finished, and computes the rest.",
        "sbatch --dependency=\"afterany:${array%%;*}\" <<'JOB'",
        "#!/bin/bash",
        f"#SBATCH --job-name=ecmf-{stage}-merge",
        f"#SBATCH --time={_time(max(job.hours, _MERGE_HOURS))}",
        f"#SBATCH --signal=B:TERM@{_TERM_SECONDS}",
        f"#SBATCH --output=ecmf-{stage}-merge-%j.log",
        *options,
        f"cd {folder}",
        f"exec {command}",
        "JOB",
    ]


def _workers(job: Job) -> int:
    """Return the workers of a job: one for its GPU, with openers beside it, or one for each core."""
    return 1 if job.machine.gpu else job.machine.cores


def _time(hours: float) -> str:
    minutes = math.ceil(hours * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"
