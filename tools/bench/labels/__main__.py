"""Benchmark label refinement: ``python -m tools.bench.labels [gold|nogold|ties|speed|meld|next ...]``.

- ``gold`` and ``nogold`` compare `combine_votes` to other methods on generated votes with known truth, with and without
  gold labels.
- ``ties`` compares tie-breaks of the majority of three sources, generated and real.
- ``speed`` measures it on 130,000 clips.
- ``meld`` flips labels of real utterances and measures the gain of each treatment of the noisy labels.
- ``next`` compares rules that select clips for manual labels.

By default each runs a few settings with one seed; ``--full`` runs all settings with five seeds. No choice of method was
made on the default seeds: those were made on seeds 0 and 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import expected_calibration_error
from ecmf_pipeline.labels.baselines import BASELINES, Baseline
from ecmf_pipeline.labels.combining import combine_votes
from tools.bench.labels.simulations import VOTE_SIMULATIONS, VoteSimulation, generate, gold_sample, random_simulations

WITHOUT_GOLD = ("majority", "mean of probabilities", "Dawid-Skene", "OneCoin", "MMSR")
"""Methods that work without gold labels."""

OURS = "combine_votes"
GOLD_SHARE = 0.05
N_RANDOM_SETTINGS = 20
"""Number of random settings in addition to the named ones."""


def main() -> None:
    """Run the requested parts, by default all."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.labels", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"default: all of {' '.join(PARTS)}")
    parser.add_argument("--full", action="store_true", help="all settings and five seeds")
    parser.add_argument("--seeds", type=int, help="number of seeds; default: 1, or 5 with --full")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--settings", choices=("named", "drawn", "both"), default="both", help="of gold and nogold")
    parser.add_argument("--meld", type=Path, default=Path("../shared/data/meld"), help="folder of the MELD csv files")
    arguments = parser.parse_args()
    arguments.seeds = range(arguments.first_seed, arguments.first_seed + (arguments.seeds or (1, 5)[arguments.full]))
    for part in arguments.parts or PARTS:
        PARTS[part](arguments)


def with_gold(arguments: argparse.Namespace) -> None:
    """Compare accuracy and calibration in each setting, with gold labels of 5% of the clips."""
    _worlds(GOLD_SHARE, BASELINES, arguments)


def without_gold(arguments: argparse.Namespace) -> None:
    """Compare accuracy in each setting without gold labels."""
    _worlds(0.0, {name: BASELINES[name] for name in WITHOUT_GOLD}, arguments)


def _worlds(share: float, baselines: Mapping[str, Baseline], arguments: argparse.Namespace) -> None:
    seeds: Sequence[int] = arguments.seeds
    groups = {"named": VOTE_SIMULATIONS, "drawn": random_simulations(N_RANDOM_SETTINGS, arguments.first_seed)}
    worlds = [world for kind, group in groups.items() if arguments.settings in (kind, "both") for world in group]
    worlds = worlds if arguments.full else worlds[::7]
    _echo(f"\n{share:.0%} gold labels; accuracy (%) on the other clips with votes; seeds {list(seeds)}")
    _echo(
        f"{'setting':<54}{'ours':>7}{'best':>7}  {'other method':<24}{'difference (95% interval)':>27}{'our ECE':>9}"
        f"{'majority':>10}"
    )
    outcomes = [_compare(world, share, baselines, seeds) for world in worlds]
    best, majority, error = (np.array(column) for column in zip(*outcomes, strict=True))
    for reference, differences in (("best other method", best), ("majority", majority)):
        _echo(
            f"ours minus {reference}, {len(worlds)} settings: mean {100 * differences.mean():+.2f} points, "
            f"worst {100 * differences.min():+.2f}"
        )
    _echo(f"our mean ECE: {error.mean():.4f}")


def _compare(
    world: VoteSimulation, share: float, baselines: Mapping[str, Baseline], seeds: Sequence[int]
) -> tuple[float, float, float]:
    """Print a line; return the difference to the best other method, that to the majority, and our calibration error."""
    correct: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in (OURS, *baselines)}
    errors = []
    for seed in seeds:
        votes, truth = generate(world, seed)
        gold = gold_sample(truth, share, seed)
        # Clips without votes are not evaluated: every method can only guess the most frequent class.
        evaluated = (gold < 0) & ~np.isnan(np.stack(list(votes.values()))).all(axis=(0, 2))
        combined = combine_votes(votes, gold, seed=seed)
        correct[OURS].append((combined.labels == truth)[evaluated])
        errors.append(expected_calibration_error(combined.confidence[evaluated], correct[OURS][-1]))
        for name, method in baselines.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                correct[name].append((method.combine(votes, gold).argmax(axis=1) == truth)[evaluated])
    pooled = {name: np.concatenate(parts) for name, parts in correct.items()}
    best = max(baselines, key=lambda name: pooled[name].mean())
    paired = pooled[OURS].astype(float) - pooled[best]
    half = 1.96 * paired.std() / np.sqrt(len(paired))
    difference = float(paired.mean())
    interval = f"{100 * difference:+.2f} ({100 * (difference - half):+.2f} to {100 * (difference + half):+.2f})"
    _echo(
        f"{world.name:<54}{100 * pooled[OURS].mean():>7.2f}{100 * pooled[best].mean():>7.2f}  {best:<24}"
        f"{interval:>27}{np.mean(errors):>9.3f}{100 * pooled['majority'].mean():>10.2f}"
    )
    return difference, float(pooled[OURS].mean() - pooled["majority"].mean()), float(np.mean(errors))


def break_ties(arguments: argparse.Namespace) -> None:
    """Measure tie-breaking in the majority of three sources."""
    from tools.bench.labels.ties import ties

    ties(arguments.seeds, _echo)


def speed(arguments: argparse.Namespace) -> None:
    """Measure CPU seconds for 130,000 clips and six sources."""
    _echo("\nCPU time of combine_votes, 130,000 clips, 6 sources")
    seed = arguments.first_seed
    for world in VOTE_SIMULATIONS[:2]:
        votes, truth = generate(replace(world, clips=130_000), seed)
        for share in (6000 / 130_000, 0.0):
            gold = gold_sample(truth, share, seed)
            start = time.process_time()
            combine_votes(votes, gold)
            _echo(f"{world.name}, {int((gold >= 0).sum())} gold labels: {time.process_time() - start:.2f} s")


def meld(arguments: argparse.Namespace) -> None:
    """Measure the gain in training from each treatment of noisy labels."""
    from tools.bench.labels.meld_noise import QUICK, bench, transitions

    if (folder := _meld_folder(arguments)) is not None:
        bench(folder, arguments.seeds, tuple(transitions()) if arguments.full else QUICK, _echo)


def next_clips(arguments: argparse.Namespace) -> None:
    """Measure the gain from manual labels for each rule that selects the clips."""
    from tools.bench.labels.next_clips import generated, utterances

    generated(arguments.seeds, _echo, full=arguments.full)
    if (folder := _meld_folder(arguments)) is not None:
        utterances(folder, arguments.seeds, _echo, full=arguments.full)


def _meld_folder(arguments: argparse.Namespace) -> Path | None:
    if arguments.meld.is_dir():
        return Path(arguments.meld)
    _echo(f"\nskipped: no MELD csv files in {arguments.meld} (set --meld FOLDER)")
    return None


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "gold": with_gold,
    "nogold": without_gold,
    "ties": break_ties,
    "speed": speed,
    "meld": meld,
    "next": next_clips,
}


def _echo(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
