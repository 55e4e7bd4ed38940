"""Tests of reading a store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ecmf_pipeline.core.errors import InputError, MissingInput, StaleStore, StoreError
from ecmf_pipeline.store import (
    FeatureRow,
    FeatureStore,
    StoreWriter,
    create_settings_group,
    current_fingerprint,
    make_current,
)
from ecmf_pipeline.store.features import widen
from ecmf_pipeline.store.format import PartAttributes, part_names, part_number, write_group, write_part


def write_superseding_part(store: FeatureStore, rows: list[FeatureRow], replaced: list[str]) -> str:
    """Write a part that replaces others, as `compact` does."""
    attributes = PartAttributes(
        store.fingerprint,
        [row.clip_id for row in rows],
        [row.digest for row in rows],
        [len(row.values) for row in rows],
        replaced,
    )
    values = np.concatenate([row.values for row in rows]).astype(np.float16)
    number = part_number(replaced[-1])
    return write_part(store.folder, number, attributes, {"values": values}, staging=store.root.parent)


def test_load_returns_features_in_the_requested_order(root, row, write):
    rows = [row(f"c{i}", length=1 + i % 4, value=i) for i in range(10)]
    features = write(root, rows[:6], rows[6:]).load(["c7", "absent", "c2", "c9", "c0"])
    assert features.present.tolist() == [True, False, True, True, True]
    assert features.values[:, 0].tolist()[2:] == [2, 9, 0]
    assert np.isnan(features.values[1]).all()
    assert features.values.dtype == np.float32
    assert features.values.flags.c_contiguous


def test_load_accepts_repeated_clips(root, row, write):
    store = write(root, [row("a", value=1), row("b", value=2)])
    assert store.load(["a", "a"]).values[:, 0].tolist() == [1, 1]
    assert store.load(["b", "a", "b", "a", "b"]).values[:, 0].tolist() == [2, 1, 2, 1, 2]


def test_load_of_no_clips_returns_an_empty_array_of_the_right_width(root, row, write):
    features = write(root, [row("a")]).load([])
    assert features.values.shape == (0, 5)
    assert features.present.shape == (0,)


def test_load_pools_frames_by_mean_max_and_mean_std(root, row, write):
    rows = [row("a", length=4), row("b", length=1), row("c", length=700)]
    store = write(root, rows)
    for position, one in enumerate(rows):
        stored = one.values.astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(store.load(list("abc")).values[position], stored.mean(axis=0), atol=1e-5)
        np.testing.assert_array_equal(store.load(list("abc"), pool="max").values[position], stored.max(axis=0))
        both = np.concatenate([stored.mean(axis=0), stored.std(axis=0)])
        np.testing.assert_allclose(store.load(list("abc"), pool="mean_std").values[position], both, atol=1e-4)


def test_sequences_are_padded_with_nan_and_masked(root, row, write):
    rows = [row("a", length=2, value=1), row("b", length=4, value=2), row("c", length=1, value=3)]
    sequences = write(root, rows[:2], rows[2:]).load_sequences(["c", "absent", "b"], digests={"c": "d", "b": "d"})
    assert sequences.values.shape == (3, 4, 5)
    assert sequences.mask.sum(axis=1).tolist() == [1, 0, 4]
    assert (np.isnan(sequences.values).all(axis=2) == ~sequences.mask).all()
    assert sequences.values[0, 0, 0] == 3
    assert (sequences.values[2] == 2).all()
    assert sequences.values.dtype == np.float32


def test_long_sequences_are_averaged_down_to_the_maximum_length(root, row, write):
    rows = [row("a", length=2, value=1), row("b", length=9, value=2)]
    store = write(root, rows)
    sequences = store.load_sequences(["a", "b"], max_rows=3)
    assert sequences.mask.tolist() == [[True, True, False], [True, True, True]]
    stored = rows[1].values.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(sequences.values[1], stored.reshape(3, 3, -1).mean(axis=1), atol=1e-5)
    np.testing.assert_array_equal(sequences.values[0, :2], store.load_sequences(["a"]).values[0])
    np.testing.assert_array_equal(
        store.load_sequences(["a", "b"], max_rows=9).mask, store.load_sequences(["a", "b"]).mask
    )


def test_sequences_of_absent_clips_are_empty(root, row, write):
    assert write(root, [row("a")]).load_sequences(["x", "y"]).mask.shape == (2, 0)


def test_row_returns_values_and_side_arrays(root, row, write):
    store = write(root, [row("a"), row("b", length=2)])
    stored = store.row("b")
    assert (stored.clip_id, stored.digest, stored.values.shape, stored.values.dtype) == ("b", "d", (2, 5), np.float16)
    assert stored.side["times"].tolist() == [0, 1]
    for clip_id, digest in (("c", None), ("b", "other")):
        with pytest.raises(KeyError):
            store.row(clip_id, digest)


def test_a_row_counts_only_for_the_digest_it_was_computed_from(root, row, write):
    store = write(root, [row("a", digest="old", value=1), row("b", value=5)])
    assert store.clips_with_features({"a": "new", "b": "d", "c": "d"}) == {"b"}
    assert not store.load(["a"], digests={"a": "new"}).present[0]
    assert not store.load(["a"], digests={}).present[0]
    store = write(root, [row("a", digest="new", value=2)])
    assert store.holds("a", "old")
    assert store.clips_with_features({"a": "new", "b": "d"}) == {"a", "b"}
    assert store.load(["a"], digests={"a": "new"}).values[0, 0] == 2
    assert store.load(["a"], digests={"a": "old"}).values[0, 0] == 1
    assert store.load(["a"]).values[0, 0] == 2
    assert store.row("a", "old").values[0, 0] == 1
    assert store.newest() == {"a": "new", "b": "d"}
    assert store.digests() == {"a": ["old", "new"], "b": ["d"]}
    assert len(store) == 2


def test_columns_of_inputs_count_like_single_rows(root, row, write):
    write(root, [row("a", digest="old"), row("b")])
    for last in ("new", "b"):  # without and with clips that have several rows
        inputs = pa.table({"clip_id": list("babacb"), "digest": ["d", "old", "x", "new", "d", "b"]})
        store = write(root, [row("c" if last == "b" else "a", digest=last)])
        pairs = zip(*inputs.to_pydict().values(), strict=True)
        assert store.have_features(inputs).tolist() == [store.holds(clip_id, digest) for clip_id, digest in pairs]
        assert dict(zip(*store.newest_table().to_pydict().values(), strict=True)) == store.newest()
    assert store.have_features(inputs.slice(0, 0)).tolist() == []


def test_the_last_of_duplicate_rows_counts(root, fingerprint):
    def write_duplicates(number: int, value: float) -> None:
        attributes = PartAttributes(fingerprint, ["a", "a", "b"], ["d", "d", "d"], [1, 2, 1])
        values = np.full((4, 5), value, np.float16) + np.arange(4, dtype=np.float16)[:, None]
        write_part(root / fingerprint, number, attributes, {"values": values}, staging=root.parent)

    write_duplicates(0, 10)
    write_duplicates(1, 20)
    store = FeatureStore(root, fingerprint)
    assert len(store) == 2
    for digests in (None, {"a": "d", "b": "d"}):
        assert store.load(["a", "b"], digests=digests).values[:, 0].tolist() == [21.5, 23]


def test_superseded_parts_do_not_count(root, row, write):
    store = write(root, [row("a", value=1)], [row("b", value=2)], [row("c", value=3)])
    old = part_names(store.folder)
    write_superseding_part(store, [row("a", value=11), row("b", value=12)], old[:2])
    for reader in (FeatureStore(root, store.fingerprint), store):
        reader.refresh()
        reader.refresh()
        assert reader.load(["a", "b", "c"]).values[:, 0].tolist() == [11, 12, 3]
        assert reader.digests() == {"a": ["d"], "b": ["d"], "c": ["d"]}
    for name in old[:2]:
        shutil.rmtree(store.folder / name)
    store.refresh()
    assert store.load(["a", "b", "c"]).values[:, 0].tolist() == [11, 12, 3]


@pytest.mark.parametrize("read", ["load", "load_sequences", "row"])
def test_an_open_reader_finds_rows_that_were_merged_into_another_part(root, row, write, read):
    store = write(root, [row("a", value=1)], [row("b", value=2)])
    old = part_names(store.folder)
    write_superseding_part(store, [row("a", value=1), row("b", value=2)], old)
    for name in old:
        (store.folder / name).rename(root.parent / name)
    result = store.row("b") if read == "row" else getattr(store, read)(["b"])
    assert result.values.flat[0] == 2


def test_added_rows_are_visible_after_refresh(root, row, write):
    store = write(root, [row("a")])
    write(root, [row("b")])
    assert not store.holds("b", "d")
    store.refresh()
    assert store.load(["a", "b"]).present.all()


def test_load_from_a_removed_store_raises_missing_input(root, row, write):
    store = write(root, [row("a")])
    shutil.rmtree(root)
    with pytest.raises(MissingInput):
        store.load(["a"])


def test_features_of_several_settings_are_kept_apart(root, row, write, settings):
    store = write(root, [row("a", value=1)])
    other = create_settings_group(root, {**settings, "more": 1}, dim=5, dtype="float16")
    assert current_fingerprint(root) == store.fingerprint
    make_current(root, other)
    assert len(FeatureStore.open(root)) == 0
    assert FeatureStore.open(root, store.fingerprint).load(["a"]).values[0, 0] == 1
    with pytest.raises(StaleStore) as caught:
        FeatureStore.open(root, "0123456789ab")
    assert "0123456789ab" in caught.value.message
    assert caught.value.command == "ecmf-pipe extract --modality face"


def test_the_same_settings_with_another_width_or_type_raise_stale_store(root, fingerprint, settings):
    assert create_settings_group(root, settings, dim=5, dtype="float16") == fingerprint
    for dim, dtype in ((6, "float16"), (5, "float32")):
        with pytest.raises(StaleStore) as caught:
            create_settings_group(root, settings, dim=dim, dtype=dtype)
        assert str(root / fingerprint) in caught.value.message
        assert caught.value.hint is not None


def test_a_group_without_width_gets_it_with_its_first_features(root, row, settings):
    fingerprint = create_settings_group(root, settings, dim=None, dtype="float32")
    make_current(root, fingerprint)
    store = FeatureStore.open(root)
    assert (store.dim, len(store)) == (None, 0)
    assert store.load(["a"]).values.shape == (1, 0)
    with StoreWriter(root, fingerprint) as writer:
        with pytest.raises(ValueError, match=fingerprint):
            writer.append([row("a")])
        assert create_settings_group(root, settings, dim=5, dtype="float16") == fingerprint
        assert create_settings_group(root, settings, dim=None, dtype="float32") == fingerprint
        writer.append([row("a", value=2)])
    store.refresh()
    assert (store.dim, store.dtype) == (5, np.float16)
    assert store.load(["a"]).values[0].tolist() == [2] * 5


def test_opening_a_missing_store_names_the_command_to_run(root):
    with pytest.raises(MissingInput) as caught:
        FeatureStore.open(root)
    assert str(root) in caught.value.message
    assert caught.value.command == "ecmf-pipe extract --modality face"


@pytest.mark.parametrize(("version", "command"), [(1, "ecmf-pipe extract --modality face"), (3, None)])
def test_a_store_of_another_format_is_neither_read_nor_written(root, row, write, settings, version, command):
    store = write(root, [row("a")])
    write_group(root, {"ecmf_store": version, "current": store.fingerprint})
    before = (root / "zarr.json").read_bytes()
    for use in (
        lambda: FeatureStore.open(root),
        lambda: FeatureStore(root, store.fingerprint),
        lambda: StoreWriter(root, store.fingerprint).__enter__(),
        lambda: create_settings_group(root, {**settings, "more": 1}, dim=5, dtype="float16"),
        lambda: make_current(root, store.fingerprint),
    ):
        with pytest.raises(StoreError, match=f"format {version}") as caught:
            use()
        assert caught.value.hint is not None
        assert caught.value.command == command
    assert (root / "zarr.json").read_bytes() == before


@hypothesis_settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_appended_rows_are_read_back_unchanged(tmp_path_factory, write, data):
    root: Path = tmp_path_factory.mktemp("store") / "x.zarr"
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    expected: dict[str, np.ndarray] = {}
    names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
    numbers = st.floats(-1e3, 1e3, width=16)
    batches = []
    for number in range(data.draw(st.integers(1, 3))):
        rows = []
        for name in data.draw(st.lists(names, min_size=1, max_size=5, unique=True)):
            values = np.array(data.draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4)), np.float32)
            rows.append(FeatureRow(name, f"d{number}", values))
            expected[name] = values
        batches.append(rows)
    store = write(root, *batches, dim=2, dtype=dtype)
    order = data.draw(st.permutations(sorted(expected)))
    sequences = store.load_sequences(order)
    for name, values, mask in zip(order, sequences.values, sequences.mask, strict=True):
        np.testing.assert_array_equal(values[mask], expected[name])
        np.testing.assert_array_equal(store.row(name).values, expected[name])
    loaded = FeatureStore.open(root).load(order)
    assert loaded.present.all()
    means = np.stack([expected[name].mean(axis=0) for name in order])
    np.testing.assert_allclose(loaded.values, means, rtol=1e-5, atol=1e-5)


@given(
    values=arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.tuples(st.integers(0, 9), st.integers(1, 9)),
        elements=st.floats(width=16, allow_nan=True, allow_infinity=True, allow_subnormal=True),
    )
)
def test_widen_equals_the_conversion_of_numpy(values):
    wide = np.empty(values.shape, np.float32)
    widen(values, wide)
    np.testing.assert_array_equal(wide, values.astype(np.float32))


def test_widen_is_exact_for_every_finite_float16():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)].reshape(-1, 2)
    wide = np.empty(finite.shape, np.float32)
    widen(finite, wide)
    assert wide.tobytes() == finite.astype(np.float32).tobytes()  # the sign of zero too


NAMED_SETTINGS = {"encoder": {"type": "egemaps"}}


@pytest.fixture
def named_store(root: Path) -> FeatureStore:
    """Clips a (2 rows), b (1 row) and c (3 rows) of four columns, of which the first has no name; two parts."""
    key = create_settings_group(
        root, NAMED_SETTINGS, dim=4, dtype="float32", columns=["", "pitch", "loudness", "jitter"]
    )
    with StoreWriter(str(root), key) as writer:
        for clip_ids in (["b", "a"], ["c"]):
            lengths = {"a": 2, "b": 1, "c": 3}
            writer.append(
                [
                    FeatureRow(one, "d", np.arange(4.0 * lengths[one]).reshape(-1, 4).astype(np.float32))
                    for one in clip_ids
                ]
            )
    return FeatureStore.open(root)


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_store_is_opened_by_a_string_or_a_path(named_store: FeatureStore, as_path: type) -> None:
    root = as_path(str(named_store.root))
    for store in (FeatureStore.open(root), FeatureStore(root, named_store.fingerprint)):
        assert store.root == named_store.root
        assert store.clip_ids == ["b", "a", "c"]
    assert current_fingerprint(root) == named_store.fingerprint
    make_current(root, named_store.fingerprint)


def test_columns_without_a_name_are_numbered(named_store: FeatureStore, row, write, tmp_path: Path) -> None:
    assert named_store.column_names == ("0", "pitch", "loudness", "jitter")
    assert write(tmp_path / "other.zarr", [row("a")]).column_names == ("0", "1", "2", "3", "4")


def test_column_names_are_read_from_the_store_and_checked(named_store: FeatureStore) -> None:
    path = named_store.folder / "zarr.json"
    path.write_text(path.read_text().replace('"pitch",', ""))
    with pytest.raises(StoreError, match="columns"):
        FeatureStore.open(named_store.root)
    with pytest.raises(ValueError, match="3 names for 4 columns"):
        create_settings_group(
            named_store.root, {"encoder": {"type": "other"}}, dim=4, dtype="float16", columns=["a", "b", "c"]
        )


def test_to_pandas_pools_each_clip_to_one_row(named_store: FeatureStore) -> None:
    table = named_store.to_pandas()
    assert table.index.tolist() == ["b", "a", "c"]
    assert table.index.name == "clip_id"
    assert table.columns.tolist() == list(named_store.column_names)
    assert table.loc["a"].tolist() == [2, 3, 4, 5]
    assert (table.dtypes == np.float32).all()
    both = named_store.to_pandas(["a"], pool="mean_std")
    assert both.columns.tolist()[-1] == "jitter.std"
    assert both.loc["a", "jitter.mean":].tolist() == [5, 2, 2, 2, 2]


def test_to_pandas_with_frames_has_each_stored_row(named_store: FeatureStore) -> None:
    table = named_store.to_pandas(["c", "b"], pool="frames")
    assert table.index.names == ["clip_id", "row"]
    assert table.index.tolist() == [("c", 0), ("c", 1), ("c", 2), ("b", 0)]
    assert table["pitch"].tolist() == [1, 5, 9, 1]


def test_a_missing_clip_is_nan_or_left_out(named_store: FeatureStore) -> None:
    for pool in ("mean", "frames"):
        table = named_store.to_pandas(["b", "gone", "a"], pool=pool)
        assert np.isnan(table.loc[["gone"]].to_numpy()).all()
        assert len(table.loc[["gone"]]) == 1
        kept = named_store.to_pandas(["b", "gone", "a"], pool=pool, missing="drop")
        assert list(dict.fromkeys(kept.index.get_level_values("clip_id"))) == ["b", "a"]
        assert not kept.isna().any(axis=None)
    assert named_store.to_pandas(["a"], digests={"a": "another"}, missing="drop").empty
    with pytest.raises(ValueError, match="missing must be one of nan, drop"):
        named_store.to_pandas(missing="zero")
    with pytest.raises(ValueError, match="pool must be one of"):
        named_store.to_pandas(pool="median")


def test_an_empty_store_is_an_empty_table(root: Path, settings) -> None:
    make_current(root, create_settings_group(root, settings, dim=None, dtype="float32"))
    store = FeatureStore.open(root)
    assert store.to_pandas().shape == (0, 0)
    assert store.to_pandas(pool="frames").index.names == ["clip_id", "row"]
    assert store.clip_ids == []


def test_reprs_are_one_short_line(named_store: FeatureStore) -> None:
    assert repr(named_store) == f"FeatureStore('{named_store.root}', 3 clips, 4 x float32, egemaps)"
    assert repr(named_store.load(["a", "gone"])) == "Features(values=float32 (2, 4), present=bool (2,))"
    assert repr(named_store.load_sequences(["c"])) == "Sequences(values=float32 (1, 3, 4), mask=bool (1, 3))"


def test_of_several_encoders_in_use_one_is_opened_by_name(root: Path) -> None:
    settings = [{"encoder": {"type": "first"}}, {"encoder": {"type": "x", "weights": {"model": "someone/second"}}}]
    keys = [create_settings_group(root, one, dim=dim, dtype="float32") for dim, one in enumerate(settings, start=1)]
    for key in keys:
        make_current(root, key, keys)
    assert [FeatureStore.open(root, encoder=name).dim for name in ("first", "second")] == [1, 2]
    assert FeatureStore.open(root, keys[1]).encoder == "second"
    for name in (None, "third"):
        with pytest.raises(InputError, match=r"'first' .*, 'second'"):
            FeatureStore.open(root, encoder=name)


def test_encoders_of_equal_names_are_told_apart_by_their_settings(root: Path) -> None:
    settings = [{"encoder": {"type": "text", "inputs": inputs, "layers": "last"}} for inputs in ("both", "original")]
    keys = [create_settings_group(root, one, dim=2, dtype="float32") for one in settings]
    for key in keys:
        make_current(root, key, keys)
    described = rf"'text' inputs=both \({keys[0]}\), 'text' inputs=original \({keys[1]}\), not of 'text'"
    with pytest.raises(InputError, match=described):
        FeatureStore.open(root, encoder="text")


def test_one_clip_as_a_string_is_an_error(named_store: FeatureStore) -> None:
    for read in (named_store.load, named_store.load_sequences, named_store.to_pandas):
        with pytest.raises(TypeError, match="list of clips"):
            read("abc")
