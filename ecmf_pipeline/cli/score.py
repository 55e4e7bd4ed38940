"""`ecmf-pipe score`: predictions against true labels, as the challenge scores them."""

from __future__ import annotations

import json
from pathlib import Path

from ecmf_pipeline.core.progress import say
from ecmf_pipeline.interop.mertools import full_score, read_answers


def run(predictions: Path, truth: Path, *, entry: str, as_json: bool) -> None:
    """Print weighted F1, accuracy and the scores of each label.

    Args:
        predictions: A submission, a table of ``data/predictions``, or the baseline's npz.
        truth: A label file of the challenge, csv or npz.
        entry: Which corpus of an npz file.
        as_json: Whether to print JSON alone.

    Raises:
        InputError: When a file cannot be used, or a labelled name has no prediction.
    """
    found = full_score(read_answers(predictions, entry), read_answers(truth, entry))
    if as_json:
        say(json.dumps(found, ensure_ascii=False))
        return
    say(f"score: weighted F1 {found['weighted_f1']:.4f}, accuracy {found['accuracy']:.4f} over {found['clips']} names")
    for label, row in found["per_class"].items():
        say(
            f"  {label}: F1 {row['f1']:.4f}, precision {row['precision']:.4f}, recall {row['recall']:.4f}, "
            f"{row['support']} names"
        )
    if found["unlabeled"]:
        say(f"  predictions of names without a label, which do not count: {found['unlabeled']}")
