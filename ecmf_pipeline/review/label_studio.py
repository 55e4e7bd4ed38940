"""Exchange clips and answers with Label Studio, and read answers from csv files.

Tasks have the keys of Label Studio's JSON format: ``data`` and ``predictions``, whose ``result`` holds choices. Its
export has ``annotations`` in place of predictions; its smaller export (JSON-MIN) and its csv have one column for each
control of the labelling interface.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import parse_json, read_text, write_atomic, write_json
from ecmf_pipeline.corpora.tables import Table, read_table
from ecmf_pipeline.labels.verdicts import (
    Answer,
    latest_answers,
    other_answers,
    parse_answers,
    read_seconds,
    verdicts_path,
)
from ecmf_pipeline.review.catalog import Filters
from ecmf_pipeline.review.project import Project
from ecmf_pipeline.review.verdict_log import VerdictLog
from ecmf_pipeline.review.workers import Workers
from ecmf_pipeline.settings.params import load_params

_CONTROL = "label"
"""Name of the choices in the labelling interface: ``from_name`` of a result, and a column of JSON-MIN and csv."""
_OBJECT = "clip"
"""Name of the media in the labelling interface: ``to_name`` of a result."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")
_DIGEST = re.compile(r"[0-9a-f]{1,64}\Z")
_REVIEWER_KEYS = ("reviewer", "annotator", "completed_by")


def export_tasks(out: Path, media_url: str, count: int) -> None:
    """Write the clips to label next as tasks of Label Studio, and the labelling interface beside them.

    Args:
        out: The JSON file.
        media_url: URL of the corpus folder, to which the quoted path of each clip is appended.
        count: Maximum number of clips, most informative first; clips that somebody has answered are left out.

    Raises:
        MissingInput: If `index` has not run yet.
        InputError: If there is no clip with media to export.
    """
    workers = Workers()
    try:
        project = _open_project(workers)
        answered = {clip_id for clip_id, _ in project.answers()}
        names = project.queue(Filters(), "", answered, count)
        shown = [project.describe(name, "", show_others=False) for name in names]
    finally:
        workers.close()
    shown = [clip for clip in shown if clip["kind"] != "none"]
    if not shown:
        raise InputError("there is no clip with pictures or sound that nobody has answered")
    tag = "Video" if any(clip["kind"] == "video" for clip in shown) else "Audio"
    write_json(out, [_task(clip, media_url + _url(project.clip(clip["name"]))) for clip in shown])
    interface = out.with_suffix(".xml")
    write_atomic(interface, labelling_interface(project.labels, tag))
    echo(f"review: {format_count(len(shown), 'task')} in {out}, the labelling interface in {interface}")


def _url(clip: Clip) -> str:
    """Return the quoted path of a clip, with a media fragment (W3C) if it is a span of its file."""
    return quote(clip.path) + (f"#t={clip.start:.3f},{clip.end:.3f}" if clip.end else "")


def _task(clip: Mapping[str, Any], url: str) -> dict[str, Any]:
    data = {
        "name": clip["name"],
        "media": url,
        "transcript": clip["transcript"],
        "given_label": clip["given"],
        "reason": clip["reason"],
        "digest": clip["digest"],
        "start": clip["start"],
        "end": clip["end"],
    }
    if not clip["posterior"]:
        return {"data": data}
    label, probability = clip["posterior"][0]
    result = {"from_name": _CONTROL, "to_name": _OBJECT, "type": "choices", "value": {"choices": [label]}}
    return {
        "data": data,
        "predictions": [{"model_version": "ecmf-pipe refine", "score": probability, "result": [result]}],
    }


def labelling_interface(labels: Sequence[str], tag: str = "Video") -> str:
    """Return the labelling interface of Label Studio as XML.

    Args:
        labels: The labels of the corpus.
        tag: ``Video`` or ``Audio``.
    """
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value="$name")
    ElementTree.SubElement(view, tag, name=_OBJECT, value="$media")
    ElementTree.SubElement(view, "Text", name="words", value="$transcript")
    choices = ElementTree.SubElement(
        view, "Choices", name=_CONTROL, toName=_OBJECT, choice="single", required="true", showInline="true"
    )
    for position, label in enumerate([*labels, *other_answers(labels)]):
        choice = ElementTree.SubElement(choices, "Choice", value=label)
        if position < 10:
            choice.set("hotkey", str((position + 1) % 10))
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def import_answers(path: Path, reviewer: str) -> None:
    """Append the answers in a JSON export of Label Studio or in a csv file to the file of verdicts.

    Args:
        path: The file.
        reviewer: Name of the reviewer of answers without one.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the file is damaged, or an answer or all clips are unknown.
    """
    if not path.is_file():
        raise MissingInput(f"{path} does not exist", "name an existing file")
    workers = Workers()
    try:
        log = _open_project(workers).log
        rows = _json_answers(path) if path.suffix.lower() == ".json" else _csv_answers(path)
        answers, unknown = _check(path, rows, log, reviewer)
        stored = log.record(answers)
    finally:
        workers.close()
    echo(
        f"review: {format_count(stored, 'new answer')} in {log.path}, {len(answers) - stored} were there already"
        + (f", {format_count(len(unknown), 'clip')} not in the corpus" if unknown else "")
    )


def _open_project(workers: Workers) -> Project:
    params = load_params()
    return Project(params.corpus.root, verdicts_path(params.refine.verdicts) or paths.VERDICTS, workers)


def _check(path: Path, rows: Sequence[Answer], log: VerdictLog, reviewer: str) -> tuple[list[Answer], list[str]]:
    """Return the answers with the labels and clips of the corpus; see `parse_answers`."""
    table = Table(
        path,
        ("name", "label", "reviewer", "time", "seconds", "digest"),
        tuple(
            (
                row.clip_id,
                row.label,
                row.reviewer or reviewer,
                _matching(_TIME, row.time),
                str(row.seconds),
                _matching(_DIGEST, row.digest),
            )
            for row in rows
        ),
        lines=tuple(range(2, len(rows) + 2)),
    )
    answers, unknown = parse_answers(table, log.labels(), log.clip_ids())
    return list(latest_answers(answers).values()), unknown


def _matching(pattern: re.Pattern[str], text: str) -> str:
    """Return the part of a text that has a form; empty if there is none."""
    found = pattern.match(text)
    return found[0] if found else ""


def _csv_answers(path: Path) -> list[Answer]:
    table = read_table(path, ("name", "label"), strict=True)
    reviewers = next((table.column(key) for key in _REVIEWER_KEYS if key in table.columns), table.column("reviewer"))
    seconds = table.column("seconds" if "seconds" in table.columns else "lead_time")
    times = table.column("time" if "time" in table.columns else "updated_at")
    columns = (table.column("name"), table.column("label"), reviewers, times, seconds, table.column("digest"))
    return [
        Answer(name, label, who, time, read_seconds(spent), digest)
        for name, label, who, time, spent, digest in zip(*columns, strict=True)
    ]


def _json_answers(path: Path) -> list[Answer]:
    try:
        tasks = parse_json(read_text(path))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error})", "export it again as JSON") from error
    if not isinstance(tasks, list):
        raise InputError(f"{path} is not a list of tasks", "export it from Label Studio as JSON or JSON-MIN")
    answers = []
    for number, task in enumerate(tasks, start=1):
        try:
            answers += list(_answers_of(task))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(
                f"{path}: task {number} is not one of the exported tasks ({error!r})",
                "export it from Label Studio as JSON or JSON-MIN",
            ) from error
        except ValueError as error:
            raise InputError(f"{path}: task {number}: {error}") from error
    return answers


def _answers_of(task: Mapping[str, Any]) -> Iterator[Answer]:
    if "annotations" not in task:  # JSON-MIN: one flat record for each annotation
        if _CONTROL in task:
            yield _answer(task["name"], task[_CONTROL], task, task.get("digest"))
        return
    data = task["data"]
    for annotation in task["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        for result in annotation["result"]:
            if result["type"] == "choices" and result["from_name"] == _CONTROL:
                choices = result["value"]["choices"]
                if len(choices) != 1:
                    raise ValueError(f"{len(choices)} choices for one clip: {json.dumps(choices)}")
                yield _answer(data["name"], choices[0], annotation, data.get("digest"))


def _answer(name: object, label: object, annotation: Mapping[str, Any], digest: object) -> Answer:
    who = next((annotation[key] for key in _REVIEWER_KEYS if annotation.get(key) is not None), "")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id") or ""
    if not isinstance(name, str) or not isinstance(label, str):
        raise TypeError(f"{name!r} or {label!r} is not a text")
    spent = read_seconds(str(annotation.get("lead_time") or ""))
    time = str(annotation.get("updated_at") or annotation.get("created_at") or "")
    return Answer(
        name, label, f"label-studio {who}" if isinstance(who, int) else str(who), time, spent, str(digest or "")
    )
