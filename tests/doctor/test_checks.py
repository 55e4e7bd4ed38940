"""Tests of single checks of `doctor`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import InputError, ModelError, TryAgain
from ecmf_pipeline.doctor import run as doctor
from ecmf_pipeline.doctor.checks import Check, State, duration, exit_code
from ecmf_pipeline.doctor.models import check_revisions
from ecmf_pipeline.doctor.run import check_disk, project_trial
from ecmf_pipeline.doctor.trial import TimedEngine, Trial, sample_evenly
from ecmf_pipeline.runner.step import Done, Task
from ecmf_pipeline.settings.params import Params


def checks_with(*states: State) -> list[Check]:
    return [Check("c", state, "m") for state in states]


def test_exit_code_is_that_of_the_worst_check():
    assert exit_code([]) == exit_code(checks_with(State.OK, State.OK)) == 0
    assert exit_code(checks_with(State.OK, State.WARNING)) == 1
    assert exit_code(checks_with(State.FAILURE, State.WARNING, State.OK)) == 2


def test_error_becomes_failure_with_hint_and_command():
    failed = Check.failed("encoder face", ModelError("no weights", "fetch them", command="ecmf-pipe models"))
    assert (failed.state, failed.message, failed.hint) == (State.FAILURE, "no weights", "fetch them")
    assert failed.command == "ecmf-pipe models"
    assert [line.strip() for line in failed.line().splitlines()[1:]] == ["hint: fetch them", "ecmf-pipe models"]
    assert Check.failed("trial", InputError("bad")).line().count("\n") == 0
    assert Check("encoder text.multilingual", State.OK, "e5: 384-d").line().split()[2:] == [
        "text.multilingual",
        "e5:",
        "384-d",
    ]
    assert Check.failed("trial", TryAgain("later")).message == "later"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0371, "0.037 s"), (3.14, "3.1 s"), (59.2, "59 s"), (61, "1 min"), (7499, "2 h 5 min"), (200_000, "2 d 8 h")],
)
def test_durations_are_formatted_for_people(seconds, text):
    assert duration(seconds) == text


def test_sampled_items_are_evenly_spaced():
    assert sample_evenly(range(100), 4) == [0, 33, 66, 99]
    assert sample_evenly([1, 2, 3], 4) == [1, 2, 3]


def test_trial_is_projected_to_missing_clips_and_workers():
    check = project_trial("trial face", Trial(4, 0, [], 0.5, 1000.0), missing=1000, workers=4)
    assert check.state is State.OK
    assert check.figures["projected_seconds"] == 125
    assert check.message == "4 of 4 clips, 0.5 s per clip; 1000 to do with 4 workers: 2 min"


def test_failed_clip_is_reported_with_reason_and_message():
    trial = Trial(4, 0, [("anna", "NoFaceFound", "0 of 16 frames")], 0.5, 1000.0)
    check = project_trial("trial face", trial, missing=10, workers=1)
    assert check.state is State.WARNING
    assert "anna: NoFaceFound: 0 of 16 frames" in check.message
    assert check.message.startswith("3 of 4 clips")
    assert check.figures["failed"] == [{"clip_id": "anna", "reason": "NoFaceFound", "message": "0 of 16 frames"}]


def test_nothing_is_projected_if_no_clip_has_an_input():
    check = project_trial("trial audio", Trial(0, 4, [], None, None), missing=10, workers=1)
    assert check.state is State.WARNING
    assert check.figures == {}


@pytest.mark.parametrize(("free", "state"), [(10, State.FAILURE), (40, State.WARNING), (60, State.OK)])
def test_disk_must_hold_features_and_should_hold_the_dvc_copy(free, state):
    check = check_disk({Modality.FACE: 10.0, Modality.AUDIO: 15.0}, free)
    assert check.state is state
    assert check.figures == {"free": free, "needed": 25, "by_modality": {"face": 10, "audio": 15}}


class ScriptedEngine:
    """An engine whose batches take given times."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def run(self, tasks, factory, spools):
        for task in tasks:
            self.clock[0] += task.items[0]
            yield Done(task, {}, [])


@pytest.mark.parametrize(("seconds", "expected"), [((30.0, 2.0, 4.0), 3.0), ((30.0,), 30.0), ((), None)])
def test_time_per_item_excludes_the_first_of_several_batches(monkeypatch, seconds, expected):
    clock = [100.0]
    monkeypatch.setattr("ecmf_pipeline.doctor.trial.time.perf_counter", lambda: clock[0])
    engine = TimedEngine(ScriptedEngine(clock))
    assert len(list(engine.run([Task(str(n), 0, (s,)) for n, s in enumerate(seconds)], None, None))) == len(seconds)
    assert engine.seconds_per_item() == expected


@pytest.mark.parametrize(
    ("revision", "cached", "state"),
    [
        ("main", [], State.WARNING),
        ("main", ["a" * 40], State.WARNING),
        ("a" * 40, [], State.OK),
        ("a" * 40, ["a" * 40, "b" * 40], State.OK),
        ("a" * 40, ["b" * 40], State.WARNING),
    ],
)
def test_revisions_of_hub_models_are_compared_with_the_cache(tmp_path, monkeypatch, revision, cached, state):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for commit in cached:
        (tmp_path / "models--org--clip" / "snapshots" / commit).mkdir(parents=True)
    encoders = {
        "clip": {"type": "transformers_vision", "model": "org/clip", "revision": revision},
        "unused": {"type": "transformers_vision", "model": "org/other"},
    }
    params = Params.model_validate({"encoders": encoders, "extract": {"encoders": {"global": "clip"}}})
    (check,) = check_revisions(params)
    assert check.state is state
    assert check.figures["key"] == "encoders.clip.revision"
    assert check.figures["cached"] == cached


def test_revisions_of_language_and_speech_models_are_checked():
    document = {"llm": {"model": "org/llm", "gguf_file": None}, "transcribe": {"model": "org/speech"}}
    keys = [check.figures["key"] for check in check_revisions(Params.model_validate(document))]
    assert keys == ["llm.revision", "transcribe.revision"]
    unused = {**document, "vote": {"inputs": []}, "extract": {"encoders": {"audio": "egemaps"}}}
    assert list(check_revisions(Params.model_validate(unused))) == []


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Return a folder of clips; `doctor` checks nothing but the corpus."""
    for name in ("check_weights", "check_device"):
        monkeypatch.setattr(doctor, name, lambda *_: Check("other", State.OK, ""))
    for name in ("check_revisions", "check_encoders", "_check_trial"):
        monkeypatch.setattr(doctor, name, lambda *_: iter(()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("corpus: {kind: folder, root: clips}\n")
    (tmp_path / "clips").mkdir()
    for number in range(4):
        (tmp_path / "clips" / f"v{number}.mp4").write_bytes(b"x")
    return tmp_path / "clips"


def run_doctor():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == document["exit_code"]
    return result.exit_code, [check for check in document["checks"] if check["name"] == "corpus"]


def test_labels_of_other_clips_are_a_failure_of_doctor(corpus):
    (corpus / "labels.csv").write_text("name,label\nx,happy\ny,sad\nv1,sad\n")
    code, [check] = run_doctor()
    assert (code, check["state"]) == (2, "failure")
    assert all(part in check["message"] for part in ("1 of 3 names", "'x', 'y'", "'v0.mp4'"))
    assert check["hint"]


def test_probable_mistakes_are_warnings_of_doctor(corpus):
    (corpus / "labels.csv").write_text("name,label\nV0,happy\nv1,happy\nv2,hapy\nv3,sad\nv4,sad\n")
    code, [first, *warnings] = run_doctor()
    assert (code, first["state"]) == (1, "ok")
    assert {check["state"] for check in warnings} == {"warning"}
    counts = {check["figures"]["kind"]: check["figures"]["count"] for check in warnings}
    assert counts == {"names_by_rule": 1, "label_without_file": 1, "rare_label": 1}
