"""From clips to feature stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError
from skimage import data

from ecmf_pipeline.clips import Clip, ClipId, Modality
from ecmf_pipeline.config import Frames
from ecmf_pipeline.encoders.base import ClipText, Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.config import (
    BaseEncoderConfig,
    EfficientNetConfig,
    EgemapsConfig,
    MiniXceptionConfig,
    TextColumn,
    TextConfig,
)
from ecmf_pipeline.errors import TooManyQuarantined, TryAgain
from ecmf_pipeline.extraction import opening as opening_module
from ecmf_pipeline.extraction import run as run_module
from ecmf_pipeline.extraction import step as step_module
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.coverage import Coverage, coverage
from ecmf_pipeline.extraction.opening import ClipToExtract, ExtractOpener
from ecmf_pipeline.extraction.plan import Branch, Reading, branch_settings, plan_branch, text_digest
from ecmf_pipeline.extraction.run import extract, writing
from ecmf_pipeline.faces import FaceConfig, FaceTrack
from ecmf_pipeline.files import sha256_file, sha256_text
from ecmf_pipeline.media import MediaConfig, Sampling, read_frames
from ecmf_pipeline.quarantine import Quarantine
from ecmf_pipeline.store import FeatureStore

MEDIA = MediaConfig(frames=4)


class MeanConfig(BaseEncoderConfig):
    """Mean brightness of each frame or crop; one number for sound and words. Crops are kept every second time."""

    modalities: ClassVar[frozenset[Modality]] = frozenset(Modality)
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "frames"})
    type: str = "mean"
    scale: float = 1.0
    frames: Frames | None = None
    inputs: tuple[TextColumn, ...] = ("original",)

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        return self.inputs

    def preparer(self) -> Preparer[Any]:
        return AsItIs()

    def build(self, device: str = "auto") -> Encoder[Any]:
        return MeanEncoder(self)


class AsItIs(Preparer[Any]):
    def prepare(self, view: Any) -> Any:
        return view


class MeanEncoder(Encoder[Any]):
    dtype = "float32"

    def __init__(self, config: MeanConfig) -> None:
        self.config = config
        self.preparer = config.preparer()

    @property
    def dim(self) -> int:
        return 2

    @property
    def settings(self) -> dict[str, Any]:
        return self.config.settings()

    def encode_prepared(self, prepared):
        return [self._one(view) for view in prepared]

    def _one(self, view: Any) -> Encoding:
        if isinstance(view, ClipText):
            values = np.array([[len(view.original), len(view.enriched)]])
            with np.errstate(over="ignore"):
                return Encoding((values * self.config.scale).astype(np.float32), np.zeros(1, np.int64))
        if isinstance(view, FaceTrack):
            kept = np.arange(0, len(view.crops), 2)
            return Encoding(view.crops[kept].reshape(len(kept), -1)[:, :2].astype(np.float32), kept)
        if view.ndim == 1:
            return Encoding(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))  # describes no sound at all
        return Encoding(view.reshape(len(view), -1)[:, :2].astype(np.float32), np.arange(len(view)))


class Project:
    def __init__(self, folder: Path, faces: FaceConfig) -> None:
        self.folder = folder
        self.faces = faces
        self.texts: dict[str, ClipText] = {}
        self.clips: list[Clip] = []

    def add(self, path: Path, *, has_audio: bool = True) -> None:
        self.clips.append(Clip(ClipId(path.stem), path.name, sha256_file(path), has_video=True, has_audio=has_audio))

    def root(self, modality: Modality) -> Path:
        return self.folder / f"{modality.value}.zarr"

    def plan(self, modality: Modality, **options: Any) -> Branch:
        config = MeanConfig(**options)
        return plan_branch(
            modality,
            self.clips,
            self.texts,
            encoder=config,
            settings=branch_settings(modality, config, MEDIA, self.faces),
            root=self.root(modality),
            quarantine_path=self.folder / f"{modality.value}.csv",
        )

    def run(self, *modalities: Modality, max_quarantined: float = 1.0, **options: Any):
        config = MeanConfig(**options)
        settings = {modality: branch_settings(modality, config, MEDIA, self.faces) for modality in modalities}
        with writing(settings, self.root) as writers:
            return extract(
                [self.plan(modality, **options) for modality in modalities],
                self.clips,
                self.texts,
                writers=writers,
                corpus_root=self.folder,
                media=MEDIA,
                faces=self.faces,
                config=ExtractConfig(batch_size=2, max_quarantined=max_quarantined, workers=0),
            )


@pytest.fixture
def project(tmp_path, models, make_clip) -> Project:
    made = Project(tmp_path, FaceConfig(detector=models / "face_landmarker" / "face_detector.tflite"))
    face = data.astronaut()[:256, 64:384]
    made.add(make_clip(tmp_path / "face.mp4", pictures=8, photograph=face, audio_seconds=0.5))
    made.add(make_clip(tmp_path / "mute.mp4", pictures=8, photograph=face), has_audio=False)
    made.add(make_clip(tmp_path / "tree.mp4", pictures=8, audio_seconds=0.5))
    return made


def reasons(project: Project, modality: Modality) -> dict[str, str]:
    """The table as it stands on the disk: reason by clip."""
    table = Quarantine(project.folder / f"{modality.value}.csv", stage="extract", modality=modality.value)
    return {entry.clip_id: entry.reason for entry in table}


@pytest.fixture
def decodes(monkeypatch) -> list[str]:
    """The clips whose pictures were decoded, in order."""
    opened: list[str] = []
    real = opening_module.read_samplings

    def counted(path: Path, *given: Any):
        opened.append(path.stem)
        return real(path, *given)

    monkeypatch.setattr(opening_module, "read_samplings", counted)
    return opened


def test_media_branches_asked_for_together_share_one_decode(project, decodes):
    report = project.run(Modality.GLOBAL, Modality.FACE)
    assert decodes == ["face", "mute", "tree"]
    assert report.done == {"global": 3, "face": 2}
    assert report.reasons["face"] == {"NoFaceFound": 1}
    assert report.quarantined["global"] == 0


def test_one_branch_is_decoded_for_only_where_it_misses_the_clip(project, decodes):
    project.run(Modality.GLOBAL)
    decodes.clear()
    report = project.run(Modality.GLOBAL, Modality.FACE)
    assert report.done == {"face": 2}
    assert report.reused == {"global": 3, "face": 0}
    project.run(Modality.GLOBAL, Modality.FACE)
    assert decodes == ["face", "mute", "tree"]  # the quarantined clip was not tried again


def test_rows_know_when_and_where(project):
    project.run(Modality.GLOBAL, Modality.FACE)
    frames = FeatureStore.open(project.root(Modality.GLOBAL)).row("face")
    assert frames.side["times"].tolist() == pytest.approx([0.04, 0.12, 0.2, 0.28], abs=0.001)
    crops = FeatureStore.open(project.root(Modality.FACE)).row("face")
    assert crops.values.shape == (2, 2)  # the encoder kept two of four
    assert crops.side["times"].tolist() == pytest.approx([0.04, 0.2], abs=0.001)
    assert crops.side["boxes"].shape == (2, 4)
    assert crops.side["scores"].shape == (2,)
    assert crops.side["landmarks"].shape == (2, 12)
    assert (crops.side["landmark_quality"] > 0.3).all()


class TestCropsThatComeWithTheCorpus:
    @pytest.fixture
    def cropped(self, project) -> Project:
        project.faces = FaceConfig(source="openface")
        crops = np.full((10, 112, 112, 3), 50, np.uint8)
        for name in ("face", "mute"):
            path = project.folder / f"{name}.npy"
            np.save(path, crops + np.arange(10, dtype=np.uint8)[:, None, None, None])
            self.give(project, name, path)
        return project

    def give(self, project: Project, name: str, path: Path) -> None:
        project.clips = [
            replace(clip, face_path=path.name, face_digest=sha256_file(path), face_bytes=path.stat().st_size)
            if clip.clip_id == name
            else clip
            for clip in project.clips
        ]

    def test_they_are_read_in_place_of_the_video(self, cropped, decodes):
        report = cropped.run(Modality.FACE)
        assert decodes == []
        assert report.done == {"face": 2}
        assert cropped.plan(Modality.FACE).absent == 1
        row = FeatureStore.open(cropped.root(Modality.FACE)).row("face")
        assert row.values[:, 0].tolist() == [51, 56]  # rows 1 and 6 of 10: the first and third of four
        assert row.side["frames"].tolist() == [1, 6]
        assert set(row.side) == {"frames", "boxes", "scores", "landmarks", "landmark_quality"}
        assert np.isnan(row.side["landmark_quality"]).all()

    def test_a_clip_without_pictures_has_a_face_branch_all_the_same(self, cropped, make_clip):
        path = make_clip(cropped.folder / "sound.mp4", video=False, audio_seconds=0.5)
        cropped.clips.append(Clip(ClipId("sound"), path.name, sha256_file(path), has_audio=True))
        crops = cropped.folder / "sound.npy"
        np.save(crops, np.zeros((1, 112, 112, 3), np.uint8))
        self.give(cropped, "sound", crops)
        report = cropped.run(Modality.GLOBAL, Modality.FACE)
        assert report.done == {"global": 3, "face": 3}
        assert len(FeatureStore.open(cropped.root(Modality.FACE)).row("sound").values) == 1

    def test_crops_that_are_none_cost_the_face_branch_of_their_clip(self, cropped):
        path = cropped.folder / "face.npy"
        np.save(path, np.zeros((3, 64, 64, 3), np.uint8))
        self.give(cropped, "face", path)
        report = cropped.run(Modality.GLOBAL, Modality.FACE)
        assert report.done == {"global": 3, "face": 1}
        assert reasons(cropped, Modality.FACE) == {"face": "UnusableFaceCrops"}

    def test_crops_that_changed_since_they_were_indexed_wait_for_index(self, cropped):
        np.save(cropped.folder / "face.npy", np.zeros((3, 112, 112, 3), np.uint8))
        with pytest.raises(TryAgain, match="ChangedSinceIndex 1"):
            cropped.run(Modality.FACE)

    def test_other_crops_are_computed_again_and_another_video_is_not(self, cropped, make_clip):
        cropped.run(Modality.FACE)
        cropped.clips = [replace(clip, digest="other") for clip in cropped.clips]
        assert cropped.plan(Modality.FACE).todo == set()
        path = cropped.folder / "mute.npy"
        np.save(path, np.zeros((3, 112, 112, 3), np.uint8))
        self.give(cropped, "mute", path)
        assert cropped.plan(Modality.FACE).todo == {"mute"}

    def test_they_are_counted_without_settings_from_the_store_that_they_made(self, cropped):
        cropped.run(Modality.FACE)
        table = cropped.folder / "face.csv"
        counted = coverage(Modality.FACE, cropped.clips, {}, root=cropped.root(Modality.FACE), quarantine_path=table)
        assert counted == Coverage(done=2, missing=0, absent=1, quarantined=0)
        nowhere = cropped.folder / "none.zarr"
        fresh = coverage(
            Modality.FACE, cropped.clips, {}, root=nowhere, quarantine_path=table, reading=Reading(face_crops=True)
        )
        assert fresh == Coverage(done=0, missing=2, absent=1, quarantined=0)

    def test_the_length_of_videos_does_not_change_their_fingerprint(self, cropped):
        def settings(**options):
            return branch_settings(Modality.FACE, MeanConfig(), MediaConfig(**options), cropped.faces)

        assert settings(max_side=640) == settings()
        assert settings(frames=4) != settings(frames=8)


def test_what_an_encoder_cannot_describe_is_set_aside_and_never_zeros(project):
    report = project.run(Modality.AUDIO)
    assert report.reasons["audio"] == {"NothingToEncode": 2}
    assert len(FeatureStore.open(project.root(Modality.AUDIO))) == 0
    assert project.plan(Modality.AUDIO).absent == 1


def test_features_that_no_store_can_hold_cost_their_clip_alone(project):
    project.texts = {"face": ClipText("a", "b"), "mute": ClipText("", "b"), "tree": ClipText("c", "d")}
    report = project.run(Modality.TEXT, scale=1e39)  # beyond float32
    assert report.reasons["text"] == {"FeaturesNotFinite": 2}


def test_a_file_that_is_away_for_a_while_is_tried_again(project):
    away = project.folder / "face.mp4"
    away.rename(project.folder / "elsewhere.mp4")
    with pytest.raises(TryAgain, match="FileUnreachable 2"):
        project.run(Modality.GLOBAL, Modality.AUDIO)
    assert reasons(project, Modality.GLOBAL) == {"face": "FileUnreachable"}
    (project.folder / "elsewhere.mp4").rename(away)
    assert project.run(Modality.GLOBAL).done == {"global": 1}
    assert project.plan(Modality.GLOBAL).todo == set()


def test_a_branch_of_which_too_many_clips_are_bad_does_not_keep_the_others_from_their_work(project):
    project.run(Modality.FACE)  # one of three shows no face
    project.add(project.folder / "face.mp4")  # so that it has something to do, too
    project.clips[-1] = replace(project.clips[-1], clip_id=ClipId("again"))
    with pytest.raises(TooManyQuarantined, match="extract face: 1 of 4"):
        project.run(Modality.FACE, Modality.GLOBAL, max_quarantined=0.2)
    assert len(FeatureStore.open(project.root(Modality.GLOBAL))) == 4
    assert project.plan(Modality.FACE).todo == {"again"}


def run_short_of_memory(project: Project, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, fails: Any) -> Any:
    """A run of all branches with transcripts; ``place.name`` calls ``fails`` before anything else."""
    project.texts = {clip.clip_id: ClipText("a", "b") for clip in project.clips}
    real = getattr(place, name)

    def short(*given: Any) -> Any:
        fails(*given)
        return real(*given)

    monkeypatch.setattr(place, name, short)
    return project.run(*Modality)


def numpy_runs_out() -> None:
    np.empty(2**50)


def torch_runs_out() -> None:
    import torch

    torch.empty(10**15)


def opencv_runs_out() -> None:
    import cv2

    cv2.resize(np.zeros((1, 1), np.uint8), (2**20, 2**30))


@pytest.mark.parametrize("runs_out", [numpy_runs_out, torch_runs_out, opencv_runs_out])
def test_pictures_that_take_too_much_memory_cost_neither_text_nor_sound(project, monkeypatch, runs_out):
    def fails(path: Path, *_: Any) -> None:
        if path.stem == "face":
            runs_out()

    report = run_short_of_memory(project, monkeypatch, opening_module, "read_samplings", fails)
    assert report.done == {"global": 2, "face": 1, "text": 3}
    assert reasons(project, Modality.GLOBAL) == {"face": "OutOfMemory"}
    assert reasons(project, Modality.FACE) == {"face": "OutOfMemory", "tree": "NoFaceFound"}
    assert reasons(project, Modality.AUDIO) == {"face": "NothingToEncode", "tree": "NothingToEncode"}
    assert reasons(project, Modality.TEXT) == {}


@pytest.mark.parametrize("runs_out", [numpy_runs_out, torch_runs_out, opencv_runs_out])
def test_an_encoder_that_takes_too_much_memory_for_a_clip_costs_that_branch_of_it(project, monkeypatch, runs_out):
    def fails(_: MeanEncoder, view: Any) -> None:
        if isinstance(view, FaceTrack):
            runs_out()

    report = run_short_of_memory(project, monkeypatch, MeanEncoder, "_one", fails)
    assert report.done == {"global": 3, "text": 3}
    assert reasons(project, Modality.GLOBAL) == reasons(project, Modality.TEXT) == {}
    assert reasons(project, Modality.FACE) == {"face": "OutOfMemory", "mute": "OutOfMemory", "tree": "NoFaceFound"}


def test_another_bug_of_a_library_stops_the_run(project, monkeypatch):
    def fails(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_short_of_memory(project, monkeypatch, MeanEncoder, "_one", fails)


def test_a_file_that_changed_since_it_was_indexed_costs_its_pictures_and_sound(project, decodes):
    project.texts = {clip.clip_id: ClipText("a", "b") for clip in project.clips}
    project.clips = [replace(clip, bytes=(project.folder / clip.path).stat().st_size) for clip in project.clips]
    with (project.folder / "face.mp4").open("ab") as file:
        file.write(b"more")
    with pytest.raises(TryAgain, match="ChangedSinceIndex 3"):
        project.run(*Modality)
    assert decodes == ["mute", "tree"]
    assert set(FeatureStore.open(project.root(Modality.TEXT)).newest()) == {"face", "mute", "tree"}
    for modality in (Modality.GLOBAL, Modality.FACE, Modality.AUDIO):
        assert reasons(project, modality)["face"] == "ChangedSinceIndex"


def test_a_clip_alone_is_a_piece_for_each_branch():
    digests = {Modality.GLOBAL: "a", Modality.FACE: "a", Modality.AUDIO: "a", Modality.TEXT: "b"}
    whole = ClipToExtract(
        Clip(ClipId("one"), "one.mp4", "a", has_video=True, has_audio=True), digests, ClipText("say", "it")
    )
    pieces = whole.alone()
    assert [target for piece in pieces for target in piece.targets] == whole.targets
    assert [len(piece.targets) for piece in pieces] == [1, 1, 1, 1]
    assert [piece.text for piece in pieces] == [None, None, None, whole.text]
    assert [list(piece.alone()) for piece in pieces] == [[piece] for piece in pieces]


def test_a_changed_transcript_is_computed_again_and_only_it(project):
    project.texts = {"face": ClipText("a", "bb"), "mute": ClipText("ccc", "d"), "tree": ClipText("", "")}
    assert project.run(Modality.TEXT).done == {"text": 2}
    project.texts["mute"] = ClipText("ccc", "changed")
    assert project.plan(Modality.TEXT).todo == {"mute"}
    project.run(Modality.TEXT)
    loaded = FeatureStore.open(project.root(Modality.TEXT)).load(["face", "mute", "tree"])
    assert loaded.values[:2].tolist() == [[1, 2], [3, 7]]
    assert loaded.present.tolist() == [True, True, False]


def test_a_clip_that_lacks_a_transcript_that_is_read_is_absent(project):
    project.texts = {"face": ClipText("a", "b", "c"), "mute": ClipText("a", "b"), "tree": ClipText("", "", "c")}
    translated, both = {"inputs": ("translation",)}, {"inputs": ("original", "translation")}
    assert project.plan(Modality.TEXT).todo == {"face", "mute"}
    assert project.plan(Modality.TEXT, **translated).todo == {"face", "tree"}
    assert (project.plan(Modality.TEXT, **both).todo, project.plan(Modality.TEXT, **both).absent) == ({"face"}, 2)


def test_a_changed_translation_costs_the_encoders_that_read_it(project):
    project.texts = {"face": ClipText("a", "b", "c"), "mute": ClipText("a", "b", "c")}
    both = {"inputs": ("original", "translation")}
    project.run(Modality.TEXT)
    project.run(Modality.TEXT, **both)
    project.texts["mute"] = ClipText("a", "b", "changed")
    assert project.plan(Modality.TEXT).todo == set()
    assert project.plan(Modality.TEXT, **both).todo == {"mute"}
    counted = coverage(
        Modality.TEXT,
        project.clips,
        project.texts,
        root=project.root(Modality.TEXT),
        quarantine_path=project.folder / "text.csv",
    )
    assert counted == Coverage(done=1, missing=1, absent=1, quarantined=0)  # the store in use says what is read


def test_without_translations_digests_are_those_of_earlier_stores():
    assert text_digest(ClipText("a", "b", "c")) == sha256_text("a\0b")
    assert text_digest(ClipText("a", "b", "c"), ["original", "translation"]) == sha256_text("a\0b\0c")


def test_changed_settings_make_another_store_and_switching_back_computes_nothing(project):
    project.texts = {"face": ClipText("a", "b")}
    project.run(Modality.TEXT)
    assert project.run(Modality.TEXT, scale=2.0).done == {"text": 1}
    assert FeatureStore.open(project.root(Modality.TEXT)).load(["face"]).values.tolist() == [[2, 2]]
    assert project.run(Modality.TEXT).done == {}
    assert FeatureStore.open(project.root(Modality.TEXT)).load(["face"]).values.tolist() == [[1, 1]]


def test_a_quarantined_clip_is_tried_again_when_its_file_changes(project, make_clip):
    project.run(Modality.FACE)
    assert project.plan(Modality.FACE).todo == set()
    path = make_clip(project.folder / "tree.mp4", pictures=8, photograph=data.astronaut()[:256, 64:384])
    project.clips = [clip for clip in project.clips if clip.clip_id != "tree"]
    project.add(path)
    assert project.run(Modality.FACE).done == {"face": 1}
    assert len(Quarantine(project.folder / "face.csv", stage="extract", modality="face")) == 0


def test_coverage_is_told_from_the_store_alone(project):
    project.run(Modality.FACE)
    counted = coverage(
        Modality.FACE,
        project.clips,
        {},
        root=project.root(Modality.FACE),
        quarantine_path=project.folder / "face.csv",
    )
    assert counted == Coverage(done=2, missing=0, absent=0, quarantined=1)
    fresh = coverage(
        Modality.AUDIO,
        project.clips,
        {},
        root=project.root(Modality.AUDIO),
        quarantine_path=project.folder / "audio.csv",
    )
    assert fresh == Coverage(done=0, missing=2, absent=1, quarantined=0)


@pytest.mark.slow
def test_what_openers_open_gives_the_same_stores_byte_by_byte(project, models, tmp_path):
    project.texts = {"face": ClipText("so", "so it is"), "tree": ClipText("", "")}
    runs = {
        "whole": ExtractConfig(batch_size=2, max_quarantined=1.0, workers=1, openers=0, device="cpu"),
        "staged": ExtractConfig(batch_size=2, max_quarantined=1.0, workers=1, openers=2, device="cpu"),
    }
    found = {name: run_embedded(project, tmp_path / name, models, config) for name, config in runs.items()}
    assert {path.parts[0] for path in found["whole"]} == {f"{modality.value}.zarr" for modality in Modality}
    assert found["staged"] == found["whole"]


def run_embedded(project: Project, folder: Path, models: Path, config: ExtractConfig) -> dict[Path, bytes]:
    """All branches with the embedded encoders and different numbers of frames; the stores' files."""
    encoders: dict[Modality, BaseEncoderConfig] = {
        Modality.GLOBAL: EfficientNetConfig(weights=models / "efficientnet_lite0/efficientnet-lite0-57934424.pth"),
        Modality.FACE: MiniXceptionConfig(
            weights=models / "mini_xception/emotion_model.hdf5",
            face_landmarker=models / "face_landmarker/face_landmarker.task",
            frames="all",
        ),
        Modality.AUDIO: EgemapsConfig(),
        Modality.TEXT: TextConfig(model=str(models / "minilm")),
    }

    def root(modality: Modality) -> Path:
        return folder / f"{modality.value}.zarr"

    settings = {
        modality: branch_settings(modality, encoder, MEDIA, project.faces) for modality, encoder in encoders.items()
    }
    with writing(settings, root) as writers:
        branches = [
            plan_branch(
                modality,
                project.clips,
                project.texts,
                encoder=encoder,
                settings=settings[modality],
                root=root(modality),
                quarantine_path=folder / f"{modality.value}.csv",
            )
            for modality, encoder in encoders.items()
        ]
        report = extract(
            branches,
            project.clips,
            project.texts,
            writers=writers,
            corpus_root=project.folder,
            media=MEDIA,
            faces=project.faces,
            config=config,
        )
    assert report.done == {"global": 3, "face": 2, "audio": 2, "text": 1}
    assert [len(FeatureStore.open(root(modality)).row("face").values) for modality in encoders] == [4, 8, 1, 1]
    return {
        path.relative_to(folder): path.read_bytes()
        for modality in encoders
        for path in sorted(root(modality).rglob("*"))
        if path.is_file()
    }


def test_branches_that_read_different_frames_share_one_decode(project, decodes, monkeypatch):
    """What each is given is what it would read by itself."""
    given: dict[tuple[Frames, ...], list[Sampling]] = {}
    counted = opening_module.read_samplings

    def kept(path: Path, config: MediaConfig, counts: list[Frames]) -> list[Sampling]:
        given[tuple(counts)] = counted(path, config, counts)
        return given[tuple(counts)]

    monkeypatch.setattr(opening_module, "read_samplings", kept)
    opener = ExtractOpener(
        {Modality.GLOBAL: AsItIs(), Modality.FACE: AsItIs()},
        {Modality.GLOBAL: 3, Modality.FACE: "all"},
        corpus_root=project.folder,
        media=MEDIA,
        faces=project.faces,
        owns_preparers=True,
    )
    opened = opener.open(ClipToExtract(project.clips[0], {Modality.GLOBAL: "a", Modality.FACE: "a"}))
    opener.close()
    assert decodes == ["face"]
    assert list(given) == [(3, "all")]
    frames, times = read_frames(project.folder / "face.mp4", MediaConfig(frames=3))
    np.testing.assert_array_equal(opened[Modality.GLOBAL].prepared, frames)
    np.testing.assert_array_equal(opened[Modality.GLOBAL].side["times"], times)
    assert len(opened[Modality.FACE].prepared.crops) == len(opened[Modality.FACE].side["times"]) == 8


def test_frames_of_an_encoder_are_in_the_fingerprint_where_they_are_its_own():
    faces, media = FaceConfig(), MediaConfig(frames=4)
    own = [MeanConfig(frames=frames) for frames in (None, 4, 7, "all")]
    found = [branch_settings(Modality.GLOBAL, encoder, media, faces)["media"]["frames"] for encoder in own]
    assert found == [4, 4, 7, "all"]


@pytest.mark.parametrize(
    ("gpus", "workers", "openers", "expected"),
    [
        ("", None, None, (None, 0)),
        ("", 2, 3, (2, 3)),
        ("", 0, None, (0, 0)),
        ("0,1", None, None, (2, 6)),
        ("0", None, None, (1, 7)),
        ("0,1,2,3", None, None, (4, 8)),
        ("0,1", 3, 1, (3, 1)),
        ("0,1", None, 0, (2, 0)),
        ("0,1", 0, None, (0, 0)),
    ],
)
def test_processes_are_shared_out_by_what_the_machine_has(monkeypatch, project, gpus, workers, openers, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr("ecmf_pipeline.extraction.gpus.usable_cores", lambda: 8)
    config = run_module._with_processes(
        ExtractConfig(workers=workers, openers=openers), [project.plan(Modality.GLOBAL)]
    )
    assert (config.workers, config.openers) == expected


def test_openers_without_workers_are_refused():
    with pytest.raises(ValidationError, match="openers: there are none without workers"):
        ExtractConfig(workers=0, openers=2)


def test_what_computed_the_features_stands_beside_them(project):
    project.run(Modality.GLOBAL, Modality.TEXT)
    store = FeatureStore.open(project.root(Modality.GLOBAL))
    (versions,) = store.versions()
    assert {"ecmf-pipeline", "numpy", "torch"} < set(versions)
    assert store.provenance["versions"] == versions
    assert (store.provenance["model"], store.provenance["precision"]) == ("mean", "fp32")


def test_clips_that_other_versions_compute_later_say_so(project, make_clip, monkeypatch):
    project.run(Modality.GLOBAL)
    make_clip(project.folder / "later.mp4", pictures=8)
    project.add(project.folder / "later.mp4")
    monkeypatch.setattr(step_module, "library_versions", lambda *_: {"torch": "99"})
    project.run(Modality.GLOBAL)
    store = FeatureStore.open(project.root(Modality.GLOBAL))
    first, second = store.versions()
    assert second == {"torch": "99"}
    assert store.provenance["versions"] == first
