"""Answers are appended once, in any file of a person, and survive kills of the server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.labels.verdicts import COLUMNS, Answer
from ecmf_pipeline.review.verdict_log import VerdictLog

LABELS = ("happy", 'say "no", then', "حزين")
CLIPS = ["a", "b", "=c", "d,e"]


def log_in(folder: Path) -> VerdictLog:
    return VerdictLog(folder / "labels" / "verdicts.csv", folder / "lock", lambda: LABELS, lambda: CLIPS)


def write(log: VerdictLog, text: str) -> None:
    log.path.parent.mkdir(exist_ok=True)
    log.path.write_text(text, encoding="utf-8")


def labels_in(folder: Path) -> dict[tuple[str, str], str]:
    return {key: answer.label for key, answer in log_in(folder).answers().items()}


def test_answers_with_odd_texts_round_trip(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    answers = [
        Answer("=c", LABELS[1], "+Anna, the first", seconds=1.25, digest="0f"),
        Answer("d,e", LABELS[2], "ben"),
        Answer("a", "unsure", "ben"),
    ]
    assert log.record(answers) == 3
    read = log_in(tmp_path).answers()
    assert [(one.clip_id, one.label, one.reviewer) for one in read.values()] == [
        (one.clip_id, one.label, one.reviewer) for one in answers
    ]
    assert read["=c", "+Anna, the first"].time
    assert not any(line.startswith(("=", "+")) for line in log.path.read_text().splitlines())


def test_an_answer_that_is_sent_again_is_not_doubled(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    assert [log.record([Answer("a", "happy", "me", digest="1")]) for _ in range(3)] == [1, 0, 0]
    assert log.record([Answer("a", "", "me")]) == 1
    assert log.record([Answer("a", "", "me")]) == 0
    assert labels_in(tmp_path) == {}
    assert log.record([Answer("a", "happy", "me", digest="1")]) == 1
    assert log.record([Answer("a", "happy", "me", digest="2")]) == 1  # the file changed: a new answer
    assert len(log.path.read_text().splitlines()) == 5


@pytest.mark.parametrize(
    "text",
    [
        "name,label\nb,happy\n",
        "clip_id;label;comment\nb.mp4;HAPPY;quiet, but clear\n",
        "name,label,reviewer,time,seconds,digest\nb,happy,,,,",
        "\ufeffname,label\r\nb,happy\r\n",
    ],
)
def test_rows_of_a_person_are_kept(tmp_path: Path, text: str) -> None:
    log = log_in(tmp_path)
    write(log, text)
    log.answers()
    assert log.path.read_text(encoding="utf-8") == text.replace("\r\n", "\n")  # reading changes nothing
    log.record([Answer("a", "happy", "me")])
    assert labels_in(tmp_path) == {("b", ""): "happy", ("a", "me"): "happy"}
    assert ("quiet, but clear" in log.path.read_text()) == ("quiet" in text)


@pytest.mark.parametrize("seconds", ["1,5", "01. May", "-1", "inf"])
def test_a_time_that_a_spreadsheet_changed_loses_no_label(tmp_path: Path, seconds: str) -> None:
    log = log_in(tmp_path)
    write(log, f"name;label;reviewer;time;seconds;digest\nb;happy;me;;{seconds};\n")
    assert [(one.label, one.seconds) for one in log.answers().values()] == [("happy", 1.5 if seconds == "1,5" else 0)]


def test_names_of_reviewers_that_differ_in_case_are_one_person(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    assert log.record([Answer("a", "happy", "Jürgen")]) == 1
    assert log.record([Answer("a", "happy", "ju\u0308RGEN ")]) == 0
    assert log.record([Answer("a", LABELS[1], "jürgen\n")]) == 1
    assert labels_in(tmp_path) == {("a", "Jürgen"): LABELS[1]}


def test_a_file_that_an_editor_broke_is_an_error_and_is_not_touched(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.record([Answer("a", "happy", "me")])
    broken = log.path.read_text() + 'b,"happy,me,,,\n'
    log.path.write_text(broken)
    with pytest.raises(InputError, match="line 3"):
        log.record([Answer("d,e", "happy", "me")])
    assert log.path.read_text() == broken
    log.path.write_text(broken.replace('"', ""))
    assert log.record([Answer("d,e", "happy", "me")]) == 1
    assert set(labels_in(tmp_path)) == {("a", "me"), ("b", "me"), ("d,e", "me")}


def test_two_servers_on_one_project_see_each_other(tmp_path: Path) -> None:
    first, second = log_in(tmp_path), log_in(tmp_path)
    first.record([Answer("a", "happy", "x")])
    second.record([Answer("b", "happy", "y")])
    first.record([Answer("a", "happy", "y")])
    assert second.record([Answer("a", "happy", "y")]) == 0
    assert set(first.answers()) == set(second.answers()) == {("a", "x"), ("b", "y"), ("a", "y")}


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_in(tmp_path)
    log.record([Answer("a", "happy", "me")])
    before = log.path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:4]))
    with pytest.raises(OSError, match="No space"):
        log.record([Answer("b", "happy", "me")])
    assert log.path.read_bytes() == before


WRITER = """
import sys
from pathlib import Path
from ecmf_pipeline.labels.verdicts import Answer
from ecmf_pipeline.review.verdict_log import VerdictLog
folder, start = Path(sys.argv[1]), int(sys.argv[2])
clips = [f"clip{number}" for number in range(100_000)]
log = VerdictLog(folder / "verdicts.csv", folder / "lock", lambda: ["happy"], lambda: clips)
for number in range(start, 100_000):
    log.record([Answer(clips[number], "happy", "me", digest="0" * 64)])
    print(number, flush=True)
"""


@pytest.mark.slow
def test_no_answer_is_lost_or_doubled_when_the_server_is_killed(tmp_path: Path) -> None:
    stored = 0
    for kill in range(5):
        # Like the page, each run starts with the last answer whose storage is not known.
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(stored)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + 0.03 * kill)
            process.kill()
            numbers = [int(line) for line in process.stdout.read().splitlines() if line.isdigit()]
        stored = max(numbers, default=stored) + 1
    rows = (tmp_path / "verdicts.csv").read_text().splitlines()
    assert rows[0] == ",".join(COLUMNS)
    names = [row.split(",")[0] for row in rows[1:]]
    assert len(set(names)) == len(names) >= stored
    assert names == [f"clip{number}" for number in range(len(names))]
