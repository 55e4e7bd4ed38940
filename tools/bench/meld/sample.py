"""Utterances of MELD sampled by a seed, what the embedded LLM says of them and what MiniLM makes of them, each kept."""

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
from ecmf_pipeline.llm.answers import ScoreBooks
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Calibration, Prompt
from ecmf_pipeline.llm.scoring import label_scores

MELD = Path(__file__).parents[4] / "shared" / "data" / "meld"
PARTS = ("train", "dev", "test")

WORKERS = 2
"""Processes that ask, of one thread each on two cores: on a busy machine threads of one product wait for each other."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Utterances of one part of MELD that have one of the six labels.

    Attributes:
        part: train, dev or test.
        names: The clips' ids, (n,).
        texts: What each says, (n,).
        before: What was said before it in its dialogue, (n,); "" for the first utterance.
        truth: Index of the label in `MER_LABELS`, (n,).
        dialogues: Dialogue of each, (n,).
    """

    part: str
    names: list[str]
    texts: list[str]
    before: list[str]
    truth: Ints
    dialogues: NDArray[np.str_]

    def only(self, rows: NDArray[np.bool_] | Ints) -> Sample:
        """Some of them.

        Args:
            rows: A mask, (n,), or which ones, (m,).
        """
        some = np.arange(len(self.texts))[rows].tolist()
        texts, before, names = ([values[row] for row in some] for values in (self.texts, self.before, self.names))
        return Sample(self.part, names, texts, before, self.truth[rows], self.dialogues[rows])


def read_samples(sizes: dict[str, int], seed: int, root: Path = MELD) -> dict[str, Sample]:
    """Draw utterances of each part, as `corpora.meld` reads them.

    Args:
        sizes: How many of each part.
        seed: Draws them; each part has its own stream, so that one's size does not change another's.
        root: Folder of MELD's csv files.

    Raises:
        CorpusError: When they are not there.
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
        [_before(clips, name) for name in chosen],
        np.array([MER_LABELS.index(labels[name]) for name in chosen], np.int64),
        np.array([clips[name].group for name in chosen]),
    )


def _before(clips: dict[str, Clip], name: str) -> str:
    dialogue, number = name.rsplit("_utt", 1)
    former = clips.get(f"{dialogue}_utt{int(number) - 1}")
    return former.transcript if former else ""


def raw_scores(
    texts: Sequence[str],
    folder: Path,
    *,
    name: str,
    prompt: Prompt | None = None,
    calibration: Calibration = "none",
) -> Floats:
    """Log-likelihood of each label under the embedded LLM, (n, 6); what was asked once is not asked again.

    Args:
        texts: What is said, (n,), none of it blank.
        folder: Keeps the scores.
        name: Names the table of what is set aside.
        prompt: The prompt with examples of the corpus; None: as it is packaged.
        calibration: What is subtracted.
    """
    found = label_scores(
        LlmConfig(calibration=calibration, workers=WORKERS),
        {f"{number:06d}": text for number, text in enumerate(texts)},
        MER_LABELS,
        books=ScoreBooks("vote", folder / "scores", folder / ".waiting", folder / f"quarantine-{name}.csv"),
        prompt=prompt,
    )
    return found.values


def embedded(texts: Sequence[str], folder: Path) -> Floats:
    """MiniLM's sentence embeddings, (n, 384), as the text branch makes them; what was embedded once is kept.

    Args:
        texts: What to embed, (n,); a blank one gets a row of zeros, which says no more than that nothing was said.
        folder: Keeps the embeddings.
    """
    config = TextConfig(model="data/models/minilm", inputs="original").named("minilm")
    file = folder / f"minilm-{fingerprint({'texts': [sha256_text(text) for text in texts]})}.npy"
    if file.is_file():
        kept: Floats = np.load(file)
        return kept
    encoder = build_encoder(config, "cpu")
    said = sorted((row for row, text in enumerate(texts) if text.strip()), key=lambda row: len(texts[row]))
    values = np.zeros((len(texts), 384))
    for start in range(0, len(said), 32):
        rows = said[start : start + 32]
        for row, encoding in zip(rows, encoder.encode([ClipText(texts[row], "") for row in rows]), strict=True):
            values[row] = encoding.values.mean(axis=0)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(file, values)
    return values
