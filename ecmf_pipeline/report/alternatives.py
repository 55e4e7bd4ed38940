"""Compare the fusion with what is simpler: plain models, a mean of probabilities, fewer encoders."""

from __future__ import annotations

from dataclasses import dataclass

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.report.blocks import Block, Collapsible, Paragraph, Table, corpus_text, join_items, score, signed
from ecmf_pipeline.report.conclusions import bounds, caveat, compare
from ecmf_pipeline.report.metrics import Ablation, Difference, Evaluation, VariantRow
from ecmf_pipeline.report.zero_shot import Conclusion

MEAN_PROBS = "mean_probs"
"""The fusion model that is plain."""
_PLAIN_NAMES = {MEAN_PROBS: "mean of probabilities"}
_BEST = "best plain model"
"""Name that `evaluate` gives to the model that inner folds choose; importing it would load scikit-learn."""


@dataclass(frozen=True, slots=True)
class BestPlain:
    """The plain model that scores best, and the difference of the fusion to it."""

    name: str
    fusion_over: Difference
    judged_by: str | None
    basis: Basis

    @property
    def title(self) -> str:
        """The name in a sentence."""
        return f"the {self.name}" if self.name == _BEST else f"a plain model ({self.name})"


def best_plain(evaluation: Evaluation, ablation: Ablation | None) -> BestPlain | None:
    """Return the best plain model; None if none was trained.

    The plain models of `evaluate` are compared with the fusion of given labels. Without them, those of `ablate` count.
    """
    differences = {
        name: model.fusion_over
        for name, model in (evaluation.plain.models if evaluation.plain else {}).items()
        if model.fusion_over is not None
    }
    judged_by, basis = evaluation.judged_by, evaluation.basis
    if not differences and ablation is not None and ablation.reference.kind != MEAN_PROBS:
        judged_by, basis = ablation.judged_by, ablation.basis
        differences = {
            _PLAIN_NAMES.get(row.name, row.name): _reversed(row)
            for row in ablation.variants
            if (row.name in _PLAIN_NAMES or row.table == "plain") and row.difference is not None
        }
    known = {
        name: one.difference for name, one in differences.items() if one.difference is not None and one.low is not None
    }
    if not known:
        return None
    name = min(known, key=lambda name: known[name])
    return BestPlain(name, differences[name], judged_by, basis)


def plain_conclusion(evaluation: Evaluation, ablation: Ablation | None) -> Conclusion | None:
    """Return whether the fusion is better than the best plain model; None if none was trained."""
    best = best_plain(evaluation, ablation)
    if best is None:
        return None
    note = caveat(best.judged_by, best.basis)
    conclusion = compare(best.fusion_over, first="The fusion", second=best.title, caveat=note)
    if conclusion.state not in {"same", "worse"}:
        return conclusion
    warning = "does as well" if conclusion.state == "same" else "is better"
    return Conclusion(conclusion.state, conclusion.short, f"Warning: a plain model {warning}. {conclusion.sentence}")


def model_advice(evaluation: Evaluation, ablation: Ablation | None) -> list[tuple[str, str]]:
    """Return what the scores of other models advise, as sentences and commands, which may be empty."""
    advice = []
    variants = ablation.variants if ablation is not None else ()
    better = [row for row in variants if row.table == "fusion" and row.low is not None and row.low > 0]
    plain = plain_conclusion(evaluation, ablation)
    mean = next((row for row in variants if row.table == "fusion" and row.name == MEAN_PROBS), None)
    if better:
        best = max(better, key=lambda row: row.difference or 0.0)
        figure = f"weighted F1 {signed(best.difference)}, 95% interval {bounds(best)}"
        advice.append((f"Use train.fusion.kind: {best.name}, which scores higher ({figure}).", ""))
    elif plain is not None and plain.state in {"same", "worse"}:
        advice.append(_plain_advice(evaluation, ablation, mean, is_better=plain.state == "worse"))
    smallest = ablation.smallest if ablation is not None else None
    if ablation is not None and smallest is not None and smallest.high is not None and smallest.high >= 0:
        unneeded = [name for name in ablation.reference.modalities if name not in smallest.kept]
        if unneeded:
            figure = f"weighted F1 {signed(smallest.difference)}, 95% interval {bounds(smallest)}"
            advice.append((f"Train without {join_items(unneeded)}: no significant loss ({figure}).", ""))
    return advice


def _plain_advice(
    evaluation: Evaluation, ablation: Ablation | None, mean: VariantRow | None, *, is_better: bool
) -> tuple[str, str]:
    """Return the advice if a plain model does as well as the fusion, or is better."""
    best = best_plain(evaluation, ablation)
    name = "A plain model" if best is None else best.title[:1].upper() + best.title[1:]
    verb = "is better than the fusion" if is_better else "does as well as the fusion"
    if not is_better and mean is not None and mean.low is not None and mean.low <= 0 <= (mean.high or 0.0):
        return f"{name} {verb}: use train.fusion.kind: {MEAN_PROBS}, which is simpler and does as well too.", ""
    how = "search the settings of the fusion (train.training.search.trials), or compare stronger encoders"
    return f"{name} {verb}: {how}.", "ecmf-pipe encoders --list"


def smallest_blocks(ablation: Ablation) -> list[Block]:
    """Show the smallest set of encoders that scores nearly as well as all of them."""
    smallest = ablation.smallest
    if smallest is None:
        return []
    limit = f"at most {smallest.margin:g} below the best on the training labels"
    if set(smallest.kept) == set(ablation.reference.modalities):
        text = f"No smaller set of encoders has a score that is {limit}."
    else:
        text = (
            f"Smallest set of encoders whose score is {limit}: {join_items(smallest.kept)}. The trained fusion "
            "predicts with the other encoders masked; each fold is scored with the set that the other folds choose: "
            f"weighted F1 {score(smallest.weighted_f1)} ({signed(smallest.difference)} to all encoders, 95% interval "
            f"{bounds(smallest) or 'unknown'})."
        )
    rows = [[str(len(one.kept)), corpus_text(join_items(one.kept)), score(one.weighted_f1)] for one in smallest.path]
    table = Table("Sets of encoders, one removed after another", ["#Encoders", "Set", "#Weighted F1"], rows)
    return [Paragraph(text), *([Collapsible("Scores of smaller sets of encoders", [table])] if rows else [])]


def _reversed(row: Difference) -> Difference:
    """Return the difference with first and second exchanged."""
    difference, low, high = (None if value is None else -value for value in (row.difference, row.high, row.low))
    return Difference(difference=difference, low=low, high=high)
