"""Tables of predictions: one row a clip, with probabilities and modality weights."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import read_text, write_atomic

NO_MODALITY = "no usable modality"
"""Flag of a clip that no modality could judge: it gets the training labels' prior, and says so."""

_TIE = 1e-5
"""Probabilities nearer than this are alike."""

_FIXED = ("clip_id", "split", "label", "out_of_fold", "flag")


@dataclass(frozen=True, slots=True)
class PredictionTable:
    """The predictions of one model.

    Attributes:
        clip_ids: The clips, (n,).
        splits: What each is for, (n,).
        out_of_fold: Whether the clip is judged only by the models that saw neither it nor its group, (n,).
        flags: Empty, or `NO_MODALITY`, (n,).
        label_names: The labels, C of them.
        probs: Probability of each label, (n, C).
        modalities: Names of the modalities, M of them.
        modality_weights: Share of each modality in the decision, (n, M); NaN where the clip is flagged.
    """

    clip_ids: tuple[str, ...]
    splits: tuple[str, ...]
    out_of_fold: NDArray[np.bool_]
    flags: tuple[str, ...]
    label_names: tuple[str, ...]
    probs: NDArray[np.float32]
    modalities: tuple[str, ...]
    modality_weights: NDArray[np.float32]

    @property
    def labels(self) -> list[str]:
        """The likeliest label of each clip, (n,)."""
        return [self.label_names[index] for index in self.probs.argmax(axis=1)]

    def by_clip(self) -> Mapping[str, str]:
        """The likeliest label by clip id."""
        return dict(zip(self.clip_ids, self.labels, strict=True))

    def votes(self) -> NDArray[np.float64]:
        """The probabilities as votes, (n, K), NaN where the model could not judge a clip or has learned nothing."""
        ranked = np.sort(self.probs, axis=1)
        # A model that has learned nothing finds all labels alike: that is an abstention, not a vote for the first one.
        decided = ranked[:, -1] - ranked[:, -2] > _TIE
        judged = (np.array([flag != NO_MODALITY for flag in self.flags]) & decided)[:, None]
        return np.where(judged, self.probs, np.nan).astype(np.float64)

    def write(self, path: Path) -> None:
        """Write the table as csv, and beside it as npz, unrounded; the same table gives the same bytes.

        The npz holds, without any pickle, ``clip_ids``, ``splits``, ``labels``, ``out_of_fold`` and ``flags``, (n,),
        ``label_names``, (C,), ``probs``, (n, C), ``modalities``, (M,), and ``modality_weights``, (n, M).

        Args:
            path: The csv file; the other ends in ``.npz``.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*_FIXED, *(f"p_{name}" for name in self.label_names), *(f"w_{m}" for m in self.modalities)])
        probs, weights = _cells(self.probs), _cells(self.modality_weights)
        writer.writerows(
            [clip_id, split, label, "1" if own else "0", flag, *p, *w]
            for clip_id, split, label, own, flag, p, w in zip(
                self.clip_ids, self.splits, self.labels, self.out_of_fold, self.flags, probs, weights, strict=True
            )
        )
        write_atomic(path, text.getvalue())
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
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
        )
        write_atomic(path.with_suffix(".npz"), packed.getvalue())

    @classmethod
    def read(cls, path: Path) -> PredictionTable:
        """Read what `write` wrote.

        Raises:
            MissingInput: When `predict` has not run yet.
            InputError: When the file is damaged.
        """
        if not path.is_file():
            raise MissingInput(f"{path} is missing", "run `ecmf-pipe predict` (or `dvc repro`) first")
        header, *rows = list(csv.reader(io.StringIO(read_text(path)))) or [[]]
        if tuple(header[: len(_FIXED)]) != _FIXED or any(len(row) != len(header) for row in rows):
            raise InputError(f"{path} is damaged", "run `ecmf-pipe predict` again")
        fixed = len(_FIXED)
        labels = [name[2:] for name in header[fixed:] if name.startswith("p_")]
        modalities = [name[2:] for name in header[fixed + len(labels) :]]
        try:
            values = np.array(
                [[float(cell) if cell else np.nan for cell in row[fixed:]] for row in rows], np.float32
            ).reshape(len(rows), len(labels) + len(modalities))
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error})", "run `ecmf-pipe predict` again") from error
        return cls(
            clip_ids=tuple(row[0] for row in rows),
            splits=tuple(row[1] for row in rows),
            out_of_fold=np.array([row[3] == "1" for row in rows], bool),
            flags=tuple(row[4] for row in rows),
            label_names=tuple(labels),
            probs=values[:, : len(labels)],
            modalities=tuple(modalities),
            modality_weights=values[:, len(labels) :],
        )


def with_prior(probs: NDArray[np.float32], prior: Sequence[float]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Give clips without a prediction the prior, and flag them.

    Args:
        probs: (n, C); a row of NaN where nothing could judge the clip.
        prior: Share of each label among the training labels, (C,).

    Returns:
        The completed probabilities and the flags, (n,).
    """
    unknown = np.asarray(np.isnan(probs).any(axis=1))
    completed = np.where(unknown[:, None], np.asarray(prior, np.float32), probs)
    return completed, tuple(NO_MODALITY if flag else "" for flag in unknown)


def _cells(values: NDArray[np.float32]) -> list[list[str]]:
    return [["" if np.isnan(value) else f"{value:.6f}" for value in row] for row in values.tolist()]
