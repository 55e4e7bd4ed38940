"""Tables of predictions: one row for each clip, with probabilities and modality weights."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, Clips, Split
from ecmf_pipeline.core.columns import are_all_in, are_all_numbers, are_unique, indices_in, interned
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.core.tables import TableFile, one_of, open_table, parse_flag, parse_number, write_sealed_csv


class Basis(StrEnum):
    """What a label, a prediction or a score rests on."""

    GOLD = "gold"
    """Held-out true labels."""
    VERDICTS = "verdicts"
    """Labels that a person has verified, and models trained on them."""
    GIVEN = "given"
    """The given labels of the corpus, and models trained on them."""
    ZERO_SHOT = "zero-shot"
    """Models that saw no label of this corpus. Nothing has verified it."""


NO_MODALITY = "no usable modality"
"""Flag of a clip without a usable modality: its probabilities are the prior of the training labels."""

ABSTAINS = "too uncertain"
"""Flag of a zero-shot prediction below ``refine.zero_shot_above``: its label is only the most probable one."""

_TIE = 1e-5
"""Probabilities that differ by less count as tied."""

_ROUNDING = 1e-6
"""Precision of the numbers in the csv file."""

_BLOCK = 4096
"""Rows that are formatted together."""

_SPLITS = {split.value for split in Split}
_BASES = {basis.value: basis for basis in Basis}
_FIXED_COLUMNS = ("clip_id", "split", "label", "out_of_fold", "flag", "basis")


@dataclass(frozen=True, slots=True)
class PredictionTable:
    """The predictions of one model.

    Attributes:
        clip_ids: The clips, (n,).
        splits: Split of each clip, (n,).
        out_of_fold: Whether only models that were trained on neither the clip nor its group predicted it, (n,).
        flags: Empty, `NO_MODALITY` or `ABSTAINS`, (n,).
        label_names: The labels, C of them.
        probs: Probability of each label, (n, C).
        modalities: Names of the modalities, M of them.
        modality_weights: Share of each modality in the decision, (n, M); NaN if the clip is flagged.
        basis: What the predictions rest on: the labels that the model was trained on, or `Basis.ZERO_SHOT`.
        branches: Names of the branches of ``branch_probs``, B of them; each is one of ``modalities``.
        branch_probs: Probability of each label by each branch alone, (n, B, C); NaN if the clip lacks it. None if they
            are not stored; only the npz file holds them.
    """

    clip_ids: tuple[str, ...]
    splits: tuple[str, ...]
    out_of_fold: NDArray[np.bool_]
    flags: tuple[str, ...]
    label_names: tuple[str, ...]
    probs: NDArray[np.float32]
    modalities: tuple[str, ...]
    modality_weights: NDArray[np.float32]
    basis: Basis = Basis.GIVEN
    branches: tuple[str, ...] = ()
    branch_probs: NDArray[np.float16] | None = None

    @property
    def labels(self) -> list[str]:
        """Most likely label of each clip, (n,)."""
        return [self.label_names[index] for index in self.classes.tolist()]

    @property
    def classes(self) -> NDArray[np.int64]:
        """Index of the most likely label of each clip in `label_names`, (n,)."""
        classes: NDArray[np.int64] = self.probs.argmax(axis=1)
        return classes

    @property
    def is_flagged(self) -> NDArray[np.bool_]:
        """Whether each clip has a flag, (n,)."""
        return np.fromiter(map(bool, self.flags), np.bool_, len(self.flags))

    def by_clip(self) -> Mapping[str, str]:
        """Return the most likely label of each clip, by clip id."""
        return dict(zip(self.clip_ids, self.labels, strict=True))

    def votes(self) -> NDArray[np.float64]:
        """Return the probabilities as votes, (n, C); a row is NaN if the clip is flagged or its top labels tie."""
        ranked = np.sort(self.probs, axis=1)
        # An untrained model gives equal probabilities: an abstention, not a vote for the first label.
        is_decided = ranked[:, -1] - ranked[:, -2] > _TIE
        has_modality = np.fromiter((flag != NO_MODALITY for flag in self.flags), np.bool_, len(self.flags))
        has_vote = (has_modality & is_decided)[:, None]
        return np.where(has_vote, self.probs, np.nan).astype(np.float64)

    def write(self, path: Path) -> None:
        """Write the table as csv, rounded, and as npz, unrounded; equal tables give equal bytes.

        The npz file holds no pickled objects: ``clip_ids``, ``splits``, ``labels``, ``out_of_fold`` and ``flags``,
        (n,), ``label_names``, (C,), ``probs``, (n, C), ``modalities``, (M,), ``modality_weights``, (n, M),
        ``basis``, and, if they are stored, ``branches``, (B,), and ``branch_probs``, (n, B, C).

        Args:
            path: The csv file; the npz file has the same name with the suffix ``.npz``.
        """
        header = [*_FIXED_COLUMNS, *(f"p_{name}" for name in self.label_names), *(f"w_{m}" for m in self.modalities)]
        numbers = _cells(np.concatenate([self.probs, self.modality_weights], axis=1))
        rows = (
            [clip_id, split, label, "1" if is_out_of_fold else "0", flag, self.basis.value, *cells]
            for clip_id, split, label, is_out_of_fold, flag, cells in zip(
                self.clip_ids, self.splits, self.labels, self.out_of_fold.tolist(), self.flags, numbers, strict=True
            )
        )
        write_sealed_csv(path, header, rows)
        npz = io.BytesIO()
        of_branches: dict[str, NDArray[Any]] = {}
        if self.branch_probs is not None:
            of_branches = {"branches": np.array(self.branches, dtype=np.str_), "branch_probs": self.branch_probs}
        np.savez_compressed(
            npz,
            allow_pickle=False,
            clip_ids=np.array(self.clip_ids, dtype=np.str_),
            splits=np.array(self.splits, dtype=np.str_),
            labels=np.array(self.labels, dtype=np.str_),
            out_of_fold=self.out_of_fold,
            flags=np.array(self.flags, dtype=np.str_),
            label_names=np.array(self.label_names, dtype=np.str_),
            probs=self.probs,
            modalities=np.array(self.modalities, dtype=np.str_),
            modality_weights=self.modality_weights,
            basis=np.array(self.basis.value, dtype=np.str_),
            **of_branches,
        )
        write_atomic(path.with_suffix(".npz"), npz.getvalue())

    def with_branches(self, path: Path, *, command: str = "ecmf-pipe predict") -> PredictionTable:
        """Return the table with the probabilities of the branches, if its npz file holds them.

        Args:
            path: The csv file of the table.
            command: The shell command that writes the files, for messages.

        Raises:
            MissingInput: If the npz file does not exist.
            InputError: If it is damaged or belongs to other predictions.
        """
        npz = path.with_suffix(".npz")
        if not npz.is_file():
            raise MissingInput(f"{npz} does not exist", "write it again", command=command)
        try:
            with npz.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if "branch_probs" not in arrays.files:
                    return self
                branches, branch_probs = tuple(arrays["branches"].tolist()), arrays["branch_probs"]
                is_of_table = np.allclose(arrays["probs"], self.probs, atol=2 * _ROUNDING)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{npz} is damaged: {error}", "write it again", command=command) from error
        shape = (len(self.clip_ids), len(branches), len(self.label_names))
        if not is_of_table or branch_probs.shape != shape or not set(branches) <= set(self.modalities):
            raise InputError(f"{npz} and {path.name} hold other predictions", "write them again", command=command)
        return replace(self, branches=branches, branch_probs=branch_probs)

    @classmethod
    def read(
        cls, path: Path, *, command: str = "ecmf-pipe predict", clips: Sequence[Clip] | None = None
    ) -> PredictionTable:
        """Read a csv file that `write` wrote.

        Args:
            path: The csv file.
            command: The shell command that writes it, for messages.
            clips: The clips of the manifest, each of which must have a row with its split; None: not checked.

        Raises:
            MissingInput: If the file does not exist, or has other clips.
            InputError: If the file is damaged.
        """
        table = open_table(path, command=command)
        header = table.header()
        fixed = len(_FIXED_COLUMNS)
        labels = [name[2:] for name in header[fixed:] if name.startswith("p_")]
        modalities = [name[2:] for name in header[fixed + len(labels) :]]
        expected = [*_FIXED_COLUMNS, *(f"p_{name}" for name in labels), *(f"w_{name}" for name in modalities)]
        if header != expected or not labels or len(set(header)) < len(header):
            raise table.damaged(f"the columns are {', '.join(header)}", 1)
        if (found := _read_columns(table, labels, modalities, None if clips is None else Clips.of(clips))) is not None:
            return found
        split_of = None if clips is None else {str(clip.clip_id): clip.split.value for clip in clips}

        def parse(row: list[str]) -> tuple[tuple[str, str, bool, str, str], list[float]]:
            clip_id, split, label, is_out_of_fold, flag, basis = row[:fixed]
            one_of(split, _SPLITS, "split")
            if split_of is not None and split_of.get(clip_id, split) != split:
                raise ValueError(f"split {split!r}, but the manifest has {split_of[clip_id]!r}")
            probs = [parse_number(cell, high=1.0) for cell in row[fixed : fixed + len(labels)]]
            if abs(sum(probs) - 1) > _ROUNDING * (len(probs) + 1):
                raise ValueError("the probabilities do not add up to 1")
            one_of(label, labels, "label")
            if probs[labels.index(label)] < max(probs) - 2 * _ROUNDING:
                raise ValueError(f"label {label!r} is not the most probable one")
            one_of(flag, ("", NO_MODALITY, ABSTAINS), "flag")
            one_of(basis, _BASES, "basis")
            weights = [parse_number(cell, high=1.0) if cell else float("nan") for cell in row[fixed + len(labels) :]]
            return (clip_id, split, parse_flag(is_out_of_fold), flag, basis), probs + weights

        parsed = table.parse(parse)
        if len({cells[4] for cells, _ in parsed}) > 1:
            raise table.damaged("column basis has several values")
        clip_ids = tuple(cells[0] for cells, _ in parsed)
        if clips is not None:
            table.check_covers(clip_ids, Clips.of(clips).ids)
        values = np.array([numbers for _, numbers in parsed], np.float32).reshape(len(parsed), len(header) - fixed)
        return cls(
            clip_ids=clip_ids,
            splits=tuple(cells[1] for cells, _ in parsed),
            out_of_fold=np.array([cells[2] for cells, _ in parsed], bool),
            flags=tuple(cells[3] for cells, _ in parsed),
            label_names=tuple(labels),
            probs=values[:, : len(labels)],
            modalities=tuple(modalities),
            modality_weights=values[:, len(labels) :],
            basis=_BASES[parsed[0][0][4]] if parsed else Basis.GIVEN,
        )


def fill_with_prior(probs: NDArray[np.float32], prior: Sequence[float]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Replace the probabilities of clips without a prediction by the prior, and flag these clips.

    Args:
        probs: Probabilities, (n, C); NaN in the row of a clip without a prediction.
        prior: Share of each label among the training labels, (C,).

    Returns:
        The completed probabilities and the flags, (n,).
    """
    is_missing = np.asarray(np.isnan(probs).any(axis=1))
    completed = np.where(is_missing[:, None], np.asarray(prior, np.float32), probs)
    return completed, tuple(NO_MODALITY if missing else "" for missing in is_missing)


def _cells(values: NDArray[np.float32]) -> Iterator[list[str]]:
    """Yield the cells of each row; a million rows as lists would take a gigabyte."""
    for start in range(0, len(values), _BLOCK):
        for row in values[start : start + _BLOCK].tolist():
            yield ["" if value != value else f"{value:.6f}" for value in row]  # NaN differs from itself


def _read_columns(
    table: TableFile, labels: Sequence[str], modalities: Sequence[str], clips: Clips | None
) -> PredictionTable | None:
    """Return the predictions of a table without any damage; None if `PredictionTable.read` must name the row."""
    names = [*(f"p_{name}" for name in labels), *(f"w_{name}" for name in modalities)]
    types = dict.fromkeys(_FIXED_COLUMNS, "string") | {"out_of_fold": "bool"} | dict.fromkeys(names, "double")
    columns = table.arrow(types)
    if columns is None or any(columns.column(name).null_count for name in types if not name.startswith("w_")):
        return None
    clip_ids, splits = columns.column("clip_id"), columns.column("split")
    belongs = clips is None or (clip_ids.equals(clips.table["clip_id"]) and splits.equals(clips.table["split"]))
    cells: dict[str, Iterable[str]] = {
        "split": _SPLITS,
        "label": labels,
        "flag": ("", NO_MODALITY, ABSTAINS),
        "basis": _BASES,
    }
    bases = columns.column("basis").unique().to_pylist()
    if (
        not belongs
        or not are_unique(clip_ids)
        or len(bases) > 1
        or not all(are_all_in(columns.column(name), values) for name, values in cells.items())
        or not all(are_all_numbers(columns.column(name), 1.0) for name in names[: len(labels)])
        or not all(are_all_numbers(columns.column(name).drop_null(), 1.0) for name in names[len(labels) :])
    ):
        return None
    values = np.stack([columns.column(name).to_numpy() for name in names], axis=1)  # (n, C + M), null is NaN
    probs = values[:, : len(labels)]
    chosen = probs[np.arange(len(probs)), indices_in(columns.column("label"), labels)]
    is_sound = np.abs(probs.sum(axis=1) - 1) <= _ROUNDING * (len(labels) + 1)
    is_sound &= chosen >= probs.max(axis=1, initial=0.0) - 2 * _ROUNDING
    if not is_sound.all():
        return None
    return PredictionTable(
        clip_ids=tuple(clip_ids.to_pylist()) if clips is None else clips.ids,
        splits=interned(splits),
        out_of_fold=columns.column("out_of_fold").to_numpy(),
        flags=interned(columns.column("flag")),
        label_names=tuple(labels),
        probs=probs.astype(np.float32),
        modalities=tuple(modalities),
        modality_weights=values[:, len(labels) :].astype(np.float32),
        basis=_BASES[bases[0]] if bases else Basis.GIVEN,
    )
