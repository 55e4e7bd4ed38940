"""Compare the data of two runs, value by value: ``python -m tools.compare_runs BEFORE AFTER`` (two project folders).

Stores are read by zarr and compared by clip, even if their fingerprints differ; tables are compared by their key
columns, JSON by its leaves, arrays and weights of npz and safetensors by name, LLM answers by their keys. Texts for
people (reasons, messages, the report) and settings are listed separately and do not count. The exit code is 1 if a
value differs or exists on one side only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from safetensors.numpy import load_file

SENTENCES = {"reason", "message", "traceback", "error", "hint", "sentence", "detail"}
"""Columns and keys whose values are sentences."""
NOT_COUNTED = ("settings", "report", "index/findings.csv")
"""Files that are listed separately: settings of stages, and pages."""

Values = Mapping[str, Any]


@dataclass(slots=True)
class Comparison:
    """Result of comparing one file or store.

    Attributes:
        name: Path relative to data/.
        values: Number of compared values.
        different: Number of values that differ.
        largest: Largest absolute difference of numbers.
        missing: Values that exist on one side only.
        sentences: Number of sentences that differ.
        first: The first value that differs, on both sides.
    """

    name: str
    values: int = 0
    different: int = 0
    largest: float = 0.0
    missing: list[str] = field(default_factory=list)
    sentences: int = 0
    first: str = ""

    @property
    def equal(self) -> bool:
        """Whether all values exist on both sides and are equal."""
        return not self.different and not self.missing

    def line(self) -> str:
        """Return a line of the table, and lines with details."""
        verdict = "equal" if self.equal else "DIFFERENT"
        line = f"{self.name:<42}{verdict:<11}{self.values:>9}{self.different:>9}{self.largest:>12.3g}"
        line += f"{len(self.missing):>9}{self.sentences:>8}"
        notes = [f"first difference: {self.first}"] if self.first else []
        notes += [f"on one side only: {', '.join(self.missing[:4])}"] if self.missing else []
        return line + "".join(f"\n    {note}" for note in notes)


def main() -> None:
    """Print a table with one line for each file and store."""
    parser = argparse.ArgumentParser(prog="python -m tools.compare_runs", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("before", type=Path, help="project folder of the first run")
    parser.add_argument("after", type=Path, help="project folder of the second run")
    options = parser.parse_args()
    comparisons = list(compare(options.before / "data", options.after / "data"))
    counted = [comparison for comparison in comparisons if not comparison.name.startswith(NOT_COUNTED)]
    head = f"{'file or store':<53}{'values':>9}{'differ':>9}{'largest':>12}{'missing':>9}{'texts':>8}\n"
    sys.stdout.write(head + "".join(f"{comparison.line()}\n" for comparison in counted))
    sys.stdout.write("\nnot counted (settings, pages):\n")
    sys.stdout.writelines(f"{comparison.line()}\n" for comparison in comparisons if comparison not in counted)
    different = [comparison.name for comparison in counted if not comparison.equal]
    sys.stdout.write(f"\n{len(counted) - len(different)} of {len(counted)} files and stores are equal\n")
    raise SystemExit(bool(different))


def compare(before: Path, after: Path) -> Iterator[Comparison]:
    """Compare all files of two data folders except models, the sample corpus and hidden files.

    Raises:
        SystemExit: If a folder has no files to compare.
    """
    sides = _read(before), _read(after)
    if not all(sides):
        raise SystemExit(f"no run in {before if not sides[0] else after}")
    for name in sorted(sides[0].keys() | sides[1].keys()):
        if name not in sides[0] or name not in sides[1]:
            yield Comparison(name, missing=[f"the file ({'before' if name in sides[0] else 'after'} only)"])
        else:
            yield _compared(name, sides[0][name](), sides[1][name]())


def _read(data: Path) -> dict[str, Callable[[], Values]]:
    """Return a function that reads each file and store, by its path relative to data/."""
    readers: dict[str, Callable[[], Values]] = {}
    for path in sorted(data.rglob("*")):
        parts = path.relative_to(data).parts
        if parts[0] in {"models", "sample"} or any(part.startswith(".") for part in parts):
            continue
        name, ending = "/".join(parts), path.suffix
        if ending == ".zarr":
            readers[name] = lambda path=path: read_store(path)  # type: ignore[misc]
        elif any(part.endswith(".zarr") for part in parts) or path.is_dir():
            continue
        elif "cache" in parts:
            readers["rewrite/cache"] = lambda path=data / "rewrite" / "cache": read_answers(path)  # type: ignore[misc]
        else:
            reader = READERS.get(ending, read_bytes)
            readers[name] = lambda path=path, reader=reader: reader(path)  # type: ignore[misc]
    return readers


def read_store(root: Path) -> Values:
    """Return the arrays of each clip in the current settings group, by clip and array name.

    Raises:
        SystemExit: If a chunk is missing, which zarr would read as zeros.
    """
    contents: dict[str, Any] = {}
    attributes = json.loads((root / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    for part in sorted((root / attributes["current"]).glob("part-*")):
        entries = json.loads((part / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        ends = np.cumsum(entries["length"])
        for folder in sorted(path for path in part.iterdir() if path.is_dir()):
            array: Any = zarr.open_array(str(folder), mode="r")
            if array.nchunks_initialized != array.nchunks:
                raise SystemExit(
                    f"{folder}: {array.nchunks - array.nchunks_initialized} of {array.nchunks} chunks are missing"
                )
            values = array[:]
            if len(values) != ends[-1]:
                raise SystemExit(f"{folder}: {len(values)} rows, the clips have {ends[-1]}")
            rows = np.split(values, ends[:-1])
            contents |= {f"{clip} {folder.name}": row for clip, row in zip(entries["clip_id"], rows, strict=True)}
        contents |= {
            f"{clip} digest": digest for clip, digest in zip(entries["clip_id"], entries["digest"], strict=True)
        }
    return contents


def read_table(path: Path) -> Values:
    """Return the cells of a csv file by row and column; rows are named by key columns or by number."""
    if not path.stat().st_size:
        return {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    keys = [name for name in ("clip_id", "name", "modality", "damage", "table", "source") if name in table.columns]
    labels = table[keys].agg(" ".join, axis=1) if keys and len(table) else table.index.astype(str)
    if not labels.is_unique:
        labels = table.index.astype(str)
    cells = zip(labels, table.to_dict("records"), strict=True)
    values = {f"{label} {column}": _number(value) for label, row in cells for column, value in row.items()}
    return values | {"order of the rows": " ".join(labels), "columns": ",".join(table.columns)}


def read_json(path: Path) -> Values:
    """Return the leaves of a JSON document by their path."""
    return dict(_leaves(json.loads(path.read_text(encoding="utf-8")), ""))


def read_npz(path: Path) -> Values:
    """Return the arrays of an npz file."""
    with np.load(path) as arrays:
        return dict(arrays)


def read_answers(folder: Path) -> Values:
    """Return the answers of the LLM by the key of the request."""
    lines = [line for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in lines]
    return {f"{row['key']}{path}": value for row in rows for path, value in _leaves(row, "")}


def read_bytes(path: Path) -> Values:
    """Return the bytes of a file as one value."""
    return {"its bytes": path.read_bytes()}


READERS: dict[str, Callable[[Path], Values]] = {
    ".csv": read_table,
    ".json": read_json,
    ".npz": read_npz,
    ".safetensors": load_file,
}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(below, f"{path}/{key}")
    else:
        yield path, value


def _number(value: str) -> Any:
    try:
        return float(value)
    except ValueError:
        return value


def _compared(name: str, before: Values, after: Values) -> Comparison:
    result = Comparison(name, missing=sorted(before.keys() ^ after.keys()))
    for key in before.keys() & after.keys():
        old, new = np.asarray(before[key]), np.asarray(after[key])
        if old.dtype == new.dtype and old.shape == new.shape and old.tobytes() == new.tobytes():
            result.values += old.size
        elif old.dtype.kind == new.dtype.kind == "U" and SENTENCES & {*key.split("/"), key.rpartition(" ")[2]}:
            result.sentences += 1
        else:
            _count(result, key, old, new)
    return result


def _count(result: Comparison, key: str, old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> None:
    result.values += max(old.size, new.size)
    is_text = old.dtype.kind == new.dtype.kind == "U"
    if old.shape != new.shape or (old.dtype != new.dtype and not is_text):
        result.different += max(old.size, new.size)
        result.first = result.first or f"{key}: {_shown(old)} {old.shape}, then {_shown(new)} {new.shape}"
        return
    # Compare bytes, not numbers: NaN equals NaN, and 0 and -0 differ, with a difference of size 0.
    same = old == new if is_text else old.view(f"V{old.itemsize}") == new.view(f"V{new.itemsize}")
    result.different += int((~same).sum())
    if old.dtype.kind in "fiu":
        distance = np.abs(old.astype(np.float64) - new.astype(np.float64))
        largest = float(np.nanmax(np.where(same, 0, np.nan_to_num(distance, nan=np.inf))))
        result.largest = max(result.largest, largest)
    old, new = old[~same], new[~same]
    result.first = result.first or f"{key}: {_shown(old)}, then {_shown(new)}"


def _shown(value: np.ndarray[Any, Any]) -> str:
    shown = ", ".join(map(str, value.ravel()[:3].tolist()))
    return shown if len(shown) <= 90 else f"{shown[:87]}..."


if __name__ == "__main__":
    main()
