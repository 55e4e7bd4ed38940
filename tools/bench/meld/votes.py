"""The embedded LLM's votes on MELD, raw and calibrated, beside MiniLM's and together with them."""

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
from ecmf_pipeline.llm.votes import LEAST_LABELLED, fit_calibration, prompts_by_fold
from tools.bench.meld.figures import HEADER, difference, line
from tools.bench.meld.sample import Floats, Ints, Sample, embedded, raw_scores

PROMPT = "emotion_en"
FITTED_ON = 300
"""Utterances on which the scores under drawn examples are calibrated; the examples are drawn from the others."""
DRAWN = 2
"""How often examples are drawn."""
FEW = (30, 60, 120, 300, 600)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scores:
    """What the LLM says under the packaged prompt.

    Attributes:
        raw: Log-likelihoods by part, (n, 6) each.
        leans: What each way of calibrating subtracts from every row, (6,).
    """

    raw: Mapping[str, Floats]
    leans: Mapping[str, Floats]

    def of(self, part: str, lean: str = "everyday") -> Floats:
        """The scores of a part, (n, 6), less a lean."""
        return self.raw[part] - self.leans[lean]


def ask(samples: Mapping[str, Sample], folder: Path) -> Scores:
    """Ask for all scores under the packaged prompt."""
    raw = {part: raw_scores(sample.texts, folder, name=part) for part, sample in samples.items()}
    one, own = samples["test"].texts[:1], raw["test"][0]
    leans = {"none": np.zeros(len(MER_LABELS))}
    for kind in ("content_free", "everyday"):
        leans[kind] = own - raw_scores(one, folder, name=kind, calibration=kind)[0]
    return Scores(raw, leans)


def minilm_votes(samples: Mapping[str, Sample], folder: Path) -> dict[str, Floats]:
    """Log-probabilities of the package's linear voter on MiniLM, fitted on the train part, of dev and test, (n, 6)."""
    features = {part: embedded(sample.texts, folder) for part, sample in samples.items()}
    voter = LinearConfig()
    both = np.concatenate([features["dev"], features["test"]])
    votes = np.log(vote(voter, features["train"], samples["train"].truth, both, seed=0))
    return {"dev": votes[: len(features["dev"])], "test": votes[len(features["dev"]) :]}


def with_examples(samples: Mapping[str, Sample], folder: Path, seed: int) -> tuple[Floats, Floats]:
    """Scores of the test part with examples of the train part, less the everyday mean: as they are, and calibrated."""
    train, test = samples["train"], samples["test"]
    judged = np.arange(len(train.texts)) < FITTED_ON
    prompts = prompts_by_fold(
        load_prompt(PROMPT), train.texts, train.truth, MER_LABELS, np.where(judged, 0, 1), seed=seed
    )
    prompt = prompts[0]
    everyday = prompt.calibration_texts("everyday")
    texts = [*everyday, *train.texts[:FITTED_ON], *test.texts]
    found = raw_scores(texts, folder, name=f"examples-{seed}", prompt=prompt)
    scores = found - found[: len(everyday)].mean(axis=0)
    fit, asked = scores[len(everyday) : -len(test.texts)], scores[-len(test.texts) :]
    return asked, fit_calibration(fit, train.truth[judged])(asked)


def together(votes: Mapping[str, Mapping[str, Floats]], dev: Sample, count: int) -> Floats:
    """What `combine_votes` says of the test part, (n, 6), as log-probabilities, with the dev part's labels as gold.

    Args:
        votes: Log-scores of dev and test by source; none of them was fitted on either.
        dev: The part whose labels are known.
        count: Utterances of the test part, n.
    """
    joined = {name: probabilities(np.concatenate([own["dev"], own["test"]])) for name, own in votes.items()}
    combined = combine_votes(joined, np.concatenate([dev.truth, np.full(count, -1)]))
    return np.log(np.maximum(combined.probs[-count:], 1e-12))


def votes_table(samples: Mapping[str, Sample], scores: Scores, folder: Path, seed: int, say: Say) -> None:
    """Print the table of votes and that of paired differences."""
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
        "LLM less content-free": scores.of("test", "content_free"),
        "LLM less everyday": scores.of("test"),
        **{f"LLM less everyday, fitted {name}": fit(scores.of("test")) for name, fit in fitted.items()},
        f"LLM less everyday, both fitted on {FITTED_ON} only": fit_calibration(
            scores.of("train")[:FITTED_ON], train.truth[:FITTED_ON]
        )(scores.of("test")),
    }
    for number in range(DRAWN):
        plain, calibrated = with_examples(samples, folder, seed + number)
        rows[f"LLM, examples of the corpus ({number + 1}), less everyday"] = plain
        rows[f"LLM, examples of the corpus ({number + 1}), both fitted on {FITTED_ON}"] = calibrated
    rows["MiniLM, linear voter"] = minilm["test"]
    rows["MiniLM through combine_votes"] = together({"minilm": minilm}, dev, len(test.truth))
    rows["MiniLM and LLM through combine_votes"] = together({"minilm": minilm, "llm": llm}, dev, len(test.truth))
    say(HEADER)
    for name, row in rows.items():
        say(line(name, row, test, seed))
    say("\n| paired difference in weighted F1 | value | 95% interval |\n|---|---|---|")
    best = "LLM less everyday, fitted temperature and bias"
    for first, second in (
        ("LLM less content-free", "LLM raw"),
        ("LLM less everyday", "LLM raw"),
        (best, "LLM raw"),
        (best, "LLM less everyday"),
        (best, "label shares of the train part (majority)"),
        *(
            (
                f"LLM, examples of the corpus ({number + 1}), both fitted on {FITTED_ON}",
                f"LLM less everyday, both fitted on {FITTED_ON} only",
            )
            for number in range(DRAWN)
        ),
        ("MiniLM, linear voter", best),
        ("MiniLM and LLM through combine_votes", "MiniLM through combine_votes"),
    ):
        choices = [rows[name].argmax(axis=1) for name in (first, second)]
        say(difference(f"{first} - {second}", choices[0], choices[1], test, seed))


def few_table(samples: Mapping[str, Sample], scores: Scores, seed: int, say: Say, draws: int = 40) -> None:
    """Print how many labelled clips a fitted calibration needs, judged on the dev part."""
    train, dev = samples["train"], samples["dev"]
    asked = scores.of("dev")
    say(f"\n| labelled clips ({draws} draws: mean, 5%, 95%) | log-loss, less unfitted | weighted F1, less unfitted |")
    say("|---|---|---|")
    rng = np.random.default_rng(seed)
    before = _loss_and_f1(asked, dev.truth)
    for count in (count for count in (*FEW, len(train.truth)) if count >= LEAST_LABELLED):
        gains = []
        for _ in range(draws if count < len(train.truth) else 1):
            some = rng.choice(len(train.truth), count, replace=False)
            fit = fit_calibration(scores.of("train")[some], train.truth[some])
            gains.append(_loss_and_f1(fit(asked), dev.truth) - before)
        cells = [
            f"{gain.mean():+.3f} ({np.quantile(gain, 0.05):+.3f} to {np.quantile(gain, 0.95):+.3f})"
            for gain in np.array(gains).T
        ]
        say(f"| {count} | {' | '.join(cells)} |")
    say(f"unfitted: log-loss {before[0]:.3f}, weighted F1 {before[1]:.3f}")


def _loss_and_f1(log_scores: Floats, truth: Ints) -> Floats:
    from sklearn.metrics import f1_score

    probs = probabilities(log_scores)
    loss = -np.log(probs[np.arange(len(truth)), truth]).mean()
    return np.array([loss, f1_score(truth, probs.argmax(axis=1), average="weighted", zero_division=0)])
