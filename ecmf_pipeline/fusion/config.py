"""What can be set about the fusion model and its training."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ecmf_pipeline.config import Config


class FusionConfig(Config):
    """The shape of `EcmfFusion`.

    Attributes:
        hidden: H, the width of a modality's token.
        heads: Attention heads; they share H evenly.
        layers: Self-attention layers over the modality tokens; 0 leaves the weighted sum alone.
        dropout: Share of a modality's features, and of an attention layer's output, that is dropped in training.
    """

    hidden: int = Field(default=128, gt=0)
    heads: int = Field(default=4, gt=0)
    layers: int = Field(default=1, ge=0)
    dropout: float = Field(default=0.3, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_share_hidden(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        return self


class TrainingConfig(Config):
    """How an ensemble of fusion models is trained.

    Attributes:
        folds: Parts that the labelled clips are dealt into; each is predicted by models that never saw it. Fewer when
            there are fewer groups, or fewer than two clips a fold.
        seeds: Models per fold, which differ in their seed and in the part that stops them.
        seed: Where all randomness starts.
        epochs: Most passes over the training part, in each of the two steps: branches by themselves, and all together.
        patience: Epochs without a better validation loss after which a step ends.
        batch_size: Clips a step.
        learning_rate: Step size of AdamW while each modality's branch learns by itself.
        joint_learning_rate: Step size of AdamW while all is trained together.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Share of a label's weight that is spread over all classes.
        class_weights: Weight of a class in the loss: ``none``, ``balanced`` (n / (C * count)) or the square root of
            that, ``sqrt``.
        validation_share: Share of a fold's training part that stops its model and is not trained on.
        modality_dropout: Chance that a modality of a clip is hidden while all is trained together, so that the model
            learns to do without it; one always stays.
        device: ``auto`` (CUDA where there is one) or a torch device such as ``cpu`` or ``cuda:1``.
    """

    folds: int = Field(default=5, ge=2)
    seeds: int = Field(default=3, gt=0)
    seed: int = Field(default=7, ge=0)
    epochs: int = Field(default=100, gt=0)
    patience: int = Field(default=10, gt=0)
    batch_size: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    joint_learning_rate: float = Field(default=3e-4, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    class_weights: Literal["none", "sqrt", "balanced"] = "sqrt"
    validation_share: float = Field(default=0.2, gt=0, le=0.5)
    modality_dropout: float = Field(default=0.1, ge=0, lt=1)
    device: str = Field(default="auto", min_length=1)
