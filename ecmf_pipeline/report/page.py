"""Render the results of a run as one self-contained HTML page.

The page loads no files. Its content security policy allows only its own script, by its hash, and no request. It works
from disk, as a mail attachment and in an archive, and without scripts: these only sort, filter and preview. Its text
depends only on its input. Sections return `blocks`; the templates in ``templates`` hold frame, style and script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.report.ablation import ablation_section, weights_section
from ecmf_pipeline.report.blocks import Section, Tile
from ecmf_pipeline.report.cards import make_cards
from ecmf_pipeline.report.clips import clips_section, confusion_section
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.corpus import corpus_section, quarantine_section
from ecmf_pipeline.report.features import faces_section, features_section
from ecmf_pipeline.report.inputs import ReportInput
from ecmf_pipeline.report.metrics import read_ablation, read_evaluation
from ecmf_pipeline.report.overview import Step, conclusions, describe_corpus, next_steps, tiles
from ecmf_pipeline.report.refinement import refinement_section
from ecmf_pipeline.report.runtime import runtime_section
from ecmf_pipeline.report.scores import scores_section
from ecmf_pipeline.report.thumbnails import describe_thumbnails
from ecmf_pipeline.report.timeline import timeline_section
from ecmf_pipeline.report.zero_shot import UNVERIFIED, Conclusion

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
    if ablation is not None and ablation.basis is Basis.GIVEN:  # `ablate` does not record verdicts
        ablation = ablation.model_copy(update={"basis": evaluation.basis})
    cards = make_cards(report, config, make_environment())
    shown = {str(card.clip.clip_id): card.picture for card in cards.cards if card.picture}
    pictures = describe_thumbnails(shown, len(cards.cards), config.thumbnails)
    sections = [
        scores_section(report, evaluation),
        confusion_section(evaluation, cards),
        clips_section(report, evaluation, cards, pictures),
        refinement_section(report, evaluation),
        weights_section(report, ablation),
        ablation_section(ablation),
        *timeline_section(report),
        corpus_section(report, config),
        quarantine_section(report, config),
        features_section(report),
        *faces_section(report),
        runtime_section(report),
    ]
    unverified = evaluation.zero_shot is not None
    return render_page(
        title="Emotion recognition report",
        subtitle=describe_corpus(report) + (f"; labels: {UNVERIFIED}" if unverified else ""),
        warnings=[*([UNVERIFIED_NOTICE] if unverified else []), *([SYNTHETIC_NOTICE] if report.synthetic else [])],
        tiles=tiles(report, evaluation, ablation),
        conclusions=conclusions(report, evaluation, ablation),
        steps=next_steps(report, evaluation, ablation),
        sections=sections,
        cards=cards.pages,
    )


def render_page(
    *,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    warnings: Sequence[str] = (),
    tiles: Sequence[Tile] = (),
    conclusions: Sequence[Conclusion] = (),
    steps: Sequence[Step] = (),
    cards: Sequence[Markup] = (),
) -> str:
    """Render a page with style and script: the summary, then the sections, then cards that links open."""
    environment = make_environment()
    script = environment.get_template("page.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        warnings=warnings,
        tiles=tiles,
        conclusions=conclusions,
        steps=steps,
        sections=sections,
        cards=cards,
        script=Markup(script),
        script_digest=digest,
    )


def make_environment() -> Environment:
    """Return the environment of the page's templates."""
    return Environment(
        loader=PackageLoader("ecmf_pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
