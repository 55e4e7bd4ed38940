"""What can be wrong with a store, and how each is mended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What was found. All but the last group are damage: something cannot be read, or must not be believed."""

    ROOT = "damaged root"
    SETTINGS = "damaged settings"
    ATTRIBUTES = "damaged attributes"
    FOREIGN = "foreign fingerprint"
    EMPTY = "part without rows"
    ARRAY = "damaged array"
    MISSING_CHUNK = "missing chunk"
    TRUNCATED_CHUNK = "truncated chunk"
    CORRUPTED_CHUNK = "corrupted chunk"
    SHAPE = "wrong shape or type"
    NOT_FINITE = "non-finite values"
    BATCH = "damaged batch"

    DUPLICATES = "duplicate rows"
    REPLACED = "superseded rows"
    OUTDATED = "outdated rows"
    ABSENT = "rows of absent clips"
    SUPERSEDED = "superseded parts"
    LEFTOVERS = "unfinished run"
    STRAY = "stray file or folder"
    UNCHECKED = "no checksums"
    ASIDE = "set aside earlier"
    MOVED = "changed meanwhile"

    @property
    def is_damage(self) -> bool:
        """Whether it hinders reading, or falsifies it."""
        return self not in _NOTES


_NOTES = {
    Kind.DUPLICATES,
    Kind.REPLACED,
    Kind.OUTDATED,
    Kind.ABSENT,
    Kind.SUPERSEDED,
    Kind.LEFTOVERS,
    Kind.STRAY,
    Kind.UNCHECKED,
    Kind.ASIDE,
    Kind.MOVED,
}

_AGAIN = (
    "`ecmf-pipe store verify --mend {root}` moves the {thing} to {damaged}; then `ecmf-pipe extract --modality {name}` "
    "computes its clips again, and only those (imported features: `ecmf-pipe store import` them again)"
)
_COMPACT = "harmless; `ecmf-pipe store compact {root}` drops them"

_MENDS = {
    Kind.ROOT: (
        "`ecmf-pipe store verify --mend {root}` writes it anew where it can be told which features are in use, else "
        "the next `ecmf-pipe extract --modality {name}` does; no features are lost"
    ),
    Kind.SETTINGS: (
        "`ecmf-pipe store verify --mend {root}` writes it anew if params.yaml asks for these very settings; else set "
        "params.yaml to them first, or take the file from a colleague's copy. Its parts stay where they are"
    ),
    Kind.DUPLICATES: _COMPACT,
    Kind.REPLACED: _COMPACT,
    Kind.OUTDATED: (
        "harmless; once `ecmf-pipe extract --modality {name}` has computed the clips' present inputs, "
        "`ecmf-pipe store compact {root}` drops them"
    ),
    Kind.ABSENT: (
        "harmless, and used again when the clips come back; `ecmf-pipe store compact --drop-absent {root}` drops them"
    ),
    Kind.SUPERSEDED: "harmless, a `compact` was killed; `ecmf-pipe store compact {root}` finishes it",
    Kind.LEFTOVERS: "harmless; the next `ecmf-pipe extract --modality {name}` takes them up (if none is running now)",
    Kind.STRAY: "no part of the store; move it away unless you know it (`dvc push` sends it along)",
    Kind.UNCHECKED: "written by an earlier version; damage inside them cannot be told",
    Kind.ASIDE: "remove {damaged} when nobody wants to look at it any more",
    Kind.MOVED: "another run writes to the store: verify again when it has ended",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or superfluous.

    Attributes:
        kind: What.
        root: The store.
        path: Where.
        message: What exactly.
        clips: How many clips it concerns; None where that cannot be told.
        aside: What mending moves out of the store; None where nothing is to be moved.
    """

    kind: Kind
    root: Path
    path: Path
    message: str
    clips: int | None = None
    aside: Path | None = None

    @property
    def mend(self) -> str:
        """How to mend it."""
        thing = "batch" if self.kind is Kind.BATCH else "part"
        return _MENDS.get(self.kind, _AGAIN).format(
            root=self.root, name=self.root.stem, damaged=damaged_folder(self.root), thing=thing
        )

    def __str__(self) -> str:
        clips = "" if self.clips is None else f" ({self.clips} clip{'' if self.clips == 1 else 's'})"
        return f"{self.kind.value}: {self.path}{clips}: {self.message}"


def damaged_folder(root: Path) -> Path:
    """Where damaged parts of a store are set aside: beside it, for DVC must not take them for an output."""
    return root.parent / f".{root.name}.damaged"
