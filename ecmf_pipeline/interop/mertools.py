"""The challenge's submission file and its score."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from ecmf_pipeline.corpora.listing import naming_some
from ecmf_pipeline.corpora.tables import Table, read_table
from ecmf_pipeline.errors import CorpusError, InputError, MissingInput
from ecmf_pipeline.files import write_atomic
from ecmf_pipeline.interop.label_npz import TRAIN_ENTRY, read_label_npz

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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((name, predictions[name]) for name in names)
    changed = write_atomic(path, text.getvalue(), only_if_changed=True)
    if list(read_submission(path).items()) != [(name, predictions[name]) for name in names]:
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
    table = read_table(path, COLUMNS)
    _refuse_oddities(table)
    return dict(zip(table.column("name"), table.column("discrete"), strict=True))


def read_labels(path: Path, entry: str = TRAIN_ENTRY) -> dict[str, str]:
    """Read a label file of the challenge: csv (``name,discrete``), or the baseline's npz.

    Args:
        path: The file; its ending tells which it is.
        entry: Which corpus of an npz file.

    Raises:
        MissingInput: When there is no such file.
        InputError: When it cannot be used.
    """
    return read_label_npz(path, entry) if path.suffix == ".npz" else read_submission(path)


def score_submission(submission: Mapping[str, str], labels: Mapping[str, str]) -> float:
    """Weighted F1 over the label file's names, as the challenge scores.

    Args:
        submission: Predicted label by name (`read_submission`); names without a label are left aside.
        labels: True label by name (`read_labels`).

    Raises:
        InputError: When there is nothing to score, or a labelled name is not in the submission.
    """
    from ecmf_pipeline.metrics import weighted_f1

    if not labels:
        raise InputError("there are no labels to score against", "give a label file with rows name,discrete")
    if lacking := [name for name in labels if name not in submission]:
        raise InputError(
            f"{len(lacking)} of {len(labels)} labelled names are not in the submission: {naming_some(lacking)}",
            "the submission needs one row for each candidate",
        )
    return weighted_f1(list(labels.values()), [submission[name] for name in labels])


def _refuse_oddities(table: Table) -> None:
    hint = "a submission has one row name,discrete for each candidate"
    if table.findings:
        raise CorpusError(table.findings[0].message, hint)
    names, labels = table.column("name"), table.column("discrete")
    if doubled := sorted(_doubled(names)):
        raise CorpusError(f"{table.path}: names that stand twice: {naming_some(doubled)}", hint)
    if blank := [name or "(no name)" for name, label in zip(names, labels, strict=True) if not label or not name]:
        raise CorpusError(f"{table.path}: rows without a name or a label: {naming_some(blank)}", hint)


def _doubled(names: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
