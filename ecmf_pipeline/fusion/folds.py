"""The fold of each clip of a corpus, as columns: a million clips would be 30 MB of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import ShortRepr

NO_FOLD = -1
"""Fold of clips that no fold held out."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ClipFolds(ShortRepr):
    """The folds of n clips.

    Attributes:
        clip_ids: Their distinct ids.
        held_out_by: The fold that held out each clip or its group, (n,); `NO_FOLD` if every model may have been trained
            on it.
        is_trained: Whether each clip was trained on, or was in a fold to be, (n,).
    """

    clip_ids: tuple[str, ...]
    held_out_by: NDArray[np.int64]
    is_trained: NDArray[np.bool_]

    def of_clips(self, clip_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the fold that held out each clip or its group; `NO_FOLD` for other clips."""
        return np.append(self.held_out_by, NO_FOLD)[self._rows_of(clip_ids)]

    def trained_on(self, clip_ids: Iterable[str]) -> NDArray[np.bool_]:
        """Return whether each clip was trained on, or was in a fold to be."""
        return np.append(self.is_trained, False)[self._rows_of(clip_ids)]

    def _rows_of(self, clip_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the row of each clip; n for other clips."""
        n_clips, asked = len(self.clip_ids), tuple(clip_ids)
        if asked == self.clip_ids:  # the corpus of the training, as a rule
            return np.arange(n_clips)
        rows = dict(zip(self.clip_ids, range(n_clips), strict=True))
        return np.fromiter((rows.get(clip_id, n_clips) for clip_id in asked), np.int64, len(asked))

    def to_bytes(self) -> bytes:
        """Return the content of an Arrow file, which `pandas.read_feather` reads; equal columns give equal bytes."""
        import pyarrow as pa

        table = pa.table(
            {
                "clip_id": pa.array(self.clip_ids, pa.string()),
                "fold": pa.array(self.held_out_by, pa.int64()),
                "is_trained": pa.array(self.is_trained, pa.bool_()),
            }
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table)
        content: bytes = sink.getvalue().to_pybytes()
        return content

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        import pyarrow as pa

        table = pa.ipc.open_file(content).read_all()
        clip_id, fold, is_trained = table.columns
        return cls(tuple(clip_id.to_pylist()), fold.to_numpy(), is_trained.to_numpy())
