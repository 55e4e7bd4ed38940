"""Clips go to Label Studio and answers come back, from its exports and from csv files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.labels.verdicts import Answer, read_answers
from ecmf_pipeline.review.agreement import measure_agreement
from ecmf_pipeline.review.label_studio import export_tasks, import_answers, labelling_interface
from tests.review.conftest import COUNT, LABELS

NAMES = [f"clip{number:02d}" for number in range(COUNT)]


def stored() -> list[Answer]:
    return read_answers(paths.VERDICTS, LABELS, NAMES)[0]


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch, project: list[Clip]) -> None:
    from tests.review.test_app import InlineWorkers

    monkeypatch.setattr("ecmf_pipeline.review.label_studio.Workers", InlineWorkers)


def test_tasks_refer_to_the_controls_of_the_labelling_interface(project: list[Clip]) -> None:
    export_tasks(Path("tasks.json"), "https://example.org/clips/", 3)
    tasks = json.loads(Path("tasks.json").read_text())
    assert [task["data"]["name"] for task in tasks] == ["clip11", "clip10", "clip09"]
    assert tasks[0]["data"]["media"] == "https://example.org/clips/11.mp4"
    assert tasks[0]["data"]["digest"] == project[11].digest
    [prediction] = tasks[0]["predictions"]
    [result] = prediction["result"]
    view = ElementTree.parse("tasks.xml").getroot()
    choices = view.find("Choices")
    media = view.find("Video")
    assert choices is not None
    assert media is not None
    assert result["type"] == "choices"
    assert (result["from_name"], result["to_name"]) == (choices.get("name"), choices.get("toName"))
    assert media.get("name") == result["to_name"]
    assert media.get("value") == "$media"
    offered = [choice.get("value") for choice in choices]
    assert result["value"]["choices"] == ["neutral"]
    assert offered == [*LABELS, "unsure", "bad clip", "no emotion"]
    assert 0 <= prediction["score"] <= 1


def test_labels_with_quotes_are_escaped_in_the_interface() -> None:
    labels = ['say "no" & <go>', "حزين", *(f"label{number}" for number in range(12))]
    choices = ElementTree.fromstring(labelling_interface(labels)).find("Choices")
    assert choices is not None
    assert [choice.get("value") for choice in choices][:2] == labels[:2]
    assert [choice.get("hotkey") for choice in choices][8:11] == ["9", "0", None]


def annotated(name: str, *choices: str, **annotation: Any) -> dict[str, Any]:
    result = {"from_name": "label", "to_name": "clip", "type": "choices", "value": {"choices": list(choices)}}
    return {
        "id": 7,
        "data": {"name": name, "digest": "0f"},
        "annotations": [{"id": 1, "result": [result], "was_cancelled": False, **annotation}],
        "predictions": [],
    }


def test_the_json_export_is_imported_once(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [
        annotated("clip01", "sad", completed_by=3, lead_time=4.25, updated_at="2026-01-02T03:04:05.6Z"),
        annotated("clip02", "bad clip", completed_by={"id": 4, "email": "anna@example.org"}),
        annotated("clip03", "happy", was_cancelled=True),
        annotated("elsewhere", "happy", completed_by=3),
        {"data": {"name": "clip04"}, "annotations": []},
    ]
    Path("export.json").write_text(json.dumps(tasks))
    for _ in range(2):
        import_answers(Path("export.json"), "")
    assert stored() == [
        Answer("clip01", "sad", "label-studio 3", "2026-01-02T03:04:05", 4.2, "0f"),
        Answer("clip02", "bad clip", "anna@example.org", stored()[1].time, 0.0, "0f"),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("review: 2 new answers")
    assert lines[1].startswith("review: 0 new answers")


def test_json_min_and_csv_exports_are_imported() -> None:
    record = {"name": "clip01", "label": "happy", "annotator": 1, "lead_time": 2.0, "digest": ""}
    Path("min.json").write_text(json.dumps([record, {"name": "clip02"}]))
    import_answers(Path("min.json"), "")
    Path("rows.csv").write_text("name;label;reviewer\nclip02.mp4;SAD;Ben\nclip03;no emotion;\n")
    import_answers(Path("rows.csv"), "Cem")
    assert [(one.clip_id, one.label, one.reviewer) for one in stored()] == [
        ("clip01", "happy", "label-studio 1"),
        ("clip02", "sad", "Ben"),
        ("clip03", "no emotion", "Cem"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"data": 1}', "not a list"),
        ("a.json", '[{"annotations": [{"result": [{}]}], "data": {}}]', "task 1"),
        ("a.json", json.dumps([annotated("clip01", "sad", "happy")]), "2 choices"),
        ("a.json", json.dumps([annotated("clip01", "glad")]), "'glad'"),
        ("a.json", json.dumps([annotated("other", "sad")]), "no clip id"),
        ("a.json", '[{"name": ["clip01"], "label": "sad"}]', "task 1"),
        ("a.json", '[{"name": "clip01", "label": 5}]', "task 1"),
        ("a.csv", "name,label,reviewer\nclip01,glad,me\n", "'glad'"),
        ("a.csv", "name,reviewer\nclip01,me\n", "'label'"),
    ],
)
def test_a_wrong_file_stores_nothing(name: str, text: str, part: str) -> None:
    Path(name).write_text(text)
    with pytest.raises(InputError, match=part):
        import_answers(Path(name), "me")
    assert not paths.VERDICTS.exists()


def test_an_import_writes_one_row_of_plain_cells() -> None:
    task = annotated("clip01", "sad", completed_by="a\nb\x00\u202ec", updated_at='=cmd|"/c"!A1', lead_time=1e308)
    task["data"]["digest"] = "=1+1"
    Path("export.json").write_text(json.dumps([task]))
    import_answers(Path("export.json"), "")
    [answer] = stored()
    assert (answer.reviewer, answer.seconds, answer.digest) == ("a b c", 0.0, "")
    assert answer.time.startswith("2")
    assert len(paths.VERDICTS.read_text().splitlines()) == 2


def test_agreement_of_reviewers() -> None:
    pytest.importorskip("nltk")
    given = {"x": ["happy", "happy", "sad", "sad"], "y": ["happy", "sad", "sad", "sad"], "z": ["unsure", "sad"]}
    answers = [
        Answer(NAMES[position], label, reviewer, seconds=2.0)
        for reviewer, labels in given.items()
        for position, label in enumerate(labels)
    ]
    found = measure_agreement(answers, LABELS)
    assert (found.shared, found.differing, found.answers) == (4, 1, ["happy", "sad"])
    assert found.confusions == {("happy", "happy"): 1, ("happy", "sad"): 2, ("sad", "sad"): 3}
    happy, sad = 3, 6  # pairable answers
    observed = 4 / (3 - 1)  # four of the six ordered pairs of the three reviewers of clip01 differ
    expected = 2 * happy * sad / (happy + sad - 1)
    assert found.alpha == pytest.approx(1 - observed / expected, abs=1e-3)
    assert [(one.reviewer, one.answers, one.unsure) for one in found.work] == [("x", 4, 0), ("y", 4, 0), ("z", 2, 1)]
    assert measure_agreement(answers[:4], LABELS).alpha is None
    assert measure_agreement([Answer("a", "sad", "x"), Answer("a", "sad", "y")], LABELS).alpha == 1.0
