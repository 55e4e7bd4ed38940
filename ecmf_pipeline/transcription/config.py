"""Settings of the transcription; imports neither torch nor numpy."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.encoders.base_config import ModelSource, locate

RECIPE = 1
"""Raised with every change of code that changes what is heard."""

_HINT = "name a Whisper model: its hub id (openai/whisper-small), or a folder with it as transformers saves it"


class TranscribeConfig(Config):
    """The `transcribe` stage: words for clips with sound and without a transcript. Those of the corpus always stand.

    Attributes:
        model: A Whisper model: a local folder, or a hub id (openai/whisper-small); None: nothing is transcribed.
        revision: Branch, tag or commit on the hub. Once fetched, a branch stays at the commit in the local cache.
        language: What is spoken, by its code (en, zh); None: the model tells, clip by clip.
        min_confidence: Mean log-probability of the tokens below which a transcript is not used.
        max_repetition: How many times smaller the transcript's bytes may be when compressed; above it the model has
            repeated itself, however sure it is, and the transcript is not used.
        max_tokens: Most tokens of a window (30 s).
        dtype: Arithmetic of the model. The half types are for processors and GPUs that have them.
        batch_size: Windows in one forward pass; also the clips that a crash costs at most.
        device: A torch device; "auto" takes CUDA where there is one.
        workers: Processes that listen side by side, each with a copy of the model. None: one for each core; 0: none,
            the main process does.
        clip_timeout: Seconds that one clip may take on average of a batch. One that takes longer, twice, is set aside.
        max_quarantined: Share of the clips without words that may be bad before the stage stops with exit code 1.
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
        """Where the model is loaded from; what `settings` hashes is what is loaded.

        Raises:
            ModelError: When it cannot be found.
            ParamsError: When params name none.
        """
        if self.model is None:
            raise ParamsError("transcribe.model names no model", _HINT)
        return locate(self.model, self.revision, hint=f"transcribe.model: {_HINT}")

    def settings(self) -> dict[str, Any]:
        """All that changes what is heard, as plain JSON values; which transcripts are used is decided afterwards.

        Raises:
            ModelError: When the model cannot be found.
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
