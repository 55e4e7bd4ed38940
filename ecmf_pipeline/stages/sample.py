"""`sample`: write the synthetic default corpus."""

from __future__ import annotations

import os

from ecmf_pipeline import layout
from ecmf_pipeline.files import write_atomic
from ecmf_pipeline.params import load_params
from ecmf_pipeline.progress import say


def run() -> None:
    """Write data/sample when corpus.kind is sample; leave a note there otherwise, since DVC waits for the folder."""
    params = load_params()
    if params.corpus.kind != "sample":
        if not layout.SAMPLE.is_dir():
            write_atomic(layout.SAMPLE / "README.txt", "The synthetic corpus stands here when corpus.kind is sample.\n")
        say(f"sample: corpus.kind is {params.corpus.kind}, nothing to generate")
        return
    from ecmf_pipeline.corpora.sample.generate import generate

    landmarker = layout.MODELS / "face_landmarker" / "face_landmarker.task"
    summary = generate(params.sample, layout.SAMPLE, face_landmarker=landmarker, workers=os.cpu_count() or 1)
    say(f"sample: {summary.written} clips written, {summary.reused} reused, {summary.wrong_labels} labels made wrong")
