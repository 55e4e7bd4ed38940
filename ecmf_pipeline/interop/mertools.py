"""Write, read and score the challenge's submission file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.arrays import scores
from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import CorpusError, InputError, MissingInput
from ecmf_pipeline.core.files import write_csv
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.label_npz import TEST_ENTRY, read_label_npz
from ecmf_pipeline.corpora.listing import quote_names
from ecmf_pipeline.corpora.names import match_names
from ecmf_pipeline.corpora.tables import read_table

COLUMNS = ("name", "discrete")


def write_submission(path: Path, names: Sequence[str], predictions: Mapping[str, str]) -> bool:
    """Write one row ``name,discrete`` for each candidate, and read the file back to verify it.

    Args:
        path: The csv file.
        names: The candidates in the order of their csv file (`CorpusListing.candidate_order`).
        predictions: The label of each clip id; labels of other clips are not written.

    Returns:
        Whether the content of the file changed.

    Raises:
        MissingInput: If a candidate has no prediction.
        CorpusError: If a candidate occurs twice.
    """
    if duplicates := sorted(_duplicates(names)):
        raise CorpusError(f"candidates occur twice: {quote_names(duplicates)}", "list each candidate once")
    if missing := [name for name in names if not predictions.get(name)]:
        raise MissingInput(
            f"{len(missing)} of {len(names)} candidates have no prediction: {quote_names(missing)}",
            "predict all candidates",
            command="ecmf-pipe predict",
        )
    rows = [(name, predictions[name]) for name in names]
    changed = write_csv(path, COLUMNS, rows)
    if list(read_submission(path).items()) != rows:
        raise CorpusError(
            f"{path} differs from the written rows when it is read back",
            "remove control characters and surrounding whitespace from names and labels",
        )
    return changed


def write_unverified_submission(path: Path, rows: Iterable[tuple[str, str, float, Basis]]) -> None:
    """Write ``name,discrete,confidence,basis``, mostly of zero-shot labels; ``discrete`` is empty for an abstention.

    `read_submission` refuses a file with empty labels, so that guesses are not handed in unnoticed.

    Args:
        path: The csv file.
        rows: Name, label, confidence and basis of each candidate.
    """
    columns = (*COLUMNS, "confidence", "basis")
    write_csv(path, columns, ([*row[:2], f"{row[2]:.6f}", row[3].value] for row in rows))


def read_submission(path: Path, *, skip_blank: bool = False) -> dict[str, str]:
    """Read a submission, a label file or a table of predictions, in file order; see `corpora.tables`.

    Args:
        path: The table.
        skip_blank: Whether rows without a label are skipped, instead of an error.

    Raises:
        MissingInput: If the file does not exist, or is a folder.
        CorpusError: If a column is missing, a row is malformed, a label is blank, or a name occurs twice.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise MissingInput(f"{path} {problem}", "give the path of a csv file with columns name,discrete")
    hint = "write one row name,discrete for each candidate"
    table = read_table(path, COLUMNS, strict=True)
    for finding in table.findings:
        warn(finding.message)
    names, labels = table.column("name"), table.column("discrete")
    if duplicates := sorted(_duplicates(names)):
        raise CorpusError(f"{path}: names occur twice: {quote_names(duplicates)}", hint)
    rows = [row for row in zip(names, labels, strict=True) if row[1] or not skip_blank]
    if blank := [name or "(no name)" for name, label in rows if not label or not name]:
        if "basis" in table.columns:
            hint += "; a zero-shot submission has no label where the sources are too uncertain: fill it in by hand"
        raise CorpusError(f"{path}: rows have no name or no label: {quote_names(blank)}", hint)
    return dict(rows)


def read_answers(path: Path, entry: str = TEST_ENTRY, *, skip_blank: bool = False) -> dict[str, str]:
    """Read the label of each name from a submission, a label file, a table of predictions, or the baseline's npz.

    Args:
        path: A table with names and labels (see `read_submission`), or the npz.
        entry: The corpus in an npz file.
        skip_blank: Whether rows of a table without a label are skipped.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the file is unusable.
    """
    return read_label_npz(path, entry) if path.suffix == ".npz" else read_submission(path, skip_blank=skip_blank)


def score_submission(submission: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, Any]:
    """Score a submission over the names of the label file, as the challenge does.

    Names match as in the tables of a corpus (`corpora.names`), labels in any case. Labels of the challenge come first,
    in its order; others follow sorted.

    Args:
        submission: Predicted label of each name (`read_submission`).
        labels: True label of each name (`read_answers`).

    Returns:
        The scores of `arrays.scores`, and ``unlabeled``: how many names of the submission have no true label. These
        are not scored.

    Raises:
        InputError: If there are no labels, a labelled name is not in the submission, or two names of the submission are
            the same labelled name.
    """
    if not labels:
        raise InputError("the label file has no labels", "give a label file with rows name,discrete")
    matched = match_names(submission, labels)
    if same := sorted(_duplicates([matched.get(name, name) for name in submission])):
        raise InputError(f"the submission has several rows for {quote_names(same)}", "keep one row for each name")
    first = next(iter(submission), None)
    submission = {matched.get(name, name): label for name, label in submission.items()}
    if missing := [name for name in labels if name not in submission]:
        raise InputError(
            f"{len(missing)} of {len(labels)} labelled names are not in the submission: {quote_names(missing)}",
            "write one row for each candidate" + (f"; the first name of the submission is {first!r}" if first else ""),
        )
    spelling = {label.casefold(): label for label in (*labels.values(), *MER_LABELS)}
    predicted, truth = (
        [spelling.get(answers[name].casefold(), answers[name]) for name in labels] for answers in (submission, labels)
    )
    known = set(truth) | set(predicted)
    names = [name for name in MER_LABELS if name in known] + sorted(known - set(MER_LABELS))
    return scores(truth, predicted, names) | {"unlabeled": len(submission) - len(labels)}


def _duplicates(names: Sequence[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
