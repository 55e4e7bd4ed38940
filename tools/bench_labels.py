"""`python -m tools.bench_labels [gold|nogold|speed|meld ...]`: is the refinement better than what exists?

``gold`` and ``nogold`` compare `combine_votes` with other methods on generated votes whose truth is known, ``speed``
times it on 130,000 clips, ``meld`` flips labels of real utterances and counts what each treatment of them gains.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.labels import combine_votes
from ecmf_pipeline.metrics import expected_calibration_error
from tools.vote_baselines import WITH_GOLD, WITHOUT_GOLD, Ints, Votes
from tools.vote_worlds import WORLDS, World, generate, gold_sample

Floats = NDArray[np.float64]
OURS = "combine_votes"
GOLD_SHARE = 0.05


def main() -> None:
    """Run the parts asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=" ".join(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--meld", type=Path, default=Path("../shared/data/meld"))
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        PARTS[part](arguments)


def with_gold(arguments: argparse.Namespace) -> None:
    """Accuracy and calibration in every world, with gold labels on 5% of the clips."""
    _worlds(GOLD_SHARE, WITH_GOLD, arguments.seeds)


def without_gold(arguments: argparse.Namespace) -> None:
    """Accuracy in every world, with no gold label at all."""
    _worlds(0.0, WITHOUT_GOLD, arguments.seeds)


def _worlds(share: float, baselines: Mapping[str, Callable[[Votes, Ints], Floats]], seeds: int) -> None:
    _say(f"\n{share:.0%} gold; accuracy on the other clips, {seeds} seeds, 95% interval of the difference")
    _say(f"{'votes':<50}{'ours':>7}{'best':>7}  {'of the others':<24}{'difference':>22}{'ECE':>7}{'majority':>10}")
    outcomes = [_compare(world, share, baselines, seeds) for world in WORLDS]
    best, majority, error = (np.array(column) for column in zip(*outcomes, strict=True))
    _say(
        f"worst difference {100 * best.min():+.2f} points (to the majority {100 * majority.min():+.2f}), "
        f"mean ECE {error.mean():.4f}, {len(WORLDS)} settings"
    )


def _compare(
    world: World, share: float, baselines: Mapping[str, Callable[[Votes, Ints], Floats]], seeds: int
) -> tuple[float, float, float]:
    """Prints a line; returns the differences to the best of the others and the majority, and our calibration error."""
    right: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in (OURS, *baselines)}
    errors = []
    for seed in range(seeds):
        votes, truth = generate(world, seed)
        gold = gold_sample(truth, share, seed)
        rest = gold < 0
        combined = combine_votes(votes, gold, seed=seed)
        right[OURS].append((combined.labels == truth)[rest])
        errors.append(expected_calibration_error(combined.confidence[rest], right[OURS][-1]))
        for name, method in baselines.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                right[name].append((method(votes, gold).argmax(axis=1) == truth)[rest])
    pooled = {name: np.concatenate(parts) for name, parts in right.items()}
    best = max(baselines, key=lambda name: pooled[name].mean())
    paired = pooled[OURS].astype(float) - pooled[best]
    half = 1.96 * paired.std() / np.sqrt(len(paired))
    difference = float(paired.mean())
    interval = f"{100 * difference:+.2f} ({100 * (difference - half):+.2f} to {100 * (difference + half):+.2f})"
    _say(
        f"{world.name:<50}{100 * pooled[OURS].mean():>7.2f}{100 * pooled[best].mean():>7.2f}  {best:<24}"
        f"{interval:>22}{np.mean(errors):>7.3f}{100 * pooled['majority'].mean():>10.2f}"
    )
    return difference, float(pooled[OURS].mean() - pooled["majority"].mean()), float(np.mean(errors))


def speed(arguments: argparse.Namespace) -> None:  # noqa: ARG001  one signature for all parts
    """CPU seconds of 130,000 clips and six sources."""
    _say("\n130,000 clips, 6 sources, CPU seconds")
    for world in WORLDS[:2]:
        votes, truth = generate(replace(world, clips=130_000), 0)
        for share in (6000 / 130_000, 0.0):
            gold = gold_sample(truth, share, 0)
            start = time.process_time()
            combine_votes(votes, gold)
            _say(f"{world.name}, {int((gold >= 0).sum())} gold labels: {time.process_time() - start:.2f}")


def meld(arguments: argparse.Namespace) -> None:
    """What training on noisy labels gains by each treatment of them."""
    from tools.meld_noise import bench

    bench(arguments.meld, arguments.seeds, _say)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "gold": with_gold,
    "nogold": without_gold,
    "speed": speed,
    "meld": meld,
}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
