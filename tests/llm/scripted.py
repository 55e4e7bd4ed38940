"""A model that scores texts by their length, logs its calls and fails on certain words.

Steps with it are picklable, as workers require.
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

from ecmf_pipeline.llm.answers import AnswerFiles
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.scoring import ScoringResult, ScoringStep, score_texts

LABELS = ("angry", "happy")


@dataclass(frozen=True)
class ScriptedModel:
    """Factory of the model.

    Attributes:
        folder: Folder of the log.
        seconds: Duration of each call.
    """

    folder: Path
    seconds: float = 0.0

    def __call__(self, worker: int) -> ScoringStep:
        (self.folder / "built").touch()
        return ScoringStep(LengthScorer(self), LABELS)

    @property
    def built(self) -> bool:
        return (self.folder / "built").exists()

    def calls(self) -> list[list[str]]:
        """Return the texts of each call, in order, including calls that failed."""
        log = self.folder / "log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def texts(self) -> list[str]:
        """Return the texts of all calls, in order."""
        return [text for call in self.calls() for text in call]


class LengthScorer:
    def __init__(self, model: ScriptedModel) -> None:
        self._model = model
        self.truncated: set[str] = set()

    def score(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        if texts:
            with (self._model.folder / "log").open("a") as log:
                log.write(json.dumps(list(texts)) + "\n")
            time.sleep(self._model.seconds)
        for text in texts:
            self._apply_fault(text)
        scores = [[np.nan if "nan" in text else len(text) / 3, -1.0] for text in texts]
        return np.array(scores, dtype=np.float64).reshape(len(texts), len(labels))

    def _apply_fault(self, text: str) -> None:
        if "segfault" in text:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in text:
            time.sleep(60)
        if "gone" in text:
            raise ConnectionError("gone")
        if len(text) > 20:
            self.truncated.add(text)


def answer_files(folder: Path, stage: str = "rewrite", *earlier: AnswerFiles) -> AnswerFiles:
    return AnswerFiles(stage, folder / stage / "cache", folder / f".{stage}.spool", folder / f"{stage}.csv", earlier)


def score(
    folder: Path,
    texts: Sequence[str],
    *,
    workers: int = 0,
    batch_size: int = 3,
    seconds: float = 0.0,
    fingerprint: str = "f",
    stage: AnswerFiles | None = None,
    retry: bool = False,
    clip_timeout: float = 30.0,
    max_quarantined: float = 1.0,
) -> ScoringResult:
    """Score texts with the scripted model; text n is the transcript of clip ``cn``."""
    return score_texts(
        {f"c{number}": text for number, text in enumerate(texts)},
        LABELS,
        fingerprint=fingerprint,
        answer_files=replace(stage or answer_files(folder), retry_quarantined=retry),
        steps=ScriptedModel(folder, seconds),
        config=LlmConfig(
            batch_size=batch_size, workers=workers, clip_timeout=clip_timeout, max_quarantined=max_quarantined
        ),
    )


def main(folder: str, workers: str, count: str) -> None:
    """Run a slow scoring in this process, as the target of signals."""
    score(Path(folder), [f"text {number:03d}" for number in range(int(count))], workers=int(workers), seconds=0.05)
