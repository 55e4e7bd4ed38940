"""Settings of the transcription. This module imports neither torch nor numpy."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.encoders.base_config import ModelSource, locate_model

RECIPE = 1
"""Incremented with every code change that changes transcripts."""

_HINT = "set it to a Whisper model: a hub id such as openai/whisper-small, or a folder written by transformers"


class TranscribeConfig(Config):
    """Settings of the `transcribe` stage.

    The stage transcribes clips that have sound but no transcript. Transcripts of the corpus are never replaced.

    Attributes:
        model: A Whisper model: a local folder or a hub id (openai/whisper-small). None: nothing is transcribed.
        revision: Branch, tag or commit on the hub. After the download, a branch stays at the commit in the local cache.
        language: Code of the spoken language (en, zh). None: the model detects it for each clip.
        min_confidence: Lower limit of the mean log-probability of the tokens; transcripts below it are not used.
        max_repetition: Upper limit of the compression ratio of the transcript. Above it, the model has repeated itself,
            and the transcript is not used.
        max_tokens: Maximum number of tokens per window (30 s).
        dtype: Data type of the model. The half types need a processor or GPU that supports them.
        batch_size: Windows per forward pass; also the most clips that a crash loses.
        device: A torch device; "auto" uses CUDA if available.
        workers: Number of worker processes, each with a copy of the model. None: one per core. 0: run in the main
            process.
        clip_timeout: Seconds allowed per clip, on average over a batch. A clip that exceeds it twice is quarantined
            until this value is raised.
        max_quarantined: Share of the clips to transcribe that may be quarantined; above it, the stage ends with exit
            code 1.
    """

    model: str | None = None
    revision: str = "main"
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    min_confidence: float = Field(default=-1.0, le=0)
    max_repetition: float = Field(default=2.4, gt=1)
    max_tokens: int = Field(default=224, gt=0)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = Field(default=4, gt=0)
    device: str = "auto"
    workers: int | None = Field(default=1, ge=0)
    clip_timeout: float = Field(default=300.0, gt=0)
    max_quarantined: float = Field(default=0.2, ge=0, le=1)

    def source(self) -> ModelSource:
        """Locate the weights of the model; `settings` hashes the same files.

        Raises:
            ModelError: If the model does not exist.
            ParamsError: If ``transcribe.model`` is not set.
        """
        if self.model is None:
            raise ParamsError("transcribe.model is not set", _HINT, keys=["transcribe.model"])
        return locate_model(self.model, self.revision, hint=f"transcribe.model: {_HINT}")

    def settings(self) -> dict[str, Any]:
        """Return the settings that change transcripts, as JSON values.

        The limits that decide whether a transcript is used are not included: they apply to cached transcripts.

        Raises:
            ModelError: If the model does not exist.
        """
        if self.model is None:
            return {"used": False}
        return {
            "weights": self.source().settings(),
            "language": self.language,
            "max_tokens": self.max_tokens,
            "dtype": self.dtype,
            "recipe": RECIPE,
        }
