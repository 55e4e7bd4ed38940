"""`python -m tools.bench.labels [gold|nogold|speed|meld|next ...]`: is the refinement better than what exists?

``gold`` and ``nogold`` compare `combine_votes` with other methods on generated votes whose truth is known, ``speed``
times it on 130,000 clips, ``meld`` flips labels of real utterances and counts what each treatment of them gains,
``next`` asks for verdicts by several rules and counts what they teach. A few settings and one seed each, or all of them
(``--full``). The default seeds are none that anything was chosen by: those were 0 and 1.
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
from tools.bench.labels.worlds import WORLDS, World, drawn_worlds, generate, gold_sample

WITHOUT_GOLD = ("majority", "mean of probabilities", "Dawid-Skene", "OneCoin", "MMSR")
"""Those that can do without gold labels."""

OURS = "combine_votes"
GOLD_SHARE = 0.05
DRAWN = 20
"""Settings drawn at random beside those that were thought of."""


def main() -> None:
    """Run the parts asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.labels", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=" ".join(PARTS))
    parser.add_argument("--full", action="store_true", help="every setting, and five seeds")
    parser.add_argument("--seeds", type=int, help="how many; 1, or 5 with --full")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--settings", choices=("named", "drawn", "both"), default="both", help="of votes, with --full")
    parser.add_argument("--meld", type=Path, default=Path("../shared/data/meld"), help="the folder of MELD's csv files")
    arguments = parser.parse_args()
    arguments.seeds = range(arguments.first_seed, arguments.first_seed + (arguments.seeds or (1, 5)[arguments.full]))
    for part in arguments.parts or PARTS:
        PARTS[part](arguments)


def with_gold(arguments: argparse.Namespace) -> None:
    """Accuracy and calibration in every world, with gold labels on 5% of the clips."""
    _worlds(GOLD_SHARE, BASELINES, arguments)


def without_gold(arguments: argparse.Namespace) -> None:
    """Accuracy in every world, with no gold label at all."""
    _worlds(0.0, {name: BASELINES[name] for name in WITHOUT_GOLD}, arguments)


def _worlds(share: float, baselines: Mapping[str, Baseline], arguments: argparse.Namespace) -> None:
    seeds: Sequence[int] = arguments.seeds
    chosen = {"named": WORLDS, "drawn": drawn_worlds(DRAWN, arguments.first_seed)}
    worlds = [w for kind, ones in chosen.items() if arguments.settings in (kind, "both") for w in ones]
    worlds = worlds if arguments.full else worlds[::7]
    _say(f"\n{share:.0%} gold; accuracy on the other clips that have votes, 95% interval; seeds {list(seeds)}")
    _say(f"{'votes':<54}{'ours':>7}{'best':>7}  {'of the others':<24}{'difference':>22}{'ECE':>7}{'majority':>10}")
    outcomes = [_compare(world, share, baselines, seeds) for world in worlds]
    best, majority, error = (np.array(column) for column in zip(*outcomes, strict=True))
    _say(
        f"worst difference {100 * best.min():+.2f} points (to the majority {100 * majority.min():+.2f}), "
        f"mean {100 * best.mean():+.2f} ({100 * majority.mean():+.2f}), "
        f"mean ECE {error.mean():.4f}, {len(worlds)} settings"
    )


def _compare(
    world: World, share: float, baselines: Mapping[str, Baseline], seeds: Sequence[int]
) -> tuple[float, float, float]:
    """Prints a line; returns the differences to the best of the others and the majority, and our calibration error."""
    right: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in (OURS, *baselines)}
    errors = []
    for seed in seeds:
        votes, truth = generate(world, seed)
        gold = gold_sample(truth, share, seed)
        # Of a clip that nobody votes on nothing can be told: whoever names the most frequent class there is lucky.
        rest = (gold < 0) & ~np.isnan(np.stack(list(votes.values()))).all(axis=(0, 2))
        combined = combine_votes(votes, gold, seed=seed)
        right[OURS].append((combined.labels == truth)[rest])
        errors.append(expected_calibration_error(combined.confidence[rest], right[OURS][-1]))
        for name, method in baselines.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                right[name].append((method.combine(votes, gold).argmax(axis=1) == truth)[rest])
    pooled = {name: np.concatenate(parts) for name, parts in right.items()}
    best = max(baselines, key=lambda name: pooled[name].mean())
    paired = pooled[OURS].astype(float) - pooled[best]
    half = 1.96 * paired.std() / np.sqrt(len(paired))
    difference = float(paired.mean())
    interval = f"{100 * difference:+.2f} ({100 * (difference - half):+.2f} to {100 * (difference + half):+.2f})"
    _say(
        f"{world.name:<54}{100 * pooled[OURS].mean():>7.2f}{100 * pooled[best].mean():>7.2f}  {best:<24}"
        f"{interval:>22}{np.mean(errors):>7.3f}{100 * pooled['majority'].mean():>10.2f}"
    )
    return difference, float(pooled[OURS].mean() - pooled["majority"].mean()), float(np.mean(errors))


def speed(arguments: argparse.Namespace) -> None:
    """CPU seconds of 130,000 clips and six sources."""
    _say("\n130,000 clips, 6 sources, CPU seconds")
    seed = arguments.first_seed
    for world in WORLDS[:2]:
        votes, truth = generate(replace(world, clips=130_000), seed)
        for share in (6000 / 130_000, 0.0):
            gold = gold_sample(truth, share, seed)
            start = time.process_time()
            combine_votes(votes, gold)
            _say(f"{world.name}, {int((gold >= 0).sum())} gold labels: {time.process_time() - start:.2f}")


def meld(arguments: argparse.Namespace) -> None:
    """What training on noisy labels gains by each treatment of them."""
    from tools.bench.labels.meld_noise import QUICK, bench, transitions

    if (folder := _meld(arguments)) is not None:
        bench(folder, arguments.seeds, tuple(transitions()) if arguments.full else QUICK, _say)


def next_clips(arguments: argparse.Namespace) -> None:
    """What verdicts teach, by the rule that picks the clips they are asked for."""
    from tools.bench.labels.next_clips import generated, utterances

    generated(arguments.seeds, _say, full=arguments.full)
    if (folder := _meld(arguments)) is not None:
        utterances(folder, arguments.seeds, _say, full=arguments.full)


def _meld(arguments: argparse.Namespace) -> Path | None:
    if arguments.meld.is_dir():
        return Path(arguments.meld)
    _say(f"\nnot measured: MELD's csv files are not in {arguments.meld} (--meld FOLDER)")
    return None


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "gold": with_gold,
    "nogold": without_gold,
    "speed": speed,
    "meld": meld,
    "next": next_clips,
}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
