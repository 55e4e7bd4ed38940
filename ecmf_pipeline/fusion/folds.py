"""The fold of each clip of a corpus, as columns: a dict of a million clips takes 100 MB and more in each ensemble."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.columns import Rows

NO_FOLD = -1
"""Fold of clips that no fold held out."""


@dataclass(frozen=True, slots=True)
class ClipFold:
    """The fold of one clip.

    Attributes:
        clip_id: Id of the clip.
        fold: The fold that held out the clip or its group; `NO_FOLD` if every model may have been trained on it.
        is_trained: Whether the clip was trained on, or was in a fold to be.
    """

    clip_id: str
    fold: int
    is_trained: bool


class ClipFolds(Rows[ClipFold]):
    """The folds of n clips with distinct ids."""

    row_type = ClipFold
    types: ClassVar[Mapping[str, str]] = {"clip_id": "string", "fold": "int64", "is_trained": "bool"}

    def of_clips(self, clip_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the fold that held out each clip or its group; `NO_FOLD` for other clips."""
        rows = self._rows_of(clip_ids)
        return np.where(rows >= 0, np.append(self.column("fold"), NO_FOLD)[rows], NO_FOLD)

    def trained_on(self, clip_ids: Iterable[str]) -> NDArray[np.bool_]:
        """Return whether each clip was trained on, or was in a fold to be."""
        return np.append(self.column("is_trained"), False)[self._rows_of(clip_ids)]

    def _rows_of(self, clip_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the row of each clip; -1 for other clips."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.index_in(pa.array(list(clip_ids), pa.string()), value_set=self.table.column("clip_id"))
        rows: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        return rows

    def to_bytes(self) -> bytes:
        """Return the content of an Arrow file, which `pandas.read_feather` reads; equal rows give equal bytes."""
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        table = self.table.combine_chunks()
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table)
        content: bytes = sink.getvalue().to_pybytes()
        return content

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        import pyarrow as pa

        return cls(pa.ipc.open_file(content).read_all())
