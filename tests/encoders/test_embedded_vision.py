"""Compare EfficientNet-Lite0, the mini-Xception and the blendshapes with known results."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import h5py
import mediapipe
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import EfficientNetConfig, MiniXceptionConfig
from ecmf_pipeline.encoders.embedded import mini_xception as xception
from ecmf_pipeline.encoders.embedded.efficientnet import EfficientNetEncoder, SameConv2d, SameMaxPool2d, same_padding
from ecmf_pipeline.encoders.embedded.mini_xception import MiniXceptionEncoder
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder, FaceTrack

SMILE_LEFT, SMILE_RIGHT = 128 + 44, 128 + 45
SIX_CLASSES = {"neutral": "neutral", "angry": "angry", "happy": "happy", "sad": "sad", "fear": "worried"} | {
    "surprise": "surprise"
}


class TestTensorFlowPadding:
    @pytest.mark.parametrize(
        ("size", "kernel", "stride", "padding"),
        [(224, 3, 2, (0, 1)), (112, 3, 1, (1, 1)), (56, 5, 2, (1, 2)), (15, 3, 2, (1, 1)), (30, 1, 2, (0, 0))],
    )
    def test_odd_pixel_is_added_after(self, size: int, kernel: int, stride: int, padding: tuple[int, int]) -> None:
        assert same_padding(size, kernel, stride) == padding

    def test_strided_convolution_starts_at_the_first_pixel(self) -> None:
        conv = SameConv2d(1, 1, 3, 2)
        torch.nn.init.ones_(conv.weight)
        out = conv(torch.arange(16.0).view(1, 1, 4, 4)).detach()
        assert out[0, 0].tolist() == [[45.0, 39.0], [66.0, 50.0]]

    def test_padding_is_never_the_maximum(self) -> None:
        assert (SameMaxPool2d(3, 2)(torch.full((1, 1, 15, 15), -1.0)) == -1).all()


@pytest.fixture(scope="module")
def efficientnet(models: Path) -> EfficientNetEncoder:
    weights = models / "efficientnet_lite0" / "efficientnet-lite0-57934424.pth"
    return EfficientNetEncoder(EfficientNetConfig(weights=weights), "cpu")


class TestEfficientNet:
    @pytest.mark.parametrize(("name", "imagenet_class", "probability"), [("coffee", 967, 0.94), ("chelsea", 285, 0.38)])
    def test_imagenet_class_of_known_pictures(
        self, efficientnet: EfficientNetEncoder, name: str, imagenet_class: int, probability: float
    ) -> None:
        features = efficientnet.encode([getattr(data, name)()[None]])[0].values
        probs = efficientnet.network.fc(torch.from_numpy(features)).softmax(dim=1)[0]
        assert probs.argmax().item() == imagenet_class
        assert probs[imagenet_class].item() == pytest.approx(probability, abs=0.03)

    def test_stretch_uses_the_whole_frame_and_crop_its_centre(self, models: Path) -> None:
        frame = np.zeros((1, 224, 448, 3), np.uint8)
        marked = frame.copy()
        marked[:, :, :80] = 255  # left of the centre square
        weights = models / "efficientnet_lite0" / "efficientnet-lite0-57934424.pth"
        for fit, differs in (("crop", False), ("stretch", True)):
            encoder = build_encoder(EfficientNetConfig(weights=weights, fit=fit), "cpu")
            one, two = encoder.encode([frame, marked])
            assert bool(np.abs(one.values - two.values).max() > 0.1) is differs

    def test_missing_weights_raise_model_error(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError) as caught:
            build_encoder(EfficientNetConfig(weights=tmp_path / "absent.pth"), "cpu")
        assert str(tmp_path / "absent.pth") in caught.value.message
        assert caught.value.command == "ecmf-pipe models"

    @pytest.mark.parametrize("broken", ["bytes", "pickle", "shape", "names"])
    def test_invalid_weights_raise_model_error(self, tmp_path: Path, models: Path, broken: str) -> None:
        path = tmp_path / "weights.pth"
        state = torch.load(models / "efficientnet_lite0" / "efficientnet-lite0-57934424.pth", weights_only=True)
        if broken == "bytes":
            path.write_bytes(b"not weights")
        elif broken == "pickle":
            torch.save({"_fc.weight": Path("pickled object that must not be loaded")}, path)
        elif broken == "shape":
            torch.save({**state, "_fc.bias": torch.zeros(3)}, path)
        else:
            del state["_conv_head.weight"]
            torch.save(state, path)
        with pytest.raises(ModelError, match="does not contain") as caught:
            build_encoder(EfficientNetConfig(weights=path), "cpu")
        assert str(path) in caught.value.message


@pytest.fixture(scope="module")
def face_encoder(models: Path) -> Iterator[MiniXceptionEncoder]:
    config = MiniXceptionConfig(
        weights=models / "mini_xception" / "emotion_model.hdf5",
        face_landmarker=models / "face_landmarker" / "face_landmarker.task",
    )
    encoder = MiniXceptionEncoder(config, "cpu")
    yield encoder
    encoder.close()


class TestFace:
    def test_crops_without_a_face_have_no_row(self, face_encoder: MiniXceptionEncoder, tracks: list[FaceTrack]) -> None:
        encodings = face_encoder.encode(tracks)
        assert [encoding.kept.tolist() for encoding in encodings] == [[0, 2], [0], []]
        assert encodings[2].values.shape == (0, 180)
        faces = tracks[0].crops[[0, 2]]  # the same faces without the empty crop
        rows = face_encoder.encode([dataclasses.replace(tracks[0], crops=faces)])[0].values
        np.testing.assert_allclose(encodings[0].values, rows, atol=1e-5)

    def test_astronaut_is_smiling(self, face_encoder: MiniXceptionEncoder, tracks: list[FaceTrack]) -> None:
        row = face_encoder.encode(tracks[:1])[0].values[0]
        assert min(row[SMILE_LEFT], row[SMILE_RIGHT]) > 0.8
        logits = face_encoder.network(face_encoder.preparer.grey_faces(tracks[0].crops[:1]))[1]
        assert xception.EXPRESSIONS[int(logits.argmax())] == "happy"

    def test_blendshapes_have_the_names_of_the_landmarker(
        self, face_encoder: MiniXceptionEncoder, tracks: list[FaceTrack]
    ) -> None:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(tracks[0].crops[0]))
        (shapes,) = face_encoder.preparer._landmarker.detect(image).face_blendshapes
        names = face_encoder.column_names
        assert names[128:] == [shape.category_name for shape in shapes]
        assert names[:128] == [""] * 128
        assert (names[SMILE_LEFT], names[SMILE_RIGHT]) == ("mouthSmileLeft", "mouthSmileRight")

    def test_grey_faces_are_the_centre_scaled_to_minus_one_to_one(self, face_encoder: MiniXceptionEncoder) -> None:
        crops = np.full((1, 256, 256, 3), 255, np.uint8)
        crops[:, 32:-32, 32:-32] = 0  # 1.2 times the face box is 192 pixels: the white border is outside
        assert (face_encoder.preparer.grey_faces(crops) == -1).all()
        colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
        painted = np.broadcast_to(colours[:, None, None], (4, 128, 128, 3))
        grey = face_encoder.preparer.grey_faces(np.ascontiguousarray(painted))
        assert grey.shape == (4, 1, 64, 64)
        assert grey[:, 0, 5, 5].tolist() == pytest.approx([0.299 * 2 - 1, 0.587 * 2 - 1, 0.114 * 2 - 1, 1], abs=1e-5)

    def test_folding_does_not_change_the_output(self, models: Path) -> None:
        path = models / "mini_xception" / "emotion_model.hdf5"
        plain = xception.MiniXception()
        with h5py.File(path, "r") as file:
            plain.load_state_dict(xception.read_keras_state(file["model_weights"]))
        faces = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
        with torch.inference_mode():
            for one, two in zip(plain.eval()(faces), xception.load_mini_xception(path)(faces), strict=True):
                torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)

    def test_missing_or_damaged_files_raise_model_error(self, tmp_path: Path, models: Path) -> None:
        weights = models / "mini_xception" / "emotion_model.hdf5"
        broken = tmp_path / "broken"
        broken.write_bytes(b"neither weights nor a bundle")
        with h5py.File(tmp_path / "empty.hdf5", "w") as file:
            file.create_group("model_weights")
        for path in (tmp_path / "absent", broken, tmp_path / "empty.hdf5"):
            with pytest.raises(ModelError) as caught:
                xception.load_mini_xception(path)
            assert str(path) in caught.value.message
            assert caught.value.command == "ecmf-pipe models"
        for path in (tmp_path / "absent", broken):
            with pytest.raises(ModelError) as caught:
                build_encoder(MiniXceptionConfig(weights=weights, face_landmarker=path), "cpu")
            assert str(path) in caught.value.message
            assert caught.value.command == "ecmf-pipe models"

    def test_expression_accuracy_on_real_faces_exceeds_chance(
        self, face_encoder: MiniXceptionEncoder, models: Path, shared_data: Path
    ) -> None:
        """Accuracy was 0.75 on 20 clips when this test was written; chance is 0.17."""
        with (shared_data / "clips" / "track1_train_disdim.csv").open() as file:
            labels = {row["name"]: row["discrete"] for row in csv.DictReader(file)}
        detector = FaceConfig(detector=models / "face_landmarker" / "face_detector.tflite")
        with FaceFinder(detector) as finder:
            tracks = [finder.track(_frames(shared_data / "clips" / "video" / f"{name}.mp4")) for name in labels]
        assert all(len(encoding.kept) for encoding in face_encoder.encode(tracks))
        columns = [index for index, name in enumerate(xception.EXPRESSIONS) if name in SIX_CLASSES]
        n_correct = 0
        for track, label in zip(tracks, labels.values(), strict=True):
            logits = face_encoder.network(face_encoder.preparer.grey_faces(track.crops))[1][:, columns]
            best = columns[int(logits.softmax(dim=1).mean(dim=0).argmax())]
            n_correct += SIX_CLASSES[xception.EXPRESSIONS[best]] == label
        assert n_correct / len(labels) >= 0.55


def _frames(path: Path) -> NDArray[np.uint8]:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    chosen = np.linspace(0, len(reader) - 1, 5)[1:-1].astype(int)
    frames: NDArray[np.uint8] = reader.get_batch(list(chosen)).asnumpy()
    return frames
