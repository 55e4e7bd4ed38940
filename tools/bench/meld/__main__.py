"""What the embedded LLM is worth on MELD's real utterances: its votes, raw and calibrated, and its enriched texts.

Run as ``python -m tools.bench.meld FOLDER``, where FOLDER keeps the scores and embeddings: a second run asks
nothing. The first takes 0.1 to 0.3 CPU seconds an utterance, about a quarter of an hour in all. Utterances are drawn by
the seed from those that `corpora.meld` gives one of MER's six labels; the test part is read for figures only.
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
from tools.bench.meld.votes import Scores, ask, few_table, votes_table

PARTS = ("votes", "texts", "quotes")
QUOTED = 10


def main() -> None:
    """Print the tables, and some rewrites and votes."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.meld", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", metavar="part", help="votes, texts, quotes; all by default")
    parser.add_argument("--meld", type=Path, default=MELD)
    parser.add_argument("--seed", type=int, default=7)
    for part, size in (("train", 2400), ("dev", 600), ("test", 600)):
        parser.add_argument(f"--{part}", type=int, default=size)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {min(unknown)!r}")
    seed, folder = arguments.seed, arguments.folder
    sizes = {part: getattr(arguments, part) for part in ("train", "dev", "test")}
    samples = read_samples(sizes, seed, arguments.meld)
    scores = ask(samples, folder)
    for part, sample in samples.items():
        counts = dict(zip(MER_LABELS, np.bincount(sample.truth, minlength=len(MER_LABELS)).tolist(), strict=True))
        say(f"{part}: {len(sample.texts)} utterances of {len(set(sample.dialogues.tolist()))} dialogues, {counts}")
    parts = arguments.parts or PARTS
    if "votes" in parts:
        votes_table(samples, scores, folder, seed, say)
        few_table(samples, scores, seed, say)
    if "texts" in parts:
        texts_table(samples, scores, folder, seed, say)
    if "quotes" in parts:
        quotes(samples, scores, seed)


def quotes(samples: Mapping[str, Sample], scores: Scores, seed: int) -> None:
    """Print rewrites and votes on utterances of the test part that the seed draws."""
    train, test = samples["train"], samples["test"]
    fitted = fit_calibration(scores.of("train"), train.truth)
    votes = votes_from_scores(fitted(scores.of("test")), margin=MARGIN)
    rng = np.random.default_rng(seed)
    rewritten, voted = np.split(rng.choice(len(test.texts), 2 * QUOTED, replace=False), 2)
    texts = enriched_texts(test, scores.of("test"))
    say("\nrewrites")
    for row in rewritten.tolist():
        say(f"- {texts[row]} ({test.names[row]}, {MER_LABELS[test.truth[row]]})")
    say("\nvotes")
    for row in voted.tolist():
        vote = "abstains"
        if np.isfinite(votes[row]).all():
            vote = f"{MER_LABELS[int(votes[row].argmax())]} {votes[row].max():.2f}"
        say(f'- "{test.texts[row]}": {vote} ({test.names[row]}, {MER_LABELS[test.truth[row]]})')


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
