"""Configuration of the fusion models and their training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from ecmf_pipeline.core.config import Config

FusionKind = Annotated[str, StringConstraints(pattern=r"^(ecmf|attention|concat|gated|mean_probs|single:[\w.-]+)$")]
"""Name of a fusion model: see `FusionConfig.kind`."""


def modality_of(name: str) -> str:
    """Return the modality of features: ``text`` for ``text``, and for ``text.minilm``, one of several encoders."""
    return name.partition(".")[0]


Temporal = Literal["attention", "mean"]

# Shared with the search space, to apply the same bounds to searched values.
Width = Annotated[int, Field(gt=0)]
Layers = Annotated[int, Field(ge=0)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0)]
WeightDecay = Annotated[float, Field(ge=0)]


class FusionConfig(Config):
    """The fusion model and its shape.

    Attributes:
        kind: ``ecmf``; ``attention`` (the baseline of the challenge); ``concat``; ``gated`` (Arevalo et al. 2017);
            ``mean_probs`` (mean of the probabilities of single modalities); or ``single:<modality>``.
        hidden: H, the width of a modality token; a multiple of ``heads``.
        heads: Attention heads of ``ecmf``.
        layers: Self-attention layers of ``ecmf`` over the modality tokens; 0 disables self-attention.
        dropout: Dropout rate of the input features of each modality, and of the output of each attention layer.
        temporal: Pooling of frame-level features into one token: ``attention`` learns a weight for each frame, ``mean``
            averages them. Utterance-level features are not pooled.
        weighting: Modality weights of ``ecmf``: ``dynamic`` (computed for each clip), ``fixed`` (one learned number for
            each modality) or ``equal``.
        own_path: Whether the logits of the single modalities are added to the logits of ``ecmf``, past the attention.
        token_path: Whether logits of the attended tokens are added to the logits of ``ecmf``.
        joint: How attended tokens are joined: ``mlp`` applies a linear layer for each modality before the weighted sum,
            which can learn interactions of modalities; ``sum`` sums the tokens directly.
        layer_norm: Whether tokens are normalised (LayerNorm) before they are joined.
        kernel_path: Whether `ecmf` is mixed with a kernel ridge regression on the joined features.
    """

    kind: FusionKind = "ecmf"
    hidden: Width = 128
    heads: int = Field(default=4, gt=0)
    layers: Layers = 1
    dropout: Dropout = 0.3
    temporal: Temporal = "attention"
    weighting: Literal["dynamic", "fixed", "equal"] = "dynamic"
    own_path: bool = True
    token_path: bool = True
    joint: Literal["mlp", "sum"] = "mlp"
    layer_norm: bool = True
    kernel_path: bool = True

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if not (self.own_path or self.token_path):
            raise ValueError("own_path and token_path cannot both be off: nothing would reach the logits")
        return self

    @property
    def has_kernel_path(self) -> bool:
        """Whether models of this kind are mixed with a kernel path."""
        return self.kind == "ecmf" and self.kernel_path

    @property
    def single(self) -> str | None:
        """The modality of ``single:<modality>``; None for other kinds."""
        return self.kind.removeprefix("single:") if self.kind.startswith("single:") else None

    def alone(self, modality: str) -> Self:
        """Return the config of a model that gets only one modality: a ``single:`` kind is set to that modality."""
        return self.model_copy(update={"kind": f"single:{modality}"}) if self.single else self


class SearchConfig(Config):
    """A bounded hyperparameter search (scikit-learn's `RandomizedSearchCV`) within the training part of each fold.

    Attributes:
        trials: Number of settings drawn for each fold, at most the size of the grid; 0 disables the search. Each trial
            costs ``folds`` trainings.
        folds: Inner folds on which a setting is scored by weighted F1; they are made of the training part only.
        hidden: Candidate values of `FusionConfig.hidden`: multiples of `FusionConfig.heads`.
        layers: Candidate values of `FusionConfig.layers`.
        dropout: Candidate values of `FusionConfig.dropout`.
        learning_rate: Candidate values of `TrainingConfig.learning_rate`.
        weight_decay: Candidate values of `TrainingConfig.weight_decay`.
    """

    trials: int = Field(default=0, ge=0)
    folds: int = Field(default=3, ge=2)
    hidden: tuple[Width, ...] = (64, 128, 256)
    layers: tuple[Layers, ...] = (0, 1, 2)
    dropout: tuple[Dropout, ...] = (0.2, 0.3, 0.4, 0.5)
    learning_rate: tuple[LearningRate, ...] = (0.0005, 0.001, 0.002)
    weight_decay: tuple[WeightDecay, ...] = (0.01, 0.05, 0.2)

    # A length bound on the field would be reported in addition to each wrong value.
    @field_validator("hidden", "layers", "dropout", "learning_rate", "weight_decay")
    @classmethod
    def _check_not_empty(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values:
            raise ValueError("must contain at least one value")
        return values

    def indivisible_widths(self, heads: int) -> tuple[int, ...]:
        """Return the values of `hidden` that are not a multiple of ``heads``; none if the search is disabled."""
        return tuple(width for width in self.hidden if width % heads) if self.trials else ()


class TrainingConfig(Config):
    """Training of an ensemble of fusion models.

    Attributes:
        folds: Number of cross-validation folds; fewer if there are fewer groups, or fewer than two clips in a fold.
        seeds: Models for each fold; they differ in their seed and in their validation rows.
        seed: Base of all random seeds.
        protocol: ``nested``: the epoch is chosen on an inner validation part. ``mertools``: also report the score of
            the baseline's protocol, which chooses the epoch on the evaluated fold; this score is optimistically biased.
        epochs: Maximum number of epochs in each of the two steps: branches alone, and joint training.
        patience: Epochs without a better validation loss before early stopping; reduced for large sets.
        batch_size: Batch size; None: 32, growing to 128 for large sets.
        learning_rate: Learning rate of AdamW for single branches, and for models without branches.
        joint_learning_rate: Learning rate of AdamW for the branches during joint training; 0 freezes the branches, and
            only the joining layers are trained, at ``learning_rate``.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Share of the label probability that is spread over all classes.
        class_weights: Class weights of the loss: ``none``, ``balanced`` (n / (C * count)) or ``sqrt``, its square root.
        validation_share: Share of the training part of a fold that is held out for early stopping.
        modality_dropout: Probability of hiding a modality of a clip in joint training, for robustness against missing
            modalities; at least one modality is kept.
        mixup: Alpha of the Beta distribution of mixup (Zhang et al. 2018); 0 disables mixup.
        staged: Whether the branches of ``ecmf`` are trained alone before joint training.
        calibration: ``temperature``: temperature scaling, fitted on out-of-fold predictions (Guo et al. 2017);
            ``none``.
        search: Hyperparameter search.
        device: ``auto`` (CUDA if available) or a torch device such as ``cpu`` or ``cuda:1``.
    """

    folds: int = Field(default=5, ge=2)
    seeds: int = Field(default=3, gt=0)
    seed: int = Field(default=7, ge=0)
    protocol: Literal["nested", "mertools"] = "nested"
    epochs: int = Field(default=100, gt=0)
    patience: int = Field(default=10, gt=0)
    batch_size: int | None = Field(default=None, gt=0)
    learning_rate: LearningRate = 1e-3
    joint_learning_rate: float = Field(default=0.0, ge=0)
    weight_decay: WeightDecay = 0.05
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "sqrt", "balanced"] = "sqrt"
    validation_share: float = Field(default=0.2, gt=0, le=0.5)
    modality_dropout: float = Field(default=0.1, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0)
    staged: bool = True
    calibration: Literal["temperature", "none"] = "temperature"
    search: SearchConfig = SearchConfig()
    device: str = Field(default="auto", min_length=1)
