"""Settings of the voters and of the refinement; importing them loads nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ecmf_pipeline.core.clips import Split
from ecmf_pipeline.core.config import Config


class LinearConfig(Config):
    """A multinomial logistic regression on standardised features.

    Attributes:
        components: Upper bound of the principal components that are kept; they are fitted inside each fold.
        inverse_penalty: C of the logistic regression: smaller is smoother.
        balance: Exponent of the inverse class frequency as class weight: 0 leaves classes alone, 1 balances them.
        iterations: Upper bound of the solver's steps.
    """

    kind: Literal["linear"] = "linear"
    components: int = Field(default=128, gt=0)
    inverse_penalty: float = Field(default=0.01, gt=0)
    balance: float = Field(default=0.5, ge=0, le=1)
    iterations: int = Field(default=500, gt=0)


class LightGbmConfig(Config):
    """Gradient boosted trees on principal components.

    Attributes:
        components: Upper bound of the principal components that are kept; they are fitted inside each fold.
        rounds: Trees per class.
        num_leaves: Leaves of a tree.
        learning_rate: Shrinkage of each tree.
        min_child_samples: Fewest clips in a leaf; but at most half a class of average size.
        feature_fraction: Share of the components each tree sees.
        bagging_fraction: Share of the clips each tree sees.
        lambda_l2: L2 penalty on leaf values.
        balance: Exponent of the inverse class frequency as class weight: 0 leaves classes alone, 1 balances them.
        num_threads: Threads; the votes do not depend on it.
    """

    kind: Literal["lightgbm"] = "lightgbm"
    components: int = Field(default=96, gt=0)
    rounds: int = Field(default=120, gt=0)
    num_leaves: int = Field(default=7, gt=1)
    learning_rate: float = Field(default=0.08, gt=0, le=1)
    min_child_samples: int = Field(default=30, gt=0)
    feature_fraction: float = Field(default=0.3, gt=0, le=1)
    bagging_fraction: float = Field(default=0.8, gt=0, le=1)
    lambda_l2: float = Field(default=5.0, ge=0)
    balance: float = Field(default=0.5, ge=0, le=1)
    num_threads: int = Field(default=1, gt=0)


class VoteConfig(Config):
    """The `vote` stage: which voters judge each modality, and how.

    Attributes:
        folds: Parts the labelled clips are split into; a part is judged by models that never saw it.
        seed: Seed of the folds and the voters.
        rounds: How often voters are trained: 2 or more train them again on labels weighed by the votes, as long as
            that gains on held-out labels. A further round costs ``folds`` times the first.
        linear: The linear voter of each modality; null leaves it out.
        lightgbm: The LightGBM voter of each modality; null leaves it out.
        inputs: What the LLM judges by, each a source of its own: the words (text; the source ``llm``), what face and
            voice do, in words (cues; ``llm/cues``), and pictures (frames; ``llm/frames``), which takes a server whose
            model can see. An empty list: it does not vote.
        llm_margin: The LLM abstains where its first choice leads its second by less than this probability.
        llm_least_words: The LLM abstains on transcripts of fewer words (of Chinese: characters).
        sources: Csv files of further votes: ``clip_id,source`` and either ``label`` or ``p_<label>`` of every label.
            They must not be made from the given labels of the clips they judge.
    """

    folds: int = Field(default=5, ge=2)
    seed: int = Field(default=7, ge=0)
    rounds: int = Field(default=1, ge=1)
    linear: LinearConfig | None = LinearConfig()
    lightgbm: LightGbmConfig | None = LightGbmConfig()
    inputs: tuple[Literal["text", "cues", "frames"], ...] = ("text",)
    llm_margin: float = Field(default=0.2, ge=0, le=1)
    llm_least_words: int = Field(default=2, ge=1)
    sources: tuple[str, ...] = ()

    @field_validator("inputs")
    @classmethod
    def _once_each(cls, inputs: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(inputs)) < len(inputs):
            raise ValueError(f"names {', '.join(sorted({i for i in inputs if inputs.count(i) > 1}))} twice")
        return inputs


class LabelModelConfig(Config):
    """What the label model believes before it has seen a vote.

    Attributes:
        noise: Share of given labels expected to be wrong.
        source_weight: Expected weight of all sources together in the pool: 1 is their geometric mean, higher values
            trust agreement more.
        source_spread: Standard deviation of one source's weight around its share: smaller trusts the votes seen less.
        bias_spread: Standard deviation of a class's bias.
        noise_spread: Standard deviation of the log-odds of a right given label, all classes together.
        transition_spread: Standard deviation of each class pair's own log-odds around that.
        rounds: Upper bound of the optimiser's steps.
    """

    noise: float = Field(default=0.1, gt=0, lt=1)
    source_weight: float = Field(default=1.5, gt=0)
    source_spread: float = Field(default=0.3, gt=0)
    bias_spread: float = Field(default=1.0, gt=0)
    noise_spread: float = Field(default=1.0, gt=0)
    transition_spread: float = Field(default=0.5, gt=0)
    rounds: int = Field(default=200, gt=0)


class RefineConfig(Config):
    """The `refine` stage: when the label model may doubt, drop, replace or add a label.

    The defaults are what `tools.bench.labels` measured: weighting by belief and dropping the least believed helps on
    noisy labels and costs nothing on clean ones, overwriting does not help. So a label is replaced only where verdicts
    show how often that is right.

    Attributes:
        label_model: What the label model believes before it has seen a vote.
        verdicts: A csv file, ``clip_id,label``, of labels that a person vouches for; null where there is none.
        keep_above: A given label less probable than this is called down-weighted; all weigh what they are believed.
        review_below: Less than this: listed for review besides.
        drop_below: Less than this: left out of training.
        relabel_precision: Share of replacements that must be right, as verdicts show (90% sure at each threshold).
        relabel_above: A given label is replaced only by one at least this probable, and
        relabel_families: only where this many families of sources (a modality's voters are one) favour that label.
        pseudo_precision: Share of a class's pseudo-labels that must be right, as verdicts show; a class of which they
            show less gets none.
        pseudo_above: Without enough verdicts, an unlabeled clip gets a pseudo-label only if it is this probable, and
        pseudo_families: (always) only where this many families of sources favour it.
        pseudo_quota: Most pseudo-labels of a class, as a multiple of its labelled clips that are trained on: the
            majority class must not swallow the rest.
        pseudo_weight: Weight of a pseudo-label of probability one; a labelled clip weighs one on average.
        pseudo_splits: The splits whose clips may get pseudo-labels.
        review_budget: How many clips without a usable label are listed for review: those that would teach most.
        label_next: How many clips, labelled or not, ``data/labels/next.csv`` names as worth a person's verdict.
    """

    label_model: LabelModelConfig = LabelModelConfig()
    verdicts: str | None = None
    keep_above: float = Field(default=0.8, ge=0, le=1)
    review_below: float = Field(default=0.5, ge=0, le=1)
    drop_below: float = Field(default=0.2, ge=0, le=1)
    relabel_precision: float = Field(default=0.9, ge=0.5, lt=1)
    relabel_above: float = Field(default=0.8, ge=0.5, le=1)
    relabel_families: int = Field(default=2, gt=0)
    pseudo_precision: float = Field(default=0.85, ge=0.5, lt=1)
    pseudo_above: float = Field(default=0.85, ge=0.5, le=1)
    pseudo_families: int = Field(default=2, gt=0)
    pseudo_quota: float = Field(default=1.0, ge=0)
    pseudo_weight: float = Field(default=0.5, gt=0, le=1)
    pseudo_splits: tuple[Split, ...] = (Split.UNLABELED, Split.CANDIDATE)
    review_budget: int = Field(default=20, ge=0)
    label_next: int = Field(default=100, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> RefineConfig:
        if not self.drop_below <= self.review_below <= self.keep_above:
            raise ValueError("drop_below <= review_below <= keep_above must hold")
        return self
