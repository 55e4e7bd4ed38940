"""Measure the choices of ADR 4 on features of real clips and texts: stored type, codecs and part size.

``python -m tools.bench.store_format VIDEO_FOLDER MELD_CSV RAVDESS_NPZ``, run in a folder that has ``data/models``.
CPU seconds are the minimum of several runs. Sizes are measured on the features themselves. To measure times, the
features are repeated, each time multiplied by another gain. The last table measures only files and seconds, so it tiles
the text features.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from ecmf_pipeline.core.clips import ClipText
from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.encoders import config as configs
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder
from ecmf_pipeline.media.audio import read_audio
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group
from tools.bench.store import cpu_seconds

UTTERANCES = 2_000
NEW_CLIPS = 100
CLIPS = 132_000
TIMED_BYTES = 2**26
Values = NDArray[np.float32]


def main() -> None:
    """Print all tables."""
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    for line in tables(*map(Path, sys.argv[1:])):
        sys.stdout.write(f"{line}\n")


def tables(videos: Path, meld: Path, ravdess: Path) -> Iterator[str]:
    """Yield the lines of all tables."""
    utterances, emotions, dialogues = _utterances(meld)
    texts = build_encoder(configs.TextConfig()).encode([ClipText(utterance) for utterance in utterances])
    features = {**_features_of_clips(videos), "text": [text.values for text in texts]}
    for name, clips in features.items():
        yield f"\n{name}: {len(clips)} clips, {sum(map(len, clips))} rows x {clips[0].shape[1]}, {_rounding(clips)}"
        if name == "audio":
            continue  # always float32: few columns, with values of very different magnitudes
        yield "| type | codec | size / float32 | MB for 100 new clips | write, CPU s per GiB | read, CPU s per GiB |"
        yield "|---|---|---|---|---|---|"
        with tempfile.TemporaryDirectory() as folder:
            yield from _codecs(np.concatenate(clips), len(clips), Path(folder) / "array")
    yield "\nlinear model on float32 features, and on the same features rounded to float16"
    yield "| features | float32: weighted F1 / accuracy | float16: weighted F1 / accuracy | different predictions |"
    yield "|---|---|---|---|"
    yield _linear("MELD, text", np.concatenate(features["text"]), emotions, dialogues)
    archive = np.load(ravdess)
    parts = [name.split("-") for name in archive["name"]]
    labels, actors = [part[2] for part in parts], [part[6].split(".")[0] for part in parts]
    for name, columns in (("face", slice(0, 35)), ("audio", slice(35, None)), ("both", slice(None))):
        yield _linear(f"RAVDESS, {name}", archive["X"][:, columns].astype(np.float32), labels, actors)
    yield f"\n{CLIPS:,} clips of one row of 768 float16 (text features, tiled)"
    yield "| clips per part | files | DVC file list | write, CPU s | open, CPU s | load, CPU s |"
    yield "|---|---|---|---|---|---|"
    rows = np.concatenate(features["text"])
    for part_size in (128, 512, 1024, 2048):
        with tempfile.TemporaryDirectory() as folder:
            yield _part_size(part_size, np.concatenate([rows, rows], axis=1)[:, :768], Path(folder) / "text.zarr")


def _features_of_clips(videos: Path) -> dict[str, list[Values]]:
    """Return the float32 features of each clip, (T, D), by modality, without clips that fail."""
    media, features = MediaConfig(), defaultdict[str, list[Values]](list)
    with FaceFinder(FaceConfig()) as faces, ExitStack() as exits:
        branches: dict[str, tuple[BaseEncoderConfig, Callable[[Path], Any]]] = {
            "global": (configs.EfficientNetConfig(), lambda path: read_frames(path, media)[0]),
            "face": (configs.MiniXceptionConfig(), lambda path: faces.track(read_frames(path, media)[0])),
            "audio": (configs.EgemapsConfig(), lambda path: read_audio(path, media)),
        }
        for name, (config, view) in branches.items():
            encoder = build_encoder(config)
            exits.callback(encoder.close)
            for path in sorted(videos.iterdir()):
                with suppress(ClipError):
                    encodings = encoder.encode([view(path)])
                    features[name] += [encoding.values for encoding in encodings if len(encoding.values)]
    return features


def _utterances(path: Path) -> Iterator[list[str]]:
    """Yield three columns of a MELD csv file: texts, emotions, dialogues."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:UTTERANCES]
    yield from ([row[column] for row in rows] for column in ("Utterance", "Emotion", "Dialogue_ID"))


def _rounding(clips: Sequence[Values]) -> str:
    """Format the rounding error of float16 in pooled features, relative to the standard deviation of each column."""
    pooled = np.stack([clip.mean(axis=0) for clip in clips])
    with np.errstate(over="ignore"):
        rounded = np.stack([clip.astype(np.float16).astype(np.float32).mean(axis=0) for clip in clips])
    varying = _varying_columns(pooled)
    error = (np.abs(rounded - pooled) / np.maximum(pooled.std(axis=0), 1e-30))[:, varying]
    largest = max(float(np.abs(clip).max()) for clip in clips)
    return (
        f"largest value {largest:.4g}, {len(varying) - varying.sum()} constant columns; rounding to float16 changes a "
        f"mean by {np.median(error):.1e} (median) or {error.max():.1e} (maximum) standard deviations of its column"
    )


def _varying_columns(features: Values) -> NDArray[np.bool_]:
    """Return which columns vary over clips, (D,); the values of the others are rounding noise."""
    spread = features.std(axis=0)
    varying: NDArray[np.bool_] = spread > 1e-5 * spread.max()
    return varying


def _codecs(rows: Values, clips: int, folder: Path) -> Iterator[str]:
    """Yield a table row for each type and codec: size, new bytes, CPU seconds of writing and of reading."""
    crc = Crc32cCodec()
    gains = np.random.default_rng(4).uniform(0.9, 1.1, (TIMED_BYTES // rows.nbytes, 1, 1))
    repeated = (rows * gains).astype(np.float32).reshape(-1, rows.shape[1])
    for dtype in ("float32", "float16"):
        blosc = partial(BloscCodec, typesize=np.dtype(dtype).itemsize)
        chains: dict[str, list[Any]] = {
            "none": [],
            "crc32c": [crc],
            "zstd 1": [ZstdCodec(level=1), crc],
            "zstd 9": [ZstdCodec(level=9), crc],
            "lz4": [blosc(cname="lz4", shuffle="noshuffle"), crc],
            "lz4, shuffle": [blosc(cname="lz4", shuffle="shuffle"), crc],
            "zstd 1, shuffle": [blosc(cname="zstd", clevel=1, shuffle="shuffle"), crc],
            "zstd 1, bitshuffle": [blosc(cname="zstd", clevel=1, shuffle="bitshuffle"), crc],
        }
        for codec, chain in chains.items():
            stored = _write(folder, rows.astype(dtype), chain)
            values = repeated.astype(dtype)
            writing = cpu_seconds(partial(_write, folder, values, chain), 2)
            reading = cpu_seconds(lambda: np.asarray(zarr.open_array(folder, mode="r")[...]), 5)
            scale = 2**30 / repeated.nbytes  # times are per 1 GiB of float32 values
            yield (
                f"| {dtype} | {codec} | {stored / rows.nbytes:.2f} | {stored * NEW_CLIPS / clips / 1e6:.2f} "
                f"| {writing * scale:.2f} | {reading * scale:.2f} |"
            )


def _write(folder: Path, values: NDArray[Any], chain: Sequence[Any]) -> int:
    """Write an array of one chunk and return the size of the chunk in bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    zarr.create_array(folder, data=values, chunks=values.shape, compressors=chain or None)
    return sum(path.stat().st_size for path in (folder / "c").rglob("*") if path.is_file())


def _linear(title: str, features: Values, labels: Sequence[str], groups: Sequence[str]) -> str:
    """Return a table row: out-of-fold weighted F1 and accuracy on float32 and on float16, grouped folds."""
    features = features[:, _varying_columns(features)]
    predictions = []
    for values in (features, features.astype(np.float16).astype(np.float32)):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.01))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some folds lack one of the classes
            predictions.append(cross_val_predict(model, values, labels, groups=groups, cv=GroupKFold(5)))
    scores = [
        f"{f1_score(labels, predicted, average='weighted'):.4f} / {np.mean(predicted == np.array(labels)):.4f}"
        for predicted in predictions
    ]
    return f"| {title} | {scores[0]} | {scores[1]} | {int((predictions[0] != predictions[1]).sum())} of {len(labels)} |"


def _part_size(part_size: int, rows: Values, root: Path) -> str:
    fingerprint = create_settings_group(root, {"part_size": part_size}, dim=768, dtype="float16")
    names = [f"clip{number:06d}" for number in range(CLIPS)]

    def write() -> None:
        with StoreWriter(root, fingerprint) as writer:
            for first in range(0, CLIPS, part_size):
                some = enumerate(names[first : first + part_size], first)
                writer.append([FeatureRow(name, "0" * 64, rows[[number % len(rows)]]) for number, name in some])

    writing = cpu_seconds(write, repeats=1)
    files = [path for path in root.rglob("*") if path.is_file()]
    file_list = json.dumps(
        [{"md5": "0" * 32, "relpath": str(path.relative_to(root))} for path in files]
    )  # like the .dir file of DVC
    opening = cpu_seconds(lambda: FeatureStore.open(root), 5)
    store = FeatureStore.open(root)
    loading = cpu_seconds(lambda: store.load(names), 5)
    list_size = f"{len(file_list) / 1000:.0f} kB"
    return f"| {part_size} | {len(files)} | {list_size} | {writing:.2f} | {opening:.3f} | {loading:.3f} |"


if __name__ == "__main__":
    main()
