"""Match the names in a table to clips: exactly, or by a rule that leaves no doubt.

The rules ignore another extension, the folders in front of a name, case, or leading zeros. A rule is applied to a name
only if the name matches one clip, no other name of the table matches it, and the table does not name it exactly.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from ecmf_pipeline.core.clips import ClipId
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import AmbiguousName, CorpusError
from ecmf_pipeline.corpora.listing import Finding, FindingKind, quote_names
from ecmf_pipeline.corpora.scan import strip_media_extension
from ecmf_pipeline.corpora.tables import Table

ID_SEPARATOR = "__"
"""Joins the folders and the name of a file to its clip id in a corpus of kind ``folder``."""
MIN_MATCHED_SHARE = 0.5
"""Below this share of names that match a file, a table of labels is considered the one of another corpus."""
SHOWN_NAMES = 5

Resolve = Callable[[str], ClipId]
"""Return the clip id of a name in a table; raise CorpusError if the name is not a valid clip id."""

_EXTENSION = re.compile(r"\.[A-Za-z]{2}[A-Za-z0-9]{1,2}$")
_PARENT_INSIDE = re.compile(r"(?<!\.\.)(?<!^)[/\\]\.\.(?=[/\\]|$)")
_LAST_NUMBER = re.compile(r"(.*?)0*(\d*)", re.DOTALL)
_SEPARATORS = re.compile(r"[\W_]+")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


class _Rule(NamedTuple):
    """A rule that makes names equal: what it ignores, besides the extension, and how it changes a name."""

    ignored: str
    ignores_folders: bool
    ignores_case: bool = False
    ignores_zeros: bool = False

    def normalise(self, stem: str) -> str:
        """Return what the rule leaves of a name without extension."""
        stem = stem.casefold() if self.ignores_case else stem
        return _ZEROS.sub("", stem) if self.ignores_zeros else stem


_RULES = (
    _Rule("the extension", ignores_folders=False),
    _Rule("the extension and the folders in front", ignores_folders=True),
    _Rule("extension, folders in front and case", ignores_folders=True, ignores_case=True),
    _Rule(
        "extension, folders in front, case and leading zeros",
        ignores_folders=True,
        ignores_case=True,
        ignores_zeros=True,
    ),
)
"""The rules, in the order in which they are tried."""


def _stem(name: str) -> str:
    return _EXTENSION.sub("", strip_media_extension(name.replace("\\", "/")))


def match_by_rule(
    names: Collection[str], paths: Mapping[ClipId, str], taken: Set[str] = frozenset()
) -> dict[str, dict[str, ClipId]]:
    """Match names to clips by the rules.

    Args:
        names: Names that match no clip exactly.
        paths: The path of each clip id, or again the id.
        taken: The clips that the table names exactly.

    Returns:
        For each rule that was applied, by what it ignores, the clip of each name.
    """
    left = {name: _stem(name) for name in names if not _PARENT_INSIDE.search(name)}
    stems = [(stem, clip_id) for clip_id, path in paths.items() for stem in {_stem(path), _stem(clip_id)}]
    matched: dict[str, dict[str, ClipId]] = {}
    for rule in _RULES:
        if not left:
            break
        names_of = defaultdict(list)
        for name, clip_id in _unique_matches(rule, left, stems):
            names_of[clip_id].append(name)
        found = {same[0]: clip_id for clip_id, same in names_of.items() if len(same) == 1 and clip_id not in taken}
        if found:
            matched[rule.ignored] = dict(sorted(found.items()))
            left = {name: stem for name, stem in left.items() if name not in found}
            taken = taken | set(found.values())
    return matched


def _unique_matches(
    rule: _Rule, names: Mapping[str, str], stems: Iterable[tuple[str, ClipId]]
) -> Iterator[tuple[str, ClipId]]:
    """Yield each name that is equal to the path or id of one clip under a rule, with the clip.

    If the rule ignores folders, a name is also equal to a path that ends with it, and a path to a name.

    Args:
        rule: The rule.
        names: The names, and the same without extension.
        stems: Paths and ids without extension, and their clips.
    """
    whole: dict[str, ClipId | None] = {}  # None: of several clips
    ends: dict[str, ClipId | None] = {}
    for stem, clip_id in stems:
        spelling = rule.normalise(stem)
        if whole.setdefault(spelling, clip_id) != clip_id:
            whole[spelling] = None
        if rule.ignores_folders:
            for end in _ends(spelling):
                if ends.setdefault(end, clip_id) != clip_id:
                    ends[end] = None
    for name, stem in names.items():
        spelling = rule.normalise(stem)
        shorter = _ends(spelling) if rule.ignores_folders else ()
        found = whole.get(spelling) or ends.get(spelling) or next((whole[end] for end in shorter if end in whole), None)
        if found:
            yield name, found


def _ends(path: str) -> Iterator[str]:
    """Yield a path without its first folder, without its first two folders, and so on."""
    while "/" in path:
        path = path.partition("/")[2]
        if path:
            yield path


def match_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Match names of a table to known names, such as clip ids; names without match are missing in the result.

    A name may have the extension of its file, its folders in front, and another case if that leaves no doubt. Several
    names may match the same one.
    """
    paths = {ClipId(name): name for name in known}
    counts = Counter(name.casefold() for name in paths)
    spelling = {name.casefold(): name for name in paths if counts[name.casefold()] == 1} | paths
    matched: dict[str, str] = {}
    left = set()
    for name in dict.fromkeys(names):
        stem = strip_media_extension(name)
        joined = ID_SEPARATOR.join(stem.replace("\\", "/").removeprefix("./").split("/"))
        spellings = (text for exact in (name, stem, joined) for text in (exact, exact.casefold()))
        found = next((spelling[text] for text in spellings if text in spelling), None)
        if found is None:
            left.add(name)
        else:
            matched[name] = found
    for by_rule in match_by_rule(left, paths, set(matched.values())).values():
        matched |= by_rule
    return matched


def resolve_names(
    table: Table, resolve: Resolve, paths: Mapping[ClipId, str]
) -> tuple[list[ClipId | None], list[Finding]]:
    """Return the clip id of each row of a table, and findings.

    Args:
        table: A table with the column ``name``.
        resolve: Return the clip id of a name.
        paths: The path of each clip with a file.

    Returns:
        The clip id of each row, None if the name is invalid; a finding for each rule that was applied, and for each
        invalid name.
    """
    clip_ids: dict[str, ClipId] = {}
    errors: dict[str, CorpusError] = {}
    for name in dict.fromkeys(table.column("name")):
        try:
            clip_ids[name] = resolve(name)
        except CorpusError as error:
            errors[name] = error
    unmatched = [name for name in errors if not isinstance(errors[name], AmbiguousName)]
    unmatched += [name for name, clip_id in clip_ids.items() if clip_id not in paths]
    findings = []
    rules = match_by_rule(unmatched, paths, paths.keys() & clip_ids.values()) if unmatched and paths else {}
    for ignored, found in rules.items():
        clip_ids |= found
        shown = ", ".join(f"{name!r} is {clip_id!r}" for name, clip_id in list(found.items())[:SHOWN_NAMES])
        more = f" and {len(found) - SHOWN_NAMES} more" if len(found) > SHOWN_NAMES else ""
        message = (
            f"{table.path.name}: {format_count(len(found), 'name')} matched to files by ignoring {ignored}: "
            f"{shown}{more}; outputs have the names of the files; correct the names if this is wrong"
        )
        findings.append(Finding(FindingKind.NAMES_BY_RULE, "", message, count=len(found)))
    for name, problem in errors.items():
        if name not in clip_ids:
            kind = FindingKind.AMBIGUOUS_NAME if isinstance(problem, AmbiguousName) else FindingKind.BAD_CLIP_ID
            message = f"{table.path.name}: {problem.message}: the row is ignored; {problem.hint}"
            findings.append(Finding(kind, "", message))
    return [clip_ids.get(name) for name in table.column("name")], findings


def require_matches(
    table: Table, clip_ids: Iterable[ClipId | None], paths: Mapping[ClipId, str], known: Collection[str] = ()
) -> None:
    """Check that at least half of the names in a table of labels match a file.

    Args:
        table: The table.
        clip_ids: The clip id of each row.
        paths: The path of each clip with a file; if it is empty, nothing is checked: only text can be used then.
        known: Names of files that exist but cannot be read, which other findings report.

    Raises:
        CorpusError: If fewer match.
    """
    names = dict(zip(table.column("name"), clip_ids, strict=True))
    missing = [name for name, clip_id in names.items() if clip_id not in paths and clip_id not in known]
    if not paths or len(names) - len(missing) >= MIN_MATCHED_SHARE * len(names):
        return
    named = set(names.values())
    unnamed = [path for clip_id, path in paths.items() if clip_id not in named]
    raise CorpusError(
        f"{table.path}: {len(names) - len(missing)} of {len(names)} names match a file; names without file: "
        f"{quote_names(missing, SHOWN_NAMES)}; files without row: {quote_names(unnamed, SHOWN_NAMES) or 'none'}",
        _mismatch_hint(missing, unnamed),
    )


def _mismatch_hint(names: Sequence[str], paths: Sequence[str]) -> str:
    """Return how the names of a table seem to differ from those of the files."""
    stems = [_stem(path).rpartition("/")[2] for path in paths]
    for rule in _RULES:
        equal = {rule.normalise(stem) for stem in stems}
        found = sum(rule.normalise(_stem(name)).rpartition("/")[2] in equal for name in names)
        if 2 * found >= len(names):
            return f"{found} of them match several files or rows if {rule.ignored} is ignored: make the names unique"
    equal = {_SEPARATORS.sub("", stem).casefold() for stem in stems}
    found = sum(_SEPARATORS.sub("", _stem(name).rpartition("/")[2]).casefold() in equal for name in names)
    if 2 * found >= len(names):
        return f"{found} of them match without spaces and punctuation: write them as the files are named"
    numbered, files = [_numbered(_stem(name)) for name in names], [_numbered(stem) for stem in stems]
    prefix, file_prefix = (_most_common(prefix for prefix, _ in pairs) for pairs in (numbered, files))
    numbers = {number for other, number in files if other == file_prefix} - {""}
    if 2 * sum(other == prefix and number in numbers for other, number in numbered) >= len(names):
        return (
            f"their numbers match if {prefix!r} in the table is {file_prefix!r} in the files: if they are the same "
            "clips, rename one of the two"
        )
    return "check that the table belongs to this corpus; remove the rows of clips that are not here"


def _most_common(texts: Iterable[str]) -> str:
    return next((text for text, _ in Counter(texts).most_common(1)), "")


def _numbered(name: str) -> tuple[str, str]:
    """Return a name without its last number, and that number without leading zeros."""
    prefix, number = _LAST_NUMBER.fullmatch(name).groups()  # type: ignore[union-attr]  # matches any name
    return prefix, number
