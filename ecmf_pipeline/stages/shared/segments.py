"""Read the segments of the corpus, if params use them."""

from __future__ import annotations

from ecmf_pipeline.core import paths
from ecmf_pipeline.corpora.segments import Segments, read_segments
from ecmf_pipeline.settings.params import Params


def read_segments_in_use(params: Params) -> Segments:
    """Return the recordings that `segment` has cut; none if ``segment.by`` is not set.

    Raises:
        MissingInput: If `segment` has not run yet.
    """
    return read_segments(paths.SEGMENTS) if params.segment.by else {}
