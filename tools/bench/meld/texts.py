"""Gain of MiniLM on MELD from the enriched text; alternatives: the previous utterance, and the scores of the LLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.labels.voters import clip_weights
from ecmf_pipeline.llm.config import RewriteConfig
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.rewriting import enrich
from ecmf_pipeline.llm.scoring import probabilities
from tools.bench.meld.figures import format_interval, samples_of, score
from tools.bench.meld.sample import Floats, Ints, Sample, embedded
from tools.bench.meld.votes import PROMPT, Scores

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Candidates of the inverse penalty; chosen on the dev part for each kind of features."""

SIZES = ((120, 10), (600, 5), (None, 1))
"""Number of training utterances (None: all), and number of draws."""

Echo = Callable[[str], None]
Inputs = Mapping[str, Floats]


def enriched_texts(sample: Sample, scores: Floats) -> list[str]:
    """Return the enriched texts of the default `rewrite` settings, (n,)."""
    prompt, config = load_prompt(PROMPT), RewriteConfig()
    probs = probabilities(scores, temperature=config.temperature)
    return [
        enrich(text, row, MER_LABELS, prompt=prompt, config=config)
        for text, row in zip(sample.texts, probs, strict=True)
    ]


def features_of(samples: Mapping[str, Sample], scores: Scores, folder: Path) -> dict[str, Inputs]:
    """Return the features by kind and part."""
    raw = {part: embedded(sample.texts, folder) for part, sample in samples.items()}
    enriched = {part: embedded(enriched_texts(sample, scores.of(part)), folder) for part, sample in samples.items()}
    previous = {part: embedded(sample.previous, folder) for part, sample in samples.items()}
    llm_scores = {part: scores.of(part) for part in samples}

    def joined(*kinds: Inputs) -> Inputs:
        return {part: np.hstack([kind[part] for kind in kinds]) for part in samples}

    return {
        "raw": raw,
        "enriched": enriched,
        "raw + enriched": joined(raw, enriched),
        "raw + six scores of the LLM": joined(raw, llm_scores),
        "raw + previous utterance": joined(raw, previous),
        "raw + enriched + previous utterance": joined(raw, enriched, previous),
    }


def texts_table(samples: Mapping[str, Sample], scores: Scores, folder: Path, seed: int, echo: Echo) -> None:
    """Print weighted F1 of each kind of features and its paired difference to the raw text."""
    kinds = features_of(samples, scores, folder)
    train, test = samples["train"], samples["test"]
    echo(
        f"\n| {'MiniLM on':<40} | training utterances | weighted F1 | minus raw | 95% interval |\n|---|---|---|---|---|"
    )
    for size, draws in SIZES:
        count = size or len(train.truth)
        if count > len(train.truth):
            continue
        rng = np.random.default_rng(seed)
        parts = [np.sort(rng.choice(len(train.truth), count, replace=False)) for _ in range(draws)]
        predictions = {kind: [_predict_test(inputs, samples, rows) for rows in parts] for kind, inputs in kinds.items()}
        for kind, classes in predictions.items():
            f1 = np.mean([score(predicted, test, seed)[0] for predicted in classes])
            # The same seed draws the same dialogues, so samples of several training draws can be averaged.
            pairs = [samples_of(own, raw, test, seed) for own, raw in zip(classes, predictions["raw"], strict=True)]
            gain = np.mean([value for value, _ in pairs])
            interval = format_interval(np.mean([drawn for _, drawn in pairs], axis=0)) if kind != "raw" else "-"
            trained = f"{count}" + (f", {draws} draws" if draws > 1 else "")
            echo(f"| {kind:<40} | {trained} | {f1:.3f} | {gain:+.3f} | {interval} |")


def _predict_test(inputs: Inputs, samples: Mapping[str, Sample], rows: Ints) -> Ints:
    """Return the classes of the test part, (n,), predicted by the classifier that is best on the dev part."""
    truth, features = samples["train"].truth[rows], inputs["train"][rows]
    models = [_classifier(penalty, features, truth) for penalty in PENALTIES]
    on_dev = [
        f1_score(samples["dev"].truth, model.predict(inputs["dev"]), average="weighted", zero_division=0)
        for model in models
    ]
    predicted: Ints = models[int(np.argmax(on_dev))].predict(inputs["test"])
    return predicted


def _classifier(penalty: float, features: Floats, truth: Ints) -> Pipeline:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))
    return model.fit(features, truth, logisticregression__sample_weight=clip_weights(truth, 0.5))
