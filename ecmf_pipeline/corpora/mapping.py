"""Map the emotions of a corpus to labels, by ``corpus.mapping``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.corpora.listing import Finding, FindingKind


def chosen_mapping(
    chosen: Mapping[str, str] | None, default: Mapping[str, str], emotions: Collection[str]
) -> dict[str, str]:
    """Return the label of each emotion, in lower case; "" means no label.

    Args:
        chosen: ``corpus.mapping``; upper and lower case are equivalent. None: the default.
        default: The label of each emotion that the corpus can have.
        emotions: The emotions of the files, in lower case.

    Raises:
        ParamsError: If ``chosen`` has an emotion that neither the files nor the corpus have, or has one twice.
    """
    if chosen is None:
        return dict(default)
    if unknown := [emotion for emotion in chosen if emotion.casefold() not in {*emotions, *default}]:
        raise ParamsError(
            f"corpus.mapping: no utterance has the emotion {' or '.join(map(repr, unknown))}",
            f"use the emotions of the files: {', '.join(sorted({*emotions} - {''}))}",
            keys=["corpus.mapping"],
        )
    counts = Counter(emotion.casefold() for emotion in chosen)
    if repeated := [emotion for emotion in chosen if counts[emotion.casefold()] > 1]:
        raise ParamsError(
            f"corpus.mapping: {', '.join(map(repr, repeated))} are the same emotion",
            "map each emotion once",
            keys=["corpus.mapping"],
        )
    return {emotion.casefold(): label for emotion, label in chosen.items()}


def unmapped_findings(emotions: Iterable[str], mapping: Mapping[str, str], labels: Sequence[str]) -> list[Finding]:
    """Return a finding for each emotion without a label.

    Args:
        emotions: The emotion of each clip, in lower case.
        mapping: The label of each emotion.
        labels: The classes.
    """
    findings = []
    for emotion, count in sorted(Counter(emotions).items()):
        label = mapping.get(emotion, "")
        if label not in labels:
            problem = f"is mapped to {label!r}, which is not in corpus.labels" if label else "has no label"
            message = (
                f"params.yaml: emotion {emotion!r} {problem}: {format_count(count, 'clip')} without label; map it in "
                "corpus.mapping to use them"
            )
            findings.append(Finding(FindingKind.UNKNOWN_LABEL, "", message, count=count))
    return findings
