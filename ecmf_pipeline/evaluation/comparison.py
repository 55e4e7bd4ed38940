"""Compare two versions of a project: params, clips, labels, scores, and the clips that a model won and lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.arrays import bootstrap_difference, scores
from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.core.documents import parse_yaml
from ecmf_pipeline.core.errors import InputError, MissingInput, ParamsError
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.scoring import groups_to_draw
from ecmf_pipeline.labels.decision_files import read_decisions
from ecmf_pipeline.sharing.revisions import Version

COMPARED_FILES: tuple[Path, ...] = (
    paths.PARAMS,
    paths.MANIFEST,
    paths.CORPUS,
    paths.REFINED,
    paths.REFINED.with_name(f"{paths.REFINED.name}.sha256"),
    paths.predictions("given"),
    paths.predictions("refined"),
)
"""The files that `read_run` reads."""

CLIP_PARTS = {
    "content": ("digest", "audio_digest", "face_digest"),
    "transcript": ("transcript", "translation"),
    "split": ("split",),
    "group": ("group",),
}
"""Columns of the manifest by the part of a clip that they describe."""

_LABELS = ("given_label", "gold_label")
_COLUMNS = [*(column for columns in CLIP_PARTS.values() for column in columns), *_LABELS]


@dataclass(frozen=True)
class Run:
    """The tables of a version that are compared.

    Attributes:
        name: The version, as the user named it.
        commit: Its commit, in hex; empty for a folder.
        params: The values of params.yaml by dotted key.
        clips: Columns of the manifest, indexed by clip id.
        refined: The label that each clip is trained on after the refinement, by clip id; empty if it is not trained
            on. None without refinement.
        predictions: Predictions of each model, by training labels and variant, such as ``refined/fusion``.
    """

    name: str
    commit: str
    params: Mapping[str, Any]
    clips: pd.DataFrame
    refined: pd.Series[str] | None
    predictions: Mapping[str, PredictionTable]

    @property
    def title(self) -> str:
        """The name for people, with the short commit."""
        name = "the working tree" if self.name == "." else self.name
        return f"{name} ({self.commit[:7]})" if self.commit else name


def read_run(version: Version) -> Run:
    """Read the tables of a version.

    Raises:
        MissingInput: If the version has no manifest, and so no results.
        InputError: If a table is damaged.
    """
    root = version.folder
    if not (root / paths.MANIFEST).is_file():
        raise MissingInput(
            f"{version.name} has no results: {paths.MANIFEST} does not exist there",
            "compare another version, or check this one out and run its pipeline"
            if version.commit
            else "compare another version, or run the pipeline in that folder",
            command="dvc repro",
        )
    clips = read_manifest(root / paths.MANIFEST)
    frame = pd.DataFrame({name: clips.column(name) for name in _COLUMNS}, index=pd.Index(clips.ids))
    refined = None
    if (root / paths.REFINED).is_file():
        decisions = read_decisions(root / paths.REFINED)
        labels = np.where(decisions.is_trained, decisions.column("refined_label"), "")
        refined = pd.Series(labels, index=decisions.column("clip_id"), dtype=object)
    tables = {
        f"{labels}/{path.stem}": PredictionTable.read(path)
        for labels in ("refined", "given")
        for path in sorted((root / paths.predictions(labels)).glob("*.csv"))
    }
    predictions = {name: table for name, table in tables.items() if table.clip_ids}  # without labels one is empty
    return Run(version.name, version.commit, _read_params(root / paths.PARAMS), frame, refined, predictions)


def _read_params(path: Path) -> dict[str, Any]:
    """Return the values of params.yaml as written, by dotted key; other versions may have other keys."""
    try:
        document = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{path} cannot be read: {error}", "correct it") from error
    return dict(_leaves(document, ""))


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from _leaves(below, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def compare_runs(first: Run, second: Run, config: EvaluateConfig | None = None) -> dict[str, Any]:
    """Compare two runs.

    Args:
        first: The first run.
        second: The second run; differences are those of the second to the first.
        config: Number of bootstrap samples, and their seed.

    Returns:
        Plain JSON values: ``first`` and ``second`` (``name``, ``commit``, ``title``), ``same_commit``, ``params``,
        ``clips``, ``labels``, ``scores``, ``changes`` (clips won and lost) and ``not_compared`` (sentences). A param is
        null on the side that does not set it.

    Raises:
        InputError: If the runs share no clip.
    """
    shared = first.clips.index.intersection(second.clips.index).sort_values()
    if shared.empty:
        raise InputError(
            f"{first.title} ({len(first.clips)} clips) and {second.title} ({len(second.clips)} clips) share no clip id",
            "compare two versions of the same corpus",
        )
    judged_by, truth = _truth(first, second, shared)
    models = [name for name in _common_models(first, second) if not _labels_of_one(name, first, second)]
    best = next((name for name in ("refined/fusion", "given/fusion") if name in models), None)
    return {
        **{
            side: {"name": run.name, "commit": run.commit, "title": run.title}
            for side, run in (("first", first), ("second", second))
        },
        "same_commit": bool(first.commit) and first.commit == second.commit,
        "params": [
            {"key": key, "first": first.params.get(key), "second": second.params.get(key)}
            for key in sorted(first.params.keys() | second.params.keys())
            if first.params.get(key) != second.params.get(key)
        ],
        "clips": _compare_clips(first, second, shared),
        "labels": _compare_labels(first, second, shared),
        "scores": {
            "judged_by": judged_by,
            "clips": len(truth),
            "grouped": groups_to_draw(second.clips.loc[truth.index, "group"].tolist()) is not None,
            "models": [_compare_model(name, first, second, truth, config or EvaluateConfig()) for name in models]
            if len(truth)
            else [],
        },
        "changes": {"model": best, "title": model_title(best), **_won_and_lost(best, first, second, truth)}
        if best and len(truth)
        else None,
        "not_compared": list(_not_compared(first, second, truth)),
    }


def _common_models(first: Run, second: Run) -> list[str]:
    """Return the models of which both runs have predictions, the most important first."""
    return sorted(first.predictions.keys() & second.predictions.keys(), key=_rank)


def _labels_of_one(model: str, first: Run, second: Run) -> list[str]:
    """Return the labels that a model has in only one of the runs; scores with other labels cannot be compared."""
    return sorted({*first.predictions[model].label_names} ^ {*second.predictions[model].label_names})


def _truth(first: Run, second: Run, shared: pd.Index[str]) -> tuple[str, pd.Series[str]]:
    """Return what the shared clips are judged by, and the label of each that has one and predictions in both runs.

    Gold labels are used if any clip has one, otherwise given labels; those of the second run if both have one.
    """
    by = "given"
    truth = pd.Series(dtype=object)
    for name in ("gold", "given"):
        mine, other = (run.clips.loc[shared, f"{name}_label"] for run in (second, first))
        truth = mine.where(mine != "", other)
        truth = truth[truth != ""]
        by = name
        if len(truth):
            break
    for run in (first, second):
        for table in run.predictions.values():
            truth = truth[truth.index.isin(table.clip_ids)]
    return by, truth


def _compare_clips(first: Run, second: Run, shared: pd.Index[str]) -> dict[str, Any]:
    before, after = first.clips.loc[shared], second.clips.loc[shared]
    return {
        "first": len(first.clips),
        "second": len(second.clips),
        "shared": len(shared),
        "added": sorted(second.clips.index.difference(shared)),
        "removed": sorted(first.clips.index.difference(shared)),
        "changed": {
            part: shared[(before[[*columns]] != after[[*columns]]).any(axis=1)].tolist()
            for part, columns in CLIP_PARTS.items()
        },
    }


def _compare_labels(first: Run, second: Run, shared: pd.Index[str]) -> dict[str, Any]:
    """Return the shared clips whose given, gold or refined label differs; None for labels that a run does not have."""
    pairs: dict[str, tuple[pd.Series[str], pd.Series[str]]] = {
        name.removesuffix("_label"): (first.clips[name], second.clips[name]) for name in _LABELS
    }
    if first.refined is not None and second.refined is not None:
        pairs["refined"] = first.refined, second.refined
    differing: dict[str, Any] = {"given": None, "gold": None, "refined": None}
    for name, (before, after) in pairs.items():
        one, two = (labels.reindex(shared, fill_value="") for labels in (before, after))
        changed = one != two
        differing[name] = [
            {"clip_id": clip_id, "first": old, "second": new}
            for clip_id, old, new in zip(shared[changed], one[changed], two[changed], strict=True)
        ]
    return differing


def _predicted(table: PredictionTable, clip_ids: pd.Index[str]) -> tuple[pd.Series[str], pd.Series[float]]:
    """Return the predicted label of some clips and its probability, in their order."""
    labels = pd.Series(table.labels, index=table.clip_ids, dtype=object)
    probability = pd.Series(table.probs.max(axis=1).astype(float), index=table.clip_ids)
    return labels.loc[clip_ids], probability.loc[clip_ids]


def _compare_model(name: str, first: Run, second: Run, truth: pd.Series[str], config: EvaluateConfig) -> dict[str, Any]:
    """Score one model in both runs on the same clips, with a paired interval of the difference."""
    predicted = [_predicted(run.predictions[name], truth.index)[0] for run in (first, second)]
    names = sorted({*truth, *predicted[0], *predicted[1]})
    before, after = (scores(truth.tolist(), labels.tolist(), names) for labels in predicted)
    difference, low, high = bootstrap_difference(
        *(np.array(labels, np.str_) for labels in (predicted[1], predicted[0], truth)),
        rng=np.random.default_rng(config.seed),
        groups=groups_to_draw(second.clips.loc[truth.index, "group"].tolist()),
        draws=config.draws,
    )
    sides = {
        side: {"weighted_f1": values["weighted_f1"], "accuracy": values["accuracy"]}
        for side, values in (("first", before), ("second", after))
    }
    interval = {"difference": difference, "low": low, "high": high}
    return {
        "model": name,
        "title": model_title(name),
        **sides,
        **{key: round(value, 6) for key, value in interval.items()},
    }


def _won_and_lost(name: str, first: Run, second: Run, truth: pd.Series[str]) -> dict[str, Any]:
    """Return the clips on which only the second run is right (``won``), and those on which only the first is."""
    (before, sure_before), (after, sure_after) = (
        _predicted(run.predictions[name], truth.index) for run in (first, second)
    )
    was_right, is_right = before == truth, after == truth

    def listed(chosen: pd.Series[bool]) -> list[dict[str, Any]]:
        columns = (truth.index, truth, before, sure_before.round(6), after, sure_after.round(6))
        names = ("clip_id", "truth", "first", "first_probability", "second", "second_probability")
        rows = zip(*(column[chosen].tolist() for column in columns), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]

    return {"won": listed(is_right & ~was_right), "lost": listed(was_right & ~is_right)}


def _not_compared(first: Run, second: Run, truth: pd.Series[str]) -> Iterator[str]:
    """Yield a sentence for each part that cannot be compared."""
    for run in (first, second):
        if run.refined is None:
            yield f"{run.title} has no refined labels"
        if not run.predictions:
            yield f"{run.title} has no predictions"
    for run, other in ((first, second), (second, first)):
        only = sorted(run.predictions.keys() - other.predictions.keys())
        if only and other.predictions:
            yield f"only {run.title} has predictions of {'; '.join(map(model_title, only))}"
    others = {name: labels for name in _common_models(first, second) if (labels := _labels_of_one(name, first, second))}
    if others:
        names = sorted(set().union(*others.values()))
        yield f"scores, because only one version has the labels {'; '.join(names)}"
    elif first.predictions and second.predictions and not len(truth):
        yield "no shared clip has a label and predictions in both"


def _rank(model: str) -> tuple[bool, str, bool]:
    """Return the sort key of a model: fusion models first, those of refined labels before those of given labels."""
    labels, _, variant = model.partition("/")
    return variant != "fusion", variant, labels != "refined"


def model_title(model: str) -> str:
    """Return the name of a model for people, such as ``fusion, refined labels``."""
    labels, _, variant = model.partition("/")
    return f"{variant}, {labels} labels"
