"""Render the results of a run as one self-contained HTML page.

The page loads no files and runs no scripts, and its content security policy forbids both. It works from disk, as a mail
attachment and in an archive. Its text depends only on its input. Sections return `blocks`; the templates in
``templates`` hold frame and style of the page.
"""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from ecmf_pipeline.report.ablation import ablation_section, weights_section
from ecmf_pipeline.report.blocks import Tile, count, score, shorten
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.corpus import (
    corpus_section,
    faces_section,
    features_section,
    provenance_section,
    quarantine_section,
)
from ecmf_pipeline.report.inputs import Ablation, Evaluation, ReportInput, read_ablation, read_evaluation
from ecmf_pipeline.report.refinement import refinement_section
from ecmf_pipeline.report.scores import (
    bounds,
    confusion_section,
    fusion_conclusion,
    headline_score,
    labels_conclusion,
    majority_f1,
    scores_section,
    training_conclusion,
)
from ecmf_pipeline.report.timeline import timeline_section
from ecmf_pipeline.report.zero_shot import UNVERIFIED, Conclusion, zero_shot_conclusions, zero_shot_tiles

UNVERIFIED_NOTICE = (
    "Zero-shot, unverified: all labels on this page come from models that saw no label of this corpus. "
    "Their confidence is not calibrated, and agreement between sources is no accuracy."
)

SYNTHETIC_NOTICE = (
    "This corpus is synthetic: its clips were generated, not recorded from people. "
    "The figures show that the pipeline works, not its accuracy on real recordings."
)


def render(report: ReportInput, config: ReportConfig) -> str:
    """Render the report as HTML; identical inputs give identical text.

    Raises:
        InputError: If a value of ``report.evaluate`` or ``report.ablate`` has the wrong type.
    """
    evaluation, ablation = read_evaluation(report.evaluate), read_ablation(report.ablate)
    sections = [
        corpus_section(report, config),
        features_section(report),
        *faces_section(report),
        scores_section(report, evaluation),
        *timeline_section(report),
        confusion_section(evaluation),
        weights_section(report, ablation),
        ablation_section(ablation),
        refinement_section(report, evaluation, config),
        quarantine_section(report, config),
        provenance_section(report),
    ]
    unverified = evaluation.zero_shot is not None
    environment = Environment(
        loader=PackageLoader("ecmf_pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        title="Emotion recognition report",
        subtitle=f"Corpus: {shorten(str(report.corpus.get('kind') or 'not named'), 60)}"
        + (f"; labels: {UNVERIFIED}" if unverified else ""),
        warnings=[*([UNVERIFIED_NOTICE] if unverified else []), *([SYNTHETIC_NOTICE] if report.synthetic else [])],
        tiles=tiles(report, evaluation),
        conclusions=conclusions(report, evaluation, ablation),
        sections=sections,
    )


def tiles(report: ReportInput, evaluation: Evaluation) -> list[Tile]:
    """Return the headline figures."""
    splits = [clip.split.value for clip in report.clips]
    by_split = [count(splits.count(name), name, name) for name in ("train", "candidate", "unlabeled") if name in splits]
    value, basis = headline_score(evaluation)
    fusion, refinement = fusion_conclusion(evaluation), labels_conclusion(evaluation, refined=bool(report.refined))
    best = evaluation.fusion_over_best_modality
    comparison = "no comparison"
    if best and best.best:
        comparison = f"against {best.best}, {f'95% interval {bounds(best)}' if bounds(best) else 'no interval'}"
    n_quarantined = len({entry.clip_id for entry in report.quarantine})
    corpus = [
        Tile(
            "Corpus",
            shorten(str(report.corpus.get("kind") or "not named"), 40),
            "synthetic: generated clips" if report.synthetic else "not synthetic",
        ),
        Tile("Clips", count(len(report.clips)), ", ".join(by_split) or "none"),
    ]
    quarantined = Tile("Quarantined", count(n_quarantined, "clip"), count(len(report.quarantine), "entry", "entries"))
    if evaluation.zero_shot is not None:
        return [*corpus, *zero_shot_tiles(evaluation, evaluation.zero_shot), quarantined]
    return [
        *corpus,
        Tile("Weighted F1", value, basis),
        Tile("Fusion compared with best single modality", fusion.short, comparison, fusion.state),
        Tile(
            "Training labels after refinement",
            refinement.short,
            _accuracies(evaluation),
            refinement.state,
        ),
        quarantined,
    ]


def conclusions(report: ReportInput, evaluation: Evaluation, ablation: Ablation | None = None) -> list[Conclusion]:
    """Return the conclusions in plain sentences.

    They cover the score of the fusion, fusion compared with single modalities, the accuracy of the training labels, and
    the effect of refined labels on training. A fusion that has collapsed onto one modality is added.
    """
    if evaluation.zero_shot is not None:
        return zero_shot_conclusions(evaluation, evaluation.zero_shot)
    conclusions = [_score_conclusion(evaluation), fusion_conclusion(evaluation)]
    conclusions.append(labels_conclusion(evaluation, refined=bool(report.refined)))
    if report.refined or evaluation.refined_over_given:
        conclusions.append(training_conclusion(evaluation))
    warnings = ablation.weights.warnings if ablation else ()
    return conclusions + [Conclusion("worse", "collapsed", f"{text[:1].upper()}{text[1:]}.") for text in warnings]


def _score_conclusion(evaluation: Evaluation) -> Conclusion:
    value, basis = headline_score(evaluation)
    if evaluation.weighted_f1 is None:
        return Conclusion("unknown", value, f"The predictions cannot be evaluated: {basis}.")
    sentence = f"The fusion model reaches a weighted F1 of {value} ({basis})."
    majority_score = majority_f1(evaluation)
    if majority_score is None:
        return Conclusion(None, value, sentence)
    if evaluation.weighted_f1 > majority_score:
        return Conclusion(
            None, value, f"{sentence} Always predicting the most frequent label gives {score(majority_score)}."
        )
    sentence += (
        f" This is not better than always predicting the most frequent label, which gives {score(majority_score)}."
    )
    return Conclusion("worse", value, sentence)


def _accuracies(evaluation: Evaluation) -> str:
    labels = evaluation.labels
    if labels is None or labels.given is None or labels.refined is None:
        return "no gold labels of training clips"
    return f"accuracy {score(labels.given.accuracy)} before, {score(labels.refined.accuracy)} after"
