"""Settings of the voters, the label model and the refinement; importing them loads no heavy library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Split
from ecmf_pipeline.core.config import Config


class LinearConfig(Config):
    """Multinomial logistic regression on standardised features.

    Attributes:
        components: Maximum number of principal components, fitted inside each fold.
        inverse_penalty: C of the logistic regression; smaller values regularise more.
        balance: Exponent of the inverse class frequency in the class weights: 0 for no weights, 1 for balanced classes.
        iterations: Maximum number of solver iterations.
    """

    kind: Literal["linear"] = "linear"
    components: int = Field(default=128, gt=0)
    inverse_penalty: float = Field(default=0.01, gt=0)
    balance: float = Field(default=0.5, ge=0, le=1)
    iterations: int = Field(default=500, gt=0)


class LightGbmConfig(Config):
    """Gradient boosted trees on principal components.

    Attributes:
        components: Maximum number of principal components, fitted inside each fold.
        rounds: Trees per class.
        num_leaves: Leaves per tree.
        learning_rate: Shrinkage of each tree.
        min_child_samples: Minimum number of clips per leaf, capped at half a class of average size.
        feature_fraction: Share of the components used by each tree.
        bagging_fraction: Share of the clips used by each tree.
        lambda_l2: L2 penalty on leaf values.
        balance: Exponent of the inverse class frequency in the class weights: 0 for no weights, 1 for balanced classes.
        num_threads: Number of threads; it does not change the votes.
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


EXPECTED_ACCURACY: dict[str, float] = {"face/zero-shot": 0.45, "llm": 0.35, "other": 0.4}
"""Cautious shares of right votes of the packaged models on six emotions; `tools.bench.zero_shot` measures them."""


class ZeroShotConfig(Config):
    """Sources that vote without labels of this corpus: used while it has too few labels to train on.

    Attributes:
        face: Whether the face network votes with its own seven emotions (source ``face/zero-shot``).
        text_image: Whether a CLIP or SigLIP encoder of pictures votes by the similarity of pictures and texts (sources
            ``global/zero-shot`` and ``face/text-image``); it needs ``token_pool: projection``.
        prompt: Text that CLIP compares with the pictures; ``{label}`` is replaced by each label.
        mapping: Labels of this corpus for emotions that models name differently, {fear: worried}; "" for none. It is
            added to a table of synonyms, and is used for the face network and the models of ``vote.transfer``.
        accuracy: Expected share of right votes of each source, by its name, before any verdict. It sets how far the
            source's probabilities are trusted. Sources without an entry have the value of ``other``.
    """

    face: bool = True
    text_image: bool = True
    prompt: str = Field(default="a photo of a {label} person", pattern=r"\{label\}")
    mapping: dict[str, str] = Field(default_factory=dict)
    accuracy: dict[str, float] = Field(default_factory=lambda: dict(EXPECTED_ACCURACY))

    @field_validator("accuracy")
    @classmethod
    def _check_accuracy(cls, accuracy: dict[str, float]) -> dict[str, float]:
        if wrong := [name for name, share in accuracy.items() if not 0 < share < 1]:
            raise ValueError(f"the accuracy of {wrong[0]} is not between 0 and 1")
        return EXPECTED_ACCURACY | accuracy


class TransferConfig(Config):
    """A model that another project has saved, as a source of votes.

    Attributes:
        folder: Folder of the saved model, such as ``data/fusion/refined/fusion`` of the other project.
        mapping: Labels of this corpus for labels of the model, {joy: happy}; equal names and synonyms need no entry.
    """

    folder: Path
    mapping: dict[str, str] = Field(default_factory=dict)


class VoteConfig(Config):
    """The `vote` stage: voters of each modality and the LLM.

    Attributes:
        folds: Number of folds of the labelled clips; each fold is predicted by models that were not fitted to it.
        seed: Seed of the folds and the voters.
        rounds: Maximum number of voting rounds. From the second round on, voters are trained on labels weighted by the
            previous votes, until the score on held-out labels stops improving. Each further round costs ``folds`` times
            the first.
        linear: Linear voter of each modality; null disables it.
        lightgbm: LightGBM voter of each modality; null disables it.
        inputs: Inputs of the LLM; each is a separate source. ``text``: the transcript (source ``llm``). ``cues``: a
            description of face and voice (``llm/cues``). ``frames``: pictures (``llm/frames``), which needs a server
            with a vision model. With an empty list the LLM does not vote.
        llm_margin: The LLM abstains if its first choice leads its second by less than this probability.
        llm_least_words: The LLM abstains on transcripts with fewer words (Chinese: characters).
        sources: Csv files of further votes: ``clip_id,source`` and either ``label`` or ``p_<label>`` of each label.
            Votes must not be derived from the given labels of the same clips.
        transfer: Saved models of other projects by name; each is a source ``transfer:NAME``.
        zero_shot: Sources for a corpus with too few labels to train on.
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
    transfer: dict[Annotated[str, StringConstraints(pattern=r"^[\w-]+$")], TransferConfig] = Field(default_factory=dict)
    zero_shot: ZeroShotConfig = ZeroShotConfig()

    @field_validator("inputs")
    @classmethod
    def _check_unique(cls, inputs: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(inputs)) < len(inputs):
            raise ValueError(f"contains {', '.join(sorted({i for i in inputs if inputs.count(i) > 1}))} twice")
        return inputs


class LabelModelConfig(Config):
    """Priors of the label model.

    Attributes:
        noise: Expected share of wrong given labels.
        source_weight: Prior mean of the total weight of all sources in the pool: 1 is their geometric mean; higher
            values give agreement more weight.
        source_spread: Standard deviation of each source's weight around its share of the total; smaller values follow
            the data less.
        bias_spread: Standard deviation of each class bias.
        noise_spread: Standard deviation of the log-odds of a correct given label, shared by all classes.
        transition_spread: Standard deviation of each class pair's log-odds around the shared value.
        rounds: Maximum number of optimiser iterations.
    """

    noise: float = Field(default=0.1, gt=0, lt=1)
    source_weight: float = Field(default=1.5, gt=0)
    source_spread: float = Field(default=0.3, gt=0)
    bias_spread: float = Field(default=1.0, gt=0)
    noise_spread: float = Field(default=1.0, gt=0)
    transition_spread: float = Field(default=0.5, gt=0)
    rounds: int = Field(default=200, gt=0)


_MIN_OVER_CHANCE = 1.2
"""Minimum ratio of the probability of a zero-shot label to that of a label drawn at random."""


class RefineConfig(Config):
    """The `refine` stage: when a label is down-weighted, dropped, replaced or added.

    The defaults follow measurements of `tools.bench.labels`: weighting labels by their posterior and dropping the least
    probable ones helps on noisy labels and does no harm on clean ones; replacing labels does not help. Therefore a
    label is replaced only if human labels show how often this is correct.

    Attributes:
        label_model: Priors of the label model.
        verdicts: Csv file of human labels, ``name,label`` and, if there are several reviewers, ``reviewer``; `review`
            appends to it. The default may be missing, null if there are none. Track it by Git and keep it outside of
            ``data/``, whose files DVC replaces.
        keep_above: Given labels below this probability are marked ``down_weight``; the weight of every label is its
            probability.
        review_below: Given labels below this probability are also listed for review.
        drop_below: Given labels below this probability are excluded from training.
        relabel_precision: Minimum share of correct replacements, measured on human labels (90% confidence at each
            threshold).
        relabel_above: Minimum probability of a label that replaces a given one.
        relabel_families: Minimum number of source families that vote for it (all voters of a modality are one family).
        pseudo_precision: Minimum share of correct pseudo-labels in a class, measured on human labels; a class below it
            gets none.
        pseudo_above: Minimum probability of a pseudo-label if there are too few human labels.
        pseudo_families: Minimum number of source families that vote for a pseudo-label, with or without human labels.
        pseudo_quota: Maximum number of pseudo-labels of a class, as a multiple of its labelled training clips. It keeps
            the majority class from growing without limit.
        pseudo_weight: Weight of a pseudo-label of probability one; labelled clips have a mean weight of one.
        pseudo_splits: Splits whose clips may get pseudo-labels.
        zero_shot_above: Minimum probability of a label of a corpus with too few labels to train on; below it, the clip
            gets none. With two labels it is at least 0.6, since one of them always has a probability of 0.5. 0: each
            clip with a vote gets a label. These probabilities are not calibrated before there are 30 verdicts.
        review_budget: Number of clips without a usable label listed for review, by highest entropy.
        label_next: Number of clips, labelled or not, in ``data/labels/next.csv``, the list of clips to label by hand
            next.
    """

    label_model: LabelModelConfig = LabelModelConfig()
    verdicts: str | None = paths.VERDICTS.as_posix()
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
    zero_shot_above: float = Field(default=0.4, ge=0, le=1)
    review_budget: int = Field(default=20, ge=0)
    label_next: int = Field(default=100, ge=0)

    def zero_shot_threshold(self, n_labels: int) -> float:
        """Return the minimum probability of a zero-shot label among ``n_labels``; see ``zero_shot_above``."""
        above = min(1.0, _MIN_OVER_CHANCE / n_labels)
        return max(self.zero_shot_above, above) if self.zero_shot_above else 0.0

    @model_validator(mode="after")
    def _check_thresholds(self) -> RefineConfig:
        if not self.drop_below <= self.review_below <= self.keep_above:
            raise ValueError("drop_below <= review_below <= keep_above does not hold")
        return self
