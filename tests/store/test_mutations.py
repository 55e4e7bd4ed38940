"""A missing file of a store, or one of another store, gives an error that names it, but never other features.

`tools.soak.tables` changes the content of the files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.errors import MissingInput, StoreError
from ecmf_pipeline.store import FeatureRow, FeatureStore, make_current

CLIPS = [f"c{number}" for number in range(6)]
SEEDS = range(80)

Write = Callable[..., FeatureStore]
Row = Callable[..., FeatureRow]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, row: Row, write: Write) -> tuple[FeatureStore, Path]:
    """A store of three parts, and another one of the same settings and shapes with other values."""
    folder = tmp_path_factory.mktemp("stores")
    batches: Sequence[Sequence[FeatureRow]] = [
        [row(clip, length=1 + number % 3) for number, clip in enumerate(CLIPS[start : start + 2])]
        for start in (0, 2, 4)
    ]
    others = [[FeatureRow(one.clip_id, one.digest, one.values + 1, one.side) for one in batch] for batch in batches]
    store = write(folder / "face.zarr", *batches)
    make_current(store.root, store.fingerprint)
    other = write(folder / "other.zarr", *others)
    make_current(other.root, other.fingerprint)
    return store, other.root


def read_everything(root: Path, fingerprint: str) -> list[np.ndarray]:
    store = FeatureStore.open(root, fingerprint)
    digests = dict.fromkeys(CLIPS, "d")
    rows = [store.row(clip) for clip in CLIPS]
    sequences = store.load_sequences(CLIPS, digests=digests)
    side = [array for one in rows for _, array in sorted(one.side.items())]
    return [store.load(CLIPS, digests=digests).values, sequences.values, sequences.mask, *side]


def outcome(root: Path, fingerprint: str) -> tuple[str, list[np.ndarray]]:
    """Return the message of the error, or everything that was read."""
    try:
        return "", read_everything(root, fingerprint)
    except (StoreError, MissingInput) as error:
        return error.message, []


def remove(path: Path, other: Path, rng: np.random.Generator) -> None:
    path.unlink()


def swap(path: Path, other: Path, rng: np.random.Generator) -> None:
    """Replace the file by that of the other store, or its folder if it belongs to an array."""
    if path.parent.name in {"values", "times"} and rng.integers(2):
        shutil.rmtree(path.parent)
        shutil.copytree(other.parent, path.parent)
    else:
        shutil.copyfile(other, path)


MUTATIONS = [remove, swap]


@pytest.mark.parametrize("start", SEEDS[::20])
def test_mutated_files(stores: tuple[FeatureStore, Path], tmp_path: Path, start: int) -> None:
    store, other_root = stores
    expected = read_everything(store.root, store.fingerprint)
    files = sorted(path.relative_to(store.root) for path in store.root.rglob("*") if path.is_file())
    others = sorted(path.relative_to(other_root) for path in other_root.rglob("*") if path.is_file())
    root = tmp_path / "face.zarr"
    for seed in range(start, start + 20):
        rng = np.random.default_rng(seed)
        shutil.copytree(store.root, root)
        number = rng.integers(len(files))
        path = root / files[number]
        mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
        mutation(path, other_root / others[number], rng)
        error, read = outcome(root, store.fingerprint)
        named = [path, *path.parents][: len(path.relative_to(root).parts) + 1]
        assert not error or any(str(place) in error for place in named), (seed, mutation.__name__, error)
        for got, want in zip(read, expected, strict=not error):
            np.testing.assert_array_equal(got, want, err_msg=f"{seed} {mutation.__name__} {path}")
        shutil.rmtree(root)


def test_the_other_store_has_other_values(stores: tuple[FeatureStore, Path]) -> None:
    store, other_root = stores
    values, other = (read_everything(root, store.fingerprint)[0] for root in (store.root, other_root))
    assert (values != other).all()
