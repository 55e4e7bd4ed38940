"""Run the commands that only look, and print what they find: `status` and `score`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import say
from ecmf_pipeline.interop.mertools import full_score, read_answers
from ecmf_pipeline.runner.quarantine import read_all
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.status import stage_rows

_ROW = "{:<18}{:>9}{:>9}{:>9}{:>13}"


def show_status() -> None:
    """Print one line a stage, and the quarantined clips by reason."""
    params = load_params()
    say(_ROW.format("stage", "done", "missing", "absent", "quarantined"))
    for row in stage_rows(params):
        say(_ROW.format(*row))
    entries = read_all(paths.QUARANTINE, params.extract.encoders)
    counts = Counter((entry.stage, entry.modality, entry.reason) for entry in entries)
    for (stage, modality, reason), count in sorted(counts.items()):
        say(f"  quarantined by {f'{stage} {modality}'.strip()}: {reason} {count}")
    if entries:
        say(f"  one line a clip in {paths.QUARANTINE}/")


def show_score(predictions: Path, truth: Path, *, entry: str, as_json: bool) -> None:
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
