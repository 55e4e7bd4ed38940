"""`index`: scan the corpus and write the manifest; where nothing has changed, say so at once.

It runs in every `dvc repro`, so what it needs to scan is loaded only when there is something to scan.
"""

from __future__ import annotations

from ecmf_pipeline.settings import index_stamp


def run() -> None:
    """Repeat what the last run said where its stamp still fits, else read the corpus."""
    if not index_stamp.repeat():
        from ecmf_pipeline.settings.resolve import index

        index()
