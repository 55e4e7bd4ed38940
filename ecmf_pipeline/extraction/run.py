"""Plan and run an extraction of all features that are not stored yet for the current inputs and settings.

`current_digests` selects the rows of a store that count, `plan_branch` finds the missing ones, `coverage` counts the
progress of earlier runs, and `extract` decodes each clip once for all branches that miss it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core.clips import Clip, Clips, ClipText, Modality, Texts
from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import ClipTimeout, MissingInput, TooManyQuarantined, TruncatedMedia, TryAgain
from ecmf_pipeline.core.files import fingerprint, sha256_bytes, sha256_text
from ecmf_pipeline.encoders.base_config import DEFAULT_TEXT_COLUMNS, BaseEncoderConfig
from ecmf_pipeline.encoders.config import ImportedConfig, has_imported_features, text_columns
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner import Engine, Run, RunConfig, RunReport
from ecmf_pipeline.runner.machine import default_openers, has_bf16_instructions, visible_gpus
from ecmf_pipeline.runner.quarantine import Limits, Quarantine, read_quarantine, share_files
from ecmf_pipeline.store import (
    FeatureStore,
    StoreWriter,
    create_settings_group,
    current_fingerprint,
    has_fingerprint,
    make_current,
)
from ecmf_pipeline.store.shards import shard_stores

if TYPE_CHECKING:
    import pyarrow as pa

_SEPARATOR = "\0"
"""Between the texts of a clip whose digest is computed."""


@dataclass(frozen=True, slots=True)
class BranchInputs:
    """The inputs of a clip that a branch reads.

    Attributes:
        columns: The transcripts that a text encoder reads.
        face_crops: Whether the face branch reads crops that come with the corpus instead of the video.
    """

    columns: Sequence[str] = DEFAULT_TEXT_COLUMNS
    face_crops: bool = False

    def reads_pictures(self, modality: Modality) -> bool:
        """Return whether a branch reads the pictures of the media file."""
        return modality is Modality.GLOBAL or (modality is Modality.FACE and not self.face_crops)

    @classmethod
    def of(cls, encoder: BaseEncoderConfig, faces: FaceConfig) -> BranchInputs:
        """Return the inputs of a configured encoder; needs no weights."""
        return cls(encoder.text_columns, faces.source == "openface")

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> BranchInputs:
        """Return the inputs of features with these settings."""
        return cls(text_columns(settings), settings.get("faces", {}).get("source") == "openface")


DEFAULT_BRANCH_INPUTS = BranchInputs()
"""Default inputs of a branch."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The plan of one encoder of a modality.

    Attributes:
        name: Name of the features, unique among the branches of a run, and key of the writers and counts.
        modality: The modality.
        encoder: Parameters of the encoder.
        settings: All settings that change the features.
        quarantine: Table of its bad clips.
        digests: Digest of the input of each clip without features.
        todo: Clips to compute.
        reused: Number of clips whose features are stored.
        absent: Number of clips without this input (no audio stream, no words, ...): masked in training, not bad.
        in_use: Fingerprints of all encoders of the modality in use, in order; empty if there is only this one.
    """

    name: str
    modality: Modality
    encoder: BaseEncoderConfig
    settings: dict[str, Any]
    quarantine: Quarantine
    digests: dict[str, str]
    todo: frozenset[str]
    reused: int
    absent: int
    in_use: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the settings."""
        return fingerprint(self.settings)


def input_digests(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    branch_inputs: BranchInputs = DEFAULT_BRANCH_INPUTS,
) -> dict[str, str]:
    """Return the digest of each clip's input to a modality; clips without the input are left out.

    Args:
        modality: The branch.
        clips: The manifest.
        texts: Transcripts by clip id; only the text branch reads them.
        branch_inputs: The inputs of the branch; clips that lack one of them are left out.
    """
    return _as_dict(_input_table(modality, clips, texts, branch_inputs))


def _input_table(
    modality: Modality, clips: Sequence[Clip], texts: Mapping[str, ClipText], branch_inputs: BranchInputs
) -> pa.Table:
    """Return the columns ``clip_id`` and ``digest`` of the inputs; a million clips are too many for Python objects."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = Clips.of(clips)
    table = columns.table
    if modality is Modality.TEXT:
        found = Texts.of(texts).having(branch_inputs.columns)
        read = pc.binary_join_element_wise(*map(found.column, sorted(branch_inputs.columns)), _SEPARATOR)
        digests = pa.array(map(sha256_bytes, read.cast(pa.binary()).to_pylist()), pa.string())
        return _rows_of(pa.table({"clip_id": found.column("clip_id"), "digest": digests}), table.column("clip_id"))
    if modality is Modality.AUDIO:
        digests, has_input = pa.array(columns.sound_digests, pa.string()), table.column("has_audio")
    elif modality is Modality.FACE and branch_inputs.face_crops:
        digests = table.column("face_digest")
        has_input = pc.not_equal(digests, "")
    else:
        digests, has_input = table.column("digest"), table.column("has_video")
    return pa.table({"clip_id": table.column("clip_id"), "digest": digests}).filter(has_input)


def _rows_of(inputs: pa.Table, clip_ids: pa.ChunkedArray) -> pa.Table:
    """Return the inputs of the given clips, in their order."""
    import pyarrow.compute as pc

    return inputs.take(pc.index_in(clip_ids, value_set=inputs.column("clip_id")).drop_null())


def _as_dict(inputs: pa.Table) -> dict[str, str]:
    return dict(zip(*(inputs.column(name).to_pylist() for name in ("clip_id", "digest")), strict=True))


def current_digests(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    store: FeatureStore | None,
    branch_inputs: BranchInputs = DEFAULT_BRANCH_INPUTS,
) -> dict[str, str]:
    """Return the digest of each clip's valid row in a store; clips without the modality are left out.

    Computed features are valid if they come from the current input of the clip (`input_digests`). The input of imported
    features is unknown: the newest row is valid, and clips without an imported row are left out.

    Args:
        modality: The branch.
        clips: The manifest.
        texts: Transcripts by clip id.
        store: The features; None if there are none yet.
        branch_inputs: The inputs of the branch; used only if ``store`` is None.
    """
    return _as_dict(_valid_table(modality, clips, texts, store, branch_inputs))


def _valid_table(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    store: FeatureStore | None,
    branch_inputs: BranchInputs,
) -> pa.Table:
    if store is None:
        return _input_table(modality, clips, texts, branch_inputs)
    if not has_imported_features(store.settings):
        return _input_table(modality, clips, texts, BranchInputs.of_settings(store.settings))
    return _rows_of(store.newest_table(), Clips.of(clips).table.column("clip_id"))


def text_digest(text: ClipText, columns: Sequence[str] = DEFAULT_TEXT_COLUMNS) -> str:
    """Return the digest of the texts in ``columns``; the other texts of the clip may change."""
    return sha256_text(_SEPARATOR.join(getattr(text, column) for column in sorted(columns)))


def clip_limits(config: ExtractConfig, media: MediaConfig) -> Limits:
    """Return the settings that limit clips; a quarantined clip is retried if its limit is lifted."""
    return {ClipTimeout.__name__: config.clip_timeout, TruncatedMedia.__name__: media.least_readable}


def plan_branch(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    *,
    encoder: BaseEncoderConfig,
    settings: dict[str, Any],
    root: Path,
    quarantine_path: Path,
    name: str = "",
    limits: Limits | None = None,
    retry_quarantined: bool = False,
    earlier_tables: Sequence[Path] = (),
    in_use: Sequence[str] = (),
) -> Branch:
    """Compare the store of a modality, and those of its shards, with the manifest, and return the clips to compute.

    Args:
        modality: The branch.
        clips: The clips of the manifest, or of one shard.
        texts: Transcripts by clip id.
        encoder: The encoder of the modality.
        settings: All settings that change the features.
        root: Folder of the store.
        quarantine_path: Quarantine table of the modality.
        name: See `Branch.name`; empty: that of the modality.
        limits: The result of `clip_limits`.
        retry_quarantined: Whether to retry quarantined clips even if nothing changed.
        earlier_tables: Further quarantine tables whose clips are not computed; they are only read.
        in_use: See `Branch.in_use`.

    Raises:
        MissingInput: If the features must be imported and none are stored.
    """
    key = fingerprint(settings)
    store = FeatureStore(root, key) if has_fingerprint(root, key) else None
    if isinstance(encoder, ImportedConfig) and (store is None or not len(store)):
        raise MissingInput(
            f"no features of {encoder.name!r} were imported for {modality.value}",
            "import them, or pull them from the DVC remote",
            command=f"ecmf-pipe store import PATH --modality {modality.value} --encoder {encoder.name}",
        )
    inputs = _valid_table(modality, clips, texts, store, BranchInputs.of_settings(settings))
    missing = _missing(inputs, root, store, key)
    reused, absent = inputs.num_rows - len(missing), len(clips) - inputs.num_rows

    def open_table(path: Path) -> Quarantine:
        return Quarantine(
            path,
            stage="extract",
            modality=modality.value,
            fingerprint=key,
            limits=limits,
            others=set(in_use) - {key},
        )

    quarantine, earlier = open_table(quarantine_path), list(map(open_table, earlier_tables))
    quarantine.drop_outdated(missing)
    if retry_quarantined:
        quarantine.clear()
        earlier.clear()
    todo = frozenset(
        clip_id
        for clip_id, digest in missing.items()
        if not any(table.holds(clip_id, digest) for table in (quarantine, *earlier))
    )
    name = name or modality.value
    return Branch(name, modality, encoder, settings, quarantine, missing, todo, reused, absent, tuple(in_use))


def _missing(inputs: pa.Table, root: Path, store: FeatureStore | None, key: str) -> dict[str, str]:
    """Return the inputs without features, in the store of a modality and in each of its shards.

    Args:
        inputs: The columns ``clip_id`` and ``digest`` of the inputs.
        root: Folder of the store.
        store: The store; None if it has no features of these settings.
        key: Fingerprint of the settings.
    """
    for one in (*([] if store is None else [store]), *shard_stores(root, key)):
        inputs = inputs.filter(~one.have_features(inputs))
    return _as_dict(inputs)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts of the clips of one modality.

    Attributes:
        done: Clips with features of their current input.
        missing: Clips still to be computed.
        absent: Clips without this input (no audio stream, no words, ...), or without imported features.
        quarantined: Clips found to be bad.
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
    branch_inputs: BranchInputs = DEFAULT_BRANCH_INPUTS,
    limits: Limits | None = None,
) -> Coverage:
    """Count the clips of a modality.

    Args:
        modality: The branch.
        clips: The manifest.
        texts: Transcripts by clip id.
        root: Store of the modality.
        quarantine_path: Quarantine table of the modality.
        fingerprint: Fingerprint of the features to count; None: the current one of the store.
        branch_inputs: The inputs of the branch; used only if the store has no such features.
        limits: The result of `clip_limits`.
    """
    current = fingerprint or current_fingerprint(root)
    store = FeatureStore(root, current) if current and has_fingerprint(root, current) else None
    inputs = _valid_table(modality, clips, texts, store, branch_inputs)
    missing = _missing(inputs, root, store, current or "none")
    quarantine = Quarantine(
        quarantine_path,
        stage="extract",
        modality=modality.value,
        fingerprint=current or "",
        limits=limits,
        others={entry.fingerprint for entry in read_quarantine(quarantine_path)} - {current},
    )
    bad = sum(quarantine.holds(clip_id, digest) for clip_id, digest in missing.items())
    n_inputs = inputs.num_rows
    return Coverage(n_inputs - len(missing), len(missing) - bad, len(clips) - n_inputs, bad)


Writers = Mapping[str, StoreWriter]


@contextmanager
def open_writers(settings: Mapping[str, Mapping[str, Any]], store_root: Callable[[str], Path]) -> Iterator[Writers]:
    """Lock the stores of some branches for writing, and recover the batches of killed runs.

    Branches of one modality write to one store, each under its own fingerprint.

    Enter this context before planning: an earlier plan would not see the recovered rows and would recompute them.

    Args:
        settings: All settings that change the features, by name of the branch.
        store_root: Returns the store of a branch.

    Raises:
        StoreBusy: If another run writes to one of the stores.
    """
    writers: dict[str, StoreWriter] = {}
    first: dict[Path, StoreWriter] = {}
    with ExitStack() as exits:
        for name, branch_settings in settings.items():
            root = store_root(name)
            writer = StoreWriter(root, fingerprint(branch_settings), beside=first.get(root))
            writers[name] = exits.enter_context(writer)
            first.setdefault(root, writer)
        yield writers


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
    index_cache: Path | None = None,
    engine: Engine | None = None,
) -> RunReport:
    """Compute the missing features of the branches, and make their fingerprints the current ones of the stores.

    Args:
        branches: Results of `plan_branch`, made while the stores were locked; their fingerprints differ within a
            modality.
        clips: The manifest.
        texts: Transcripts by clip id.
        writers: The writers yielded by `open_writers`.
        corpus_root: Folder that clip paths are relative to.
        media: How clips are sampled.
        faces: How faces are found.
        config: How the loop runs.
        index_cache: The cache of `index`. Files in another state than it holds are hashed before they are read; None:
            all files are.
        engine: Runs the workers; None: local processes, as ``config`` selects.

    Raises:
        TooManyQuarantined: If too many clips of a branch are bad; completed work is kept.
        TryAgain: If clips failed for transient reasons; completed work is kept.
        Interrupted: On Ctrl-C or SIGTERM; completed work is kept.
    """
    report = RunReport(reused={branch.name: branch.reused for branch in branches})
    share_files([branch.quarantine for branch in branches])
    incomplete, failures = _finish_complete_branches(branches, writers, report, config)
    if incomplete:
        # Imported only if features are missing: it imports the decoders and the encoder registry.
        from ecmf_pipeline.corpora.measuring import known_states
        from ecmf_pipeline.extraction.step import BranchEncoder, ClipToExtract, ExtractStepFactory

        config = _choose_processes(config, incomplete)
        _warn_of_slow_types(config.device, incomplete)
        encoders = {
            branch.name: BranchEncoder(branch.modality, branch.encoder, branch.settings, writers[branch.name].root)
            for branch in incomplete
        }
        todo = frozenset[str]().union(*(branch.todo for branch in incomplete if branch.modality is not Modality.TEXT))
        names = [
            path for clip in clips if clip.clip_id in todo for path in (clip.path, clip.face_path, clip.audio_path)
        ]
        states = known_states(index_cache, corpus_root, names) if index_cache and names else {}
        text_branches = {branch.name for branch in incomplete if branch.modality is Modality.TEXT}
        items = []
        for clip in clips:
            missing = {
                branch.name: branch.digests[clip.clip_id] for branch in incomplete if clip.clip_id in branch.todo
            }
            if missing:
                text = texts[clip.clip_id] if missing.keys() & text_branches else None
                files = (states.get(path) for path in (clip.path, clip.face_path, clip.audio_path))
                items.append(ClipToExtract(clip, missing, text, *files))
        run: Run[ClipToExtract] = Run(
            ExtractStepFactory(
                encoders,
                corpus_root,
                media,
                faces,
                config.device,
                uses_openers=bool(config.openers) or engine is not None,  # an engine may have its own openers
            ),
            {branch.name: writers[branch.name] for branch in incomplete},
            {branch.name: branch.quarantine for branch in incomplete},
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
        run(items, f"extract {'+'.join(branch.name for branch in incomplete)}")
    for branch in incomplete:
        make_current(writers[branch.name].root, branch.fingerprint, branch.in_use)
    if failures:
        raise failures[0]
    if report.transient:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.transient.most_common())
        raise TryAgain(
            f"extract: {report.transient.total()} features could not be computed for transient reasons ({reasons})"
        )
    return report


def _warn_of_slow_types(device: str, branches: Sequence[Branch]) -> None:
    """Warn if the CPU has no instructions for a configured number type; `doctor` checks GPUs."""
    if "cuda" in device or visible_gpus(device):
        return
    half_types = frozenset[str]().union(*(branch.encoder.half_types() for branch in branches))
    if missing := sorted(half_types - ({"bf16"} if has_bf16_instructions() else set())):
        warn(f"extract: this CPU has no instructions for {' and '.join(missing)}, which is slower than fp32 here")


def _finish_complete_branches(
    branches: Sequence[Branch], writers: Writers, report: RunReport, config: ExtractConfig
) -> tuple[list[Branch], list[TooManyQuarantined]]:
    """Finish the branches without missing features, and exclude those with too many bad clips.

    Returns:
        The branches to compute, and the errors of the excluded ones, to be raised after the others are done.
    """
    incomplete, failures = [], []
    for branch in branches:
        root = writers[branch.name].root
        if not branch.todo:
            if not has_fingerprint(root, branch.fingerprint):
                # No clip has this input. Later stages need an empty store, not a missing one.
                create_settings_group(root, branch.settings, dim=None, dtype="float32")
            make_current(root, branch.fingerprint, branch.in_use)
            report.count(branch.name, branch.quarantine)
        branch.quarantine.write()  # without entries that are outdated
        try:
            branch.quarantine.check_share(branch.reused + len(branch.digests), config.max_quarantined)
        except TooManyQuarantined as error:
            failures.append(error)
            continue
        if branch.todo:
            incomplete.append(branch)
    return incomplete, failures


def _choose_processes(config: ExtractConfig, branches: Sequence[Branch]) -> ExtractConfig:
    """Return the config with ``workers`` and ``openers`` chosen for this machine: by GPU or by core."""
    gpus = visible_gpus(config.device) if any(branch.encoder.uses_torch for branch in branches) else []
    workers = len(gpus) if config.workers is None and gpus else config.workers
    if workers == 0:
        openers = 0  # everything runs in this process
    elif config.openers is not None:
        openers = config.openers
    else:
        openers = default_openers(workers) if gpus and workers else 0
    return config.model_copy(update={"workers": workers, "openers": openers})
