"""Recognise a corpus for a new project, and write its settings to params.yaml."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.core.files import LFS_COMMAND, LFS_PROBLEM, is_lfs_pointer, write_atomic
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.glimpse import Glimpse, look_at
from ecmf_pipeline.corpora.index import describe_splits, select_findings
from ecmf_pipeline.corpora.kinds.table import guess_columns
from ecmf_pipeline.corpora.listing import CorpusListing, require_folder
from ecmf_pipeline.corpora.recognising import LAYOUTS, description_of, recognise
from ecmf_pipeline.corpora.registry import read_corpus

SHOWN_FINDINGS = 6
"""Maximum number of findings that are printed."""
CHECKED_FILES = 3
"""Number of files that are opened to detect Git LFS pointers."""


@dataclass(frozen=True, slots=True)
class FoundCorpus:
    """A recognised corpus.

    Attributes:
        config: Its settings; the root is absolute.
        lines: Descriptions of the corpus, to print.
    """

    config: CorpusConfig
    lines: Sequence[str]


def find_corpus(root: Path) -> FoundCorpus:
    """Recognise the corpus in a folder by its names, and list it.

    Raises:
        CorpusError: If the folder does not exist, or holds no corpus in a known layout, or several kinds fit.
    """
    root = require_folder(root.expanduser(), "give the folder of the corpus").resolve()
    glimpse = look_at(root)
    kind = recognise(glimpse)
    if kind is None:
        layouts = "\n".join(f"  {name}: {layout}" for name, layout in LAYOUTS.items())
        raise CorpusError(
            f"{root} is no corpus in a known layout: it holds {glimpse.contents()}",
            f"give the folder of one of these:\n{layouts}",
        )
    description = description_of(kind)
    config = _table_config(glimpse) if kind == "table" else CorpusConfig(kind=kind, root=root)
    listing = read_corpus(config)
    mapping = {**description.mapping(config)} if description else {}
    if any(emotion != label for emotion, label in mapping.items()):
        config = config.model_copy(update={"mapping": mapping})
    title = description.title if description else kind
    lines = [f"found {title} in {config.root}: corpus.kind is {kind}", *_describe(listing)]
    if description and description.left_out:
        lines.append(f"not used: {description.left_out}")
    files = [config.root / clip.path for clip in listing.clips if clip.path][:CHECKED_FILES]
    if any(map(is_lfs_pointer, files)):
        lines.append(f"{files[0].relative_to(config.root)} {LFS_PROBLEM}; run {LFS_COMMAND} in {config.root}")
    return FoundCorpus(config, lines)


def _table_config(glimpse: Glimpse) -> CorpusConfig:
    """Return the settings of a corpus with a table; its paths are relative to the given folder, or else to its own."""
    row, path = glimpse.first_row("labels.csv"), PurePosixPath(glimpse.find("labels.csv") or "labels.csv")
    columns = guess_columns(row)
    named = row[columns.get("path", "path")].replace("\\", "/")
    if len(path.parts) > 1 and not (glimpse.root / named).is_file():
        return CorpusConfig(kind="table", root=glimpse.root / path.parent, table=path.name, columns=columns)
    return CorpusConfig(kind="table", root=glimpse.root, table=str(path), columns=columns)


def _describe(listing: CorpusListing) -> list[str]:
    clips = listing.clips
    counts = Counter(clip.given_label or clip.gold_label for clip in clips)
    files = {clip.path for clip in clips if clip.path}
    splits = Counter(clip.split.value for clip in clips)
    parts = ", ".join(f"{count} {split}" for split, count in splits.most_common())
    lines = [
        f"{format_count(len(clips), 'clip')} of {format_count(len(files), 'file')}: {parts}",
        f"labels: {', '.join(f'{label} ({counts[label]})' for label in listing.labels) or 'none'}"
        + (f"; {counts['']} without label" if counts[""] else ""),
    ]
    if splits_line := describe_splits(listing):
        lines.append(splits_line)
    lines += [
        f"votes of {source}: {format_count(len(votes), 'clip')}" for source, votes in sorted(listing.votes.items())
    ]
    shown = select_findings(listing.findings, SHOWN_FINDINGS)
    lines += [f"note: {finding.message}" for finding in shown]
    if hidden := len(listing.findings) - len(shown):
        lines.append(f"and {format_count(hidden, 'further note')}; ecmf-pipe index lists them")
    return lines


def write_corpus(params: Path, config: CorpusConfig) -> None:
    """Set ``kind``, ``root`` and, if needed, ``mapping``, ``table`` and ``columns`` in params.yaml; comments are kept.

    Args:
        params: The params.yaml of a new project.
        config: The corpus.
    """
    text = params.read_text(encoding="utf-8")
    root = str(config.root)
    is_plain = re.fullmatch(r"[\w./-]+", root)  # other paths are quoted as in JSON, which is valid YAML
    values = {"kind": config.kind, "root": root if is_plain else json.dumps(root, ensure_ascii=False)}
    if config.mapping is not None:
        pairs = (f"{emotion}: {label}" for emotion, label in config.mapping.items() if label)
        values["mapping"] = f"{{{', '.join(pairs)}}}"
    if config.table != CorpusConfig().table:
        values["table"] = config.table if re.fullmatch(r"[\w./-]+", config.table) else json.dumps(config.table)
    if config.columns:
        values["columns"] = f"{{{', '.join(f'{column}: {name}' for column, name in config.columns.items())}}}"
    for key, value in values.items():
        # Of the section `corpus`, which ends at the next line that is not indented.
        pattern = re.compile(rf"(^corpus:\n(?:[ #].*\n)*?  {key}: )(\S+(?: \S+)*)( *#.*)?$", re.MULTILINE)
        text = pattern.sub(partial(_line, value=value), text, count=1)
    write_atomic(params, text)


def _line(match: re.Match[str], value: str) -> str:
    """Return the line with another value; its comment stays in the same column if there is room."""
    width = len(match[0]) - len(match[1]) - len((match[3] or "").lstrip())
    comment = (match[3] or "").lstrip()
    return f"{match[1]}{value:<{width}}{'' if width > len(value) or not comment else '  '}{comment}".rstrip()
