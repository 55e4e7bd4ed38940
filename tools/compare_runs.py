"""Compare the data of two runs, value by value: ``python -m tools.compare_runs BEFORE AFTER`` (two project folders).

Stores are read by zarr itself and compared clip by clip, whichever group their fingerprint names; tables by their keys;
JSON by its leaves; arrays and weights of npz and safetensors by name; the answers of the LLM by their keys. What is
worded for a reader (reasons, messages, the report) and the settings are shown apart and do not count. Exit code 1 when
a value differs or is on one side alone.
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

WORDED = {"reason", "message", "traceback", "error", "hint", "sentence", "detail"}
"""Columns and keys that hold sentences."""
NO_VALUES = ("settings", "report", "index/findings.csv")
"""What is shown apart as a whole: inputs of later stages, and pages."""

Values = Mapping[str, Any]


@dataclass(slots=True)
class Comparison:
    """What one file or store came to.

    Attributes:
        name: Of the file, below data/.
        values: How many values were compared.
        different: How many of them differ.
        largest: The largest absolute difference of numbers.
        missing: Values that only one side has.
        worded: Sentences that differ.
        first: The first value that differs, with both sides.
    """

    name: str
    values: int = 0
    different: int = 0
    largest: float = 0.0
    missing: list[str] = field(default_factory=list)
    worded: int = 0
    first: str = ""

    @property
    def equal(self) -> bool:
        """Whether every value is there on both sides and the same."""
        return not self.different and not self.missing

    def line(self) -> str:
        """One line of the table."""
        verdict = "equal" if self.equal else "DIFFERENT"
        said = f"{self.name:<42}{verdict:<11}{self.values:>9}{self.different:>9}{self.largest:>12.3g}"
        said += f"{len(self.missing):>9}{self.worded:>8}"
        notes = [self.first] if self.first else []
        notes += [f"on one side: {', '.join(self.missing[:4])}"] if self.missing else []
        return said + "".join(f"\n    {note}" for note in notes)


def main() -> None:
    """Print a table with a line for each file and store."""
    parser = argparse.ArgumentParser(prog="python -m tools.compare_runs", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("before", type=Path, help="a project folder")
    parser.add_argument("after", type=Path, help="another")
    options = parser.parse_args()
    found = list(compare(options.before / "data", options.after / "data"))
    counted = [one for one in found if not one.name.startswith(NO_VALUES)]
    head = f"{'':<53}{'values':>9}{'differ':>9}{'largest':>12}{'missing':>9}{'worded':>8}\n"
    sys.stdout.write(head + "".join(f"{one.line()}\n" for one in counted))
    sys.stdout.write("\nshown apart (settings, pages):\n")
    sys.stdout.writelines(f"{one.line()}\n" for one in found if one not in counted)
    wrong = [one.name for one in counted if not one.equal]
    sys.stdout.write(f"\n{len(counted) - len(wrong)} of {len(counted)} are equal\n")
    raise SystemExit(bool(wrong))


def compare(before: Path, after: Path) -> Iterator[Comparison]:
    """Compare everything that two data folders hold, but models, the sample corpus and hidden files.

    Raises:
        SystemExit: When a folder holds nothing to compare.
    """
    sides = _read(before), _read(after)
    if not all(sides):
        raise SystemExit(f"there is no run in {before if not sides[0] else after}")
    for name in sorted(sides[0].keys() | sides[1].keys()):
        if name not in sides[0] or name not in sides[1]:
            yield Comparison(name, missing=[f"the file ({'before' if name in sides[0] else 'after'} alone)"])
        else:
            yield _compared(name, sides[0][name](), sides[1][name]())


def _read(data: Path) -> dict[str, Callable[[], Values]]:
    """How each file and store is read, by its name below data/."""
    found: dict[str, Callable[[], Values]] = {}
    for path in sorted(data.rglob("*")):
        parts = path.relative_to(data).parts
        if parts[0] in {"models", "sample"} or any(part.startswith(".") for part in parts):
            continue
        name, ending = "/".join(parts), path.suffix
        if ending == ".zarr":
            found[name] = lambda path=path: read_store(path)  # type: ignore[misc]
        elif any(part.endswith(".zarr") for part in parts) or path.is_dir():
            continue
        elif "cache" in parts:
            found["rewrite/cache"] = lambda path=data / "rewrite" / "cache": read_answers(path)  # type: ignore[misc]
        else:
            reader = READERS.get(ending, read_bytes)
            found[name] = lambda path=path, reader=reader: reader(path)  # type: ignore[misc]
    return found


def read_store(root: Path) -> Values:
    """Every array of every clip in the group in use, by clip and array; a part's array is cut by the clips' lengths.

    Raises:
        SystemExit: When a chunk is missing, which zarr would read as zeros.
    """
    found: dict[str, Any] = {}
    attributes = json.loads((root / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    for part in sorted((root / attributes["current"]).glob("part-*")):
        held = json.loads((part / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        ends = np.cumsum(held["length"])
        for folder in sorted(path for path in part.iterdir() if path.is_dir()):
            array: Any = zarr.open_array(str(folder), mode="r")
            if array.nchunks_initialized != array.nchunks:
                raise SystemExit(f"{folder}: {array.nchunks - array.nchunks_initialized} chunks are missing")
            values = array[:]
            if len(values) != ends[-1]:
                raise SystemExit(f"{folder}: {len(values)} rows, but the clips have {ends[-1]}")
            rows = np.split(values, ends[:-1])
            found |= {f"{clip} {folder.name}": row for clip, row in zip(held["clip_id"], rows, strict=True)}
        found |= {f"{clip} digest": digest for clip, digest in zip(held["clip_id"], held["digest"], strict=True)}
    return found


def read_table(path: Path) -> Values:
    """The cells of a csv file, by row and column; rows go by their keys if these are unique, else by their number."""
    if not path.stat().st_size:
        return {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    keys = [name for name in ("clip_id", "name", "modality", "damage", "table", "source") if name in table.columns]
    labels = table[keys].agg(" ".join, axis=1) if keys and len(table) else table.index.astype(str)
    if not labels.is_unique:
        labels = table.index.astype(str)
    cells = zip(labels, table.to_dict("records"), strict=True)
    found = {f"{label} {column}": _number(value) for label, row in cells for column, value in row.items()}
    return found | {"order of the rows": " ".join(labels), "columns": ",".join(table.columns)}


def read_json(path: Path) -> Values:
    """The leaves of a JSON document, by their way from the root."""
    return dict(_leaves(json.loads(path.read_text(encoding="utf-8")), ""))


def read_npz(path: Path) -> Values:
    """The arrays of an npz file."""
    with np.load(path) as arrays:
        return dict(arrays)


def read_answers(folder: Path) -> Values:
    """What the LLM answered, by the key of the question."""
    lines = [line for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in lines]
    return {f"{row['key']}{way}": value for row in rows for way, value in _leaves(row, "")}


def read_bytes(path: Path) -> Values:
    """A file as a whole."""
    return {"its bytes": path.read_bytes()}


READERS: dict[str, Callable[[Path], Values]] = {
    ".csv": read_table,
    ".json": read_json,
    ".npz": read_npz,
    ".safetensors": load_file,
}


def _leaves(value: Any, way: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(below, f"{way}/{key}")
    else:
        yield way, value


def _number(value: str) -> Any:
    try:
        return float(value)
    except ValueError:
        return value


def _compared(name: str, before: Values, after: Values) -> Comparison:
    result = Comparison(name, missing=sorted(before.keys() ^ after.keys()))
    for key in before.keys() & after.keys():
        one, other = np.asarray(before[key]), np.asarray(after[key])
        if one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes():
            result.values += one.size
        elif one.dtype.kind == other.dtype.kind == "U" and WORDED & {*key.split("/"), key.rpartition(" ")[2]}:
            result.worded += 1
        else:
            _count(result, key, one, other)
    return result


def _count(result: Comparison, key: str, one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> None:
    result.values += max(one.size, other.size)
    words = one.dtype.kind == other.dtype.kind == "U"
    if one.shape != other.shape or (one.dtype != other.dtype and not words):
        result.different += max(one.size, other.size)
        result.first = result.first or f"{key}: {_shown(one)} {one.shape} against {_shown(other)} {other.shape}"
        return
    # Bytes, not numbers: NaN equals NaN, and -0 in place of 0 is a difference, of size 0.
    same = one == other if words else one.view(f"V{one.itemsize}") == other.view(f"V{other.itemsize}")
    result.different += int((~same).sum())
    if one.dtype.kind in "fiu":
        far = np.abs(one.astype(np.float64) - other.astype(np.float64))
        result.largest = max(result.largest, float(np.nanmax(np.where(same, 0, np.nan_to_num(far, nan=np.inf)))))
    one, other = one[~same], other[~same]
    result.first = result.first or f"{key}: {_shown(one)} against {_shown(other)}"


def _shown(value: np.ndarray[Any, Any]) -> str:
    shown = ", ".join(map(str, value.ravel()[:3].tolist()))
    return shown if len(shown) <= 90 else f"{shown[:87]}..."


if __name__ == "__main__":
    main()
