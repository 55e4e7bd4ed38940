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
from ecmf_pipeline.extraction.run import Coverage, coverage, current_digests, input_digests, plan_branch
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


def write_store(root: Path, dtype: str = "float16") -> FeatureStore:
    """Write a store like `extract`, with two rows for clip ``b``, whose input changed."""
    key = create_settings_group(root, {"modality": "audio", "encoder": {"type": "egemaps"}}, dim=4, dtype=dtype)
    rng = np.random.default_rng(0)
    rows = [FeatureRow(name, "old", rng.normal(size=(length, 4))) for name, length in RAGGED.items()]
    with StoreWriter(root, key) as writer:
        writer.append(rows)
        writer.append([FeatureRow("b", "new", rng.normal(size=(2, 4)))])
    return FeatureStore(root, key)


def import_from(path: Path, root: Path, clip_ids: list[str], dtype: str = "float32") -> ImportReport:
    with open_source(path) as source:
        return import_features(source, clip_ids, root, SETTINGS, dtype=dtype)


def open_store(root: Path) -> FeatureStore:
    return FeatureStore(root, fingerprint(SETTINGS))


def npy_folder(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        np.save(folder / f"{name}.npy", np.asarray(value))
    return folder


@pytest.mark.parametrize("file_format", FileFormat)
@pytest.mark.parametrize("level", Level)
def test_export_import_round_trip(tmp_path: Path, file_format: FileFormat, level: Level) -> None:
    store = write_store(tmp_path / "audio.zarr")
    out = tmp_path / "out"
    report = export_features(store, out, file_format=file_format, level=level)
    assert (report.clips, report.not_exported) == (3, 0)
    back = import_from(out, tmp_path / "imported.zarr", sorted(RAGGED))
    assert (back.new, back.bad, back.missing, back.extra, back.dim) == (3, {}, [], [], 4)
    for name in RAGGED:
        stored = store.row(name).values.astype(np.float32)
        expected = stored.mean(axis=0, keepdims=True) if level is Level.UTTERANCE else stored
        np.testing.assert_array_equal(open_store(tmp_path / "imported.zarr").row(name).values, expected)


def test_exported_files_have_baseline_layout(tmp_path: Path) -> None:
    store = write_store(tmp_path / "audio.zarr")
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
    store = write_store(tmp_path / "audio.zarr")
    digests = {"a": "old", "b": "old", "妈妈 x": "new", "unheard": "old"}
    report = export_features(store, tmp_path / "out", file_format=FileFormat.NPY, level=Level.FRAME, digests=digests)
    assert (report.clips, report.not_exported) == (2, 1)
    assert {path.stem: len(np.load(path)) for path in (tmp_path / "out").iterdir()} == {"a": 3, "b": 1}
    with pytest.raises(InputError) as caught:
        export_features(store, tmp_path / "none", file_format=FileFormat.NPY, level=Level.FRAME, digests={"a": "other"})
    assert str(store.root) in caught.value.message
    assert caught.value.command == "ecmf-pipe extract --modality audio"


@pytest.mark.parametrize("file_format", FileFormat)
def test_existing_output_is_not_overwritten(tmp_path: Path, file_format: FileFormat) -> None:
    store = write_store(tmp_path / "audio.zarr")
    full, empty, file, link = (tmp_path / name for name in ("full", "empty", "file", "link"))
    npy_folder(full, a=[1.0])
    empty.mkdir()
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for out in (full, file, link):
        with pytest.raises(InputError, match="already exists"):
            export_features(store, out, file_format=file_format, level=Level.FRAME)
    with pytest.raises(InputError, match="is inside the feature store"):
        export_features(store, store.folder / "out", file_format=file_format, level=Level.FRAME)
    export_features(store, empty, file_format=file_format, level=Level.FRAME)
    assert import_from(empty, tmp_path / "imported.zarr", sorted(RAGGED)).new == 3
    assert file.read_text() == "mine"


@pytest.mark.parametrize("file_format", FileFormat)
def test_interrupted_export_leaves_no_files(
    tmp_path: Path, file_format: FileFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_store(tmp_path / "audio.zarr")
    out = tmp_path / "exports" / "out"
    unfinished = tmp_path / "exports" / ".out.partial" / "unfinished"  # files of a killed export
    npy_folder(unfinished, killed=[1.0])

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "load_sequences", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_features(store, out, file_format=file_format, level=Level.FRAME)
    assert list((tmp_path / "exports").iterdir()) == []
    npy_folder(unfinished, killed=[1.0])
    export_features(store, out, file_format=file_format, level=Level.FRAME)
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["out"]
    assert import_from(out, tmp_path / "imported.zarr", [*RAGGED, "killed"]).missing == ["killed"]


def test_clip_id_outside_folder_is_not_exported(tmp_path: Path) -> None:
    key = create_settings_group(tmp_path / "audio.zarr", SETTINGS, dim=1, dtype="float32")
    with StoreWriter(tmp_path / "audio.zarr", key) as writer:
        writer.append([FeatureRow("../up", "d", np.ones((1, 1)))])
    with pytest.raises(CorpusError, match=r"\.\./up"):
        export_features(
            open_store(tmp_path / "audio.zarr"), tmp_path / "in" / "out", file_format=FileFormat.NPY, level=Level.FRAME
        )
    assert not (tmp_path / "in").exists()


def test_names_are_matched_to_the_manifest(tmp_path: Path) -> None:
    folder = npy_folder(tmp_path / "f", **{"a": [1.0], "cafe\u0301": [2.0], "stranger": [3.0, 4.0], ".hidden": [1.0]})
    (folder / "readme.txt").write_text("words")
    report = import_from(folder, tmp_path / "audio.zarr", ["a", "b", "c", "café"])
    assert (report.new, report.missing, report.extra, report.skipped_names) == (
        2,
        ["b", "c"],
        ["stranger"],
        ["readme.txt"],
    )
    assert open_store(tmp_path / "audio.zarr").newest().keys() == {"a", "café"}


def test_source_without_matching_names_is_rejected(tmp_path: Path) -> None:
    folder = npy_folder(tmp_path / "f", **{f"samplenew3_{number}": [1.0] for number in range(4)})
    with pytest.raises(InputError) as other_prefix:
        import_from(folder, tmp_path / "audio.zarr", [f"samplenew4_{number}" for number in range(4)])
    assert "none of its 4 names" in other_prefix.value.message
    assert all(prefix in other_prefix.value.message for prefix in ("prefix 'samplenew3_'", "prefix 'samplenew4_'"))
    with pytest.raises(InputError) as other_folder:
        import_from(tmp_path, tmp_path / "audio.zarr", ["a"])
    assert "none of its 1 names" in other_folder.value.message
    with pytest.raises(MissingInput):
        import_from(tmp_path / "nowhere", tmp_path / "audio.zarr", ["a"])
    with pytest.raises(InputError) as npy_file:
        import_from(folder / "samplenew3_0.npy", tmp_path / "audio.zarr", ["a"])
    assert str(folder / "samplenew3_0.npy") in npy_file.value.message
    assert not (tmp_path / "audio.zarr").exists()


class TestBadNpy:
    """An unusable npy file is reported and not imported; other files are imported."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return npy_folder(tmp_path / "f", good=[1.0, 2.0], frames=[[1.0, 2.0], [3.0, 4.0]])

    def problem_of(self, folder: Path, **options: Any) -> str:
        names = sorted({path.name.removesuffix(".npy") for path in folder.iterdir()})
        report = import_from(folder, folder.parent / "audio.zarr", names, **options)
        assert report.new == 2
        assert open_store(folder.parent / "audio.zarr").newest().keys() == {"good", "frames"}
        ((name, problem),) = report.bad.items()
        assert name == "bad"
        return problem

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1.0, np.nan], "1 of 2 values are NaN"),
            ([[1.0, np.inf], [np.nan, 2.0]], "2 of 4 values are NaN or infinite"),
            (np.ones((0, 2)), r"empty \(shape \(0, 2\)"),
            (np.ones((2, 0)), r"empty \(shape \(2, 0\)"),
            (np.float32(3), r"shape \(\)"),
            (np.ones((1, 2, 2)), r"shape \(1, 2, 2\)"),
            (np.array(["a", "b"]), "holds <U1"),
            (np.array([True, False]), "holds bool"),
            (np.array([1j, 2]), "holds complex"),
            (np.zeros(2, [("x", "f4")]), "holds .*f4"),
            (np.array([1e300, 1.0]), "1e[+]300, .* float32"),
            (np.full((3, 2), np.finfo(np.float32).max), "3.4.*e[+]38, .* not finite"),
            (np.array([-2e19, 1.0]), "2e[+]19, .* not finite"),
        ],
    )
    def test_unusable_values_are_rejected(self, folder: Path, values: Any, message: str) -> None:
        npy_folder(folder, bad=values)
        assert re.search(message, self.problem_of(folder))

    def test_values_beyond_the_stored_type_are_rejected(self, folder: Path) -> None:
        npy_folder(folder, bad=[70000.0, 1.0])
        assert re.search("70000, .* float16", self.problem_of(folder, dtype="float16"))

    def test_python_objects_are_not_unpickled(self, folder: Path, tmp_path: Path) -> None:
        class MaliciousObject:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "executed",)

        np.save(folder / "bad.npy", np.array([MaliciousObject(), 1], object), allow_pickle=True)
        assert "Python objects" in self.problem_of(folder)
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "0 bytes"),
            (b"\x93NUMPY", "not an npy file"),
            (b"PK\x03\x04 a zip or npz", "not an npy file"),
            (b"\x93NUMPY\x03\x00" + bytes(100), "version (3, 0)"),
            (b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118, "not an npy file"),
            (b"\x93NUMPY\x01\x00\x76\x00" + b"-" * 117 + b"\n", "not an npy file"),
        ],
    )
    def test_files_that_are_not_npy_are_rejected(self, folder: Path, content: bytes, message: str) -> None:
        (folder / "bad.npy").write_bytes(content)
        assert message in self.problem_of(folder)

    @pytest.mark.parametrize("shape", [(10**12, 2), (2**62, 2**62), (2**28, 2)])
    def test_huge_shape_in_header_is_rejected(self, folder: Path, shape: tuple[int, int]) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        (folder / "bad.npy").write_bytes(header.getvalue() + bytes(64))
        assert "the limit is 512 MB" in self.problem_of(folder)

    def test_truncated_file_is_rejected(self, folder: Path) -> None:
        npy_folder(folder, bad=[1.0, 2.0])
        content = (folder / "bad.npy").read_bytes()
        (folder / "bad.npy").write_bytes(content[:-4])
        assert re.findall(r"\d+", self.problem_of(folder)) == ["12", "2", "16"]

    def test_invalid_frame_folders_are_rejected(self, folder: Path) -> None:
        npy_folder(folder / "bad", frame_1=[1.0, 2.0], frame_2=[1.0, 2.0, 3.0])
        assert "dimensions: 2, 3" in self.problem_of(folder)
        npy_folder(folder / "bad", frame_2=[[1.0, 2.0], [1.0, 2.0]])
        assert "several rows" in import_from(folder, folder.parent / "audio.zarr", ["good", "bad"]).bad["bad"]
        for path in (folder / "bad").iterdir():
            path.unlink()
        assert "no npy files" in import_from(folder, folder.parent / "audio.zarr", ["good", "bad"]).bad["bad"]

    def test_file_and_folder_of_same_name_are_rejected(self, folder: Path) -> None:
        npy_folder(folder, bad=[1.0, 2.0])
        npy_folder(folder / "bad", frame=[1.0, 2.0])
        assert "two arrays" in self.problem_of(folder)

    def test_file_without_read_permission_is_rejected(self, folder: Path) -> None:
        npy_folder(folder, bad=[1.0, 2.0])
        (folder / "bad.npy").chmod(0)
        if os.access(folder / "bad.npy", os.R_OK):
            pytest.skip("root can read all files")
        assert "Permission denied" in self.problem_of(folder)

    def test_broken_links_and_pipes_are_skipped(self, folder: Path) -> None:
        (folder / "loop.npy").symlink_to("loop.npy")
        os.mkfifo(folder / "pipe.npy")
        report = import_from(folder, folder.parent / "audio.zarr", ["good", "frames"])
        assert (report.new, report.skipped_names) == (2, ["loop.npy", "pipe.npy"])


def test_frames_of_a_folder_are_rows_in_natural_order(tmp_path: Path) -> None:
    npy_folder(tmp_path / "f" / "a", **{f"frame_{number}": [float(number), 1.0] for number in (10, 9, 1)})
    import_from(tmp_path / "f", tmp_path / "audio.zarr", ["a"])
    assert open_store(tmp_path / "audio.zarr").row("a").values[:, 0].tolist() == [1.0, 9.0, 10.0]


def test_all_zero_arrays_are_blank(tmp_path: Path) -> None:
    folder = npy_folder(tmp_path / "f", seen=[1.0, 0.0], unseen=[0.0, 0.0], unseen_frames=np.zeros((3, 2)))
    report = import_from(folder, tmp_path / "audio.zarr", ["seen", "unseen", "unseen_frames"])
    assert (report.new, report.blank, report.bad) == (1, ["unseen", "unseen_frames"], {})


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u2", "<i8", ">i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_all_real_types_and_orders_are_imported(tmp_path: Path, dtype: str, order: Any) -> None:
    values = np.arange(1, 7).reshape(3, 2)
    npy_folder(tmp_path / "f", a=np.asarray(values, dtype, order=order))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a"] = np.asarray(values, dtype)
    for source in ("f", "f.h5"):
        import_from(tmp_path / source, tmp_path / f"{source}.zarr", ["a"])
        np.testing.assert_array_equal(open_store(tmp_path / f"{source}.zarr").row("a").values, values)
    assert open_store(tmp_path / "f.zarr").newest() == open_store(tmp_path / "f.h5.zarr").newest()


def test_arrays_of_different_dimensions_are_rejected(tmp_path: Path) -> None:
    folder = npy_folder(tmp_path / "f", a=[1.0, 2.0], b=[1.0, 2.0, 3.0], c=[[1.0, 2.0]])
    with pytest.raises(InputError) as different:
        import_from(folder, tmp_path / "audio.zarr", ["a", "b", "c"])
    assert "2 have 2 ('a', 'c'); 1 have 3 ('b')" in different.value.message
    (folder / "b.npy").unlink()
    import_from(folder, tmp_path / "audio.zarr", ["a", "c"])
    npy_folder(folder, b=[1.0, 2.0, 3.0])
    report = import_from(folder, tmp_path / "audio.zarr", ["a", "b", "c"])
    assert (report.reused, list(report.bad)) == (2, ["b"])
    assert re.findall(r"\d+", report.bad["b"]) == ["3", "2"]
    with pytest.raises(InputError, match="none of the 1 arrays"):
        import_from(npy_folder(tmp_path / "g", b=[1.0, 2.0, 3.0]), tmp_path / "audio.zarr", ["b"])


def test_returning_values_get_a_new_digest(tmp_path: Path) -> None:
    root = tmp_path / "audio.zarr"
    for first, expected in ((1.0, "new"), (2.0, "changed"), (1.0, "changed"), (1.0, "reused"), (2.0, "changed")):
        report = import_from(npy_folder(tmp_path / "f", a=[first], b=[5.0]), root, ["a", "b"])
        assert getattr(report, expected) >= 1
        assert report.new + report.changed + report.reused == 2
        assert open_store(root).load(["a"]).values.item() == first
        assert open_store(root).load(["a"], digests=open_store(root).newest()).values.item() == first
    assert len(set(open_store(root).digests()["a"])) == 4  # no two rows of a clip share a digest


def test_killed_import_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"clip_{number}" for number in range(10)]
    folder = npy_folder(tmp_path / "f", **{name: [float(number), 1.0] for number, name in enumerate(names)})
    monkeypatch.setattr(feature_import, "CLIPS_PER_PART", 3)
    real = StoreWriter.append

    def killed(self: StoreWriter, rows: Any, number: int | None = None) -> None:
        if rows[0].clip_id == "clip_6":
            raise KeyboardInterrupt
        real(self, rows, number)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            import_from(folder, tmp_path / "audio.zarr", names)
    assert len(open_store(tmp_path / "audio.zarr")) == 6
    report = import_from(folder, tmp_path / "audio.zarr", names)
    assert (report.new, report.reused) == (4, 6)
    assert open_store(tmp_path / "audio.zarr").load(names).values[:, 0].tolist() == list(range(10))


class TestHdf5:
    def test_datasets_in_groups_are_found(self, tmp_path: Path) -> None:
        layouts = {"root": "{}", "one_group": "features/{}", "own_group": "{}/values"}
        for layout, name in layouts.items():
            with h5py.File(tmp_path / f"{layout}.h5", "w") as file:
                file[name.format("a")] = [1.0, 2.0]
                file.create_dataset(name.format("b"), data=np.ones((3, 2)), chunks=(2, 2), compression="gzip")
            report = import_from(tmp_path / f"{layout}.h5", tmp_path / f"{layout}.zarr", ["a", "b"])
            assert (report.new, report.bad) == (2, {}), layout

    def test_objects_that_are_not_plain_datasets_are_rejected(self, tmp_path: Path) -> None:
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
        report = import_from(tmp_path / "f.h5", tmp_path / "audio.zarr", [*names, "loop"])
        assert report.new == 1
        assert report.bad.keys() == {*names, "loop"} - {"good"}
        assert all("is a link" in report.bad[name] for name in ("soft", "broken", "external"))
        assert all("in another file" in report.bad[name] for name in ("virtual", "stored_elsewhere"))
        assert all("never written" in report.bad[name] for name in ("unwritten", "unwritten_chunk"))
        assert "the limit is 512 MB" in report.bad["absurd"]

    def test_damaged_dataset_is_skipped(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["good"] = [1.0, 2.0]
            bad = file.create_dataset("bad", data=np.ones((64, 2)), chunks=(64, 2), fletcher32=True)
            offset = bad.id.get_chunk_info(0).byte_offset
        with (tmp_path / "f.h5").open("r+b") as raw:
            raw.seek(offset)
            raw.write(b"\xff")
        report = import_from(tmp_path / "f.h5", tmp_path / "audio.zarr", ["good", "bad"])
        assert (report.new, list(report.bad)) == (1, ["bad"])
        assert "cannot be read" in report.bad["bad"]

    def test_hdf5_file_with_only_a_link_is_rejected(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["a"] = h5py.ExternalLink("other.h5", "/")
        with pytest.raises(InputError) as caught:
            import_from(tmp_path / "f.h5", tmp_path / "audio.zarr", ["a"])
        assert str(tmp_path / "f.h5") in caught.value.message
        assert "'a': the object is a link" in caught.value.message


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
        with pytest.raises(MissingInput) as caught:
            self.plan(tmp_path)
        assert all(name in str(caught.value) for name in ("hubert", "audio"))
        import_from(npy_folder(tmp_path / "f", b=[1.0], c=[2.0]), tmp_path / "audio.zarr", ["a", "b", "c"])
        branch = self.plan(tmp_path)
        assert (branch.fingerprint, branch.todo) == (fingerprint(SETTINGS), frozenset())
        assert (branch.reused, branch.absent) == (2, 1)
        counts = coverage(
            Modality.AUDIO, self.CLIPS, {}, root=tmp_path / "audio.zarr", quarantine_path=tmp_path / "q.csv"
        )
        assert counts == Coverage(done=2, missing=0, absent=1, quarantined=0)

    def test_imported_features_do_not_depend_on_files(self, tmp_path: Path) -> None:
        import_from(npy_folder(tmp_path / "f", b=[1.0]), tmp_path / "audio.zarr", ["b"])
        clips = [Clip(ClipId("b"), digest="edited", has_audio=True)]
        assert self.plan(tmp_path, clips).reused == 1

    def test_computed_features_depend_on_input_digest(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "audio.zarr")
        clips = [Clip(ClipId("b"), digest="old", has_audio=True)]
        assert current_digests(Modality.AUDIO, clips, {}, store) == {"b": "old"}
        assert current_digests(Modality.AUDIO, clips, {}, None) == input_digests(Modality.AUDIO, clips, {})

    def test_settings_of_imported_encoder_are_its_name(self) -> None:
        config = ImportedConfig().named("hubert")
        fingerprints = {
            fingerprint(branch_settings(Modality.FACE, config, MediaConfig(frames=frames), FaceConfig()))
            for frames in (4, 8)
        }
        assert len(fingerprints) == 1
        assert config.settings() == ImportedConfig(name="hubert").named("other").settings()
        assert config.settings() != ImportedConfig().named("other").settings()
        with pytest.raises(ModelError):
            build_encoder(config)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_npy_header_rejects_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
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
