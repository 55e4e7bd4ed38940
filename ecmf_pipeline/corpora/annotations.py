"""From the rows of a csv file to one value a clip: the rules on doubled rows and unknown labels that readers share."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from ecmf_pipeline.clips import ClipId
from ecmf_pipeline.corpora.listing import Finding, FindingKind, naming_some
from ecmf_pipeline.corpora.tables import Table
from ecmf_pipeline.errors import CorpusError

MOST_UNKNOWN = 0.5
"""Beyond this share of unknown labels it is not the corpus that is odd but the list of classes that is wrong."""

Resolve = Callable[[str], ClipId]
"""From a name in a csv file to a clip id; raises CorpusError for a name that cannot be one."""


class AmbiguousName(CorpusError):
    """A name fits several clips."""


def resolve_names(table: Table, resolve: Resolve) -> tuple[list[ClipId | None], list[Finding]]:
    """The clip id of each row, None where the name is no clip's, with a finding that says why."""
    clip_ids: list[ClipId | None] = []
    findings: list[Finding] = []
    for name in table.column("name"):
        try:
            clip_ids.append(resolve(name))
        except CorpusError as error:
            kind = FindingKind.AMBIGUOUS_NAME if isinstance(error, AmbiguousName) else FindingKind.BAD_CLIP_ID
            findings.append(Finding(kind, "", f"{table.path.name}: {error.args[0]}; the row is not used: {error.hint}"))
            clip_ids.append(None)
    return clip_ids, findings


def values_by_clip(
    table: Table, clip_ids: Sequence[ClipId | None], column: str
) -> tuple[dict[ClipId, str], list[Finding]]:
    """One value a clip, in the table's order.

    A clip with two rows that say the same has it once; where they differ neither is believed, and the value is empty.
    """
    values: dict[ClipId, str] = {}
    conflicts: set[ClipId] = set()
    findings: list[Finding] = []
    for clip_id, value in zip(clip_ids, table.column(column), strict=True):
        if clip_id is None:
            continue
        first = values.setdefault(clip_id, value)
        if first != value and clip_id not in conflicts:
            conflicts.add(clip_id)
            message = f"{table.path.name}: {clip_id!r} has {first!r} and {value!r} as {column}: neither is used"
            findings.append(Finding(FindingKind.CONFLICTING_ROW, clip_id, message))
    values.update(dict.fromkeys(conflicts, ""))
    return values, findings


def doubled_rows(table: Table, clip_ids: Sequence[ClipId | None]) -> list[Finding]:
    """A finding for each clip that stands in a table more than once."""
    counts = Counter(clip_id for clip_id in clip_ids if clip_id is not None)
    return [
        Finding(FindingKind.DUPLICATE_ROW, clip_id, f"{table.path.name}: {clip_id!r} stands in {count} rows")
        for clip_id, count in counts.items()
        if count > 1
    ]


def keep_known_labels(
    values: Mapping[ClipId, str], labels: Sequence[str], source: str
) -> tuple[dict[ClipId, str], list[Finding]]:
    """Drop labels that are not among the classes; letter case is forgiven.

    Args:
        values: A label, or an empty text, by clip id.
        labels: The classes.
        source: The file and column they come from, for messages.

    Returns:
        The known labels by clip id, as the classes spell them, and one finding for each clip whose label is ignored.

    Raises:
        CorpusError: When more than half of the labels are unknown.
    """
    spelled = {label.casefold(): label for label in labels}
    known: dict[ClipId, str] = {}
    unknown: dict[ClipId, str] = {}
    for clip_id, value in values.items():
        if value:
            label = spelled.get(value.casefold())
            (unknown if label is None else known)[clip_id] = label or value
    if len(unknown) > MOST_UNKNOWN * (len(known) + len(unknown)):
        raise CorpusError(
            f"{source}: {len(unknown)} of {len(known) + len(unknown)} labels are not among the classes "
            f"{', '.join(labels)}; found: {naming_some(sorted(set(unknown.values())), 12)}",
            "set corpus.labels in params.yaml to the names that the file uses",
        )
    suggestion = {value: _suggestion(value, spelled) for value in unknown.values()}
    findings = [
        Finding(
            FindingKind.UNKNOWN_LABEL,
            clip_id,
            f"{source}: {clip_id!r} has the unknown label {value!r}, which is ignored{suggestion[value]}",
        )
        for clip_id, value in unknown.items()
    ]
    return known, findings


def spellings(values: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels of a corpus, sorted; of spellings that differ in case only, the one with small letters."""
    return tuple(sorted({value.casefold(): value for value in sorted(values) if value}.values()))


def _suggestion(value: str, spelled: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(value.casefold(), list(spelled), n=1)
    return f": did you mean {spelled[near[0]]!r}?" if near else f" (known: {', '.join(spelled.values())})"
