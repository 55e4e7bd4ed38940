"""Plans of an extraction, and coverage."""

from __future__ import annotations

from ecmf_pipeline.core.clips import ClipText, Modality
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.extraction.run import BranchInputs, Coverage, coverage, input_digests, text_digest
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureStore
from tests.extraction.brightness import MeanConfig


def test_only_a_changed_transcript_is_computed_again(project):
    both = {"inputs": ("original", "enriched")}
    project.texts = {"face": ClipText("a", "bb"), "mute": ClipText("ccc", "d"), "tree": ClipText("", "")}
    assert project.run(Modality.TEXT, **both).done == {"text": 2}
    project.texts["mute"] = ClipText("ccc", "changed")
    assert project.plan(Modality.TEXT, **both).todo == {"mute"}
    project.run(Modality.TEXT, **both)
    loaded = FeatureStore.open(project.root(Modality.TEXT)).load(["face", "mute", "tree"])
    assert loaded.values[:2].tolist() == [[1, 2], [3, 7]]
    assert loaded.present.tolist() == [True, True, False]


def test_a_clip_without_a_required_transcript_is_absent(project):
    project.texts = {"face": ClipText("a", "b", "c"), "mute": ClipText("a", "b"), "tree": ClipText("", "", "c")}
    translation, both = {"inputs": ("translation",)}, {"inputs": ("original", "translation")}
    assert project.plan(Modality.TEXT).todo == {"face", "mute"}
    assert project.plan(Modality.TEXT, **translation).todo == {"face", "tree"}
    assert (project.plan(Modality.TEXT, **both).todo, project.plan(Modality.TEXT, **both).absent) == ({"face"}, 2)


def test_an_enriched_transcript_that_no_encoder_reads_may_change(project):
    project.texts = {"face": ClipText("a", "b")}
    project.run(Modality.TEXT)
    project.texts["face"] = ClipText("a", "changed")
    assert project.plan(Modality.TEXT).todo == set()


def test_a_changed_translation_affects_only_encoders_that_read_it(project):
    project.texts = {"face": ClipText("a", "b", "c"), "mute": ClipText("a", "b", "c")}
    both = {"inputs": ("original", "translation")}
    project.run(Modality.TEXT)
    project.run(Modality.TEXT, **both)
    project.texts["mute"] = ClipText("a", "b", "changed")
    assert project.plan(Modality.TEXT).todo == set()
    assert project.plan(Modality.TEXT, **both).todo == {"mute"}
    counts = coverage(
        Modality.TEXT,
        project.clips,
        project.texts,
        root=project.root(Modality.TEXT),
        quarantine_path=project.folder / "text.csv",
    )
    assert counts == Coverage(done=1, missing=1, absent=1, quarantined=0)  # for the inputs of the current store


def test_the_digest_covers_the_texts_that_are_read():
    text = ClipText("a", "b", "c")
    assert text_digest(text) == sha256_text("a")
    assert text_digest(text, ["original", "enriched"]) == text_digest(text, ["enriched", "original"])
    assert text_digest(text, ["original", "enriched"]) == sha256_text("b\0a")
    assert text_digest(text, ["original", "translation"]) == sha256_text("a\0c")


def test_inputs_of_the_text_branch_have_the_digests_of_their_texts_in_the_order_of_the_manifest(project):
    texts = {"tree": ClipText("a", "b", "c"), "face": ClipText("å", "\U0001f600"), "mute": ClipText("a", " ")}
    for columns in (["original"], ["original", "enriched"], ["enriched", "translation"]):
        digests = input_digests(Modality.TEXT, project.clips, texts, BranchInputs(columns))
        expected = [clip.clip_id for clip in project.clips if texts[clip.clip_id].having(columns)]
        assert list(digests.items()) == [(clip_id, text_digest(texts[clip_id], columns)) for clip_id in expected]


def test_a_plan_holds_the_inputs_of_clips_without_features_only(project):
    project.texts = {"face": ClipText("a"), "tree": ClipText("b")}
    project.run(Modality.TEXT)
    project.texts |= {"face": ClipText("changed"), "mute": ClipText("c")}
    plan = project.plan(Modality.TEXT)
    assert plan.digests == {"face": sha256_text("changed"), "mute": sha256_text("c")}
    assert (plan.reused, plan.absent, plan.todo) == (1, 0, {"face", "mute"})


def test_coverage_needs_only_the_store(project):
    project.run(Modality.FACE)
    counts = coverage(
        Modality.FACE,
        project.clips,
        {},
        root=project.root(Modality.FACE),
        quarantine_path=project.folder / "face.csv",
    )
    assert counts == Coverage(done=2, missing=0, absent=0, quarantined=1)
    counts_without_store = coverage(
        Modality.AUDIO,
        project.clips,
        {},
        root=project.root(Modality.AUDIO),
        quarantine_path=project.folder / "audio.csv",
    )
    assert counts_without_store == Coverage(done=0, missing=2, absent=1, quarantined=0)


def test_the_frames_of_an_encoder_override_those_of_media_in_the_settings():
    faces, media = FaceConfig(), MediaConfig(frames=4)
    encoders = [MeanConfig(frames=frames) for frames in (None, 4, 7, "all")]
    settings = [branch_settings(Modality.GLOBAL, encoder, media, faces) for encoder in encoders]
    assert [branch["media"]["frames"] for branch in settings] == [4, 4, 7, "all"]
