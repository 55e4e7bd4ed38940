"""Words and colours for decisions on labels."""

from __future__ import annotations

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.refine import LabelAction
from ecmf_pipeline.report.charts import Colour

DECISIONS: dict[LabelAction, tuple[Colour, str, str]] = {
    LabelAction.KEEP: ("blue", "kept", "the given label is kept"),
    LabelAction.DOWN_WEIGHT: ("yellow", "down-weighted", "the given label is kept with a lower weight"),
    LabelAction.RELABEL: ("vermillion", "relabelled", "another label replaces the given one"),
    LabelAction.DROP: ("grey", "dropped", "the clip is excluded from training"),
    LabelAction.PSEUDO: ("green", "pseudo-labelled", "a clip without a label gets one"),
    LabelAction.REVIEW: ("purple", "for review", "a person should check the clip"),
    LabelAction.LEAVE: ("sky", "unlabelled", "a clip without a label stays unlabelled"),
}
"""Colour, word and meaning of each decision."""
ABSENT = "no label"


def given_label(basis: Basis | str | None) -> str:
    """Return the name of a label that models are trained on before refinement; add ``s`` for several."""
    return "verdict" if basis == Basis.VERDICTS else "given label"
