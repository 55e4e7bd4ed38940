from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecmf_pipeline.core.clips import Clip, ClipId, Modality
from ecmf_pipeline.core.errors import CorpusError, InputError, MissingInput, ModelError, UnusableFeatures
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.extraction.run import Coverage, coverage, input_digests, plan_branch, present_digests
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.interop import feature_import
from ecmf_pipeline.interop.export import export_features
from ecmf_pipeline.interop.feature_import import ImportReport, import_features
from ecmf_pipeline.interop.feature_sources import npy_header, open_source, read_npy
from ecmf_pipeline.interop.file_formats import FileFormat, Level
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group

SETTINGS = {"modality": "audio", "encoder": ImportedConfig(name="hubert").settings()}
RAGGED = {"a": 3, "b": 1, "妈妈 x": 5}


def computed(root: Path, dtype: str = "float16") -> FeatureStore:
    """A store as `extract` makes it, with a clip that changed since."""
    key = create_settings_group(root, {"modality": "audio", "encoder": {"type": "egemaps"}}, dim=4, dtype=dtype)
    rng = np.random.default_rng(0)
    rows = [FeatureRow(name, "old", rng.normal(size=(length, 4))) for name, length in RAGGED.items()]
    with StoreWriter(root, key) as writer:
        writer.append(rows)
        writer.append([FeatureRow("b", "new", rng.normal(size=(2, 4)))])
    return FeatureStore(root, key)


def take(path: Path, root: Path, clip_ids: list[str], dtype: str = "float32") -> ImportReport:
    with open_source(path) as source:
        return import_features(source, clip_ids, root, SETTINGS, dtype=dtype)


def opened(root: Path) -> FeatureStore:
    return FeatureStore(root, fingerprint(SETTINGS))


def npy_folder(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        np.save(folder / f"{name}.npy", np.asarray(value))
    return folder


@pytest.mark.parametrize("file_format", FileFormat)
@pytest.mark.parametrize("level", Level)
def test_export_import_round_trip(tmp_path: Path, file_format: FileFormat, level: Level) -> None:
    store = computed(tmp_path / "audio.zarr")
    out = tmp_path / "out"
    report = export_features(store, out, file_format=file_format, level=level)
    assert (report.clips, report.left_out) == (3, 0)
    back = take(out, tmp_path / "imported.zarr", sorted(RAGGED))
    assert (back.new, back.bad, back.missing, back.extra, back.dim) == (3, {}, [], [], 4)
    for name in RAGGED:
        stored = store.row(name).values.astype(np.float32)
        expected = stored.mean(axis=0, keepdims=True) if level is Level.UTTERANCE else stored
        np.testing.assert_array_equal(opened(tmp_path / "imported.zarr").row(name).values, expected)


def test_exported_files_have_baseline_layout(tmp_path: Path) -> None:
    store = computed(tmp_path / "audio.zarr")
    export_features(store, tmp_path / "hubert-UTT", file_format=FileFormat.NPY, level=Level.UTTERANCE)
    export_features(store, tmp_path / "hubert-FRA", file_format=FileFormat.NPY, level=Level.FRAME)
    export_features(store, tmp_path / "frames.h5", file_format=FileFormat.HDF5, level=Level.FRAME)
    assert sorted(path.name for path in (tmp_path / "hubert-UTT").iterdir()) == ["a.npy", "b.npy", "妈妈 x.npy"]
    utterance, frames = (np.load(tmp_path / f"hubert-{level}" / "a.npy") for level in ("UTT", "FRA"))
    assert (utterance.shape, utterance.dtype, frames.shape, frames.dtype) == ((4,), "f4", (3, 4), "f4")
    with h5py.File(tmp_path / "frames.h5") as file:
        assert {name: dataset.shape for name, dataset in file.items()} == {"a": (3, 4), "b": (2, 4), "妈妈 x": (5, 4)}
        assert file.attrs["level"] == "frm"
        assert file.attrs["fingerprint"] == store.fingerprint
        assert json.loads(file.attrs["settings"]) == store.settings


def test_only_rows_with_requested_digest_are_exported(tmp_path: Path) -> None:
    store = computed(tmp_path / "audio.zarr")
    digests = {"a": "old", "b": "old", "妈妈 x": "new", "unheard": "old"}
    report = export_features(store, tmp_path / "out", file_format=FileFormat.NPY, level=Level.FRAME, digests=digests)
    assert (report.clips, report.left_out) == (2, 1)
    assert {path.stem: len(np.load(path)) for path in (tmp_path / "out").iterdir()} == {"a": 3, "b": 1}
    with pytest.raises(InputError, match="holds no features of what the 1 clips are now"):
        export_features(store, tmp_path / "none", file_format=FileFormat.NPY, level=Level.FRAME, digests={"a": "other"})


@pytest.mark.parametrize("file_format", FileFormat)
def test_existing_output_is_not_overwritten(tmp_path: Path, file_format: FileFormat) -> None:
    store = computed(tmp_path / "audio.zarr")
    full, empty, file, link = (tmp_path / name for name in ("full", "empty", "file", "link"))
    npy_folder(full, a=[1.0])
    empty.mkdir()
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for out in (full, file, link):
        with pytest.raises(InputError, match="is there already"):
            export_features(store, out, file_format=file_format, level=Level.FRAME)
    with pytest.raises(InputError, match="in the store itself"):
        export_features(store, store.folder / "out", file_format=file_format, level=Level.FRAME)
    export_features(store, empty, file_format=file_format, level=Level.FRAME)
    assert take(empty, tmp_path / "imported.zarr", sorted(RAGGED)).new == 3
    assert file.read_text() == "mine"


@pytest.mark.parametrize("file_format", FileFormat)
def test_interrupted_export_leaves_no_files(
    tmp_path: Path, file_format: FileFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = computed(tmp_path / "audio.zarr")
    out = tmp_path / "exports" / "out"
    half = tmp_path / "exports" / ".out.partial" / "unfinished"  # of a killed one
    npy_folder(half, killed=[1.0])

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "load_sequences", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_features(store, out, file_format=file_format, level=Level.FRAME)
    assert list((tmp_path / "exports").iterdir()) == []
    npy_folder(half, killed=[1.0])
    export_features(store, out, file_format=file_format, level=Level.FRAME)
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["out"]
    assert take(out, tmp_path / "imported.zarr", [*RAGGED, "killed"]).missing == ["killed"]


def test_clip_id_outside_folder_is_not_exported(tmp_path: Path) -> None:
    key = create_settings_group(tmp_path / "audio.zarr", SETTINGS, dim=1, dtype="float32")
    with StoreWriter(tmp_path / "audio.zarr", key) as writer:
        writer.append([FeatureRow("../up", "d", np.ones((1, 1)))])
    with pytest.raises(CorpusError, match="would leave its folder"):
        export_features(
            opened(tmp_path / "audio.zarr"), tmp_path / "in" / "out", file_format=FileFormat.NPY, level=Level.FRAME
        )
    assert not (tmp_path / "in").exists()


def test_names_are_matched_to_the_manifest(tmp_path: Path) -> None:
    folder = npy_folder(tmp_path / "f", **{"a": [1.0], "cafe\u0301": [2.0], "stranger": [3.0, 4.0], ".hidden": [1.0]})
    (folder / "readme.txt").write_text("words")
    report = take(folder, tmp_path / "audio.zarr", ["a", "b", "c", "café"])
    assert (report.new, report.missing, report.extra, report.passed_over) == (
        2,
        ["b", "c"],
        ["stranger"],
        ["readme.txt"],
    )
    assert opened(tmp_path / "audio.zarr").newest().keys() == {"a", "café"}


def test_source_without_matching_names_is_refused(tmp_path: Path) -> None:
    folder = npy_folder(tmp_path / "f", **{f"samplenew3_{number}": [1.0] for number in range(4)})
    with pytest.raises(InputError, match="none of the 4 names") as refused:
        take(folder, tmp_path / "audio.zarr", [f"samplenew4_{number}" for number in range(4)])
    assert "4 of them would, with 'samplenew3_' instead" in str(refused.value)
    with pytest.raises(InputError, match="none of the 1 names"):
        take(tmp_path, tmp_path / "audio.zarr", ["a"])
    with pytest.raises(MissingInput):
        take(tmp_path / "nowhere", tmp_path / "audio.zarr", ["a"])
    with pytest.raises(InputError, match="neither a folder nor an HDF5 file"):
        take(folder / "samplenew3_0.npy", tmp_path / "audio.zarr", ["a"])
    assert not (tmp_path / "audio.zarr").exists()


class TestBadNpy:
    """Each is named, costs itself, and is never imported."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return npy_folder(tmp_path / "f", good=[1.0, 2.0], frames=[[1.0, 2.0], [3.0, 4.0]])

    def why(self, folder: Path, **options: Any) -> str:
        names = sorted({path.name.removesuffix(".npy") for path in folder.iterdir()})
        report = take(folder, folder.parent / "audio.zarr", names, **options)
        assert report.new == 2
        assert opened(folder.parent / "audio.zarr").newest().keys() == {"good", "frames"}
        ((name, why),) = report.bad.items()
        assert name == "bad"
        return why

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1.0, np.nan], "1 of its 2 values are NaN"),
            ([[1.0, np.inf], [np.nan, 2.0]], "2 of its 4 values are NaN or infinite"),
            (np.ones((0, 2)), "it is empty"),
            (np.ones((2, 0)), "it is empty"),
            (np.float32(3), r"its shape is \(\)"),
            (np.ones((1, 2, 2)), r"its shape is \(1, 2, 2\)"),
            (np.array(["a", "b"]), "it holds <U1, not numbers"),
            (np.array([True, False]), "it holds bool"),
            (np.array([1j, 2]), "it holds complex"),
            (np.zeros(2, [("x", "f4")]), "not numbers"),
            (np.array([1e300, 1.0]), "1e[+]300, is beyond float32"),
        ],
    )
    def test_unusable_values_are_refused(self, folder: Path, values: Any, message: str) -> None:
        npy_folder(folder, bad=values)
        assert re.search(message, self.why(folder))

    def test_values_beyond_the_stored_type_are_refused(self, folder: Path) -> None:
        npy_folder(folder, bad=[70000.0, 1.0])
        assert "70000, is beyond float16" in self.why(folder, dtype="float16")

    def test_python_objects_are_not_unpickled(self, folder: Path, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "gone off",)

        np.save(folder / "bad.npy", np.array([Bomb(), 1], object), allow_pickle=True)
        assert "Python objects" in self.why(folder)
        assert not (tmp_path / "gone off").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "0 bytes"),
            (b"\x93NUMPY", "no npy file"),
            (b"PK\x03\x04 a zip or npz", "no npy file"),
            (b"\x93NUMPY\x03\x00" + bytes(100), "version"),
            (b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118, "no npy file"),
            (b"\x93NUMPY\x01\x00\x76\x00" + b"-" * 117 + b"\n", "no npy file"),
        ],
    )
    def test_files_that_are_not_npy_are_refused(self, folder: Path, content: bytes, message: str) -> None:
        (folder / "bad.npy").write_bytes(content)
        assert message in self.why(folder)

    @pytest.mark.parametrize("shape", [(10**12, 2), (2**62, 2**62), (2**28, 2)])
    def test_huge_shape_in_header_is_refused(self, folder: Path, shape: tuple[int, int]) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        (folder / "bad.npy").write_bytes(header.getvalue() + bytes(64))
        assert "too much for one clip" in self.why(folder)

    def test_truncated_file_is_refused(self, folder: Path) -> None:
        npy_folder(folder, bad=[1.0, 2.0])
        whole = (folder / "bad.npy").read_bytes()
        (folder / "bad.npy").write_bytes(whole[:-4])
        assert "12 bytes of values stand in it where its shape (2,) takes 16" in self.why(folder)

    def test_invalid_frame_folders_are_refused(self, folder: Path) -> None:
        npy_folder(folder / "bad", frame_1=[1.0, 2.0], frame_2=[1.0, 2.0, 3.0])
        assert "ragged: 2, 3 wide" in self.why(folder)
        npy_folder(folder / "bad", frame_2=[[1.0, 2.0], [1.0, 2.0]])
        assert "several rows" in take(folder, folder.parent / "audio.zarr", ["good", "bad"]).bad["bad"]
        for path in (folder / "bad").iterdir():
            path.unlink()
        assert "no npy files" in take(folder, folder.parent / "audio.zarr", ["good", "bad"]).bad["bad"]

    def test_file_and_folder_of_same_name_are_refused(self, folder: Path) -> None:
        npy_folder(folder, bad=[1.0, 2.0])
        npy_folder(folder / "bad", frame=[1.0, 2.0])
        assert "twice" in self.why(folder)

    def test_file_without_read_permission_is_refused(self, folder: Path) -> None:
        npy_folder(folder, bad=[1.0, 2.0])
        (folder / "bad.npy").chmod(0)
        if os.access(folder / "bad.npy", os.R_OK):
            pytest.skip("root may read everything")
        assert "Permission denied" in self.why(folder)

    def test_broken_links_and_pipes_are_skipped(self, folder: Path) -> None:
        (folder / "loop.npy").symlink_to("loop.npy")
        os.mkfifo(folder / "pipe.npy")
        report = take(folder, folder.parent / "audio.zarr", ["good", "frames"])
        assert (report.new, report.passed_over) == (2, ["loop.npy", "pipe.npy"])


def test_frames_of_a_folder_are_rows_in_natural_order(tmp_path: Path) -> None:
    npy_folder(tmp_path / "f" / "a", **{f"frame_{number}": [float(number), 1.0] for number in (10, 9, 1)})
    take(tmp_path / "f", tmp_path / "audio.zarr", ["a"])
    assert opened(tmp_path / "audio.zarr").row("a").values[:, 0].tolist() == [1.0, 9.0, 10.0]


def test_all_zero_arrays_are_blank(tmp_path: Path) -> None:
    folder = npy_folder(tmp_path / "f", seen=[1.0, 0.0], unseen=[0.0, 0.0], unseen_frames=np.zeros((3, 2)))
    report = take(folder, tmp_path / "audio.zarr", ["seen", "unseen", "unseen_frames"])
    assert (report.new, report.blank, report.bad) == (1, ["unseen", "unseen_frames"], {})


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u2", "<i8", ">i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_all_real_types_and_orders_are_imported(tmp_path: Path, dtype: str, order: Any) -> None:
    values = np.arange(1, 7).reshape(3, 2)
    npy_folder(tmp_path / "f", a=np.asarray(values, dtype, order=order))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a"] = np.asarray(values, dtype)
    for source in ("f", "f.h5"):
        take(tmp_path / source, tmp_path / f"{source}.zarr", ["a"])
        np.testing.assert_array_equal(opened(tmp_path / f"{source}.zarr").row("a").values, values)
    assert opened(tmp_path / "f.zarr").newest() == opened(tmp_path / "f.h5.zarr").newest()


def test_arrays_of_different_dimensions_are_refused(tmp_path: Path) -> None:
    folder = npy_folder(tmp_path / "f", a=[1.0, 2.0], b=[1.0, 2.0, 3.0], c=[[1.0, 2.0]])
    with pytest.raises(InputError, match=r"2 are 2 wide \('a', 'c'\); 1 are 3 wide \('b'\)"):
        take(folder, tmp_path / "audio.zarr", ["a", "b", "c"])
    (folder / "b.npy").unlink()
    take(folder, tmp_path / "audio.zarr", ["a", "c"])
    npy_folder(folder, b=[1.0, 2.0, 3.0])
    report = take(folder, tmp_path / "audio.zarr", ["a", "b", "c"])
    assert (report.reused, report.bad) == (2, {"b": "it is 3 wide; what was imported before is 2 wide"})
    with pytest.raises(InputError, match="none of the 1 arrays"):
        take(npy_folder(tmp_path / "g", b=[1.0, 2.0, 3.0]), tmp_path / "audio.zarr", ["b"])


def test_returning_values_get_a_new_digest(tmp_path: Path) -> None:
    root = tmp_path / "audio.zarr"
    for first, expected in ((1.0, "new"), (2.0, "changed"), (1.0, "changed"), (1.0, "reused"), (2.0, "changed")):
        report = take(npy_folder(tmp_path / "f", a=[first], b=[5.0]), root, ["a", "b"])
        assert getattr(report, expected) >= 1
        assert report.new + report.changed + report.reused == 2
        assert opened(root).load(["a"]).values.item() == first
        assert opened(root).load(["a"], digests=opened(root).newest()).values.item() == first
    assert len(set(opened(root).digests()["a"])) == 4  # no two rows of a clip share a digest


def test_killed_import_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"clip_{number}" for number in range(10)]
    folder = npy_folder(tmp_path / "f", **{name: [float(number), 1.0] for number, name in enumerate(names)})
    monkeypatch.setattr(feature_import, "CLIPS_A_PART", 3)
    real = StoreWriter.append

    def killed(self: StoreWriter, rows: Any, number: int | None = None) -> None:
        if rows[0].clip_id == "clip_6":
            raise KeyboardInterrupt
        real(self, rows, number)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            take(folder, tmp_path / "audio.zarr", names)
    assert len(opened(tmp_path / "audio.zarr")) == 6
    report = take(folder, tmp_path / "audio.zarr", names)
    assert (report.new, report.reused) == (4, 6)
    assert opened(tmp_path / "audio.zarr").load(names).values[:, 0].tolist() == list(range(10))


class TestHdf5:
    def test_datasets_in_groups_are_found(self, tmp_path: Path) -> None:
        layouts = {"root": "{}", "one_group": "features/{}", "own_group": "{}/values"}
        for layout, name in layouts.items():
            with h5py.File(tmp_path / f"{layout}.h5", "w") as file:
                file[name.format("a")] = [1.0, 2.0]
                file.create_dataset(name.format("b"), data=np.ones((3, 2)), chunks=(2, 2), compression="gzip")
            report = take(tmp_path / f"{layout}.h5", tmp_path / f"{layout}.zarr", ["a", "b"])
            assert (report.new, report.bad) == (2, {}), layout

    def test_objects_that_are_not_plain_datasets_are_refused(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(np.ones(2, "f4").tobytes())
        with h5py.File(tmp_path / "other.h5", "w") as other:
            other["a"] = [1.0, 2.0]
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["good"] = [1.0, 2.0]
            file["soft"] = h5py.SoftLink("/good")
            file["broken"] = h5py.SoftLink("/nowhere")
            file["external"] = h5py.ExternalLink("other.h5", "/a")
            file.create_dataset("stored_elsewhere", (2,), "f4", external=[(str(secret), 0, 8)])
            layout = h5py.VirtualLayout((2,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a", (2,))
            file.create_virtual_dataset("virtual", layout)
            file["type"] = np.dtype("f4")
            file["text"] = "words"
            file["references"] = np.array([file["good"].ref, file["good"].ref], h5py.ref_dtype)
            file.create_dataset("vlen", (2,), h5py.vlen_dtype("f4"))
            file.create_dataset("absurd", (10**9, 2), "f4", chunks=(1024, 2))
            file.create_dataset("unwritten", (2,), "f4")
            file.create_dataset("unwritten_chunk", (4, 2), "f4", chunks=(2, 2))[:2] = 1.0
            file["empty"] = h5py.Empty("f4")
            file["nan"] = [np.nan, 1.0]
            file["deep/er/still"] = [1.0, 2.0]
            file["both/x"], file["both/y"] = [1.0, 2.0], [1.0, 2.0]
            names = list(file)
            file["loop"] = file["/"]
        report = take(tmp_path / "f.h5", tmp_path / "audio.zarr", [*names, "loop"])
        assert report.new == 1
        assert report.bad.keys() == {*names, "loop"} - {"good"}
        assert {report.bad[name] for name in ("soft", "broken", "external")} == {"it is a link, not a dataset"}
        assert {report.bad[name] for name in ("virtual", "stored_elsewhere")} == {"its values stand in another file"}
        assert "never filled" in report.bad["unwritten"]
        assert "not wholly" in report.bad["unwritten_chunk"]
        assert "too much for one clip" in report.bad["absurd"]

    def test_damaged_dataset_is_skipped(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["good"] = [1.0, 2.0]
            bad = file.create_dataset("bad", data=np.ones((64, 2)), chunks=(64, 2), fletcher32=True)
            offset = bad.id.get_chunk_info(0).byte_offset
        with (tmp_path / "f.h5").open("r+b") as raw:
            raw.seek(offset)
            raw.write(b"\xff")
        report = take(tmp_path / "f.h5", tmp_path / "audio.zarr", ["good", "bad"])
        assert (report.new, list(report.bad)) == (1, ["bad"])
        assert "cannot be read" in report.bad["bad"]

    def test_hdf5_file_with_only_a_link_is_refused(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["a"] = h5py.ExternalLink("other.h5", "/")
        with pytest.raises(InputError, match=r"none of the arrays of clips in .* can be used; 'a': it is a link"):
            take(tmp_path / "f.h5", tmp_path / "audio.zarr", ["a"])


class TestPlanning:
    CLIPS = tuple(Clip(ClipId(name), digest=name, has_audio=name == "a") for name in ("a", "b", "c"))

    def plan(self, tmp_path: Path, clips: Sequence[Clip] = CLIPS) -> Any:
        config = ImportedConfig().named("hubert")
        return plan_branch(
            Modality.AUDIO,
            clips,
            {},
            encoder=config,
            settings=branch_settings(Modality.AUDIO, config, MediaConfig(), FaceConfig()),
            root=tmp_path / "audio.zarr",
            quarantine_path=tmp_path / "quarantine.csv",
        )

    def test_imported_features_are_not_computed(self, tmp_path: Path) -> None:
        with pytest.raises(MissingInput, match="no features of 'hubert' were imported for audio"):
            self.plan(tmp_path)
        take(npy_folder(tmp_path / "f", b=[1.0], c=[2.0]), tmp_path / "audio.zarr", ["a", "b", "c"])
        branch = self.plan(tmp_path)
        assert (branch.fingerprint, branch.todo) == (fingerprint(SETTINGS), frozenset())
        assert (branch.reused, branch.absent) == (2, 1)
        counted = coverage(
            Modality.AUDIO, self.CLIPS, {}, root=tmp_path / "audio.zarr", quarantine_path=tmp_path / "q.csv"
        )
        assert counted == Coverage(done=2, missing=0, absent=1, quarantined=0)

    def test_imported_features_do_not_depend_on_files(self, tmp_path: Path) -> None:
        take(npy_folder(tmp_path / "f", b=[1.0]), tmp_path / "audio.zarr", ["b"])
        edited = [Clip(ClipId("b"), digest="edited", has_audio=True)]
        assert self.plan(tmp_path, edited).reused == 1

    def test_computed_features_depend_on_input_digest(self, tmp_path: Path) -> None:
        store = computed(tmp_path / "audio.zarr")
        clips = [Clip(ClipId("b"), digest="old", has_audio=True)]
        assert present_digests(Modality.AUDIO, clips, {}, store) == {"b": "old"}
        assert present_digests(Modality.AUDIO, clips, {}, None) == input_digests(Modality.AUDIO, clips, {})

    def test_settings_of_imported_encoder_are_its_name(self) -> None:
        config = ImportedConfig().named("hubert")
        prints = {
            fingerprint(branch_settings(Modality.FACE, config, MediaConfig(frames=frames), FaceConfig()))
            for frames in (4, 8)
        }
        assert len(prints) == 1
        assert config.settings() == ImportedConfig(name="hubert").named("other").settings()
        assert config.settings() != ImportedConfig().named("other").settings()
        with pytest.raises(ModelError, match="cannot be computed here"):
            build_encoder(config)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_npy_header_refuses_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    for head in (b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00\x50\x00\x00\x00{'descr': '<f4', 'fortran_order'"):
        path.write_bytes(head + tail)
        with pytest.raises(UnusableFeatures):
            npy_header(path)


@settings(max_examples=40, deadline=None)
@given(arrays(st.sampled_from(["f2", "f4", "f8", "i4"]), st.sampled_from([(1,), (3,), (2, 3), (1, 1)])))
def test_npy_round_trip(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, values)
    assert npy_header(path) == (values.shape, values.dtype)
    np.testing.assert_array_equal(read_npy(path), values)
