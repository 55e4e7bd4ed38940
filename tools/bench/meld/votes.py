"""Votes of the embedded LLM on MELD, raw and calibrated; compared to and combined with those of MiniLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.labels.combining import combine_votes
from ecmf_pipeline.labels.config import LinearConfig
from ecmf_pipeline.labels.voters import vote
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.scoring import probabilities
from ecmf_pipeline.llm.votes import MIN_LABELLED, fit_calibration, prompts_by_fold
from tools.bench.meld.figures import HEADER, difference, line
from tools.bench.meld.sample import Floats, Ints, Sample, embedded, raw_scores

PROMPT = "emotion_en"
FITTED_ON = 300
"""Number of utterances that calibrate the scores under drawn examples; the examples are drawn from the others."""
DRAWN = 2
"""Number of draws of examples."""
FEW_LABELS = (30, 60, 120, 300, 600)

Echo = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of the LLM under the packaged prompt.

    Attributes:
        raw: Log-likelihoods by part, (n, 6) each.
        biases: Mean scores that each kind of calibration subtracts from every row, (6,).
    """

    raw: Mapping[str, Floats]
    biases: Mapping[str, Floats]

    def of(self, part: str, bias: str = "everyday") -> Floats:
        """Return the scores of a part, (n, 6), minus a bias."""
        return self.raw[part] - self.biases[bias]


def score_samples(samples: Mapping[str, Sample], folder: Path) -> Scores:
    """Compute all scores under the packaged prompt."""
    raw = {part: raw_scores(sample.texts, folder, name=part) for part, sample in samples.items()}
    text, raw_row = samples["test"].texts[:1], raw["test"][0]
    biases = {"none": np.zeros(len(MER_LABELS))}
    for kind in ("content_free", "everyday"):
        biases[kind] = raw_row - raw_scores(text, folder, name=kind, calibration=kind)[0]
    return Scores(raw, biases)


def minilm_votes(samples: Mapping[str, Sample], folder: Path) -> dict[str, Floats]:
    """Return log-probabilities of the linear voter on MiniLM, fitted on the train part, for dev and test, (n, 6)."""
    features = {part: embedded(sample.texts, folder) for part, sample in samples.items()}
    voter = LinearConfig()
    both = np.concatenate([features["dev"], features["test"]])
    votes = np.log(vote(voter, features["train"], samples["train"].truth, both, seed=0))
    return {"dev": votes[: len(features["dev"])], "test": votes[len(features["dev"]) :]}


def with_examples(samples: Mapping[str, Sample], folder: Path, seed: int) -> tuple[Floats, Floats]:
    """Return scores of the test part under a prompt with examples, minus the everyday mean: raw and calibrated."""
    train, test = samples["train"], samples["test"]
    is_fitted = np.arange(len(train.texts)) < FITTED_ON
    prompts = prompts_by_fold(
        load_prompt(PROMPT), train.texts, train.truth, MER_LABELS, np.where(is_fitted, 0, 1), seed=seed
    )
    prompt = prompts[0]
    everyday = prompt.calibration_texts("everyday")
    texts = [*everyday, *train.texts[:FITTED_ON], *test.texts]
    raw = raw_scores(texts, folder, name=f"examples-{seed}", prompt=prompt)
    scores = raw - raw[: len(everyday)].mean(axis=0)
    fit_scores, test_scores = scores[len(everyday) : -len(test.texts)], scores[-len(test.texts) :]
    return test_scores, fit_calibration(fit_scores, train.truth[is_fitted])(test_scores)


def combined_votes(votes: Mapping[str, Mapping[str, Floats]], dev: Sample, count: int) -> Floats:
    """Return log-probabilities of `combine_votes` for the test part, (n, 6), with the labels of the dev part as gold.

    Args:
        votes: Log-scores of dev and test by source; no source was fitted on these parts.
        dev: The dev part, with known labels.
        count: Number of utterances of the test part, n.
    """
    joined = {name: probabilities(np.concatenate([by_part["dev"], by_part["test"]])) for name, by_part in votes.items()}
    combined = combine_votes(joined, np.concatenate([dev.truth, np.full(count, -1)]))
    return np.log(np.maximum(combined.probs[-count:], 1e-12))


def votes_table(samples: Mapping[str, Sample], scores: Scores, folder: Path, seed: int, echo: Echo) -> None:
    """Print the table of votes and the table of paired differences."""
    train, dev, test = (samples[part] for part in ("train", "dev", "test"))
    majority = np.tile(
        np.log(np.bincount(train.truth, minlength=len(MER_LABELS)) / len(train.truth)), (len(test.truth), 1)
    )
    fitted = {}
    for name, settings in {
        "temperature": {"bias": False},
        "bias": {"temperature": 1.0},
        "temperature and bias": {},
    }.items():
        fitted[name] = fit_calibration(scores.of("train"), train.truth, **settings)
    minilm = minilm_votes(samples, folder)
    llm = {part: fitted["temperature and bias"](scores.of(part)) for part in ("dev", "test")}
    rows = {
        "label shares of the train part (majority)": majority,
        "LLM raw": scores.of("test", "none"),
        "LLM minus content-free": scores.of("test", "content_free"),
        "LLM minus everyday": scores.of("test"),
        **{f"LLM minus everyday, fitted {name}": fit(scores.of("test")) for name, fit in fitted.items()},
        f"LLM minus everyday, both fitted on {FITTED_ON} only": fit_calibration(
            scores.of("train")[:FITTED_ON], train.truth[:FITTED_ON]
        )(scores.of("test")),
    }
    for number in range(DRAWN):
        plain, calibrated = with_examples(samples, folder, seed + number)
        rows[f"LLM, examples of the corpus ({number + 1}), minus everyday"] = plain
        rows[f"LLM, examples of the corpus ({number + 1}), both fitted on {FITTED_ON}"] = calibrated
    rows["MiniLM, linear voter"] = minilm["test"]
    rows["MiniLM through combine_votes"] = combined_votes({"minilm": minilm}, dev, len(test.truth))
    rows["MiniLM and LLM through combine_votes"] = combined_votes({"minilm": minilm, "llm": llm}, dev, len(test.truth))
    echo(HEADER)
    for name, row in rows.items():
        echo(line(name, row, test, seed))
    echo("\n| paired difference in weighted F1 | value | 95% interval |\n|---|---|---|")
    best = "LLM minus everyday, fitted temperature and bias"
    for first, second in (
        ("LLM minus content-free", "LLM raw"),
        ("LLM minus everyday", "LLM raw"),
        (best, "LLM raw"),
        (best, "LLM minus everyday"),
        (best, "label shares of the train part (majority)"),
        *(
            (
                f"LLM, examples of the corpus ({number + 1}), both fitted on {FITTED_ON}",
                f"LLM minus everyday, both fitted on {FITTED_ON} only",
            )
            for number in range(DRAWN)
        ),
        ("MiniLM, linear voter", best),
        ("MiniLM and LLM through combine_votes", "MiniLM through combine_votes"),
    ):
        predictions = [rows[name].argmax(axis=1) for name in (first, second)]
        echo(difference(f"{first} - {second}", predictions[0], predictions[1], test, seed))


def few_labels_table(samples: Mapping[str, Sample], scores: Scores, seed: int, echo: Echo, draws: int = 40) -> None:
    """Print the gain of a fitted calibration by the number of labelled clips, evaluated on the dev part."""
    train, dev = samples["train"], samples["dev"]
    dev_scores = scores.of("dev")
    echo(f"\n| labelled clips ({draws} draws: mean, 5%, 95%) | log-loss - unfitted | weighted F1 - unfitted |")
    echo("|---|---|---|")
    rng = np.random.default_rng(seed)
    unfitted = _loss_and_f1(dev_scores, dev.truth)
    for count in (count for count in (*FEW_LABELS, len(train.truth)) if count >= MIN_LABELLED):
        gains = []
        for _ in range(draws if count < len(train.truth) else 1):
            drawn = rng.choice(len(train.truth), count, replace=False)
            fit = fit_calibration(scores.of("train")[drawn], train.truth[drawn])
            gains.append(_loss_and_f1(fit(dev_scores), dev.truth) - unfitted)
        cells = [
            f"{gain.mean():+.3f} ({np.quantile(gain, 0.05):+.3f} to {np.quantile(gain, 0.95):+.3f})"
            for gain in np.array(gains).T
        ]
        echo(f"| {count} | {' | '.join(cells)} |")
    echo(f"unfitted (reference): log-loss {unfitted[0]:.3f}, weighted F1 {unfitted[1]:.3f}")


def _loss_and_f1(log_scores: Floats, truth: Ints) -> Floats:
    from sklearn.metrics import f1_score

    probs = probabilities(log_scores)
    loss = -np.log(probs[np.arange(len(truth)), truth]).mean()
    return np.array([loss, f1_score(truth, probs.argmax(axis=1), average="weighted", zero_division=0)])
