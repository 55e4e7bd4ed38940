"""The challenge's submission file and its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.arrays import scores
from ecmf_pipeline.core.errors import CorpusError, InputError, MissingInput
from ecmf_pipeline.core.files import write_csv
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.label_npz import TEST_ENTRY, read_label_npz
from ecmf_pipeline.corpora.listing import naming_some
from ecmf_pipeline.corpora.tables import read_table

COLUMNS = ("name", "discrete")


def write_submission(path: Path, names: Sequence[str], predictions: Mapping[str, str]) -> bool:
    """Write one row ``name,discrete`` for each candidate, and read the file back to be sure of it.

    Args:
        path: The csv file.
        names: The candidates in the order of their csv file (`CorpusListing.candidate_order`).
        predictions: Label by clip id; others than the candidates' are not written.

    Returns:
        Whether the file's bytes changed.

    Raises:
        MissingInput: When a candidate has no prediction.
        CorpusError: When a candidate is named twice.
    """
    if doubled := sorted(_doubled(names)):
        raise CorpusError(f"candidates named twice: {naming_some(doubled)}", "each may stand in the submission once")
    if lacking := [name for name in names if not predictions.get(name)]:
        raise MissingInput(
            f"{len(lacking)} of {len(names)} candidates have no prediction: {naming_some(lacking)}",
            "run `ecmf-pipe predict` (or `dvc repro`) again",
        )
    rows = [(name, predictions[name]) for name in names]
    changed = write_csv(path, COLUMNS, rows)
    if list(read_submission(path).items()) != rows:
        raise CorpusError(f"{path} does not read back as written", "a name or a label holds what csv cannot carry")
    return changed


def read_submission(path: Path) -> dict[str, str]:
    """Read a submission, or a label file of the same form (``name,discrete``), in its order.

    Raises:
        MissingInput: When there is no such file.
        CorpusError: When a column is missing, a row is malformed, a label is blank, or a name stands twice.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing", "give the path of a csv file with the columns name,discrete")
    hint = "a submission has one row name,discrete for each candidate"
    table = read_table(path, COLUMNS)
    if table.findings:
        raise CorpusError(table.findings[0].message, hint)
    names, labels = table.column("name"), table.column("discrete")
    if doubled := sorted(_doubled(names)):
        raise CorpusError(f"{path}: names that stand twice: {naming_some(doubled)}", hint)
    if blank := [name or "(no name)" for name, label in zip(names, labels, strict=True) if not label or not name]:
        raise CorpusError(f"{path}: rows without a name or a label: {naming_some(blank)}", hint)
    return dict(zip(names, labels, strict=True))


def read_answers(path: Path, entry: str = TEST_ENTRY) -> dict[str, str]:
    """Read one label a name from whatever holds them: a submission, a label file, or a table that `predict` wrote.

    Args:
        path: csv with the columns ``name,discrete``, csv of ``data/predictions``, or the baseline's npz.
        entry: Which corpus of an npz file.

    Raises:
        MissingInput: When there is no such file.
        InputError: When it cannot be used.
    """
    if path.suffix == ".npz":
        return read_label_npz(path, entry)
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().startswith("clip_id,"):
                return dict(PredictionTable.read(path).by_clip())
    return read_submission(path)


def full_score(submission: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Any]:
    """Score over the label file's names, as the challenge does: all that `arrays.scores` tells, and ``unlabeled``.

    Labels are told in the challenge's order where they are the challenge's, else in their own.

    Args:
        submission: Predicted label by name (`read_submission`). ``unlabeled`` counts its names that no label is known
            of: they are left aside.
        labels: True label by name (`read_answers`).

    Raises:
        InputError: When there is nothing to score, or a labelled name is not in the submission.
    """
    if not labels:
        raise InputError("there are no labels to score against", "give a label file with rows name,discrete")
    if lacking := [name for name in labels if name not in submission]:
        raise InputError(
            f"{len(lacking)} of {len(labels)} labelled names are not in the submission: {naming_some(lacking)}",
            "the submission needs one row for each candidate",
        )
    found, truth = [submission[name] for name in labels], list(labels.values())
    known = set(truth) | set(found)
    names = [name for name in MER_LABELS if name in known] + sorted(known - set(MER_LABELS))
    return scores(truth, found, names) | {"unlabeled": len(submission) - len(labels)}


def _doubled(names: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
