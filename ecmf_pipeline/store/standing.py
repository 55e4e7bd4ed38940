"""Which rows of a store count, and which are superfluous: what `verify`, `compact` and `ls` judge by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any

from ecmf_pipeline.errors import StoreError
from ecmf_pipeline.store.parts import PartAttributes, all_versions, part_names, read_attributes

_FINGERPRINT = re.compile(r"[0-9a-f]{12}")

Digests = Mapping[str, str | None]
"""Of each clip of the manifest, the digest of its present input; None where it has no such input."""

Present = Callable[[Mapping[str, Any], Mapping[str, str]], Digests | None]
"""Tells the present digests from the settings of a store and the newest digest of each clip that it holds; None where
no manifest tells."""


def unknown(_settings: Mapping[str, Any], _newest: Mapping[str, str]) -> None:
    """What is present where there is no manifest."""


class Standing(StrEnum):
    """What the row of a clip is to the manifest."""

    COUNTS = "counts"
    """Features of the clip's present input; without a manifest, of any."""
    DUPLICATE = "duplicate"
    """The same clip and digest stand again further on."""
    REPLACED = "replaced"
    """Features of another input than the present one, of which there are features too."""
    OUTDATED = "outdated"
    """Features of another input than the present one, of which there are none (yet)."""
    ABSENT = "absent"
    """Features of a clip that the manifest no longer has."""


@dataclass(frozen=True)
class Parts:
    """What the parts of a settings group say of their rows.

    Attributes:
        sound: Those that count and can be read, in order.
        superseded: Those that were merged into another and still stand.
        damaged: Those whose attributes cannot be read, and why.
    """

    sound: dict[str, PartAttributes] = field(default_factory=dict)
    superseded: list[str] = field(default_factory=list)
    damaged: dict[str, StoreError] = field(default_factory=dict)

    def newest(self) -> dict[str, str]:
        """For each clip, the digest of its newest row."""
        return {
            clip_id: digest
            for part in self.sound.values()
            for clip_id, digest in zip(part.clip_id, part.digest, strict=True)
        }

    def versions(self) -> list[dict[str, str]]:
        """The combinations of library versions that computed the rows; an empty one where some are unknown."""
        return all_versions(chain.from_iterable(part.versions or [{}] for part in self.sound.values()))

    def without(self, names: Iterable[str]) -> Parts:
        """The same but for some parts that count."""
        gone = set(names)
        sound = {name: part for name, part in self.sound.items() if name not in gone}
        return Parts(sound, self.superseded, self.damaged)


def read_parts(folder: Path, fingerprint: str) -> Parts:
    """Read the attributes of all parts of a settings group; damaged ones hinder nothing.

    Args:
        folder: The settings group.
        fingerprint: Of its settings.
    """
    parts = Parts()
    for name in part_names(folder):
        try:
            parts.sound[name] = read_attributes(folder / name, fingerprint)
        except StoreError as error:
            parts.damaged[name] = error
        except FileNotFoundError:
            continue  # merged into another since we saw its name
    replaced = {old for part in parts.sound.values() for old in part.supersedes}
    parts.superseded.extend(name for name in parts.sound if name in replaced)
    for name in parts.superseded:
        del parts.sound[name]
    return parts


def judge(parts: Mapping[str, PartAttributes], digests: Digests | None) -> dict[str, list[Standing]]:
    """Tell for every entry of some parts what it is to the manifest.

    Of entries that are the same in clip and digest the last counts, so that taking the others away changes neither
    which row of a clip is the newest, nor what is held.

    Args:
        parts: The parts that count, in order.
        digests: What the manifest says; None where there is none.
    """
    held: set[tuple[str, str]] = set()
    last: dict[str, list[bool]] = {}
    for name, part in reversed(list(parts.items())):
        entries = list(zip(part.clip_id, part.digest, strict=True))
        flags = []
        for entry in reversed(entries):
            flags.append(entry not in held)
            held.add(entry)
        last[name] = flags[::-1]
    return {
        name: [
            _standing(entry, held, digests) if is_last else Standing.DUPLICATE
            for entry, is_last in zip(zip(part.clip_id, part.digest, strict=True), last[name], strict=True)
        ]
        for name, part in parts.items()
    }


def _standing(entry: tuple[str, str], held: set[tuple[str, str]], digests: Digests | None) -> Standing:
    clip_id, digest = entry
    if digests is None:
        return Standing.COUNTS
    if clip_id not in digests:
        return Standing.ABSENT
    present = digests[clip_id]
    if present == digest:
        return Standing.COUNTS
    return Standing.REPLACED if present is not None and (clip_id, present) in held else Standing.OUTDATED


def counted(standings: Mapping[str, list[Standing]]) -> Counter[Standing]:
    """How many entries there are of each standing."""
    return Counter(standing for part in standings.values() for standing in part)


def settings_groups(root: Path) -> Iterator[str]:
    """The names of a store's settings groups: folders that hold such a group's document, or parts.

    What has no fingerprint for a name is no settings group, whatever it holds: nothing ever reads it.
    """
    for folder in sorted(root.iterdir()):
        if _FINGERPRINT.fullmatch(folder.name) and ((folder / "zarr.json").is_file() or part_names(folder)):
            yield folder.name


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
