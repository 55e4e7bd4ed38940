"""Measure feature stores for `make bench`: loading features, planning a run, adding clips.

The reference reads npy files as the baseline of the challenge does, but in one process. The baseline uses eight
processes and sends each clip to the main one, which takes even more CPU time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, ClipId, Modality, Split, read_manifest, write_manifest
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.encoders.config import EgemapsConfig
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import Branch, extract, open_writers, plan_branch
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner import Outcome, Run, RunConfig, RunReport, Step, Target
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import (
    FeatureRow,
    FeatureStore,
    StoreWriter,
    create_settings_group,
)

Measurement = tuple[str, float, float]
"""Title, our CPU seconds, CPU seconds of the reference (0: no reference)."""

WIDTHS = {"global": 1024, "audio": 1024, "text": 768}
LABELLED_AND_CANDIDATES = 27_369
ALL_CLIPS = 132_000
QUARANTINED = 2_000
NEW_CLIPS = 100
FRAME_LEVEL = 4_000
DIM = 768


def load_three(folder: Path) -> Measurement:
    """Measure loading utterance-level features of three modalities; reference: one npy file per clip and modality."""
    names = [f"samplenew3_{number:08d}" for number in range(LABELLED_AND_CANDIDATES)]
    for modality, width in WIDTHS.items():
        write_store(folder / f"{modality}.zarr", names, width)
        write_files(folder / "npy" / modality, names, width)
    ours = cpu_seconds(lambda: [FeatureStore.open(folder / f"{modality}.zarr").load(names) for modality in WIDTHS])
    reference = cpu_seconds(lambda: [read_files(folder / "npy" / modality, names) for modality in WIDTHS])
    return f"load {len(names):,} x (1024 + 1024 + 768) features, vs npy files", ours, reference


def load_one(folder: Path) -> Measurement:
    """Measure loading features of 132,000 clips; the reference reads the npy files of `load_three` and is scaled up."""
    corpus = Corpus.of(folder)
    names = [clip.clip_id for clip in corpus.stored]
    files = sorted(path.stem for path in (folder / "npy" / "text").iterdir())
    ours = cpu_seconds(lambda: FeatureStore.open(corpus.root).load(names))
    reference = cpu_seconds(lambda: read_files(folder / "npy" / "text", files)) * len(names) / len(files)
    return f"load {len(names):,} x 768 features, vs {len(files):,} npy files, scaled", ours, reference


def load_frames(folder: Path) -> Measurement:
    """Measure loading frame-level features, averaged on reading; reference: npy files."""
    names = [f"clip{number:06d}" for number in range(FRAME_LEVEL)]
    lengths = np.random.default_rng(5).integers(8, 25, len(names)).tolist()
    write_store(folder / "frames.zarr", names, DIM, lengths)
    write_files(folder / "npy" / "frames", names, DIM, lengths)
    ours = cpu_seconds(lambda: FeatureStore.open(folder / "frames.zarr").load(names))
    reference = cpu_seconds(lambda: read_files(folder / "npy" / "frames", names))
    return f"load {len(names):,} x (8 to 24) x 768 features and average, vs npy files", ours, reference


def plan_nothing(folder: Path) -> Measurement:
    """Measure a complete run of `extract` over 132,000 clips that has nothing to do."""
    corpus = Corpus.of(folder)

    def run() -> None:
        clips = read_manifest(corpus.manifest)
        with open_writers({Modality.AUDIO: corpus.settings}, lambda _: corpus.root) as writers:
            branch = corpus.plan(clips)
            if branch.todo or branch.reused != ALL_CLIPS:
                raise RuntimeError(f"{len(branch.todo)} clips to do, {branch.reused} reused")
            config = ExtractConfig()
            media, faces = MediaConfig(), FaceConfig()
            extract([branch], clips, {}, writers=writers, corpus_root=folder, media=media, faces=faces, config=config)

    ours = cpu_seconds(run, repeats=1)
    return f"extract with nothing to do, {ALL_CLIPS:,} clips, {QUARANTINED:,} quarantined", ours, 0.0


def add_hundred(folder: Path) -> Measurement:
    """Measure adding 100 new clips to 132,000 stored ones: plan, compute, spool and seal."""
    corpus = Corpus.of(folder)
    write_manifest(folder / "more.csv", [*read_manifest(corpus.manifest), *_clips("new", NEW_CLIPS)])
    steps = CountingSteps([])

    def run() -> None:
        clips = read_manifest(folder / "more.csv")
        with open_writers({Modality.AUDIO: corpus.settings}, lambda _: corpus.root) as writers:
            branch = corpus.plan(clips)
            Run[NewClip](
                steps,
                {"audio": writers[Modality.AUDIO]},
                {"audio": branch.quarantine},
                RunConfig(batch_size=8, part_size=1024, max_quarantined=0.2, workers=0),
                RunReport(reused={"audio": branch.reused}),
            )([NewClip(clip) for clip in clips if clip.clip_id in branch.todo], "add")

    ours = cpu_seconds(run, repeats=1)
    stored = len(FeatureStore.open(corpus.root))
    if len(steps.computed) != NEW_CLIPS or stored != ALL_CLIPS + NEW_CLIPS:
        raise RuntimeError(f"{len(steps.computed)} clips were computed, {stored} are stored")
    return f"add {NEW_CLIPS} clips to {ALL_CLIPS:,} ({len(steps.computed)} computed)", ours, 0.0


MEASUREMENTS: Sequence[Callable[[Path], Measurement]] = (load_three, load_one, load_frames, plan_nothing, add_hundred)
"""They run in this order in one folder: later ones use the files of earlier ones."""


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the CPU seconds of this process for ``work``, the minimum of several runs."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


@dataclass(frozen=True)
class Corpus:
    """132,000 clips with stored features, and 2,000 quarantined ones.

    Attributes:
        folder: Folder of its files.
        settings: Settings of its features.
        stored: The clips with features.
    """

    folder: Path
    settings: dict[str, Any]
    stored: list[Clip]

    @classmethod
    def of(cls, folder: Path) -> Corpus:
        """Return the corpus in a folder; create it at the first call."""
        settings = branch_settings(Modality.AUDIO, EgemapsConfig(), MediaConfig(), FaceConfig())
        corpus = cls(folder / "corpus", settings, _clips("samplenew3", ALL_CLIPS))
        if not corpus.manifest.is_file():
            bad = _clips("silent", QUARANTINED)
            write_manifest(corpus.manifest, [*corpus.stored, *bad])
            names = {clip.clip_id: clip.digest for clip in corpus.stored}
            write_store(corpus.root, list(names), DIM, settings=settings, digests=names)
            key = fingerprint(settings)
            quarantine = Quarantine(corpus.quarantine, stage="extract", modality="audio", fingerprint=key)
            for clip in bad:
                quarantine.add(clip.clip_id, "SilentAudio", "all samples are zero", clip.digest)
            quarantine.write()
        return corpus

    @property
    def manifest(self) -> Path:
        """Path of the manifest."""
        return self.folder / "manifest.csv"

    @property
    def root(self) -> Path:
        """Path of the feature store."""
        return self.folder / "audio.zarr"

    @property
    def quarantine(self) -> Path:
        """Path of the quarantine table."""
        return self.folder / "extract-audio.csv"

    def plan(self, clips: Sequence[Clip]) -> Branch:
        """Plan the extraction of clips."""
        return plan_branch(
            Modality.AUDIO,
            clips,
            {},
            encoder=EgemapsConfig(),
            settings=self.settings,
            root=self.root,
            quarantine_path=self.quarantine,
        )


@dataclass(frozen=True)
class NewClip:
    """A clip to compute."""

    clip: Clip

    @property
    def targets(self) -> Sequence[Target]:
        """Return the features to compute."""
        return [Target(self.clip.clip_id, "audio", self.clip.digest)]

    def alone(self) -> Sequence[NewClip]:
        """See `runner.Item`."""
        return [self]


@dataclass
class CountingSteps(Step[NewClip, NewClip, FeatureRow]):
    """Step that returns ones as features and records the clips; it is its own factory.

    Attributes:
        computed: Ids of the computed clips, in order.
    """

    computed: list[str]

    def __call__(self, worker: int) -> CountingSteps:  # noqa: ARG002
        """Return the step of the only worker."""
        return self

    def open(self, item: NewClip) -> NewClip:
        """Return the item: nothing is read."""
        return item

    def work(self, batch: Sequence[tuple[NewClip, NewClip]]) -> list[Outcome[FeatureRow]]:
        """Return one row of ones for each clip."""
        targets = [target for item, _ in batch for target in item.targets]
        self.computed += [target.clip_id for target in targets]
        ones = np.ones((1, DIM), np.float16)
        return [Outcome(target, FeatureRow(target.clip_id, target.digest, ones)) for target in targets]


def write_store(
    root: Path,
    names: Sequence[str],
    width: int,
    lengths: Sequence[int] | None = None,
    *,
    settings: dict[str, Any] | None = None,
    digests: Mapping[Any, str] | None = None,
) -> None:
    """Write random float16 features, one row per clip unless ``lengths`` gives the number of rows."""
    key = create_settings_group(root, settings or {"bench": root.stem}, dim=width, dtype="float16")
    part_size = ExtractConfig().part_size
    random = _random(names, width, lengths)
    with StoreWriter(root, key) as writer:
        for start in range(0, len(names), part_size):
            part = zip(names[start : start + part_size], random, strict=False)
            writer.append([FeatureRow(name, digests[name] if digests else "d", values) for name, values in part])


def write_files(folder: Path, names: Sequence[str], width: int, lengths: Sequence[int] | None = None) -> None:
    """Write the same features as float32 npy files, like the baseline: (D,) for one row, else (T, D)."""
    folder.mkdir(parents=True)
    for name, values in zip(names, _random(names, width, lengths), strict=True):
        np.save(folder / f"{name}.npy", values if lengths else values[0])


def read_files(folder: Path, names: Sequence[str]) -> NDArray[np.float32]:
    """Read, squeeze, average and stack npy files, as the baseline does."""
    features = []
    for name in names:
        values = np.array([np.load(f"{folder}/{name}.npy").squeeze()]).squeeze()
        features.append(values[np.newaxis, :] if values.ndim == 1 else values)
    return np.array([np.mean(values, axis=0) for values in features])


def _random(names: Sequence[str], width: int, lengths: Sequence[int] | None) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(width)
    for number in range(len(names)):
        yield rng.standard_normal((lengths[number] if lengths else 1, width), np.float32)


def _clips(prefix: str, count: int) -> list[Clip]:
    return [
        Clip(
            ClipId(name),
            path=f"video/{name}.mp4",
            digest=hashlib.sha256(name.encode()).hexdigest(),
            bytes=300_000,
            duration=3.2,
            has_video=True,
            has_audio=True,
            transcript="I informed you that the train has gone, and that there is no other one.",
            split=Split.UNLABELED,
        )
        for name in (f"{prefix}_{number:08d}" for number in range(count))
    ]
