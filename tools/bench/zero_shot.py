"""Benchmark zero-shot labels: ``python -m tools.bench.zero_shot [--sample PROJECT] [--clips PROJECT --truth CSV]``.

The first table compares zero-shot labels with always choosing the most frequent label, and shows each source. The
second simulates verdicts by the true labels: asked by the rule of ``next.csv`` in rounds of ten, and drawn at random.
Half of the clips may be asked for, drawn by each seed; the other half is scored. From 30 verdicts on linear voters are
trained on them; LightGBM and the fusion model are left out, because they are too slow to train this often.

- ``--sample``: a finished project of the default corpus; its given labels are hidden, its gold labels are the truth.
- ``--clips``: a finished project of a folder without labels; ``--truth`` is a table ``name,discrete`` of true labels.
- ``--meld``: folder of MELD's csv files; words only. ``--cache`` keeps the scores of the LLM.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ecmf_pipeline.core.arrays import Bools, Floats, Ints, assign_folds
from ecmf_pipeline.core.clips import Corpus, read_corpus_tables
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.labels.basis import training_basis
from ecmf_pipeline.labels.config import LabelModelConfig, LinearConfig, RefineConfig, ZeroShotConfig
from ecmf_pipeline.labels.label_model import assess
from ecmf_pipeline.labels.selection import expected_gain, select_clips_to_label, select_first_clips
from ecmf_pipeline.labels.verdicts import MIN_GOLD
from ecmf_pipeline.labels.voters import ALL, join_modalities, out_of_fold_votes
from ecmf_pipeline.labels.votes import ABSTAIN, first_choice
from ecmf_pipeline.labels.zero_shot import assess_without_labels
from ecmf_pipeline.llm.votes import votes_from_scores
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import add_transcripts, read_features
from ecmf_pipeline.stages.shared.llm import llm_votes
from ecmf_pipeline.stages.shared.zero_shot import zero_shot_votes
from tools.bench.meld.sample import embedded, raw_scores, read_samples

VERDICTS = (0, 10, 30, 60)
ROUND = 10
MARGIN = 0.2
UTTERANCES = 300

_TIE = 1e-9
"""Probabilities that differ by less are equal: no source votes, and there is no verdict."""


@dataclass(frozen=True, slots=True)
class World:
    """Clips with hidden labels.

    Attributes:
        name: Name for the tables.
        votes: Votes of sources that saw no label, by source, (n, K).
        features: Features by modality, (n, D), for voters that are trained on verdicts.
        truth: True labels, (n,).
        groups: Speaker or dialogue of each clip, (n,); "" if unknown.
        labels: The K labels.
    """

    name: str
    votes: Mapping[str, Floats]
    features: Mapping[str, Floats]
    truth: Ints
    groups: Sequence[str]
    labels: Sequence[str]


def main() -> None:
    """Print the tables of the chosen corpora."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.zero_shot", description=__doc__)
    parser.add_argument("--sample", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--meld", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".bench-zero-shot"))
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    worlds = []
    if arguments.clips:
        worlds.append(read_clips(arguments.clips, arguments.truth.resolve()))
    if arguments.sample:
        worlds.append(read_sample(arguments.sample))
    if arguments.meld:
        worlds.append(read_words(arguments.meld, arguments.cache))
    for world in worlds:
        _print_zero_shot(world)
    for world in worlds:
        _print_verdicts(world, range(arguments.seeds))


def read_sample(project: Path) -> World:
    """Read the default corpus of a finished project, with its given labels hidden."""
    with contextlib.chdir(project):
        corpus = read_corpus_tables()
        truth = {str(clip.clip_id): clip.gold_label for clip in corpus.clips if clip.gold_label}
        return _read_project("default corpus", corpus, truth)


def read_clips(project: Path, table: Path) -> World:
    """Read a finished project of a folder without labels, and the true labels of its clips."""
    with table.open(encoding="utf-8", newline="") as file:
        truth = {row["name"]: row["discrete"] for row in csv.DictReader(file)}
    with contextlib.chdir(project):
        return _read_project("real clips", read_corpus_tables(), truth)


def _read_project(name: str, corpus: Corpus, truth: Mapping[str, str]) -> World:
    params = load_params()
    hidden = replace(corpus, clips=[replace(clip, given_label="", gold_label="") for clip in corpus.clips])
    hidden = add_transcripts(params, hidden)
    votes: dict[str, Floats] = zero_shot_votes(params, hidden)
    votes |= llm_votes(params, hidden)[0]
    rows = [row for row, clip in enumerate(corpus.clips) if clip.clip_id in truth]
    features = read_features(params, corpus.clips)
    return World(
        name,
        {source: probs[rows] for source, probs in votes.items()},
        {modality: values[rows].astype(np.float64) for modality, values in features.items()},
        np.array([corpus.labels.index(truth[corpus.clips[row].clip_id]) for row in rows], np.int64),
        [corpus.clips[row].group for row in rows],
        corpus.labels,
    )


def read_words(meld: Path, cache: Path) -> World:
    """Read utterances of MELD's test part, drawn by a seed."""
    sample = read_samples({"test": UTTERANCES}, 7, meld)["test"]
    scores = raw_scores(sample.texts, cache, name="zero-shot")
    text = embedded(sample.texts, cache)
    votes = {"llm": votes_from_scores(scores, margin=MARGIN)}
    return World("MELD, words only", votes, {"text": text}, sample.truth, sample.dialogues.tolist(), MER_LABELS)


def _print_zero_shot(world: World) -> None:
    """Print the accuracy of zero-shot labels, and of each source."""
    n, threshold = len(world.truth), RefineConfig().zero_shot_threshold(len(world.labels))
    posterior, voted = label(world, np.full(n, ABSTAIN)), has_vote(world)
    right = (posterior.argmax(axis=1) == world.truth) & voted
    answered = voted & (posterior.max(axis=1) >= threshold)
    majority = np.bincount(world.truth).max() / n
    _write(f"\n{world.name}: {n} clips, most frequent label {majority:.3f}")
    _write(f"  most probable label of all clips (no vote counts as wrong): {_share(right)}")
    _write(
        f"  answered from {threshold:g} on: {answered.mean():.3f} of the clips, accuracy {_share(right[answered])}, "
        f"mean confidence {posterior.max(axis=1)[answered].mean() if answered.any() else float('nan'):.3f}"
    )
    for source, probs in world.votes.items():
        choice = first_choice(probs)
        some = choice != ABSTAIN
        counts = np.bincount(world.truth[some], minlength=1)
        base = counts.max() / max(some.sum(), 1)
        _write(
            f"  {source}: votes on {some.mean():.3f}, accuracy {_share((choice == world.truth)[some])}, most frequent "
            f"label of these clips {base:.3f}"
        )


def _print_verdicts(world: World, seeds: Sequence[int]) -> None:
    """Print the accuracy on the half that is not asked for, by number of verdicts."""
    counts = [count for count in VERDICTS if count <= len(world.truth) // 2]
    asked, drawn = (
        np.array([_accuracies(world, counts, seed, by_rule=by_rule) for seed in seeds]) for by_rule in (True, False)
    )  # (seeds, counts)
    _write(f"\n{world.name}: accuracy on clips that nobody labels, mean and 95% interval over {len(seeds)} seeds")
    _write(f"  {'verdicts':<10}{'asked by next.csv':>28}{'drawn at random':>28}{'next minus random':>28}")
    for column, count in enumerate(counts):
        difference = _mean(asked[:, column] - drawn[:, column], signed=True)
        _write(f"  {count:<10}{_mean(asked[:, column]):>28}{_mean(drawn[:, column]):>28}{difference:>28}")


def _accuracies(world: World, counts: Sequence[int], seed: int, *, by_rule: bool) -> list[float]:
    """Return the accuracy on the ineligible half after each number of verdicts; a clip without a vote is wrong."""
    rng = np.random.default_rng(seed)
    n = len(world.truth)
    eligible: Bools = rng.permutation(n) < n // 2
    order = rng.permutation(np.flatnonzero(eligible)).tolist()
    known, accuracies = np.full(n, -1), []
    for done in range(0, max(counts) + ROUND, ROUND):
        if not by_rule and done not in counts:
            continue
        if not by_rule:
            known = _verify(world, known, order[:done])
        posterior = label(world, known, seed)
        if done in counts:
            decided = np.ptp(posterior, axis=1) > _TIE
            right = (posterior.argmax(axis=1) == world.truth) & decided
            accuracies.append(float(right[~eligible].mean()))
        if by_rule and done < max(counts):
            known = _verify(world, known, _next_clips(world, posterior, known, eligible & (known < 0)))
    return accuracies


def _next_clips(world: World, posterior: Floats, known: Ints, free: Bools) -> list[int]:
    """Return the first clips of ``next.csv``."""
    choice = posterior.argmax(axis=1)
    gain = expected_gain(posterior, choice)
    chosen = select_clips_to_label(gain, choice, free, ROUND, last=np.zeros(len(free), np.bool_))
    if (known >= 0).sum() < MIN_GOLD:
        first = select_first_clips(world.features, gain, free, known >= 0, clusters=MIN_GOLD)
        chosen = [*first, *(row for row in chosen if row not in first)][:ROUND]
    return chosen


def _verify(world: World, known: Ints, rows: Sequence[int]) -> Ints:
    known = known.copy()
    known[list(rows)] = world.truth[list(rows)]
    return known


def label(world: World, known: Ints, seed: int = 0) -> Floats:
    """Return the posterior, (n, K), for verdicts (n,), -1 if unknown, as `refine` computes it."""
    accuracy = ZeroShotConfig().accuracy
    if training_basis(np.full(len(known), -1), known) is Basis.ZERO_SHOT:
        return assess_without_labels(world.votes, known, accuracy, other=accuracy["other"]).posterior
    try:
        folds = assign_folds(known, world.groups if any(world.groups) else None, 5, rng=np.random.default_rng(7))
    except TooFewClips:
        return assess_without_labels(world.votes, known, accuracy, other=accuracy["other"]).posterior
    features = dict(world.features)
    if len(features) > 1:
        features[ALL] = join_modalities(features)
    voters = {
        f"{name}/linear": out_of_fold_votes(rows, known, folds, LinearConfig(), n_classes=len(world.labels), seed=seed)
        for name, rows in features.items()
    }
    votes = {**voters, **world.votes}
    return assess(votes, known, known, folds=folds, seed=seed, config=LabelModelConfig()).posterior


def has_vote(world: World) -> Bools:
    """Return whether any source votes on each clip, (n,)."""
    voted: Bools = np.stack([first_choice(probs) != ABSTAIN for probs in world.votes.values()]).any(axis=0)
    return voted


def _share(right: Bools) -> str:
    """Format a share with its 95% bootstrap interval."""
    if not len(right):
        return "unknown"
    draws = np.random.default_rng(0).choice(right, (2000, len(right))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{right.mean():.3f} ({low:.3f} to {high:.3f})"


def _mean(values: Floats, *, signed: bool = False) -> str:
    """Format the mean over seeds with its 95% interval."""
    spread = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    form = "{:+.3f} ({:+.3f} to {:+.3f})" if signed else "{:.3f} ({:.3f} to {:.3f})"
    return form.format(values.mean(), values.mean() - spread, values.mean() + spread)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
