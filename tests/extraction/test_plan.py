"""What is to be extracted, and what is covered."""

from __future__ import annotations

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.extraction.run import Coverage, coverage, text_digest
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureStore
from tests.extraction.brightness import MeanConfig


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


def test_frames_of_an_encoder_are_in_the_fingerprint_where_they_are_its_own():
    faces, media = FaceConfig(), MediaConfig(frames=4)
    own = [MeanConfig(frames=frames) for frames in (None, 4, 7, "all")]
    found = [branch_settings(Modality.GLOBAL, encoder, media, faces)["media"]["frames"] for encoder in own]
    assert found == [4, 4, 7, "all"]
