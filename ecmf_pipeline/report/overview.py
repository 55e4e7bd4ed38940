"""The first screen: how good the model is, judged by what, compared with what, and what to do next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.refine import LabelAction
from ecmf_pipeline.labels.verdicts import MIN_GOLD
from ecmf_pipeline.report.alternatives import model_advice, plain_conclusion
from ecmf_pipeline.report.blocks import Tile, count, join_items, percent, score, shorten
from ecmf_pipeline.report.conclusions import (
    bounds,
    fusion_conclusion,
    headline_score,
    labels_conclusion,
    majority_f1,
    trained_on,
    training_conclusion,
)
from ecmf_pipeline.report.inputs import ReportInput, column
from ecmf_pipeline.report.metrics import Ablation, Evaluation
from ecmf_pipeline.report.zero_shot import Conclusion, next_step, zero_shot_conclusions, zero_shot_tiles

REVIEW = "ecmf-pipe review"
_MUCH_QUARANTINED = 0.05
_LITTLE_COVERAGE = 0.5
_WIDE = 0.2
"""Width of the interval of the score above which more labels come before other steps."""
_MOST_STEPS = 4


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do next; ``command`` is empty if it is no command."""

    sentence: str
    command: str = ""


def describe_corpus(report: ReportInput) -> str:
    """Return the corpus, the number of clips and what was quarantined, for the line below the title."""
    splits = column(report.clips, "split")
    by_split = [f"{count(splits.count(name))} {name}" for name in ("train", "candidate", "unlabeled") if name in splits]
    parts = [
        f"Corpus: {shorten(str(report.corpus.get('kind') or 'not named'), 60)}",
        count(len(report.clips), "clip") + (f" ({', '.join(by_split)})" if by_split else ""),
    ]
    if n_quarantined := len({entry.clip_id for entry in report.quarantine}):
        parts.append(f"{count(n_quarantined, 'clip')} quarantined")
    return "; ".join(parts)


def tiles(report: ReportInput, evaluation: Evaluation, ablation: Ablation | None) -> list[Tile]:
    """Return the headline figures."""
    if evaluation.zero_shot is not None:
        return zero_shot_tiles(evaluation, evaluation.zero_shot)
    value, _ = headline_score(evaluation)
    fusion, plain = fusion_conclusion(evaluation), plain_conclusion(evaluation, ablation)
    refinement = labels_conclusion(evaluation, report.refined)
    best = evaluation.fusion_over_best_modality
    comparison = "no comparison"
    if best and best.best:
        interval = f"95% interval {bounds(best)}" if bounds(best) else "no interval"
        comparison = f"against {best.best}, {interval}"
        if best.model and best.model != evaluation.model:  # the difference is not that of the headline
            comparison = f"{trained_on(best.model, evaluation)}, {comparison}"
    shown = [
        Tile("Weighted F1 of the fusion", value, _interval(report, evaluation)),
        Tile("Judged by", *_judges(evaluation)),
        _baseline(evaluation),
    ]
    if len(evaluation.modalities) != 1:
        shown.append(Tile("Compared with the best single modality", fusion.short, comparison, fusion.state))
    if plain is not None:
        shown.append(
            Tile("Compared with plain models", plain.short, "the best of them, on the same features", plain.state)
        )
    if evaluation.basis is Basis.VERDICTS:
        return shown
    return [
        *shown,
        Tile("Training labels after refinement", refinement.short, _accuracies(evaluation), refinement.state),
    ]


def conclusions(report: ReportInput, evaluation: Evaluation, ablation: Ablation | None = None) -> list[Conclusion]:
    """Return the conclusions in plain sentences.

    They cover the score of the fusion, fusion compared with single modalities and plain methods, the training labels,
    and the effect of refined labels on training. A fusion that has collapsed onto one modality is added.
    """
    if evaluation.zero_shot is not None:
        return zero_shot_conclusions(evaluation, evaluation.zero_shot)
    found = [_score_conclusion(report, evaluation), fusion_conclusion(evaluation)]
    if (plain := plain_conclusion(evaluation, ablation)) is not None:
        found.append(plain)
    if evaluation.basis is not Basis.VERDICTS:
        found.append(labels_conclusion(evaluation, report.refined))
    if report.refined or evaluation.refined_over_given:
        found.append(training_conclusion(evaluation))
    warnings = ablation.weights.warnings if ablation else ()
    return found + [Conclusion("worse", "collapsed", f"{text[:1].upper()}{text[1:]}.") for text in warnings]


def next_steps(report: ReportInput, evaluation: Evaluation, ablation: Ablation | None) -> list[Step]:
    """Return what to do next, the most important first."""
    if evaluation.zero_shot is not None:
        return [Step(f"{next_step(evaluation.zero_shot)}", REVIEW)]
    steps = []
    if evaluation.weighted_f1 is None:
        steps.append(Step("Label some clips: without labels nothing can be judged.", REVIEW))
    elif evaluation.judged_by == "given" and evaluation.basis is Basis.VERDICTS:
        steps.append(
            Step(
                "Give verdicts on clips drawn at random too: those of the scores were chosen, so the scores of other "
                "clips may differ.",
                REVIEW,
            )
        )
    elif evaluation.judged_by == "given":
        steps.append(
            Step(
                f"Give verdicts on at least {MIN_GOLD} clips: the scores only measure agreement with given labels, "
                "which may be wrong.",
                REVIEW,
            )
        )
    if evaluation.interval is not None and (width := evaluation.interval[1] - evaluation.interval[0]) > _WIDE:
        steps.append(
            Step(
                f"Label more clips: the 95% interval of the score is {width:.2f} wide, so most differences between "
                "models cannot be seen.",
                REVIEW,
            )
        )
    n_review = column(report.refined, "decision").count(LabelAction.REVIEW)
    if n_review:
        verb = "is" if n_review == 1 else "are"
        steps.append(Step(f"Look at the {count(n_review, 'clip')} that {verb} listed for review.", REVIEW))
    n_quarantined = len({entry.clip_id for entry in report.quarantine})
    if report.clips and n_quarantined / len(report.clips) >= _MUCH_QUARANTINED:
        share = percent(n_quarantined / len(report.clips))
        ((reason, modality), number), *_ = Counter(
            (e.reason, e.modality or e.stage) for e in report.quarantine
        ).most_common(1)
        why = f"most often {shorten(reason, 60)} ({modality}, {count(number, 'clip')})"
        steps.append(Step(f"Find out why {share} of the clips are quarantined: {why}.", "ecmf-pipe status"))
    steps += _about_the_model(evaluation, ablation)
    sparse = [
        f"{name} ({count(int(states.get('done') or 0))} of {count(len(report.clips))} clips)"
        for name, states in report.coverage.items()
        if report.clips and int(states.get("done") or 0) < _LITTLE_COVERAGE * len(report.clips)
    ]
    if sparse:
        steps.append(Step(f"Few clips have features of {join_items(sparse)}: see Features.", "ecmf-pipe status"))
    if evaluation.weighted_f1 is not None and groups_known(report) != "known":
        steps.append(
            Step("Name the speaker or dialogue of each clip: otherwise a speaker may be in training and evaluation.")
        )
    return steps[:_MOST_STEPS] or [Step("Nothing is missing: compare other encoders or settings with this run.")]


def groups_known(report: ReportInput) -> str:
    """Return whether the speaker or dialogue of the clips is ``known``, ``partly known`` or ``unknown``."""
    known = list(map(bool, column(report.clips, "group")))
    return "known" if known and all(known) else "partly known" if any(known) else "unknown"


def _about_the_model(evaluation: Evaluation, ablation: Ablation | None) -> list[Step]:
    steps = []
    majority_score = majority_f1(evaluation)
    if evaluation.weighted_f1 is not None and majority_score is not None and evaluation.weighted_f1 <= majority_score:
        steps.append(Step("Check labels and features: the model has learned nothing from them.", "ecmf-pipe doctor"))
    steps += [Step(sentence, command) for sentence, command in model_advice(evaluation, ablation)]
    return steps


def _interval(report: ReportInput, evaluation: Evaluation) -> str:
    if evaluation.weighted_f1 is None:
        return "there are no labels for evaluation"
    if evaluation.interval is None:
        return "no interval"
    low, high = evaluation.interval
    groups = groups_known(report)
    over = "over speakers or dialogues" if groups == "known" else f"over clips: speakers are {groups}"
    return f"95% interval {score(low)} to {score(high)}, {over}"


def _judges(evaluation: Evaluation) -> tuple[str, str]:
    model = f"model {trained_on(evaluation.model, evaluation)}, out of fold" if evaluation.model else "out of fold"
    if evaluation.judged_by == "gold":
        return count(evaluation.clips, "gold label"), model
    if evaluation.judged_by == "given":
        is_verdict = evaluation.basis is Basis.VERDICTS
        note = "chosen clips, not a random sample" if is_verdict else "agreement, not accuracy: they may be wrong"
        return count(evaluation.clips, "verdict" if is_verdict else "given label"), f"{note}; {model}"
    return "nothing", "there are neither gold labels nor given labels"


def _baseline(evaluation: Evaluation) -> Tile:
    name = "Compared with the most frequent label"
    majority_score = majority_f1(evaluation)
    if evaluation.weighted_f1 is None or majority_score is None:
        return Tile(name, "unknown", "no labels for evaluation", "unknown")
    difference = f"{evaluation.weighted_f1 - majority_score:+.3f}".replace("-", "\N{MINUS SIGN}")
    detail = f"always predicting it gives {score(majority_score)}"
    low, high = evaluation.interval or (evaluation.weighted_f1, evaluation.weighted_f1)
    if low > majority_score:
        return Tile(name, f"better, {difference}", detail, "better")
    if high < majority_score or evaluation.weighted_f1 <= majority_score:
        return Tile(name, f"not better, {difference}", detail, "worse")
    return Tile(name, f"not significant, {difference}", detail, "same")


def _score_conclusion(report: ReportInput, evaluation: Evaluation) -> Conclusion:
    value, basis = headline_score(evaluation)
    if evaluation.weighted_f1 is None:
        return Conclusion("unknown", value, f"The predictions cannot be evaluated: {basis}.")
    interval = ""
    if evaluation.interval is not None:
        interval = f" (95% interval {score(evaluation.interval[0])} to {score(evaluation.interval[1])})"
    sentence = f"The fusion model reaches a weighted F1 of {value}{interval}, {basis}."
    majority_score = majority_f1(evaluation)
    state = None
    if majority_score is not None and evaluation.weighted_f1 > majority_score:
        sentence += f" Always predicting the most frequent label gives {score(majority_score)}."
    elif majority_score is not None:
        state = "worse"
        sentence += (
            f" This is not better than always predicting the most frequent label, which gives {score(majority_score)}."
        )
    if (groups := groups_known(report)) != "known" and report.clips:
        sentence += (
            f" The speakers or dialogues are {groups}, so a speaker may be in training and evaluation, and the score "
            "may be too high for new speakers."
        )
    return Conclusion("worse" if state else None, value, sentence)


def _accuracies(evaluation: Evaluation) -> str:
    labels = evaluation.labels
    if labels is None or labels.given is None or labels.refined is None:
        return "no gold labels of training clips"
    dropped = labels.dropped_wrong + labels.dropped_right
    parts = [f"{count(labels.fixed)} corrected, {count(labels.broken)} broken"]
    if dropped:
        parts.append(f"{count(dropped)} dropped ({count(labels.dropped_wrong)} wrong)")
    return "; ".join(parts)
