"""Benchmark the embedded LLM on MELD: its votes, raw and calibrated, and its enriched texts.

``python -m tools.bench.meld FOLDER``. FOLDER caches the scores and embeddings: a second run sends no requests.
The first run takes 0.1 to 0.3 CPU seconds per utterance, about a quarter of an hour in total. The seed draws utterances
from those that `corpora.meld` maps to one of the six labels of MER. The test part is used for evaluation only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.llm.votes import fit_calibration, votes_from_scores
from tools.bench.meld.figures import MARGIN
from tools.bench.meld.sample import MELD, Sample, read_samples
from tools.bench.meld.texts import enriched_texts, texts_table
from tools.bench.meld.votes import Scores, few_labels_table, score_samples, votes_table

PARTS = ("votes", "texts", "quotes")
N_QUOTED = 10


def main() -> None:
    """Print the tables, and examples of rewrites and votes."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.meld", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", metavar="part", help="votes, texts, quotes; all by default")
    parser.add_argument("--meld", type=Path, default=MELD)
    parser.add_argument("--seed", type=int, default=7)
    for part, size in (("train", 2400), ("dev", 600), ("test", 600)):
        parser.add_argument(f"--{part}", type=int, default=size)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)!r}; choose from {', '.join(PARTS)}")
    seed, folder = arguments.seed, arguments.folder
    sizes = {part: getattr(arguments, part) for part in ("train", "dev", "test")}
    samples = read_samples(sizes, seed, arguments.meld)
    scores = score_samples(samples, folder)
    for part, sample in samples.items():
        counts = dict(zip(MER_LABELS, np.bincount(sample.truth, minlength=len(MER_LABELS)).tolist(), strict=True))
        echo(f"{part}: {len(sample.texts)} utterances of {len(set(sample.dialogues.tolist()))} dialogues, {counts}")
    parts = arguments.parts or PARTS
    if "votes" in parts:
        votes_table(samples, scores, folder, seed, echo)
        few_labels_table(samples, scores, seed, echo)
    if "texts" in parts:
        texts_table(samples, scores, folder, seed, echo)
    if "quotes" in parts:
        quotes(samples, scores, seed)


def quotes(samples: Mapping[str, Sample], scores: Scores, seed: int) -> None:
    """Print rewrites and votes of utterances of the test part, drawn by the seed."""
    train, test = samples["train"], samples["test"]
    fitted = fit_calibration(scores.of("train"), train.truth)
    votes = votes_from_scores(fitted(scores.of("test")), margin=MARGIN)
    rng = np.random.default_rng(seed)
    rewritten, voted = np.split(rng.choice(len(test.texts), 2 * N_QUOTED, replace=False), 2)
    texts = enriched_texts(test, scores.of("test"))
    echo("\nrewrites")
    for row in rewritten.tolist():
        echo(f"- {texts[row]} ({test.names[row]}, {MER_LABELS[test.truth[row]]})")
    echo("\nvotes")
    for row in voted.tolist():
        vote = "abstains"
        if np.isfinite(votes[row]).all():
            vote = f"{MER_LABELS[int(votes[row].argmax())]} {votes[row].max():.2f}"
        echo(f'- "{test.texts[row]}": {vote} ({test.names[row]}, {MER_LABELS[test.truth[row]]})')


def echo(line: str) -> None:
    """Print a line and flush it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
