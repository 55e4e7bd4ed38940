"""Sample utterances of MELD, score them with the embedded LLM and embed them with MiniLM; results are cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.clips import Clip, ClipText
from ecmf_pipeline.core.files import fingerprint, sha256_text
from ecmf_pipeline.corpora.config import MER_LABELS, CorpusConfig
from ecmf_pipeline.corpora.meld import read_meld
from ecmf_pipeline.encoders.config import TextConfig
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.llm.answers import AnswerFiles
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Calibration, Prompt
from ecmf_pipeline.llm.scoring import label_scores

MELD = Path(__file__).parents[4] / "shared" / "data" / "meld"
PARTS = ("train", "dev", "test")

WORKERS = 2
"""Number of processes, each with one thread: on a busy machine, threads of one matrix product wait for each other."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Utterances of one part of MELD that have one of the six labels.

    Attributes:
        part: train, dev or test.
        names: Clip ids, (n,).
        texts: Texts of the utterances, (n,).
        previous: Text of the previous utterance of the dialogue, (n,); "" for the first utterance.
        truth: Index of the label in `MER_LABELS`, (n,).
        dialogues: Dialogue of each utterance, (n,).
    """

    part: str
    names: list[str]
    texts: list[str]
    previous: list[str]
    truth: Ints
    dialogues: NDArray[np.str_]

    def only(self, rows: NDArray[np.bool_] | Ints) -> Sample:
        """Return a subset of the utterances.

        Args:
            rows: A mask, (n,), or indices, (m,).
        """
        indices = np.arange(len(self.texts))[rows].tolist()
        texts, previous, names = (
            [values[row] for row in indices] for values in (self.texts, self.previous, self.names)
        )
        return Sample(self.part, names, texts, previous, self.truth[rows], self.dialogues[rows])


def read_samples(sizes: dict[str, int], seed: int, root: Path = MELD) -> dict[str, Sample]:
    """Draw utterances of each part from those that `corpora.meld` reads.

    Args:
        sizes: Number of utterances of each part.
        seed: Seed; each part has a separate random stream, so its draw does not depend on the sizes of the others.
        root: Folder of the csv files of MELD.

    Raises:
        CorpusError: If the files do not exist.
    """
    clips = {str(clip.clip_id): clip for clip in read_meld(CorpusConfig(kind="meld", root=root)).clips}
    return {
        part: _draw(clips, part, size, np.random.default_rng([seed, PARTS.index(part)])) for part, size in sizes.items()
    }


def _draw(clips: dict[str, Clip], part: str, size: int, rng: np.random.Generator) -> Sample:
    labels = {name: clip.gold_label or clip.given_label for name, clip in clips.items() if name.startswith(f"{part}_")}
    names = sorted(name for name, label in labels.items() if label and clips[name].transcript.strip())
    chosen = [names[row] for row in rng.permutation(len(names))[:size]]
    return Sample(
        part,
        chosen,
        [clips[name].transcript for name in chosen],
        [_previous_text(clips, name) for name in chosen],
        np.array([MER_LABELS.index(labels[name]) for name in chosen], np.int64),
        np.array([clips[name].group for name in chosen]),
    )


def _previous_text(clips: dict[str, Clip], name: str) -> str:
    dialogue, number = name.rsplit("_utt", 1)
    previous = clips.get(f"{dialogue}_utt{int(number) - 1}")
    return previous.transcript if previous else ""


def raw_scores(
    texts: Sequence[str],
    folder: Path,
    *,
    name: str,
    prompt: Prompt | None = None,
    calibration: Calibration = "none",
) -> Floats:
    """Return the log-likelihood of each label under the embedded LLM, (n, 6); scores are cached.

    Args:
        texts: Texts of the utterances, (n,), none of them blank.
        folder: Folder of the cached scores.
        name: Name of the quarantine table.
        prompt: The prompt with examples of the corpus; None: the packaged prompt.
        calibration: Which mean scores are subtracted.
    """
    scores = label_scores(
        LlmConfig(calibration=calibration, workers=WORKERS),
        {f"{number:06d}": text for number, text in enumerate(texts)},
        MER_LABELS,
        answer_files=AnswerFiles("vote", folder / "scores", folder / ".waiting", folder / f"quarantine-{name}.csv"),
        prompt=prompt,
    )
    return scores.values


def embedded(texts: Sequence[str], folder: Path) -> Floats:
    """Return the MiniLM embeddings of the text encoder, (n, 384); embeddings are cached.

    Args:
        texts: Texts, (n,); the embedding of a blank one is zero.
        folder: Folder of the cached embeddings.
    """
    config = TextConfig(model="data/models/minilm", inputs="original").named("minilm")
    file = folder / f"minilm-{fingerprint({'texts': [sha256_text(text) for text in texts]})}.npy"
    if file.is_file():
        cached: Floats = np.load(file)
        return cached
    encoder = build_encoder(config, "cpu")
    order = sorted((row for row, text in enumerate(texts) if text.strip()), key=lambda row: len(texts[row]))
    values = np.zeros((len(texts), 384))
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        for row, encoding in zip(rows, encoder.encode([ClipText(texts[row], "") for row in rows]), strict=True):
            values[row] = encoding.values.mean(axis=0)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(file, values)
    return values
