"""Look at the names in a folder, to recognise the corpus in it without reading all of it."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, zip_longest
from pathlib import Path, PurePosixPath

from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.encodings import decode_file
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.corpora.scan import MEDIA_EXTENSIONS
from ecmf_pipeline.corpora.tables import SEPARATORS

MAX_ENTRIES = 5000
"""Maximum number of names that are looked at."""
MAX_IN_FOLDER = 300
"""Maximum number of names of one folder, so that one large folder does not hide the others."""
_SHOWN_EXTENSIONS = 3


@dataclass(frozen=True)
class Glimpse:
    """Some of the names in a folder.

    Attributes:
        root: The folder.
        paths: The paths of files below it, the upper folders first.
    """

    root: Path
    paths: Sequence[str]

    @cached_property
    def media(self) -> list[str]:
        """The paths of media files."""
        return [path for path in self.paths if PurePosixPath(path).suffix.lower() in MEDIA_EXTENSIONS]

    def has(self, pattern: str) -> bool:
        """Return whether the pattern occurs in a path; upper and lower case are equivalent."""
        return any(re.search(pattern, path, re.IGNORECASE) for path in self.paths)

    def most_media(self, pattern: re.Pattern[str]) -> bool:
        """Return whether the pattern occurs in most paths of media files, without extension, below the folder name."""
        name = self.root.resolve().name
        found = sum(bool(pattern.search(f"{name}/{path.rpartition('.')[0]}")) for path in self.media)
        return bool(found) and 2 * found > len(self.media)

    def find(self, name: str) -> str | None:
        """Return the path of a file with this name in lower case; the upper folders are searched first."""
        return next((path for path in self.paths if PurePosixPath(path).name.lower() == name), None)

    def first_row(self, name: str) -> dict[str, str]:
        """Return the first row of a csv file by column, in lower case; empty if there is none.

        Args:
            name: The file name; see `find`.
        """
        try:
            lines = decode_file(self.root / (self.find(name) or name)).text.splitlines()
            head = next((line for line in lines if line.strip()), "")
            header, row = islice(chain(csv.reader(lines, delimiter=max(SEPARATORS, key=head.count)), ([], [])), 2)
        except (OSError, csv.Error, InputError):
            return {}
        return {column.strip().lower(): cell.strip() for column, cell in zip_longest(header, row, fillvalue="")}

    def contents(self) -> str:
        """Describe the files in the folder: counts of extensions with an example each."""
        extensions = Counter(PurePosixPath(path).suffix.lower() or "no extension" for path in self.paths)
        if not extensions:
            return "no files"
        examples = {PurePosixPath(path).suffix.lower() or "no extension": path for path in reversed(self.paths)}
        shown = extensions.most_common(_SHOWN_EXTENSIONS)
        listed = ", ".join(f"{count} {extension} such as {examples[extension]!r}" for extension, count in shown)
        more = len(extensions) - len(shown)
        return listed + (f" and {format_count(more, 'other extension')}" if more else "")


def look_at(root: Path) -> Glimpse:
    """Return some of the names below a folder; hidden files and folders that cannot be read are left out."""
    paths: list[str] = []
    folders = deque([""])
    seen = 0
    while folders and seen < MAX_ENTRIES:
        folder = folders.popleft()
        try:
            with os.scandir(root / folder) as entries:
                in_folder = 0
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False) or entry.is_dir():
                        folders.append(path)
                    else:
                        paths.append(path)
                    seen, in_folder = seen + 1, in_folder + 1
                    if in_folder == MAX_IN_FOLDER:
                        break
        except OSError:
            continue
    return Glimpse(root, sorted(paths, key=lambda path: (path.count("/"), path)))
