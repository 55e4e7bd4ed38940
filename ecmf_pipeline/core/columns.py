"""Sequences of dataclass instances that are stored as Arrow columns.

A million clips are 25 million Python objects as instances, but 25 arrays as columns. Code that needs a few columns of
all rows reads them (`Rows.column`). Other code uses the sequence, which creates an instance for each row it accesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

RowT = TypeVar("RowT")

_BLOCK = 4096
"""Rows that are converted to instances together while all are iterated over."""


class Rows(Sequence[RowT], Generic[RowT]):
    """Instances of a dataclass, stored as columns of an Arrow table; two with equal rows are equal, also to a list.

    A subclass sets the class of the rows and of its fields that are no plain text, number or boolean.

    Args:
        table: A column for each field of the dataclass, in their order.
    """

    row_type: ClassVar[Callable[..., Any]]
    """The dataclass."""
    types: ClassVar[Mapping[str, str]]
    """Arrow type of each field, in their order: string, int64, double or bool."""
    classes: ClassVar[Mapping[str, Callable[[str], Any]]] = {}
    """Class of the fields that are stored as text but are not plain text."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @classmethod
    def of(cls, rows: Iterable[RowT]) -> Self:
        """Return rows as columns; rows that are columns already are returned unchanged."""
        if isinstance(rows, cls):
            return rows
        listed = list(rows)
        return cls.of_columns(**{name: [getattr(row, name) for row in listed] for name in cls.types})

    @classmethod
    def of_columns(cls, **columns: Any) -> Self:
        """Return rows with these values of each field: arrays of NumPy, pandas or Arrow, or lists, (n,) each.

        A subclass may have columns that are no fields; they come last.
        """
        import pyarrow as pa

        names = [*cls.types, *(name for name in columns if name not in cls.types)]
        return cls(pa.table({name: _as_arrow(columns[name], cls.types.get(name)) for name in names}))

    @property
    def table(self) -> pa.Table:
        """The columns."""
        return self._table

    def column(self, name: str) -> NDArray[Any]:
        """Return the values of a field, (n,): objects for text, otherwise int64, float64 or bool."""
        values: NDArray[Any] = self._table.column(name).to_numpy()
        return values

    def indices(self, name: str, values: Sequence[str]) -> NDArray[np.int64]:
        """Return the index in ``values`` of each text of a field, (n,); -1 for other texts."""
        return indices_in(self._table.column(name), values)

    def is_not_blank(self, name: str) -> NDArray[np.bool_]:
        """Return whether each text of a field holds more than white space, (n,)."""
        return are_not_blank(self._table.column(name))

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """Return the rows for which ``mask``, (n,), is True."""
        import pyarrow as pa

        return type(self)(self._table.filter(pa.array(mask)))

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> Self:
        """Return the rows with these numbers, in this order."""
        import pyarrow as pa

        return type(self)(self._table.take(pa.array(rows, pa.int64())))

    def replaced(self, name: str, values: Sequence[Any] | NDArray[Any]) -> Self:
        """Return the rows with other values of a field, (n,)."""
        import pyarrow as pa

        position = self._table.schema.get_field_index(name)
        return type(self)(self._table.set_column(position, name, pa.array(values, self.types[name])))

    def updated(self, rows: Sequence[int], instances: Sequence[RowT], names: Sequence[str]) -> Self:
        """Return all rows, with some fields of the given rows taken from other instances.

        Args:
            rows: Numbers of the rows, (m,).
            instances: The instances, (m,).
            names: The fields.
        """
        updated = self
        for name in names if len(rows) else ():
            values = self.column(name).copy()
            values[rows] = [getattr(instance, name) for instance in instances]
            updated = updated.replaced(name, values)
        return updated

    def __len__(self) -> int:
        """Return the number of rows."""
        length: int = self._table.num_rows
        return length

    @overload
    def __getitem__(self, index: int) -> RowT: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> RowT | Self:
        """Return one row, or the rows of a slice as columns."""
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            return next(self._instances(self._table.slice(numbers, 1)))
        if numbers.step == 1:
            return type(self)(self._table.slice(numbers.start, len(numbers)))
        return self.take(list(numbers))

    def __iter__(self) -> Iterator[RowT]:
        """Yield the rows."""
        for start in range(0, len(self), _BLOCK):
            yield from self._instances(self._table.slice(start, _BLOCK))

    def __eq__(self, other: object) -> bool:
        """Return whether the other sequence has equal rows."""
        if isinstance(other, type(self)):
            return bool(self._table.equals(other.table))
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return the class and the number of rows."""
        return f"<{type(self).__name__} of {len(self)} rows>"

    def counts(self, name: str) -> dict[str, int]:
        """Return the number of rows with each text of a field."""
        return {pair["values"]: pair["counts"] for pair in self._table.column(name).value_counts().to_pylist()}

    def _instances(self, table: pa.Table) -> Iterator[RowT]:
        return map(self.row_type, *self._values(table))

    def _values(self, table: pa.Table) -> Iterator[Iterable[Any]]:
        """Yield the values of each argument of `row_type`."""
        for name in self.types:
            values = table.column(name).to_pylist()
            yield map(self.classes[name], values) if name in self.classes else values


def _as_arrow(values: Any, kind: str | None) -> pa.Array | pa.ChunkedArray:
    import pyarrow as pa

    if not isinstance(values, pa.Array | pa.ChunkedArray):
        values = pa.array(values, from_pandas=False)
    return values if kind is None else values.cast(kind)


def indices_in(column: pa.ChunkedArray, values: Sequence[str]) -> NDArray[np.int64]:
    """Return the index in ``values`` of each text, (n,); -1 for other texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(column, value_set=pa.array(list(values), pa.string()))
    indices: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype("int64")
    return indices


def interned(column: pa.ChunkedArray) -> tuple[str, ...]:
    """Return texts of which few differ, (n,); equal ones are one object."""
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    return tuple(map(names.__getitem__, encoded.indices.to_pylist()))


def are_not_blank(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return whether each text holds more than white space, (n,)."""
    import pyarrow.compute as pc

    is_text: NDArray[np.bool_] = pc.not_equal(pc.utf8_trim_whitespace(column), "").to_numpy()
    return is_text


def are_unique(column: pa.ChunkedArray) -> bool:
    """Return whether all texts differ and none is empty."""
    import pyarrow.compute as pc

    if not len(column):
        return True
    return bool(pc.count_distinct(column).as_py() == len(column) and pc.min(pc.binary_length(column)).as_py() > 0)


def are_all_in(column: pa.ChunkedArray, values: Iterable[str]) -> bool:
    """Return whether all texts are among the given ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return bool(pc.all(pc.is_in(column, value_set=pa.array(sorted(values), pa.string())), min_count=0).as_py())


def are_all_numbers(column: pa.ChunkedArray, high: float = float("inf")) -> bool:
    """Return whether all values are finite numbers from 0 to ``high``; null is not."""
    import pyarrow.compute as pc

    if column.null_count or not len(column):
        return not column.null_count
    lowest, highest = pc.min_max(column).as_py().values()  # NaN is skipped
    has_nan = str(column.type) == "double" and bool(pc.any(pc.is_nan(column)).as_py())
    return not has_nan and bool(lowest >= 0 and highest <= high and highest < float("inf"))
