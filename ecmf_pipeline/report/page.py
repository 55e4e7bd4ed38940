"""Render a run's results as one self-contained HTML page.

The page loads nothing, runs nothing and says so to the browser (its content security policy), so it works from disk,
from a mail and from an archive. Its text depends on its input alone. Sections return `blocks`; the templates in
``templates`` hold the page's frame and style.
"""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from ecmf_pipeline.report.ablation import ablation_section, weights_section
from ecmf_pipeline.report.blocks import Tile, count, score, shortened
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
    Verdict,
    bounds,
    confusion_section,
    fusion_verdict,
    headline_score,
    labels_verdict,
    majority_f1,
    scores_section,
    training_verdict,
)

SYNTHETIC = (
    "This corpus is synthetic: its clips were generated, not recorded from people. "
    "The figures show that the machinery works, not accuracy on people."
)


def render(report: ReportInput, config: ReportConfig) -> str:
    """The report as HTML; the same input gives the same text.

    Raises:
        InputError: When a value of ``report.evaluate`` or ``report.ablate`` is not of the type it should be.
    """
    evaluation, ablation = read_evaluation(report.evaluate), read_ablation(report.ablate)
    sections = [
        corpus_section(report, config),
        features_section(report),
        *faces_section(report),
        scores_section(report, evaluation),
        confusion_section(evaluation),
        weights_section(report, ablation),
        ablation_section(ablation),
        refinement_section(report, evaluation, config),
        quarantine_section(report, config),
        provenance_section(report),
    ]
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
        subtitle=f"Corpus: {shortened(str(report.corpus.get('kind') or 'not named'), 60)}",
        warning=SYNTHETIC if report.synthetic else "",
        tiles=tiles(report, evaluation),
        verdicts=verdicts(report, evaluation, ablation),
        sections=sections,
    )


def tiles(report: ReportInput, evaluation: Evaluation) -> list[Tile]:
    """The headline strip."""
    splits = [clip.split.value for clip in report.clips]
    by_split = [count(splits.count(name), name, name) for name in ("train", "candidate", "unlabeled") if name in splits]
    value, rests_on = headline_score(evaluation)
    fusion, refinement = fusion_verdict(evaluation), labels_verdict(evaluation, refined=bool(report.refined))
    best = evaluation.fusion_over_best_modality
    against = "no comparison"
    if best and best.best:
        against = f"against {best.best}, {f'95% interval {bounds(best)}' if bounds(best) else 'no interval'}"
    set_aside = len({entry.clip_id for entry in report.quarantine})
    return [
        Tile(
            "Corpus",
            shortened(str(report.corpus.get("kind") or "not named"), 40),
            "synthetic: generated clips" if report.synthetic else "not marked as synthetic",
        ),
        Tile("Clips", count(len(report.clips)), ", ".join(by_split) or "none"),
        Tile("Weighted F1", value, rests_on),
        Tile("Fusion over best single modality", fusion.short, against, fusion.state),
        Tile(
            "Training labels after refinement",
            refinement.short,
            _accuracies(evaluation),
            refinement.state,
        ),
        Tile("Quarantined", count(set_aside, "clip"), count(len(report.quarantine), "entry", "entries")),
    ]


def verdicts(report: ReportInput, evaluation: Evaluation, ablation: Ablation | None = None) -> list[Verdict]:
    """The answers to: how good, is it the fusion, are the labels better, and is the model the better for them?

    A fusion that has collapsed onto one modality is named besides.
    """
    answers = [_score(evaluation), fusion_verdict(evaluation)]
    answers.append(labels_verdict(evaluation, refined=bool(report.refined)))
    if report.refined or evaluation.refined_over_given:
        answers.append(training_verdict(evaluation))
    warnings = ablation.weights.warnings if ablation else ()
    return answers + [Verdict("worse", "collapsed", f"{text[:1].upper()}{text[1:]}.") for text in warnings]


def _score(evaluation: Evaluation) -> Verdict:
    value, rests_on = headline_score(evaluation)
    if evaluation.weighted_f1 is None:
        return Verdict("unknown", value, f"How good the predictions are cannot be known: {rests_on}.")
    sentence = f"The fused model reaches a weighted F1 of {value} ({rests_on})."
    least = majority_f1(evaluation)
    if least is None:
        return Verdict(None, value, sentence)
    if evaluation.weighted_f1 > least:
        return Verdict(None, value, f"{sentence} Always answering the commonest label would reach {score(least)}.")
    sentence += f" That is no better than always answering the commonest label, which reaches {score(least)}."
    return Verdict("worse", value, sentence)


def _accuracies(evaluation: Evaluation) -> str:
    labels = evaluation.labels
    if labels is None or labels.given is None or labels.refined is None:
        return "accuracy not known"
    return f"accuracy {score(labels.given.accuracy)} before, {score(labels.refined.accuracy)} after"
