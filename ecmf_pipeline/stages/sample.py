"""`sample`: generate the synthetic default corpus."""

from __future__ import annotations

import os

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.settings.params import load_params


def run() -> None:
    """Generate data/sample if corpus.kind is sample; otherwise write a note there, since DVC expects the folder."""
    params = load_params()
    if params.corpus.kind != "sample":
        if not paths.SAMPLE.is_dir():
            note = "This folder holds the synthetic corpus if corpus.kind is sample.\n"
            write_atomic(paths.SAMPLE / "README.txt", note)
        echo(f"sample: corpus.kind is {params.corpus.kind}, nothing to generate")
        return
    from ecmf_pipeline.corpora.sample.generate import generate

    landmarker = paths.MODELS / "face_landmarker" / "face_landmarker.task"
    summary = generate(params.sample, paths.SAMPLE, face_landmarker=landmarker, workers=os.cpu_count() or 1)
    echo(
        f"sample: {summary.written} clips written, {summary.reused} reused, "
        f"{summary.wrong_labels} labels wrong on purpose"
    )
