"""A model that scores texts by their length, says what it was asked, and breaks on certain words.

Importable by name, since workers must be able to unpickle what is made of it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.llm.answers import ScoreBooks
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.scoring import Scored, ScoringStep, score_texts

LABELS = ("angry", "happy")


@dataclass(frozen=True)
class Scripted:
    """Builds the model. ``folder`` is where it says what it was asked; ``seconds`` is how long each call takes."""

    folder: Path
    seconds: float = 0.0

    def __call__(self, worker: int) -> ScoringStep:
        (self.folder / "built").touch()
        return ScoringStep(ByLength(self), LABELS)

    @property
    def built(self) -> bool:
        return (self.folder / "built").exists()

    def calls(self) -> list[list[str]]:
        """The texts of each call, in order; those of calls that broke are there, too."""
        diary = self.folder / "diary"
        return [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []

    def asked(self) -> list[str]:
        return [text for call in self.calls() for text in call]


class ByLength:
    def __init__(self, script: Scripted) -> None:
        self._script = script
        self.cut: set[str] = set()

    def score(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        if texts:
            with (self._script.folder / "diary").open("a") as diary:
                diary.write(json.dumps(list(texts)) + "\n")
            time.sleep(self._script.seconds)
        for text in texts:
            self._read(text)
        scores = [[np.nan if "nan" in text else len(text) / 3, -1.0] for text in texts]
        return np.array(scores, dtype=np.float64).reshape(len(texts), len(labels))

    def _read(self, text: str) -> None:
        if "segfault" in text:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in text:
            time.sleep(60)
        if "gone" in text:
            raise ConnectionError("gone")
        if len(text) > 20:
            self.cut.add(text)


def books(folder: Path, stage: str = "rewrite", *earlier: ScoreBooks) -> ScoreBooks:
    return ScoreBooks(stage, folder / stage / "cache", folder / f".{stage}.spool", folder / f"{stage}.csv", earlier)


def ask(
    folder: Path,
    texts: Sequence[str],
    *,
    workers: int = 0,
    batch_size: int = 3,
    seconds: float = 0.0,
    fingerprint: str = "f",
    stage: ScoreBooks | None = None,
    retry: bool = False,
    clip_timeout: float = 30.0,
    max_quarantined: float = 1.0,
) -> Scored:
    """Have the scripted model score texts; the n-th is what clip ``cn`` says."""
    return score_texts(
        {f"c{number}": text for number, text in enumerate(texts)},
        LABELS,
        fingerprint=fingerprint,
        books=replace(stage or books(folder), retry_quarantined=retry),
        steps=Scripted(folder, seconds),
        config=LlmConfig(
            batch_size=batch_size, workers=workers, clip_timeout=clip_timeout, max_quarantined=max_quarantined
        ),
    )


def main(folder: str, workers: str, count: str) -> None:
    """A slow run in a process of its own, to send signals to."""
    ask(Path(folder), [f"text {number:03d}" for number in range(int(count))], workers=int(workers), seconds=0.05)
