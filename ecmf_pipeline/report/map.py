"""Draw the map of clips: one point for each clip that links to its card, coloured by one of several properties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from markupsafe import Markup

from ecmf_pipeline.report.blocks import count, name_text, ordered_labels, shorten
from ecmf_pipeline.report.cards import Card, Cards
from ecmf_pipeline.report.charts import PALETTE
from ecmf_pipeline.report.checks import ClipMap
from ecmf_pipeline.report.words import DECISIONS

_WIDTH, _HEIGHT, _MARGIN = 720.0, 460.0, 12.0
_COLOURS = len(PALETTE) - 1
"""Number of values with a colour of their own; the last colour, grey, is that of all others."""
_OTHERS = "others"
_POINT = Markup('<a href="#{}" aria-label="{}" tabindex="-1"><circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/></a>')


def draw_map(clip_map: ClipMap, cards: Cards, labels: Sequence[str]) -> Markup:
    """Draw the points with radio buttons for the property that colours them; works without scripts.

    Args:
        clip_map: Positions of the clips; those without a card are left out.
        cards: The cards.
        labels: The labels of the corpus, in order.
    """
    shown = [
        (cards.by_clip[clip_id], float(x), float(y))
        for clip_id, (x, y) in zip(clip_map.clip_ids, clip_map.points, strict=True)
        if clip_id in cards.by_clip
    ]
    properties: dict[str, tuple[Callable[[Card], str], Sequence[str]]] = {
        "Label": (_label, labels),
        "Decision": (lambda card: card.action or "no decision", [word for _, word, _ in DECISIONS.values()]),
        "Prediction": (_outcome, ["right", "wrong", "not judged"]),
        "Speaker or dialogue": (lambda card: card.clip.group or "unknown", ()),
        "Split": (lambda card: card.clip.split.value, ["train", "candidate", "unlabeled"]),
    }
    buttons, legends, classes = [], [], [""] * len(shown)
    for position, (name, (value_of, order)) in enumerate(properties.items()):
        key = "abcde"[position]
        values = [value_of(card) for card, _, _ in shown]
        places = _places(values, order)
        classes = [f"{one} {key}{places.get(value, _COLOURS)}" for one, value in zip(classes, values, strict=True)]
        checked = Markup(" checked") if position == 0 else ""
        buttons.append(
            Markup('<label><input type="radio" name="map-by" id="by-{}"{}> {}</label>').format(key, checked, name)
        )
        legends.append(_legend(key, places, values))
    radius = "4.5" if len(shown) <= 400 else "3"
    points = [
        Markup(
            '<a href="#{}" aria-label="{}" tabindex="-1"><circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/></a>'
        ).format(
            card.anchor,
            shorten(card.clip.clip_id, 40),
            style.strip() + (" e" if card.is_misjudged else ""),
            _MARGIN + x * (_WIDTH - 2 * _MARGIN),
            _MARGIN + (1 - y) * (_HEIGHT - 2 * _MARGIN),
            radius,
        )
        for (card, x, y), style in zip(shown, classes, strict=True)
    ]
    alt = f"Map of {count(len(shown), 'clip')}; the table of label decisions lists the same clips."
    return Markup(
        '<div class="map"><fieldset><legend>Colour by</legend>{}</fieldset>{}'
        '<svg viewBox="0 0 {:g} {:g}" role="group" aria-label="{}">{}</svg></div>'
    ).format(Markup("").join(buttons), Markup("").join(legends), _WIDTH, _HEIGHT, alt, Markup("").join(points))


def _label(card: Card) -> str:
    """Return the label after refinement; dropped clips and those for review have none."""
    return (card.decision.refined_label if card.decision else card.clip.given_label) or "no label"


def _outcome(card: Card) -> str:
    if not card.truth or not card.predicted:
        return "not judged"
    return "wrong" if card.is_misjudged else "right"


def _places(values: Sequence[str], order: Sequence[str]) -> dict[str, int]:
    """Return the number of the colour of each value that has one: of the most frequent ones, in the given order."""
    tally = Counter(values)
    ranked = sorted(tally.items(), key=lambda item: (item[0] not in order, -item[1], item[0]))
    kept = {value for value, _ in ranked[:_COLOURS]}
    return {
        value: place for place, value in enumerate(value for value in ordered_labels(order, tally) if value in kept)
    }


def _legend(key: str, places: dict[str, int], values: Sequence[str]) -> Markup:
    tally = Counter(values)
    others = {value: number for value, number in tally.items() if value not in places}
    entries = [(place, value, tally[value]) for value, place in places.items()]
    if others:
        name = next(iter(others)) if len(others) == 1 else f"{len(others)} {_OTHERS}"
        entries.append((_COLOURS, name, sum(others.values())))
    items = [
        Markup('<li><span class="swatch {}"></span>{} {}</li>').format(PALETTE[place], name_text(value), count(number))
        for place, value, number in entries
    ]
    return Markup('<ul class="legend for-{}">{}</ul>').format(key, Markup("").join(items))
