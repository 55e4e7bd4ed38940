"""What can be set about the fusion models and their training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from ecmf_pipeline.core.config import Config

FusionKind = Annotated[str, StringConstraints(pattern=r"^(ecmf|attention|concat|gated|mean_probs|single:[\w-]+)$")]
"""The name of a model: see `FusionConfig.kind`."""

Temporal = Literal["attention", "mean"]

# What a search may draw is bounded as what it replaces.
Width = Annotated[int, Field(gt=0)]
Layers = Annotated[int, Field(ge=0)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0)]
WeightDecay = Annotated[float, Field(ge=0)]


class FusionConfig(Config):
    """Which fusion model, and its shape.

    Attributes:
        kind: ``ecmf``; ``attention`` (the challenge's baseline); ``concat``; ``gated`` (Arevalo et al. 2017);
            ``mean_probs`` (the mean of what each modality says alone); or ``single:<modality>``.
        hidden: H, the width of a modality's token.
        heads: Attention heads of ``ecmf``; they share H evenly.
        layers: Self-attention layers of ``ecmf`` over the modality tokens; 0 leaves the weighted sum alone.
        dropout: Share of a modality's features, and of an attention layer's output, that is dropped in training.
        temporal: How the rows of frame-level features become one token: ``attention`` learns which frames count,
            ``mean`` counts all alike. Utterance-level features need neither.
        weighting: What the weights of ``ecmf`` follow: ``dynamic`` the clip, ``fixed`` one number a modality, ``equal``
            nothing.
        own_path: Whether what each modality says by itself reaches the logits of ``ecmf`` past the attention.
        token_path: Whether the attended tokens reach the logits of ``ecmf``.
        joint: How they do: ``mlp`` gives each modality a linear layer of its own before they are summed by weight, so
            that what two modalities tell together can be learned; ``sum`` sums the tokens as they are.
        layer_norm: Whether tokens are normalised (LayerNorm) before they are joined.
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if not (self.own_path or self.token_path):
            raise ValueError("own_path and token_path cannot both be off: nothing would reach the logits")
        return self

    @property
    def single(self) -> str | None:
        """The modality of a ``single:<modality>``; None for the others."""
        return self.kind.removeprefix("single:") if self.kind.startswith("single:") else None

    def alone(self, modality: str) -> Self:
        """The same for a model that is given one modality alone: a ``single:`` of another could not be built."""
        return self.model_copy(update={"kind": f"single:{modality}"}) if self.single else self


class SearchConfig(Config):
    """A bounded search for better settings (scikit-learn's `RandomizedSearchCV`), inside each fold's training part.

    Attributes:
        trials: How many settings are drawn for each fold, at most all there are; 0 searches nothing. Each costs
            ``folds`` trainings.
        folds: Inner folds that a setting is judged by (weighted F1), made of the training part alone.
        hidden: Values of `FusionConfig.hidden` to draw from: multiples of `FusionConfig.heads`.
        layers: Values of `FusionConfig.layers`.
        dropout: Values of `FusionConfig.dropout`.
        learning_rate: Values of `TrainingConfig.learning_rate`.
        weight_decay: Values of `TrainingConfig.weight_decay`.
    """

    trials: int = Field(default=0, ge=0)
    folds: int = Field(default=3, ge=2)
    hidden: tuple[Width, ...] = (64, 128, 256)
    layers: tuple[Layers, ...] = (0, 1, 2)
    dropout: tuple[Dropout, ...] = (0.2, 0.3, 0.4, 0.5)
    learning_rate: tuple[LearningRate, ...] = (0.0005, 0.001, 0.002)
    weight_decay: tuple[WeightDecay, ...] = (0.01, 0.05, 0.2)

    # As a bound of the field, pydantic would also tell it of a list whose values are wrong.
    @field_validator("hidden", "layers", "dropout", "learning_rate", "weight_decay")
    @classmethod
    def _some(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values:
            raise ValueError("name at least one value to draw")
        return values

    def not_split_by(self, heads: int) -> tuple[int, ...]:
        """The values of `hidden` that so many heads could not share evenly; none where nothing is searched."""
        return tuple(width for width in self.hidden if width % heads) if self.trials else ()


class TrainingConfig(Config):
    """How an ensemble of fusion models is trained.

    Attributes:
        folds: Parts that the labelled clips are dealt into; each is predicted by models that never saw it. Fewer when
            there are fewer groups, or fewer than two clips a fold.
        seeds: Models per fold, which differ in their seed and in the part that stops them.
        seed: Where all randomness starts.
        protocol: ``nested``: the epoch is chosen on an inner part. ``mertools``: beside that, the baseline's figure is
            told, whose epoch is chosen on the very fold it is judged by; it is too good to be true.
        epochs: Most passes over the training part, in each of the two steps: branches by themselves, and all together.
        patience: Epochs without a better validation loss after which a step ends; fewer on large sets, where an epoch
            holds many clips.
        batch_size: Clips a step; None: 32, and up to 128 on large sets.
        learning_rate: Step size of AdamW while each modality's branch learns by itself, and of models without branches.
        joint_learning_rate: Step size of AdamW for the branches while all is trained together after that; 0 leaves them
            as they are, and only what joins them learns, at ``learning_rate``.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Share of a label's weight that is spread over all classes.
        class_weights: Weight of a class in the loss: ``none``, ``balanced`` (n / (C * count)) or the square root of
            that, ``sqrt``.
        validation_share: Share of a fold's training part that stops its model and is not trained on.
        modality_dropout: Chance that a modality of a clip is hidden while all is trained together, so that the model
            learns to do without it; one always stays.
        mixup: Alpha of the Beta distribution by which clips are mixed in pairs (Zhang et al. 2018); 0 mixes none.
        staged: Whether the branches of ``ecmf`` learn by themselves before all is trained together.
        calibration: ``temperature`` divides the log-probabilities by one number, fitted on clips that the models never
            saw (Guo et al. 2017); ``none`` leaves them.
        search: A search for better settings.
        device: ``auto`` (CUDA where there is one) or a torch device such as ``cpu`` or ``cuda:1``.
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
