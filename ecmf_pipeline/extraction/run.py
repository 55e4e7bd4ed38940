"""Plan and run an extraction: every clip whose features of exactly this input and these settings are not stored yet.

`present_digests` tells which rows of a store count, `plan_branch` what a run has to do, and `coverage` how far earlier
runs have come. `extract` decodes each clip once for all branches that miss it, and leaves alone what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.clips import Clip, ClipText, Modality
from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import MissingInput, TooManyQuarantined, TryAgain
from ecmf_pipeline.core.files import fingerprint, sha256_text
from ecmf_pipeline.encoders.base_config import DEFAULT_TEXT_COLUMNS, BaseEncoderConfig
from ecmf_pipeline.encoders.config import ImportedConfig, settings_of_imported, text_columns
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner import Engine, Run, RunConfig, RunReport
from ecmf_pipeline.runner.machine import multiplies_bf16, default_openers, visible_gpus
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.store import (
    FeatureStore,
    StoreWriter,
    create_settings_group,
    current_fingerprint,
    has_fingerprint,
    make_current,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Which of a clip's inputs a branch reads.

    Attributes:
        columns: The transcripts that a text encoder reads.
        face_crops: Whether the face branch reads crops that come with the corpus, and no video.
    """

    columns: Sequence[str] = DEFAULT_TEXT_COLUMNS
    face_crops: bool = False

    @classmethod
    def of(cls, encoder: BaseEncoderConfig, faces: FaceConfig) -> Reading:
        """What an encoder reads, as params say; needs no weights."""
        return cls(encoder.text_columns, faces.source == "openface")

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Reading:
        """What features of some settings were computed from."""
        return cls(text_columns(settings), settings.get("faces", {}).get("source") == "openface")


READING = Reading()
"""What branches read unless something else is said."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One modality of a run, planned.

    Attributes:
        modality: Which.
        encoder: Its encoder's params.
        settings: All that changes the numbers.
        quarantine: Its bad clips.
        digests: Digest of the input of every clip that has one.
        todo: Clips to compute.
        reused: Clips whose features are there.
        absent: Clips without such an input (no sound, no words...): masked, not bad.
    """

    modality: Modality
    encoder: BaseEncoderConfig
    settings: dict[str, Any]
    quarantine: Quarantine
    digests: dict[str, str]
    todo: frozenset[str]
    reused: int
    absent: int

    @property
    def fingerprint(self) -> str:
        """Of the settings."""
        return fingerprint(self.settings)


def input_digests(
    modality: Modality, clips: Sequence[Clip], texts: Mapping[str, ClipText], reading: Reading = READING
) -> dict[str, str]:
    """Digest of each clip's input to a modality; clips without such an input are left out.

    Args:
        modality: Which branch.
        clips: The manifest.
        texts: Transcripts by clip id (the text branch alone reads them).
        reading: Which inputs the branch reads: a clip that lacks one of them is left out.
    """
    if modality is Modality.TEXT:
        return {
            clip.clip_id: text_digest(texts[clip.clip_id], reading.columns)
            for clip in clips
            if clip.clip_id in texts and texts[clip.clip_id].having(reading.columns)
        }
    if modality is Modality.AUDIO:
        return {clip.clip_id: clip.digest for clip in clips if clip.has_audio}
    if modality is Modality.FACE and reading.face_crops:
        return {clip.clip_id: clip.face_digest for clip in clips if clip.face_digest}
    return {clip.clip_id: clip.digest for clip in clips if clip.has_video}


def present_digests(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    store: FeatureStore | None,
    reading: Reading = READING,
) -> dict[str, str]:
    """Digest of the row of each clip that counts in a store; clips without the modality are left out.

    Computed features must come from the clip's present input (`input_digests`). Of imported ones nobody here knows
    the input: the newest count, and a clip of which none were imported is without the modality.

    Args:
        modality: Which branch.
        clips: The manifest.
        texts: Transcripts by clip id.
        store: The features asked for; None where there are none yet.
        reading: Which inputs the branch reads, where there is no store that says so.
    """
    if store is None:
        return input_digests(modality, clips, texts, reading)
    if not settings_of_imported(store.settings):
        return input_digests(modality, clips, texts, Reading.of_settings(store.settings))
    newest = store.newest()
    return {clip.clip_id: newest[clip.clip_id] for clip in clips if clip.clip_id in newest}


def text_digest(text: ClipText, columns: Sequence[str] = DEFAULT_TEXT_COLUMNS) -> str:
    """Digest of a clip's transcripts; the translation counts where it is among the ``columns`` that are read."""
    words = f"{text.original}\0{text.enriched}"
    return sha256_text(f"{words}\0{text.translation}" if "translation" in columns else words)


def plan_branch(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    *,
    encoder: BaseEncoderConfig,
    settings: dict[str, Any],
    root: Path,
    quarantine_path: Path,
    retry_quarantined: bool = False,
) -> Branch:
    """Compare what a modality's store holds with what the manifest asks for.

    Args:
        modality: Which branch.
        clips: The manifest.
        texts: Transcripts by clip id.
        encoder: The modality's encoder.
        settings: All that changes the features.
        root: The store.
        quarantine_path: The modality's quarantine table.
        retry_quarantined: Whether quarantined clips are tried again although nothing changed.

    Raises:
        MissingInput: When the features are to be imported, and none were yet.
    """
    key = fingerprint(settings)
    store = FeatureStore(root, key) if has_fingerprint(root, key) else None
    if isinstance(encoder, ImportedConfig) and (store is None or not len(store)):
        raise MissingInput(
            f"no features of {encoder.name!r} were imported for {modality.value}, and they cannot be computed here",
            f"run `ecmf-pipe store import PATH --modality {modality.value} --encoder {encoder.name}`, or `dvc pull` if "
            "a colleague did",
        )
    digests = present_digests(modality, clips, texts, store, Reading.of_settings(settings))
    quarantine = Quarantine(quarantine_path, stage="extract", modality=modality.value, fingerprint=key)
    quarantine.keep_only(digests)
    if retry_quarantined:
        quarantine.clear()
    held = store.held(digests) if store is not None else set()
    todo = frozenset(
        clip_id for clip_id, digest in digests.items() if clip_id not in held and not quarantine.holds(clip_id, digest)
    )
    return Branch(modality, encoder, settings, quarantine, digests, todo, len(held), len(clips) - len(digests))


@dataclass(frozen=True, slots=True)
class Coverage:
    """Clips of one modality.

    Attributes:
        done: Have features of their present input.
        missing: Are still to be computed.
        absent: Have no such input (no sound, no words...), or none of the imported features.
        quarantined: Were found to be bad.
    """

    done: int
    missing: int
    absent: int
    quarantined: int


def coverage(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    *,
    root: Path,
    quarantine_path: Path,
    fingerprint: str | None = None,
    reading: Reading = READING,
) -> Coverage:
    """Count a modality's clips.

    Args:
        modality: Which branch.
        clips: The manifest.
        texts: Transcripts by clip id.
        root: The modality's store.
        quarantine_path: Its quarantine table.
        fingerprint: The settings whose features count; None for those in use.
        reading: Which inputs the branch reads, where there is no store that says so.
    """
    current = fingerprint or current_fingerprint(root)
    store = FeatureStore(root, current) if current and has_fingerprint(root, current) else None
    digests = present_digests(modality, clips, texts, store, reading)
    quarantine = Quarantine(quarantine_path, stage="extract", modality=modality.value, fingerprint=current or "")
    done = store.held(digests) if store is not None else set()
    bad = {clip_id for clip_id, digest in digests.items() if quarantine.holds(clip_id, digest)} - done
    return Coverage(len(done), len(digests) - len(done) - len(bad), len(clips) - len(digests), len(bad))


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
        texts: Transcripts by clip id.
        writers: What `writing` gave.
        corpus_root: What the clips' paths are relative to.
        media: How clips are sampled.
        faces: How faces are found.
        config: How the loop runs.
        engine: Who runs the workers; None: processes of this machine, as ``config`` says.

    Raises:
        TooManyQuarantined: When too many clips of a branch are bad; what was computed is kept.
        TryAgain: When clips failed for reasons that may have passed by now; what was computed is kept.
        Interrupted: On Ctrl-C or SIGTERM; what was complete is kept.
    """
    report = RunReport(reused={branch.modality.value: branch.reused for branch in branches})
    working, too_bad = _settle(branches, writers, report, config)
    if working:
        # Imported only if features are missing: it loads what decodes, and what loads the encoders.
        from ecmf_pipeline.extraction.step import ClipToExtract, EncoderOfBranch, ExtractSteps

        config = _with_processes(config, working)
        _warn_of_slow_types(config.device, working)
        encoders = {
            branch.modality: EncoderOfBranch(branch.encoder, branch.settings, writers[branch.modality].root)
            for branch in working
        }
        items = []
        for clip in clips:
            missing = {
                branch.modality: branch.digests[clip.clip_id] for branch in working if clip.clip_id in branch.todo
            }
            if missing:
                items.append(ClipToExtract(clip, missing, texts[clip.clip_id] if Modality.TEXT in missing else None))
        run: Run[ClipToExtract] = Run(
            ExtractSteps(encoders, corpus_root, media, faces, config.device, is_staged=bool(config.openers)),
            {branch.modality.value: writers[branch.modality] for branch in working},
            {branch.modality.value: branch.quarantine for branch in working},
            RunConfig(
                batch_size=config.batch_size,
                part_size=config.part_size,
                max_quarantined=config.max_quarantined,
                workers=config.workers,
                clip_timeout=config.clip_timeout,
                openers=config.openers or 0,
            ),
            report,
            engine,
        )
        run(items, f"extract {'+'.join(branch.modality.value for branch in working)}")
    for branch in working:
        make_current(writers[branch.modality].root, branch.fingerprint)
    if too_bad:
        raise too_bad[0]
    if report.transient:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.transient.most_common())
        raise TryAgain(
            f"extract: {report.transient.total()} features could not be computed for reasons that may pass "
            f"({reasons}); all others were: run the same command again"
        )
    return report


def _warn_of_slow_types(device: str, branches: Sequence[Branch]) -> None:
    """Say that a processor lacks instructions for a type that is asked for; of GPUs `doctor` tells."""
    if "cuda" in device or visible_gpus(device):
        return
    wanted = frozenset[str]().union(*(branch.encoder.half_types() for branch in branches))
    if missing := sorted(wanted - ({"bf16"} if multiplies_bf16() else set())):
        warn(f"extract: this processor has no instructions for {' and '.join(missing)}: right, but slower than fp32")


def _settle(
    branches: Sequence[Branch], writers: Writers, report: RunReport, config: ExtractConfig
) -> tuple[list[Branch], list[TooManyQuarantined]]:
    """Finish the branches that miss nothing, and leave out those of which too many clips are known to be bad.

    Returns:
        Those that are to be worked on, and what is to be said of those left out once the others are done.
    """
    working, too_bad = [], []
    for branch in branches:
        root = writers[branch.modality].root
        if not branch.todo:
            if not has_fingerprint(root, branch.fingerprint):
                # No clip has such an input. Later stages must find a store that says so, not a missing file.
                create_settings_group(root, branch.settings, dim=None, dtype="float32")
            make_current(root, branch.fingerprint)
            branch.quarantine.write()
            report.count(branch.modality.value, branch.quarantine)
        try:
            branch.quarantine.refuse_too_many(len(branch.digests), config.max_quarantined)
        except TooManyQuarantined as error:
            too_bad.append(error)
            continue
        if branch.todo:
            working.append(branch)
    return working, too_bad


def _with_processes(config: ExtractConfig, branches: Sequence[Branch]) -> ExtractConfig:
    """The same with what is left to the machine decided: GPUs, where there are any, are shared out, else the cores."""
    gpus = visible_gpus(config.device) if any(branch.encoder.uses_torch for branch in branches) else []
    workers = len(gpus) if config.workers is None and gpus else config.workers
    if workers == 0:
        openers = 0  # all is done in this process
    elif config.openers is not None:
        openers = config.openers
    else:
        openers = default_openers(workers) if gpus and workers else 0
    return config.model_copy(update={"workers": workers, "openers": openers})
