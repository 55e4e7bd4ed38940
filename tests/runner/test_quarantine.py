"""Quarantine tables."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from pathlib import Path

import pytest

import ecmf_pipeline
from ecmf_pipeline.core import errors
from ecmf_pipeline.core.errors import TooManyQuarantined
from ecmf_pipeline.runner.quarantine import Quarantine, program_version, read_all


def open_table(folder: Path, fingerprint: str = "f1") -> Quarantine:
    return Quarantine(folder / "extract-face.csv", stage="extract", modality="face", fingerprint=fingerprint)


def test_a_clip_stays_quarantined_until_its_input_or_the_settings_change(tmp_path):
    first = open_table(tmp_path)
    first.add("a", "NoFaceFound", "0 of 16\nframes", "d1")
    first.write()
    again = open_table(tmp_path)
    assert again.holds("a", "d1")
    assert not again.holds("a", "d2")
    assert not again.holds("b", "d1")
    assert not open_table(tmp_path, "f2").holds("a", "d1")
    assert [entry.message for entry in read_all(tmp_path, ["face"])] == ["0 of 16 frames"]
    assert read_all(tmp_path, ["audio"]) == []  # the face branch is not in use


def test_outdated_entries_are_dropped(tmp_path):
    entries = open_table(tmp_path)
    for clip_id in ("same", "changed", "gone"):
        entries.add(clip_id, "NoFaceFound", "", "d1")
    entries.drop_outdated({"same": "d1", "changed": "d2"})
    assert [entry.clip_id for entry in entries] == ["same"]
    entries.clear()
    assert len(entries) == 0


def test_adding_an_equal_entry_does_not_change_the_file(tmp_path):
    entries = open_table(tmp_path)
    entries.add("a", "NoFaceFound", "why", "d1")
    entries.write()
    path = entries.path
    path.write_text(path.read_text().replace("20", "19", 1).replace(":", ":"))
    old = path.read_bytes()
    again = open_table(tmp_path)
    again.add("a", "NoFaceFound", "why", "d1")
    again.write()
    assert path.read_bytes() == old


def test_ids_and_messages_with_special_characters_survive_the_csv_file(tmp_path):
    entries = open_table(tmp_path)
    entries.add('视频, "x"', "UnreadableMedia", 'a, "b"', "d1")
    entries.write()
    (entry,) = open_table(tmp_path)
    assert (entry.clip_id, entry.message) == ('视频, "x"', 'a, "b"')


def test_the_allowed_share_refers_to_all_clips(tmp_path):
    entries = open_table(tmp_path)
    for number in range(5):
        entries.add(str(number), "NoFaceFound", "", "d")
    entries.check_share(25, 0.2)
    with pytest.raises(TooManyQuarantined) as caught:
        entries.check_share(24, 0.2)
    for text in ("extract face", "5 of 24", "0.2", "NoFaceFound 5"):
        assert text in caught.value.message
    assert str(entries.path) in (caught.value.hint or "")
    assert "extract.max_quarantined" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("bad", "total", "share", "stops"),
    [
        (3, 3, 0.2, False),
        (3, 19, 0.0, False),
        (4, 19, 0.2, True),
        (4, 5, 0.9, False),
        (4, 20, 0.2, False),
        (5, 20, 0.2, True),
        (1, 20, 0.0, True),
    ],
)
def test_three_of_few_clips_may_be_bad(tmp_path, bad, total, share, stops):
    entries = open_table(tmp_path)
    for number in range(bad):
        entries.add(str(number), "NoFaceFound", "", "d")
    with pytest.raises(TooManyQuarantined) if stops else nullcontext():
        entries.check_share(total, share)


def test_silent_audio_is_quarantined_but_no_defect(tmp_path):
    entries = open_table(tmp_path)
    entries.add("a", "SilentAudio", "", "d")
    entries.add("b", "SilentAudio", "", "d")
    entries.check_share(2, 0.0)


def test_entries_with_transient_reasons_are_dropped_at_any_class_depth(tmp_path):
    """Reasons are looked up by class name among all errors, at any depth of the class tree."""

    class Nested(errors.FileUnreachable):
        """A subclass of a subclass of `ClipError`."""

    entries = open_table(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(errors, "Nested", Nested, raising=False)
        for clip_id, reason in (
            ("a", "Nested"),
            ("b", "ServerUnavailable"),
            ("c", "NoFaceFound"),
            ("d", "NoSuchReason"),
        ):
            entries.add(clip_id, reason, "", "d")
        entries.drop_outdated(dict.fromkeys("abcd", "d"))
    assert [entry.clip_id for entry in entries] == ["c", "d"]


@pytest.mark.parametrize(
    ("reason", "limit", "setting", "is_retried"),
    [
        ("ClipTimeout", 60.0, 60.0, False),
        ("ClipTimeout", 60.0, 30.0, False),
        ("ClipTimeout", 60.0, 60.5, True),
        ("TruncatedMedia", 0.7006, 0.9, False),
        ("TruncatedMedia", 0.7006, 0.7006, True),
        ("TruncatedMedia", 0.7006, 0.5, True),
        ("NoFaceFound", None, 0.0, False),
    ],
)
def test_a_clip_that_met_a_limit_is_retried_when_the_limit_is_lifted(tmp_path, reason, limit, setting, is_retried):
    entries = open_table(tmp_path)
    entries.add("a", reason, "", "d1", limit)
    entries.write()
    path = tmp_path / "extract-face.csv"
    again = Quarantine(path, stage="extract", modality="face", fingerprint="f1", limits={reason: setting})
    assert again.holds("a", "d1") is not is_retried
    again.drop_outdated({"a": "d1"})
    assert len(again) == (not is_retried)
    assert open_table(tmp_path).holds("a", "d1")  # without a present limit nothing is retried


@pytest.mark.parametrize("reason", ["UnexpectedError", "WorkerCrashed", "NoFaceFound"])
def test_another_version_of_the_program_retries_only_what_it_may_have_failed(tmp_path, monkeypatch, reason):
    entries = open_table(tmp_path)
    entries.add("a", reason, "", "d1")
    entries.write()
    assert open_table(tmp_path).holds("a", "d1")
    monkeypatch.setattr("ecmf_pipeline.runner.quarantine.program_version", lambda: "another")
    again = open_table(tmp_path)
    is_retried = reason != "NoFaceFound"
    assert again.holds("a", "d1") is not is_retried
    again.drop_outdated({"a": "d1"})
    assert len(again) == (not is_retried)


def test_the_program_version_covers_the_source_code_and_installed_packages(tmp_path, monkeypatch):
    versions = {program_version(), program_version()}
    package = tmp_path / "ecmf_pipeline"
    package.mkdir()
    (package / "__init__.py").write_text("fixed = True\n")
    with monkeypatch.context() as patch:
        patch.setattr("ecmf_pipeline.__file__", str(package / "__init__.py"))
        versions.add(program_version.__wrapped__())
    with monkeypatch.context() as patch:
        patch.setattr("ecmf_pipeline.runner.quarantine.distributions", list)
        versions.add(program_version.__wrapped__())
    assert len(versions) == 3
    assert {version.partition("+")[0] for version in versions} == {ecmf_pipeline.__version__}


@pytest.mark.parametrize("name", [name for name, value in vars(errors).items() if isinstance(value, type)])
def test_clip_errors_reach_the_main_process_unchanged(name):
    error_class = getattr(errors, name)
    if issubclass(error_class, errors.ClipError):
        error = error_class("why", "how", command="what", limit=0.5)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), vars(copy)) == (error_class, vars(error))


def test_a_long_run_writes_its_table_at_intervals_and_at_the_end(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("ecmf_pipeline.runner.quarantine.time.monotonic", lambda: now[0])
    entries = Quarantine(tmp_path / "t.csv", stage="extract")
    entries.add("a", "NoFaceFound", "", "d")
    entries.write(min_interval=2.0)
    assert not entries.path.exists()
    now[0] += 2.0
    entries.write(min_interval=2.0)
    entries.add("b", "NoFaceFound", "", "d")
    now[0] += 1.9
    entries.write(min_interval=2.0)
    assert [entry.clip_id for entry in read_all(tmp_path, [])] == ["a"]
    entries.write()
    assert [entry.clip_id for entry in read_all(tmp_path, [])] == ["a", "b"]


def test_reasons_are_counted_after_entries_are_added_changed_and_dropped(tmp_path):
    entries = open_table(tmp_path)
    for clip_id, reason in (("a", "NoFaceFound"), ("b", "NoFaceFound"), ("a", "ClipTimeout"), ("a", "ClipTimeout")):
        entries.add(clip_id, reason, "", "d")
    assert entries.reasons() == {"NoFaceFound": 1, "ClipTimeout": 1}
    entries.write()
    assert open_table(tmp_path).reasons() == entries.reasons()
    entries.drop_outdated({"a": "d"})
    assert entries.reasons() == {"ClipTimeout": 1}
    entries.clear()
    assert entries.reasons() == {}
