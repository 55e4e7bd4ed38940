"""Settings of the transcription. This module imports neither numpy nor a model library."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.config import Config
from ecmf_pipeline.core.errors import MissingInput, ModelError, ParamsError
from ecmf_pipeline.core.weights import WHISPER
from ecmf_pipeline.encoders.base_config import (
    ModelSource,
    is_hub_id,
    locate_model,
    read_model_config,
    settings_without_weights,
)

RECIPE = 2
"""Incremented with every code change that changes transcripts."""
EMBEDDED = "embedded"
"""Value of ``transcribe.model`` for the model that ships inside Python packages."""

ComputeType = Literal["auto", "int8", "int8_float16", "int8_bfloat16", "float16", "bfloat16", "float32"]
"""Types of the weights and of matrix products, as CTranslate2 names them."""

_HINT = (
    "set it to embedded, to a Whisper model of the hub in the format of CTranslate2 (Systran/faster-whisper-small), or "
    "to a folder with such a model"
)


class TranscribeConfig(Config):
    """Settings of the `transcribe` stage.

    The stage transcribes clips that have sound but no transcript. Transcripts of the corpus are replaced only by the
    corrections table. The four limits decide whether a transcript is used; they apply to cached transcripts too.

    Attributes:
        model: A Whisper model in the format of CTranslate2: ``embedded`` (Whisper base, which ships inside Python
            packages), a hub id (Systran/faster-whisper-small) or a local folder. null: nothing is transcribed.
        revision: Branch, tag or commit on the hub. After the download, a branch stays at the commit in the local cache.
        language: Code of the spoken language (en, zh). null: the model detects it for each clip.
        beam_size: Number of hypotheses of the beam search; 1 is greedy decoding, which is faster.
        min_confidence: Lower limit of the mean log-probability of the tokens.
        max_no_speech: Upper limit of the probability of the model that there is no speech. With Whisper base it is
            below 0.2 for speech, also in noise, and above 0.6 for words that it invents on sound without speech.
        max_repetition: Upper limit of the compression ratio of the text. Above it, the model has repeated itself.
        min_loudness: Lower limit of the level of the speech, in dBFS (RMS). Quieter sound is noise to a listener.
        corrections: Csv or Excel file of transcripts that people have corrected, ``name,text``. They replace all other
            transcripts; an empty text means that nobody speaks. The default may be missing; null if there are none.
            Track it with Git.
        compute_type: Type of the weights and of matrix products. auto: int8 on the CPU, float16 on CUDA. Transcripts
            of different types have different fingerprints.
        batch_size: Clips that a worker processes between two writes; the most clips that a crash loses.
        device: cpu, cuda, cuda:<n>, or auto: CUDA if available.
        workers: Number of worker processes, each with a copy of the model. null: one for each core. 0: run in the main
            process.
        clip_timeout: Seconds allowed for each clip, on average over a batch. Long clips get their duration in addition.
            A clip that exceeds it twice is quarantined until this value is raised.
        max_quarantined: Share of the clips to transcribe that may be quarantined; above it, the stage ends with exit
            code 1.
    """

    model: str | None = EMBEDDED
    revision: str = "main"
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    beam_size: int = Field(default=5, gt=0, le=20)
    min_confidence: float = Field(default=-1.0, le=0)
    max_no_speech: float = Field(default=0.4, gt=0, le=1)
    max_repetition: float = Field(default=2.4, gt=1)
    min_loudness: float = Field(default=-60.0, le=0)
    corrections: str | None = paths.CORRECTIONS.as_posix()
    compute_type: ComputeType = "auto"
    batch_size: int = Field(default=4, gt=0)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    workers: int | None = Field(default=1, ge=0)
    clip_timeout: float = Field(default=300.0, gt=0)
    max_quarantined: float = Field(default=0.2, ge=0, le=1)

    @property
    def runs_on_cuda(self) -> bool:
        """Whether the model runs on a GPU."""
        from ecmf_pipeline.runner.machine import visible_gpus  # imported here because `index` must start fast

        return self.device.startswith("cuda") or (self.device == "auto" and bool(visible_gpus("auto")))

    @property
    def resolved_compute_type(self) -> str:
        """The compute type on this machine."""
        if self.compute_type != "auto":
            return self.compute_type
        return "float16" if self.runs_on_cuda else "int8"

    def find_corrections(self) -> Path | None:
        """Return the table of corrections; None if there is none.

        Raises:
            MissingInput: If params name a table other than the default, and it does not exist.
        """
        path = Path(self.corrections) if self.corrections else None
        if path is None or path.is_file():
            return path
        if path == paths.CORRECTIONS:
            return None
        raise MissingInput(f"{path} does not exist", "correct transcribe.corrections in params.yaml, or set it to null")

    def source(self) -> ModelSource:
        """Locate the weights of the model; `settings` hashes the same files.

        Raises:
            ModelError: If the model does not exist, or has the format of transformers.
            ParamsError: If ``transcribe.model`` is not set.
        """
        if self.model is None:
            raise ParamsError("transcribe.model is not set", _HINT, keys=["transcribe.model"])
        name = (paths.MODELS / WHISPER).as_posix() if self.model == EMBEDDED else self.model
        source = locate_model(
            name, self.revision, hint=None if self.model == EMBEDDED else f"transcribe.model: {_HINT}"
        )
        if "model_type" in read_model_config(name, self.revision):
            output = f"{Path(name).name}-ct2"
            raise ModelError(
                f"transcribe.model: {name} has the format of transformers, which is not supported",
                f"convert it (pip install transformers ctranslate2), and set transcribe.model to {output}",
                command=f"ct2-transformers-converter --model {shlex.quote(name)} --output_dir {shlex.quote(output)} "
                "--copy_files tokenizer.json preprocessor_config.json --quantization int8",
            )
        if not is_hub_id(name):
            check_model_folder(Path(name))
        return source

    def settings(self) -> dict[str, Any]:
        """Return the settings that change transcripts, as JSON values.

        The limits that decide whether a transcript is used are not included: they apply to cached transcripts. The
        embedded weights need not be present, since their SHA-256 is known.

        Raises:
            ModelError: If the model does not exist.
        """
        if self.model is None:
            return {"used": False}
        embedded = (paths.MODELS / WHISPER).as_posix()
        return {
            "weights": settings_without_weights(embedded, "", "")
            if self.model == EMBEDDED
            else self.source().settings(),
            "language": self.language,
            "beam_size": self.beam_size,
            "compute_type": self.resolved_compute_type,
            "recipe": RECIPE,
        }


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds a Whisper model in the format of CTranslate2, with its tokenizer.

    Raises:
        ModelError: If a file is missing. Without tokenizer.json, faster-whisper would fetch another one from the hub.
    """
    for name in ("model.bin", "tokenizer.json"):
        if not (folder / name).is_file():
            original = "the model from which it was converted (openai/whisper-...)"
            hints = {
                "model.bin": f"transcribe.model: {_HINT}",
                "tokenizer.json": f"copy tokenizer.json and preprocessor_config.json of {original} into the folder",
            }
            raise ModelError(f"model folder {folder} has no {name}", hints[name])
