"""Cards of clips: all that is known of one clip, opened by links to its anchor, and the table of label decisions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from ecmf_pipeline.core.clips import MAX_CLIP_ID_BYTES, Clip, marked_transcript
from ecmf_pipeline.core.predictions import NO_MODALITY, Basis
from ecmf_pipeline.labels.refine import Decision, LabelAction, Vote
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Cell,
    Table,
    corpus_text,
    count,
    name_text,
    percent,
    shorten,
)
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import PredictedClip, PredictedClips, ReportInput, column
from ecmf_pipeline.report.sample import choose_clips, true_labels
from ecmf_pipeline.report.thumbnails import Thumbnail
from ecmf_pipeline.report.words import ABSENT, DECISIONS

MAX_BYTES = 4_000_000
"""Largest size of all cards and of their rows in the table, without pictures."""
REVIEW = "http://127.0.0.1:8350/?clip="
"""Address of a clip on the review page, if it runs on its usual port."""
_REASON_LENGTH = 400
_WORDS_LENGTH = 90
"""Characters of a transcript in the table; the card has more."""


@dataclass(frozen=True, slots=True)
class Card:
    """One clip as the page shows it.

    Attributes:
        number: Position; the anchor is ``c`` and this number.
        clip: The clip.
        prediction: Its prediction; None if there is none.
        decision: The decision on its label; None if refinement did not run.
        truth: The label that it is judged by; empty if there is none.
        picture: Its thumbnail; None if there is none.
    """

    number: int
    clip: Clip
    prediction: PredictedClip | None
    decision: Decision | None
    truth: str
    picture: Thumbnail | None

    @property
    def anchor(self) -> str:
        """Id of the card on the page."""
        return f"c{self.number}"

    @property
    def predicted(self) -> str:
        """The predicted label; empty without a prediction."""
        return self.prediction.label if self.prediction is not None and not self.prediction.flag else ""

    @property
    def is_misjudged(self) -> bool:
        """Whether the prediction differs from the label that the clip is judged by."""
        return bool(self.truth and self.predicted and self.truth != self.predicted)

    @property
    def action(self) -> str:
        """The decision in one word; empty if there is none."""
        return DECISIONS[self.decision.decision][1] if self.decision else ""

    @property
    def label_after(self) -> str:
        """The label after refinement, or why there is none."""
        decision = self.decision
        return label_after(decision.decision, decision.refined_label) if decision else self.clip.given_label or ABSENT


@dataclass(frozen=True)
class Cards:
    """The cards on the page.

    Attributes:
        cards: The cards, in the order of the page.
        pages: Their HTML.
        clips: Number of clips of the corpus.
    """

    cards: Sequence[Card]
    pages: Sequence[Markup]
    clips: int
    by_clip: Mapping[str, Card]

    def link(self, clip_id: str) -> Markup:
        """Return the clip id as a link to its card, or as text if it has none."""
        card = self.by_clip.get(clip_id)
        name = corpus_text(clip_id, MAX_CLIP_ID_BYTES)
        return Markup('<a href="#{}">{}</a>').format(card.anchor, name) if card else name


def make_cards(report: ReportInput, config: ReportConfig, environment: Environment) -> Cards:
    """Make the cards of a sample of clips, as many as fit into `MAX_BYTES`."""
    clips, decisions, predictions = (rows_by_clip(rows) for rows in (report.clips, report.refined, report.scored))
    truth = true_labels(report)
    template = environment.get_template("card.html.j2")
    cards: list[Card] = []
    pages: list[Markup] = []
    size = 0
    for clip_id in choose_clips(report):
        card = Card(
            len(cards),
            report.clips[clips[clip_id]],
            report.scored[predictions[clip_id]] if clip_id in predictions else None,
            report.refined[decisions[clip_id]] if clip_id in decisions else None,
            truth.get(clip_id, ""),
            report.thumbnails.get(clip_id),
        )
        page = Markup(template.render(card=card, **_texts(card, config)))
        size += len(page.encode()) - (len(card.picture.address) if card.picture else 0)
        size += sum(len(str(cell).encode()) + 12 for cell in _row(card))
        if size > MAX_BYTES:
            break
        cards.append(card)
        pages.append(page)
    return Cards(cards, pages, len(report.clips), {str(card.clip.clip_id): card for card in cards})


def rows_by_clip(rows: Sequence[Any]) -> dict[str, int]:
    """Return the row of each clip id."""
    ids = rows.table.clip_ids if isinstance(rows, PredictedClips) else column(rows, "clip_id")
    return {str(clip_id): row for row, clip_id in enumerate(ids)}


def decision_table(cards: Cards, *, given: str, judged: str) -> Table:
    """Return the table of all cards; it can be sorted, filtered and searched."""
    columns = ["Clip", "Split", given, "After", "Decision", "#Probability", "Predicted", judged, "Words"]
    caption = f"Label decisions: {count(len(cards.cards), 'clip')}"
    if len(cards.cards) < cards.clips:
        caption += (
            f" of {count(cards.clips)}: changed, dropped, reviewed and misjudged ones first, then a random sample"
        )
    return Table(caption, columns, [_row(card) for card in cards.cards], anchor="decisions")


def _row(card: Card) -> list[str | Cell]:
    decision = card.decision
    is_changed = decision is not None and decision.decision in {LabelAction.RELABEL, LabelAction.DROP}
    predicted = name_text(card.predicted) if card.predicted else UNKNOWN
    return [
        Markup('<a href="#{}">{}</a>').format(card.anchor, corpus_text(card.clip.clip_id, MAX_CLIP_ID_BYTES)),
        card.clip.split.value,
        name_text(card.clip.given_label or ABSENT),
        Cell(name_text(card.label_after), 0.5, "change") if is_changed else name_text(card.label_after),
        card.action or UNKNOWN,
        f"{decision.confidence:.2f}" if decision else UNKNOWN,
        Cell(predicted, 0.5, "change") if card.is_misjudged else predicted,
        name_text(card.truth) if card.truth else UNKNOWN,
        corpus_text(card.clip.transcript, _WORDS_LENGTH) if card.clip.transcript.strip() else UNKNOWN,
    ]


def _texts(card: Card, config: ReportConfig) -> dict[str, object]:
    """Return the texts of a card."""
    clip, decision, prediction = card.clip, card.decision, card.prediction
    words = marked_transcript(clip)
    facts: list[tuple[str, str]] = [("Split", clip.split.value)]
    if clip.group:
        facts.append(("Speaker or dialogue", name_text(clip.group, 60)))
    if clip.duration:
        facts.append(("Duration", f"{clip.duration:.1f} s"))
    facts.append(("Label", _label_change(card)))
    if decision is not None:
        facts.append(("Decision", _decision(decision, config)))
    if prediction is not None:
        facts.append(("Fusion predicts", _prediction(card, prediction)))
        facts += [
            (name, text)
            for name, weights in (
                ("Modality weights", prediction.modality_weights),
                ("Encoder weights", prediction.encoder_weights),
            )
            if (text := _weights(weights))
        ]
    if decision is not None and decision.votes:
        facts.append(("Votes", format_votes(decision.votes)))
    return {
        "facts": facts,
        "name": corpus_text(clip.clip_id, MAX_CLIP_ID_BYTES),
        "words": corpus_text(words, 2 * config.text_length) if words.strip() else "",
        "review": REVIEW + quote(clip.clip_id, safe="", errors="replace"),
    }


def _weights(weights: Mapping[str, float]) -> str:
    """Format the known weights, the largest first."""
    known = sorted(((share, name) for name, share in weights.items() if math.isfinite(share)), reverse=True)
    return ", ".join(f"{name} {percent(share)}" for share, name in known)


def _label_change(card: Card) -> Markup:
    given, after = card.clip.given_label or ABSENT, card.label_after
    text = name_text(given)
    if after != given:
        text += Markup(" \N{RIGHTWARDS ARROW} <b>{}</b>").format(name_text(after))
    if gold := card.clip.gold_label:
        outcome = describe_outcome(card.decision, gold) if card.decision else ""
        text += Markup("; gold: {}{}").format(name_text(gold), outcome)
    return text


def _decision(decision: Decision, config: ReportConfig) -> Markup:
    basis = "Zero-shot, unverified" if decision.basis is Basis.ZERO_SHOT else f"Training weight {decision.weight:.2f}"
    return Markup("{}: {}. {}. {}.").format(
        DECISIONS[decision.decision][1].capitalize(),
        DECISIONS[decision.decision][2],
        corpus_text(decision.reason, max(config.text_length, _REASON_LENGTH)),
        basis,
    )


def _prediction(card: Card, prediction: PredictedClip) -> Markup | str:
    if prediction.flag or not prediction.label:
        is_zero_shot = card.decision is not None and card.decision.basis is Basis.ZERO_SHOT
        if prediction.flag == NO_MODALITY and is_zero_shot:
            return "no label: no source voted"
        return corpus_text(prediction.flag or "no prediction", 80)
    text = name_text(prediction.label)
    if prediction.probability is not None:
        text += f" {prediction.probability:.2f}"
    if card.truth:
        text += " (wrong)" if card.is_misjudged else " (right)"
    return text


def format_votes(votes: Sequence[Vote]) -> Markup:
    """Format the votes by label, the most frequent label first and abstentions last."""
    by_label: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_label[vote.label].append(vote)
    ranked = sorted(by_label, key=lambda label: (not label, -len(by_label[label]), label))
    lines = []
    for label in ranked:
        ballots = sorted(by_label[label], key=lambda vote: (-(vote.probability or 0.0), vote.source))
        names = [
            shorten(vote.source, 40) + ("" if vote.probability is None or not label else f" {vote.probability:.2f}")
            for vote in ballots
        ]
        heading = Markup("<b>{}</b>").format(name_text(label)) if label else "abstain"
        lines.append(Markup("<span>{}: {}</span>").format(heading, ", ".join(names)))
    return Markup("").join(lines) or Markup(UNKNOWN)


def label_after(action: LabelAction, refined_label: str) -> str:
    """Return the label after refinement, or why there is none."""
    if action is LabelAction.DROP:
        return "dropped"
    if action is LabelAction.REVIEW and not refined_label:
        return "for review"
    return refined_label or ABSENT


def describe_outcome(decision: Decision, gold: str) -> str:
    """Return what the decision did to a label with a known true label, in parentheses."""
    before, after = decision.given_label == gold, decision.refined_label == gold
    if decision.decision is LabelAction.DROP:
        return " (dropped a right label)" if before else " (dropped a wrong label)"
    if not decision.refined_label:
        return ""
    if not decision.given_label:
        return " (right)" if after else " (wrong)"
    if before == after:
        return " (still right)" if after else " (still wrong)"
    return " (corrected)" if after else " (broken)"
