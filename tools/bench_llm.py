"""What the embedded LLM is worth on MELD's real utterances: its votes, raw and calibrated, and its enriched texts.

Run as ``python -m tools.bench_llm FOLDER``, where FOLDER keeps the scores (a second run asks nothing) and
``../shared/data/meld`` holds MELD's csv files. Everything is sampled by a seed; the test split is read for figures
only.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from ecmf_pipeline.files import fingerprint
from ecmf_pipeline.llm.calibration import fit_temperature
from ecmf_pipeline.llm.config import LlmConfig, RewriteConfig
from ecmf_pipeline.llm.local import TransformersScorer
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.rewrite import enrich
from ecmf_pipeline.llm.scoring import ScoreBooks, probabilities, scored, votes_from_scores
from ecmf_pipeline.llm.step import LocalScorers, ScoringSteps

LABELS = ("neutral", "joy", "anger", "sadness", "fear", "surprise", "disgust")
SIZES = {"train": 600, "dev": 300, "test": 600}
MELD = Path(__file__).parents[2] / "shared" / "data" / "meld"
MARGIN = 0.2
SEED = 7

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Utterances of one split: texts and labels (n,), and the calibrated and raw scores (n, K)."""

    texts: list[str]
    truth: Ints
    raw: Floats


def read(split: str) -> tuple[list[str], Ints]:
    """The utterances of a split that the seed picks, in their own order."""
    with (MELD / f"{split}_sent_emo.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Utterance"].strip()]
    chosen = np.sort(np.random.default_rng(SEED).choice(len(rows), SIZES[split], replace=False))
    return [rows[i]["Utterance"] for i in chosen], np.array([LABELS.index(rows[i]["Emotion"]) for i in chosen])


def ask(folder: Path, split: str, config: LlmConfig) -> Sample:
    """The raw label likelihoods of a split, each text asked once."""
    texts, truth = read(split)
    books = ScoreBooks("vote", folder / "cache", folder / ".spool", folder / f"quarantine-{split}.csv")
    found = scored(
        {f"{number:05d}": text for number, text in enumerate(texts)},
        LABELS,
        fingerprint=fingerprint(config.settings(LABELS)),
        books=books,
        steps=ScoringSteps(LocalScorers(config), LABELS),
        config=config,
    )
    return Sample(texts, truth, found.values)


def weighted_f1(truth: Ints, chosen: Ints) -> float:
    """Weighted F1 over the clips that got a vote."""
    return float(f1_score(truth, chosen, average="weighted", zero_division=0))


def interval(truth: Ints, chosen: Ints, draws: int = 1000) -> tuple[float, float]:
    """95% bootstrap interval of the weighted F1."""
    rng = np.random.default_rng(SEED)
    picks = [rng.integers(len(truth), size=len(truth)) for _ in range(draws)]
    low, high = np.percentile([weighted_f1(truth[pick], chosen[pick]) for pick in picks], [2.5, 97.5])
    return float(low), float(high)


def tell(name: str, truth: Ints, votes: Floats) -> None:
    """One line of the table: forced choice over all, then coverage, F1 and log-loss of the votes that are cast."""
    cast = np.isfinite(votes).all(axis=1)
    chosen = votes[cast].argmax(axis=1)
    low, high = interval(truth[cast], chosen)
    loss = -np.log(np.clip(votes[cast, truth[cast]], 1e-12, 1)).mean()
    print(  # noqa: T201
        f"{name:44} coverage {cast.mean():.3f}  weighted F1 {weighted_f1(truth[cast], chosen):.3f} "
        f"[{low:.3f}, {high:.3f}]  log-loss {loss:.3f}"
    )


def votes_table(samples: dict[str, Sample], baselines: dict[str, Floats], features: dict[str, Floats]) -> None:
    """The LLM's votes beside a logistic regression on MiniLM's embeddings."""
    dev, test = samples["dev"], samples["test"]
    for name, baseline in baselines.items():
        temperature = fit_temperature(dev.raw - baseline, dev.truth)
        scores = test.raw - baseline
        print(f"temperature fitted on dev, {name}: {temperature:.2f}")  # noqa: T201
        tell(f"LLM {name}, no margin", test.truth, probabilities(scores))
        tell(f"LLM {name}, no margin, temperature", test.truth, probabilities(scores, temperature=temperature))
        tell(f"LLM {name}, margin {MARGIN}", test.truth, votes_from_scores(scores, margin=MARGIN))
        calibrated = votes_from_scores(scores, margin=MARGIN, temperature=temperature)
        tell(f"LLM {name}, margin {MARGIN}, temperature", test.truth, calibrated)
    model = classifier().fit(features["train"], samples["train"].truth)
    tell(f"MiniLM + logistic regression ({SIZES['train']} train)", test.truth, model.predict_proba(features["test"]))


def classifier() -> LogisticRegression:
    """The voter beside which the LLM stands; its penalty was not tuned on the test split."""
    return LogisticRegression(C=3.0, max_iter=2000, class_weight=None)


def embed(texts: list[str]) -> Floats:
    """MiniLM's sentence embeddings, (n, D), as the text branch makes them."""
    from ecmf_pipeline.encoders.base import ClipText
    from ecmf_pipeline.encoders.config import TextConfig

    encoder = TextConfig(model="data/models/minilm", inputs="original").named("minilm").build("cpu")
    rows = []
    for start in range(0, len(texts), 16):
        encodings = encoder.encode([ClipText(text, "") for text in texts[start : start + 16]])
        rows += [encoding.values.mean(axis=0) for encoding in encodings]
    return np.array(rows, np.float64)


def enriched_table(samples: dict[str, Sample], baseline: Floats, features: dict[str, Floats]) -> None:
    """Whether the enriched text helps MiniLM: F1 of each, and the paired bootstrap interval of the difference."""
    prompt, config = load_prompt("emotion_en"), RewriteConfig()
    rich = {
        split: embed(
            [
                enrich(text, row, LABELS, prompt=prompt, config=config)
                for text, row in zip(samples[split].texts, probabilities(samples[split].raw - baseline), strict=True)
            ]
        )
        for split in ("train", "test")
    }
    truth = samples["test"].truth
    chosen: dict[str, Ints] = {}
    for name, inputs in {
        "original": features,
        "enriched": rich,
        "both": {split: np.hstack([features[split], rich[split]]) for split in rich},
    }.items():
        chosen[name] = classifier().fit(inputs["train"], samples["train"].truth).predict(inputs["test"])
        low, high = interval(truth, chosen[name])
        f1 = weighted_f1(truth, chosen[name])
        print(f"MiniLM on {name:9} weighted F1 {f1:.3f} [{low:.3f}, {high:.3f}]")  # noqa: T201
    rng = np.random.default_rng(SEED)
    for name in ("enriched", "both"):
        gains = []
        for _ in range(1000):
            pick = rng.integers(len(truth), size=len(truth))
            gains.append(
                weighted_f1(truth[pick], chosen[name][pick]) - weighted_f1(truth[pick], chosen["original"][pick])
            )
        low, high = np.percentile(gains, [2.5, 97.5])
        print(f"{name} - original: {np.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]")  # noqa: T201


def main(folder: Path) -> None:
    """Print both tables."""
    config = LlmConfig(calibration="none")
    samples = {split: ask(folder, split, config) for split in SIZES}
    scorer = TransformersScorer(config)
    prompt = load_prompt(config.prompt)
    baselines: dict[str, Floats] = {"raw": np.zeros(len(LABELS))}
    for name in ("content_free", "everyday"):
        baselines[name] = scorer.log_likelihoods(prompt.calibration_texts(name), LABELS).mean(axis=0)  # type: ignore[arg-type]
    features = {split: embed(samples[split].texts) for split in ("train", "test")}
    votes_table(samples, baselines, features)
    enriched_table(samples, baselines["everyday"], features)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
