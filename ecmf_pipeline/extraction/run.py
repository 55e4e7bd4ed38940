"""Run planned branches: what is missing goes through one decode of each clip; what is there is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ecmf_pipeline.clips import Clip, Modality
from ecmf_pipeline.encoders.base import ClipText
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.gpus import visible_gpus
from ecmf_pipeline.extraction.plan import Branch
from ecmf_pipeline.faces import FaceConfig
from ecmf_pipeline.files import fingerprint
from ecmf_pipeline.media import MediaConfig
from ecmf_pipeline.runner import Engine, Run, RunConfig, RunReport
from ecmf_pipeline.store import (
    FeatureKeeper,
    FeatureSealer,
    StoreWriter,
    create_settings_group,
    has_fingerprint,
    make_current,
)

Writers = Mapping[Modality, StoreWriter]


@contextmanager
def writing(
    settings: Mapping[Modality, Mapping[str, Any]], store_root: Callable[[Modality], Path]
) -> Iterator[Writers]:
    """Hold the stores of some modalities for writing, and take up what killed runs left in them.

    To be entered before planning: a plan made earlier would compute again what another run has just done.

    Args:
        settings: All that changes the numbers, by modality.
        store_root: Where each modality's store stands.

    Raises:
        StoreBusy: When another run writes to one of them.
    """
    with ExitStack() as exits:
        yield {
            modality: exits.enter_context(StoreWriter(store_root(modality), fingerprint(wanted)))
            for modality, wanted in settings.items()
        }


def extract(
    branches: Sequence[Branch],
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    *,
    writers: Writers,
    corpus_root: Path,
    media: MediaConfig,
    faces: FaceConfig,
    config: ExtractConfig,
    engine: Engine | None = None,
) -> RunReport:
    """Compute what the branches miss, and name their stores the current ones.

    Args:
        branches: What `plan_branch` planned while their stores were held.
        clips: The manifest.
        texts: Original and enriched transcripts by clip id.
        writers: What `writing` gave.
        corpus_root: What the clips' paths are relative to.
        media: How clips are sampled.
        faces: How faces are found.
        config: How the loop runs.
        engine: Who runs the workers; None: processes of this machine, as ``config`` says.

    Raises:
        TooManyQuarantined: When too many clips of a branch are bad; what was computed is kept.
        Interrupted: On Ctrl-C or SIGTERM; what was complete is kept.
    """
    report = RunReport(reused={branch.modality.value: branch.reused for branch in branches})
    items = _items(branches, clips, texts)
    for branch in branches:
        if not branch.todo:
            _settle(branch, writers[branch.modality].root, report, config)
    if not items:
        return report  # no encoder was loaded, not even torch
    from ecmf_pipeline.extraction.step import EncoderOfBranch, ExtractSteps

    working = [branch for branch in branches if branch.todo]
    steps = ExtractSteps(
        {
            branch.modality: EncoderOfBranch(branch.encoder, branch.settings, writers[branch.modality].root)
            for branch in working
        },
        corpus_root,
        media,
        faces,
        config.device,
    )
    gpus = visible_gpus(config.device)
    run: Run[Any] = Run(
        steps,
        FeatureKeeper({branch.modality.value: writers[branch.modality].spool for branch in working}),
        FeatureSealer({branch.modality.value: writers[branch.modality] for branch in working}),
        {branch.modality.value: branch.quarantine for branch in working},
        RunConfig(
            batch_size=config.batch_size,
            part_size=config.part_size,
            max_quarantined=config.max_quarantined,
            # Where there are GPUs, they and not the cores are what is shared out.
            workers=len(gpus) if config.workers is None and gpus else config.workers,
            clip_timeout=config.clip_timeout,
        ),
        report,
        engine,
    )
    run(items, "extract " + "+".join(branch.modality.value for branch in working))
    for branch in working:
        make_current(writers[branch.modality].root, branch.fingerprint)
    return report


def _items(branches: Sequence[Branch], clips: Sequence[Clip], texts: Mapping[str, ClipText]) -> list[Any]:
    if not any(branch.todo for branch in branches):
        return []
    from ecmf_pipeline.extraction.step import ClipToExtract

    items = []
    for clip in clips:
        missing = {branch.modality: branch.digests[clip.clip_id] for branch in branches if clip.clip_id in branch.todo}
        if missing:
            items.append(ClipToExtract(clip, missing, texts[clip.clip_id] if Modality.TEXT in missing else None))
    return items


def _settle(branch: Branch, root: Path, report: RunReport, config: ExtractConfig) -> None:
    """Finish a branch that misses nothing."""
    if not has_fingerprint(root, branch.fingerprint):
        # No clip has such an input. Later stages must find a store that says so, not a missing file.
        create_settings_group(root, branch.settings, dim=None, dtype="float32")
    make_current(root, branch.fingerprint)
    branch.quarantine.write()
    report.count(branch.modality.value, branch.quarantine)
    branch.quarantine.refuse_too_many(len(branch.digests), config.max_quarantined)
