"""What the params of every encoder have, and those of every transformers model. Data alone: nothing here imports torch.

`registry` maps the class of a config to the encoder that it describes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Config
from ecmf_pipeline.encoders.weights import ModelSource, locate, read_model_config

Layers = Literal["last", "last4_mean", "last4_sum"] | Annotated[tuple[int, ...], Field(min_length=1)]
"""The last hidden layer, the mean or sum of the last four, or the mean of those named: 0 is what enters the first
layer, -1 what leaves the last."""

Precision = Literal["fp32", "bf16", "fp16", "auto"]
"""The type that matrices are multiplied in; ``auto``: the fastest that the device has instructions for."""

TextColumn = Literal["original", "enriched", "translation"]
"""What an encoder may read of a `core.transcripts.ClipText`."""

DEFAULT_TEXT_COLUMNS: tuple[TextColumn, ...] = ("original",)
"""What is read unless something else is said."""


class BaseEncoderConfig(Config):
    """What every encoder's params have.

    Attributes:
        batch_size: Items (frames, crops, clips or texts) in one forward pass; does not change the numbers.
    """

    modalities: ClassVar[frozenset[Modality]]
    """The modalities that the encoder can serve."""
    recipe: ClassVar[int] = 1
    """Raised by one whenever a change of code changes the numbers."""
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size"})
    """Fields that do not change the numbers, or stand in the settings as a hash or elsewhere."""
    uses_torch: ClassVar[bool] = True
    """Whether it runs where ``extract.device`` says."""
    computed_by: ClassVar[frozenset[str]] = frozenset({"torch"})
    """Packages whose version may move the numbers."""
    dim: ClassVar[int | None] = None
    """D, the width of a feature row, where that is the same for all params; see `known_dim`."""

    batch_size: int = Field(16, gt=0)

    def libraries(self) -> frozenset[str]:
        """The packages that compute it, numpy apart, as their versions are kept beside the features."""
        return self.computed_by

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        """The transcripts that it reads, if it reads any: a clip that lacks one of them has no text for it."""
        return DEFAULT_TEXT_COLUMNS

    def named(self, name: str) -> Self:  # noqa: ARG002 - computed features do not depend on what they are called
        """These params as those of the entry ``name`` under ``encoders``."""
        return self

    def resolved(self, device: str) -> Self:  # noqa: ARG002 - what a device decides is told by those that have it
        """The same with all that is left to the device decided.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        """
        return self

    def half_types(self) -> frozenset[str]:
        """The types of half the width that it multiplies matrices in, ``bf16`` or ``fp16``, if any."""
        return frozenset()

    def known_dim(self) -> int | None:
        """D, the width of a feature row; None where it cannot be told without loading the encoder."""
        return self.dim

    def settings(self) -> dict[str, Any]:
        """All that changes the numbers, as plain JSON values: every field but those excepted, and the weights' hashes.

        Raises:
            ModelError: When weights are missing.
        """
        fields = self.model_dump(mode="json", exclude=set(self.not_in_settings))
        return {**fields, "recipe": self.recipe, "dtype": "float32", "weights": self.weights_settings()}

    def weights_settings(self) -> dict[str, Any]:
        """What identifies the weights, as plain JSON values.

        Raises:
            ModelError: When weights are missing.
        """
        return {}

    def origin(self) -> dict[str, Any]:
        """Which model this is, for people to read, as plain JSON values.

        The same on every machine: no folder that only this one has is named.
        """
        return {"model": str(getattr(self, "type", type(self).__name__))}


class TransformersConfig(BaseEncoderConfig):
    """What the params of all transformers models have.

    Attributes:
        model: A local folder, or an id on the model hub. Code that comes with a model is never run.
        revision: Branch, tag or commit on the hub. Once fetched, a branch stays at the commit in the local cache.
        precision: The type that matrices are multiplied in (norms, sums and the stored features are not touched by it):
            half types are about twice as fast where the device has instructions for them. ``auto`` is bf16 on CUDA from
            compute capability 8 and on CPUs with such instructions, fp16 on older CUDA, else fp32: features made on
            different devices may then have different fingerprints.
    """

    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "model", "revision"})
    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "transformers"})

    model: str = Field(min_length=1)
    revision: str = "main"
    precision: Precision = "fp32"

    def resolved(self, device: str) -> Self:
        """The same with ``precision: auto`` decided; see `BaseEncoderConfig.resolved`."""
        if self.precision != "auto":
            return self
        from ecmf_pipeline.encoders.inference import best_precision

        return self.model_copy(update={"precision": best_precision(device)})

    def half_types(self) -> frozenset[str]:
        """Its precision, unless that is fp32."""
        return frozenset({self.precision}) - {"fp32"}

    def source(self) -> ModelSource:
        """Where the model is loaded from; what `settings` hashes is what the encoder loads.

        Raises:
            ModelError: When it cannot be found.
        """
        return locate(self.model, self.revision)

    def known_dim(self) -> int | None:
        """The hidden size, told by the model's own config; None where that is not on this machine, or does not say."""
        values = read_model_config(self.model, self.revision)
        tower = values.get("vision_config", values)  # of a model with two towers
        width = tower.get("hidden_size") or tower.get("d_model")
        return width if isinstance(width, int) else None

    def weights_settings(self) -> dict[str, Any]:
        """The hub's commit, or the SHA-256 of each file of the folder."""
        return self.source().settings()

    def origin(self) -> dict[str, Any]:
        """The id on the hub, the revision asked for and the commit that it is; of a folder, its name."""
        source = self.source()
        if source.commit is None:
            return {"model": Path(self.model).name}
        return {"model": self.model, "revision": self.revision, "commit": source.commit}
