"""Every encoder type has an implementation, and further classes can be registered."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar, get_args

import pytest

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.config import EncoderConfig, ImportedConfig
from ecmf_pipeline.encoders.registry import Implementation, build_encoder, build_preparer, implementation


class IdentityPreparer(Preparer[Any]):
    def prepare(self, view: Any) -> Any:
        return view


class ConstantEncoder(Encoder[Any]):
    def __init__(self, dim: int, *, closed: list[int] | None = None) -> None:
        self.settings = {"weights": {}}
        self.preparer = IdentityPreparer()
        self._dim, self._closed = dim, closed

    @property
    def dim(self) -> int:
        return self._dim

    def encode_prepared(self, prepared: Any) -> list[Encoding]:
        return [Encoding.empty(self.dim) for _ in prepared]

    def close(self) -> None:
        if self._closed is not None:
            self._closed.append(self.dim)


class ConstantConfig(BaseEncoderConfig):
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    width: int = 3


def test_every_type_under_encoders_has_an_implementation():
    (union, _) = get_args(EncoderConfig)
    for config in get_args(union):
        if config is not ImportedConfig:
            registered = implementation(config.model_construct())
            assert callable(registered.encoder)
            assert callable(registered.preparer)


def test_registered_config_class_is_built():
    with pytest.raises(TypeError, match="ConstantConfig"):
        build_encoder(ConstantConfig())
    built: list[tuple[int, str]] = []

    @implementation.register
    def _(_: ConstantConfig) -> Implementation:
        def encoder(config: ConstantConfig, device: str) -> ConstantEncoder:
            built.append((config.width, device))
            return ConstantEncoder(config.width)

        return Implementation(encoder, lambda _: IdentityPreparer())

    assert build_encoder(ConstantConfig(width=5), "cpu").dim == 5
    assert built == [(5, "cpu")]
    assert isinstance(build_preparer(ConstantConfig()), IdentityPreparer)


def test_building_imported_features_raises_model_error():
    for build in (build_encoder, build_preparer):
        with pytest.raises(ModelError) as caught:
            build(ImportedConfig(name="hubert"))
        assert "'hubert'" in caught.value.message
        assert (caught.value.command or "").startswith("ecmf-pipe store import")


def test_registry_does_not_import_torch():
    code = "import sys; import ecmf_pipeline.encoders.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
