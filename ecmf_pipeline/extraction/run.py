"""Run planned branches: what is missing goes through one decode of each clip; what is there is left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ecmf_pipeline.clips import Clip, Modality
from ecmf_pipeline.encoders.base import ClipText
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.plan import Branch
from ecmf_pipeline.faces import FaceConfig
from ecmf_pipeline.media import MediaConfig
from ecmf_pipeline.runner import Run, RunConfig, RunReport
from ecmf_pipeline.store import has_fingerprint, make_current


def extract(
    branches: Sequence[Branch],
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    *,
    corpus_root: Path,
    media: MediaConfig,
    faces: FaceConfig,
    config: ExtractConfig,
    store_root: Callable[[Modality], Path],
) -> RunReport:
    """Compute what the branches miss, and name their stores the current ones.

    Args:
        branches: What `plan_branch` planned.
        clips: The manifest.
        texts: Original and enriched transcripts by clip id.
        corpus_root: What the clips' paths are relative to.
        media: How clips are sampled.
        faces: How faces are found.
        config: How the loop runs.
        store_root: Where each modality's store stands.

    Raises:
        TooManyQuarantined: When too many clips of a branch are bad; what was computed is kept.
        Interrupted: On Ctrl-C or SIGTERM; what was complete is kept.
    """
    report = RunReport(reused={branch.modality.value: branch.reused for branch in branches})
    working = []
    for branch in branches:
        root = store_root(branch.modality)
        if branch.todo or not has_fingerprint(root, branch.fingerprint):
            working.append(branch)
            continue
        make_current(root, branch.fingerprint)
        branch.quarantine.write()
        report.count(branch.modality.value, branch.quarantine)
        branch.quarantine.refuse_too_many(len(branch.digests), config.max_quarantined)
    if not working:
        return report  # no encoder was loaded, not even torch
    from ecmf_pipeline.extraction.step import ExtractStep

    todo = [clip for clip in clips if any(clip.clip_id in branch.todo for branch in working)]
    step = ExtractStep(
        working,
        texts,
        corpus_root=corpus_root,
        media=media,
        faces=faces,
        device=config.device,
        store_root=store_root,
    )
    with step:
        run = Run(
            step,
            {branch.modality.value: branch.quarantine for branch in working},
            RunConfig(config.batch_size, config.part_size, config.max_quarantined),
            report,
        )
        return run(todo, "extract " + "+".join(branch.modality.value for branch in working))
