"""Stored features as vectors and as sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.arrays import MAX_FRAMES
from ecmf_pipeline.core.clips import Clip, ClipId, Modality
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.encoders.config import EgemapsConfig, ImportedConfig
from ecmf_pipeline.extraction.features import StoredFeatures, open_features, open_store
from ecmf_pipeline.extraction.run import plan_branch
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.settings.params import branch_settings
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group, make_current

CLIPS = [
    Clip(ClipId(name), f"{name}.mp4", digest=f"digest of {name}", has_video=True, has_audio=name != "mute")
    for name in ("long", "mute", "short", "stale", "gone")
]
ORDER = [clip.clip_id for clip in CLIPS]


def write(root: Path, rows: dict[str, np.ndarray], dim: int) -> None:
    fingerprint = create_settings_group(root, {"modality": root.stem}, dim=dim, dtype="float32")
    with StoreWriter(root, fingerprint) as writer:
        if rows:
            writer.append(
                [
                    FeatureRow(name, "older" if name == "stale" else f"digest of {name}", values.astype(np.float32))
                    for name, values in rows.items()
                ]
            )
    make_current(root, fingerprint)


@pytest.fixture
def stored(tmp_path: Path) -> StoredFeatures:
    rng = np.random.default_rng(0)
    lengths = {"long": 3 * MAX_FRAMES, "mute": 2, "short": 4, "stale": 5}
    write(tmp_path / "face.zarr", {name: rng.normal(size=(length, 3)) for name, length in lengths.items()}, 3)
    write(tmp_path / "audio.zarr", {name: rng.normal(size=(1, 2)) for name in ("long", "short")}, 2)
    write(tmp_path / "global.zarr", {}, 4)
    return open_features(
        CLIPS,
        {},
        {name: Modality(name) for name in ("global", "face", "audio")},
        open_named=lambda name: FeatureStore.open(tmp_path / f"{name}.zarr"),
    )


def test_only_modalities_of_at_least_one_clip_are_read(stored: StoredFeatures) -> None:
    assert stored.modalities == ["face", "audio"]


def test_vectors_are_pooled_rows_and_missing_clips_are_nan(stored: StoredFeatures) -> None:
    features = stored.read(ORDER, "max")
    assert {name: values.shape for name, values in features.items()} == {"face": (5, 3), "audio": (5, 2)}
    assert np.isnan(features["face"]).all(axis=1).tolist() == [False, False, False, True, True]
    assert np.isnan(features["audio"]).all(axis=1).tolist() == [False, True, False, True, True]
    frames = stored.stores["face"].row("short").values
    np.testing.assert_array_equal(features["face"][2], frames.max(axis=0))


def test_sequences_have_a_bounded_length(stored: StoredFeatures) -> None:
    features = stored.read(ORDER, "frames")
    assert features["face"].shape == (5, MAX_FRAMES, 3)
    assert np.isfinite(features["face"]).all(axis=2).sum(axis=1).tolist() == [MAX_FRAMES, 2, 4, 0, 0]
    frames = stored.stores["face"].row("long").values
    np.testing.assert_allclose(features["face"][0], frames.reshape(MAX_FRAMES, 3, 3).mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(features["audio"], stored.read(ORDER, "mean")["audio"])
    assert stored.read(["gone", "stale"], "frames")["face"].shape == (2, 3), "no clip of these has a row"


def test_an_empty_store_of_imported_features_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "audio.zarr"
    settings = branch_settings(Modality.AUDIO, ImportedConfig(name="hubert"), MediaConfig(), FaceConfig())
    make_current(root, create_settings_group(root, settings, dim=None, dtype="float32"))
    with pytest.raises(MissingInput) as caught:
        open_store(root, settings)
    assert caught.value.command == "ecmf-pipe store import PATH --modality audio --encoder hubert"
    with pytest.raises(MissingInput) as caught:
        plan_branch(
            Modality.AUDIO,
            CLIPS,
            {},
            encoder=ImportedConfig(name="hubert"),
            settings=settings,
            root=root,
            quarantine_path=tmp_path / "audio.csv",
        )
    assert caught.value.command == "ecmf-pipe store import PATH --modality audio --encoder hubert"


def test_an_empty_store_of_computed_features_is_opened(tmp_path: Path) -> None:
    root = tmp_path / "audio.zarr"
    settings = branch_settings(Modality.AUDIO, EgemapsConfig(), MediaConfig(), FaceConfig())
    make_current(root, create_settings_group(root, settings, dim=None, dtype="float32"))
    assert len(open_store(root, settings)) == 0, "no clip has audio"


def test_no_features_at_all_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "face.zarr", {}, 3)
    with pytest.raises(InputError) as caught:
        open_features(
            CLIPS,
            {},
            {"face": Modality.FACE},
            open_named=lambda name: FeatureStore.open(tmp_path / f"{name}.zarr"),
        )
    assert caught.value.command == "ecmf-pipe extract"
