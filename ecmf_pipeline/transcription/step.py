"""The runner's step that listens to clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.errors import ChangedSinceIndex
from ecmf_pipeline.media import has_changed, read_audio
from ecmf_pipeline.memory import want_of_memory
from ecmf_pipeline.runner import Outcome, Step, Target
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.heard import Heard

if TYPE_CHECKING:
    from ecmf_pipeline.transcription.whisper import WhisperTranscriber


@dataclass(frozen=True, slots=True)
class Recording:
    """A file to be listened to.

    Attributes:
        path: The file.
        bytes: Its size when it was indexed.
        targets: The clips that it is.
    """

    path: Path
    bytes: int
    targets: tuple[Target, ...]

    def alone(self) -> Sequence[Recording]:
        """Itself."""
        return [self]


@dataclass(frozen=True, slots=True)
class ListeningSteps:
    """Makes the step of each worker, in that worker.

    Attributes:
        config: The model.
    """

    config: TranscribeConfig

    def __call__(self, worker: int) -> ListeningStep:
        """Load the model; workers share out the GPUs there are."""
        import torch

        from ecmf_pipeline.transcription.whisper import WhisperTranscriber

        config = self.config
        if config.device in {"auto", "cuda"} and torch.cuda.is_available():
            config = config.model_copy(update={"device": f"cuda:{worker % torch.cuda.device_count()}"})
        return ListeningStep(WhisperTranscriber(config))


class ListeningStep(Step[Recording, NDArray[np.float32], Heard]):
    """Writes down what is said in files."""

    def __init__(self, model: WhisperTranscriber) -> None:
        self._model = model

    def open(self, item: Recording) -> NDArray[np.float32]:
        """The sound, mono 16 kHz, (n,).

        Raises:
            ClipError: When there is none, or it cannot be decoded.
        """
        if has_changed(item.path, item.bytes):
            raise ChangedSinceIndex("the file has changed since it was indexed: run `ecmf-pipe index`")
        with want_of_memory():
            return read_audio(item.path)

    def work(self, batch: Sequence[tuple[Recording, NDArray[np.float32]]]) -> list[Outcome[Heard]]:
        """Listen to several files."""
        outcomes: list[Outcome[Heard]] = []
        for (item, _), found in zip(batch, self._model.transcribe([sound for _, sound in batch]), strict=True):
            outcomes += [
                Outcome(target, Heard(target.digest, found.text, found.confidence, found.language))
                for target in item.targets
            ]
        return outcomes
