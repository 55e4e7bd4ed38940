"""Check the labels and groups of a corpus."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind, quote_names
from ecmf_pipeline.corpora.tables import excerpt

MAX_UNKNOWN_SHARE = 0.5
"""Above this share of unknown labels, the list of classes is considered wrong, which is an error."""
MIN_CLIPS_OF_RARE_LABEL = 20
"""With fewer labelled clips, a label that is used once is reported only if it resembles another label."""
NO_VALUE = frozenset({"?", "-", "n/a", "na", "none", "null", "unknown", "unk"})
"""Entries of a column of groups or labels, in lower case, that probably mean that the value is unknown."""
_SHOWN = 5


def keep_known_labels(
    values: Mapping[ClipId, str], labels: Sequence[str], source: str
) -> tuple[dict[ClipId, str], list[Finding]]:
    """Drop labels that are not among the classes; upper and lower case are equivalent.

    Args:
        values: The label of each clip id, or an empty string.
        labels: The classes.
        source: File and column of the values, for messages.

    Returns:
        The known label of each clip id, in the spelling of ``labels``, and a finding for each unknown label.

    Raises:
        CorpusError: If more than half of the labels are unknown.
    """
    spelled = {label.casefold(): label for label in labels}
    known: dict[ClipId, str] = {}
    unknown: dict[ClipId, str] = {}
    for clip_id, value in values.items():
        if value:
            label = spelled.get(value.casefold())
            (unknown if label is None else known)[clip_id] = label or value
    if len(unknown) > MAX_UNKNOWN_SHARE * (len(known) + len(unknown)):
        raise CorpusError(
            f"{source}: {len(unknown)} of {len(known) + len(unknown)} labels are not among the classes "
            f"{', '.join(labels)}; unknown labels: {quote_names(sorted(set(unknown.values())), 12)}",
            "set corpus.labels in params.yaml to the labels of the file",
        )
    suggestion = {value: _suggestion(value, spelled) for value in unknown.values()}
    findings = [
        Finding(
            FindingKind.UNKNOWN_LABEL,
            clip_id,
            f"{source}: clip {clip_id!r} has the unknown label {excerpt(value)}: the label is ignored; "
            f"{suggestion[value]}",
        )
        for clip_id, value in unknown.items()
    ]
    return known, findings


def distinct_labels(values: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels, sorted; of spellings that differ only in case, the last in sort order is kept."""
    return tuple(sorted({value.casefold(): value for value in sorted(values) if value}.values()))


def labels_in_use(values: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels; with fewer than two, MER's six labels and a label that is not one of them."""
    found = distinct_labels(values)
    if len(found) > 1:
        return found
    return (*MER_LABELS, *(label for label in found if label.casefold() not in MER_LABELS))


def _suggestion(value: str, spelled: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(value.casefold(), list(spelled), n=1)
    return f"did you mean {spelled[near[0]]!r}?" if near else f"use one of {', '.join(spelled.values())}"


def label_findings(listing: CorpusListing) -> Iterator[Finding]:
    """Yield findings about labels and groups that are probably mistakes, and about names that differ only in case."""
    given = Counter(clip.given_label for clip in listing.clips if clip.given_label)
    if len(given) > 1:
        yield from _rare_labels(given)
        yield from _unused_labels(listing, given)
    if len(given) == 1:
        [(label, count)] = given.items()
        message = (
            f"the only label of the {format_count(count, 'training clip')} is {label!r}: training needs two labels of "
            "two clips each; until then they count as verdicts, and other clips get zero-shot labels, unverified"
        )
        yield Finding(FindingKind.SINGLE_LABEL, "", message, count=count)
    yield from _labels_that_mean_unknown(listing.clips)
    if numeric := [label for label in listing.labels if _is_number(label)]:
        message = (
            f"{format_count(len(numeric), 'label')} of {len(listing.labels)} are numbers: "
            f"{quote_names(numeric, _SHOWN)}; write the names of the emotions, which the language model needs"
        )
        yield Finding(FindingKind.NUMERIC_LABEL, "", message, count=len(numeric))
    yield from _group_findings(listing.clips)
    yield from _differ_in_case("clip", [clip.clip_id for clip in listing.clips])
    yield from _differ_in_case("group", {clip.group for clip in listing.clips})


def _rare_labels(given: Counter[str]) -> Iterator[Finding]:
    frequent = [label for label, count in given.items() if count > 1]
    for label in sorted(label for label, count in given.items() if count == 1):
        near = difflib.get_close_matches(label, frequent, n=1)
        if near:
            yield Finding(
                FindingKind.RARE_LABEL,
                "",
                f"label {label!r} is used once; did you mean {near[0]!r} ({given[near[0]]} clips)?",
            )
        elif given.total() >= MIN_CLIPS_OF_RARE_LABEL:
            yield Finding(FindingKind.RARE_LABEL, "", f"label {label!r} is used once; correct it, or label more clips")


def _labels_that_mean_unknown(clips: Sequence[Clip]) -> Iterator[Finding]:
    labels = (label for clip in clips for label in (clip.given_label, clip.gold_label))
    for label, count in sorted(Counter(label for label in labels if label.casefold() in NO_VALUE).items()):
        message = (
            f"label {label!r} ({format_count(count, 'cell')}) is a class of its own; leave the cell empty if the label "
            "is unknown"
        )
        yield Finding(FindingKind.LABEL_MEANS_UNKNOWN, "", message, count=count)


def _unused_labels(listing: CorpusListing, given: Mapping[str, int]) -> Iterator[Finding]:
    gold = Counter(clip.gold_label for clip in listing.clips if clip.gold_label)
    for label, count in sorted(gold.items()):
        if label not in given:
            near = difflib.get_close_matches(label, [*given], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "label training clips with it, or correct it"
            message = (
                f"gold label {label!r} ({format_count(count, 'clip')}) is the label of no training clip: it cannot be "
                f"predicted; {hint}"
            )
            yield Finding(FindingKind.GOLD_LABEL_NOT_GIVEN, "", message, count=count)
    if empty := [label for label in listing.labels if label not in given and label not in gold]:
        message = (
            f"no clip has the {format_count(len(empty), 'label')} {quote_names(empty, _SHOWN)}; remove them from "
            "corpus.labels in params.yaml, or add such clips"
        )
        yield Finding(FindingKind.EMPTY_CLASS, "", message, count=len(empty))


def _is_number(label: str) -> bool:
    try:
        float(label.replace(",", "."))
    except ValueError:
        return False
    return True


def _group_findings(clips: Sequence[Clip]) -> Iterator[Finding]:
    """Yield findings about training clips without group, and groups such as ``unknown``."""
    training = [clip for clip in clips if clip.split is Split.TRAIN]
    without = [clip.clip_id for clip in training if not clip.group]
    if without and len(without) < len(training):
        message = (
            f"{len(without)} of {len(training)} training clips have no group: {quote_names(without, _SHOWN)}; each "
            "counts as a group of its own; add their groups, or scores may be too high"
        )
        yield Finding(FindingKind.CLIP_WITHOUT_GROUP, "", message, count=len(without))
    unknown = Counter(clip.group for clip in clips if clip.group.casefold() in NO_VALUE)
    for group, count in sorted(unknown.items()):
        message = (
            f"{format_count(count, 'clip')} of group {group!r} count as one speaker and stay in one fold; leave the "
            "cell empty if the group is unknown"
        )
        yield Finding(FindingKind.UNKNOWN_GROUP, "", message, count=count)


def _differ_in_case(kind: str, names: Iterable[str]) -> Iterator[Finding]:
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[name.casefold()].append(name)
    if same := [sorted(names) for names in spellings.values() if len(names) > 1]:
        shown = "; ".join(" and ".join(map(repr, names)) for names in sorted(same)[:_SHOWN])
        message = (
            f"{format_count(len(same), f'pair of {kind} names', f'pairs of {kind} names')} that differ only in case: "
            f"{shown}; use one spelling if they are the same {kind}"
        )
        yield Finding(FindingKind.DIFFERENT_CASE, "", message, count=len(same))
