"""The report's one page: `render` turns a run's results into a self-contained HTML text.

The page loads nothing, runs nothing and says so to the browser (its content security policy), so it works from disk,
from a mail and from an archive. Its text depends on its input alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from ecmf_pipeline.report.blocks import Section, Tile, shortened
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import (
    PredictedClip,
    ReportInput,
    read_ablation,
    read_evaluation,
)
from ecmf_pipeline.report.sections.ablation import ablation_section
from ecmf_pipeline.report.sections.corpus import corpus_section, faces_section, features_section
from ecmf_pipeline.report.sections.provenance import provenance_section, quarantine_section
from ecmf_pipeline.report.sections.refinement import refinement_section
from ecmf_pipeline.report.sections.scores import SYNTHETIC, confusion_section, scores_section, tiles, verdicts
from ecmf_pipeline.report.sections.weights import weights_section
from ecmf_pipeline.report.verdicts import Verdict

__all__ = ["PredictedClip", "ReportInput", "render", "render_page"]


def render(report: ReportInput, config: ReportConfig) -> str:
    """The report as HTML; the same input gives the same text.

    Args:
        report: The results of a run.
        config: How much of them to show.

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
    return render_page(
        title="Emotion recognition report",
        subtitle=f"Corpus: {shortened(str(report.corpus.get('kind') or 'not named'), 60)}",
        warning=SYNTHETIC if report.synthetic else "",
        tiles=tiles(report, evaluation),
        verdicts=verdicts(report, evaluation, ablation),
        sections=sections,
    )


def render_page(
    *,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    warning: str = "",
    tiles: Sequence[Tile] = (),
    verdicts: Sequence[Verdict] = (),
) -> str:
    """Any page of this look, as HTML.

    Args:
        title: Its title.
        subtitle: The line below it.
        sections: Its parts, with a table of contents.
        warning: What must be read before anything else.
        tiles: Its headline strip.
        verdicts: What it answers, in sentences.
    """
    environment = Environment(
        loader=PackageLoader("ecmf_pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(
        title=title, subtitle=subtitle, sections=sections, warning=warning, tiles=tiles, verdicts=verdicts
    )
