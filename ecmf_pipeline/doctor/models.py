"""Check that the models of params.yaml are present, or can be fetched, and load."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import EcmfError
from ecmf_pipeline.core.weights import embedded_model
from ecmf_pipeline.doctor.checks import Check, State, duration
from ecmf_pipeline.encoders.base_config import (
    BaseEncoderConfig,
    TransformersConfig,
    cached_commits,
    hub_cache,
    is_commit,
    is_hub_id,
)
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.runner.machine import usable_cores, visible_gpus
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.store.state import encoder_name
from ecmf_pipeline.transcription.config import EMBEDDED


def check_weights(params: Params) -> Check:
    """Check that the weights that ship inside Python packages are present."""
    names = params.models.names
    absent = [name for name in names if not embedded_model(name).is_present(paths.MODELS)]
    if absent:
        return Check(
            "weights",
            State.FAILURE,
            f"{len(absent)} of {len(names)} embedded models are not in {paths.MODELS}: {', '.join(absent)}",
            "fetch them",
            {"wanted": list(names), "absent": absent},
            command="ecmf-pipe models",
        )
    message = (
        f"{format_count(len(names), 'embedded model')} in {paths.MODELS}" if names else "models.names lists no models"
    )
    return Check("weights", State.OK, message, figures={"wanted": list(names), "absent": []})


def check_revisions(params: Params) -> Iterator[Check]:
    """Check that each model of the hub is pinned to a commit, and that the hub cache holds that commit."""
    for key, model, revision in _hub_models(params):
        name, cached = f"revision {key.split('.')[-2]}", cached_commits(model)
        figures = {"key": key, "model": model, "revision": revision, "cached": cached}
        if not is_commit(revision):
            hint = f"set {key} to a commit" + (f"; the hub cache holds {', '.join(cached)}" if cached else "")
            message = f"{key} is {revision!r}: {model} changes if this branch or tag moves"
            yield Check(name, State.WARNING, message, hint, figures)
        elif cached and revision not in cached:
            message = f"{key} is {revision}, but the hub cache holds {', '.join(cached)} of {model}"
            hint = f"fetch the commit once with network access, or set {key} to a commit in the cache"
            yield Check(name, State.WARNING, message, hint, figures)
        else:
            state = "in the hub cache" if cached else "not fetched yet"
            yield Check(name, State.OK, f"{model} is pinned to {revision}, {state}", figures=figures)


def _hub_models(params: Params) -> Iterator[tuple[str, str, str]]:
    """Yield the key of the revision, the id and the revision of each model of the hub that is in use."""
    names = dict.fromkeys(name for names in params.extract.encoders.values() for name in names)
    for name in names:
        encoder = params.encoders[name]
        if isinstance(encoder, TransformersConfig) and is_hub_id(encoder.model):
            yield f"encoders.{name}.revision", encoder.model, encoder.revision
    llm, speech = params.llm, params.transcribe
    if params.needs_llm and llm.backend == "transformers" and is_hub_id(llm.model):
        yield "llm.revision", llm.model, llm.revision or "main"
    if params.needs_transcripts and speech.model not in {None, EMBEDDED} and is_hub_id(str(speech.model)):
        yield "transcribe.revision", speech.model, speech.revision


def workers_of(params: Params) -> int:
    """Return the number of worker processes that `extract` would start."""
    gpus = visible_gpus(params.extract.device)
    return max(1, params.extract.workers if params.extract.workers is not None else len(gpus) or usable_cores())


def check_device(params: Params) -> Check:
    """Check the device on which encoders run."""
    from ecmf_pipeline.encoders.base_config import pick_device

    try:
        device = str(pick_device(params.extract.device))
    except EcmfError as error:
        return Check.failed("device", error)
    workers = workers_of(params)
    where = f"{params.extract.device}: {device}" if params.extract.device != device else device
    message = f"extract.device {where}; {workers} worker{'s' if workers > 1 else ''}"
    figures = {"device": device, "gpu": _gpu_name(device), "workers": workers, "cores": usable_cores()}
    return Check("device", State.OK, message, figures=figures)


def _gpu_name(device: str) -> str:
    """Return the name of a CUDA device; empty for the CPU."""
    if not device.startswith("cuda"):
        return ""
    import torch

    return str(torch.cuda.get_device_name(device))


def check_encoders(params: Params, loaded: dict[str, dict[str, Any]]) -> Iterator[Check]:
    """Load each encoder in use; add the settings of those that load to ``loaded``, by the name of their features."""
    for features, token in params.tokens.items():
        name = f"encoder {features}"
        encoder = params.encoder_of(*token)
        if isinstance(encoder, ImportedConfig):
            yield Check(name, State.OK, f"{encoder.name}: imported features, nothing to compute")
            continue
        try:
            loaded[features], check = _load(params, features)
        except EcmfError as error:
            failed = Check.failed(name, error)
            yield replace(failed, hint="; ".join(filter(None, (_hub_hint(encoder), failed.hint))))
            continue
        yield check


def _load(params: Params, features: str) -> tuple[dict[str, Any], Check]:
    """Load one encoder and close it again; return its settings and the check."""
    from ecmf_pipeline.encoders.base_config import best_precision

    token = params.tokens[features]
    config = params.encoder_of(*token)
    settings = params.token_settings(token)
    started = time.perf_counter()
    encoder = build_encoder(config, params.extract.device)
    seconds = time.perf_counter() - started
    try:
        dim, dtype = encoder.dim, encoder.dtype
    finally:
        encoder.close()
    precision = str(getattr(config, "precision", "fp32"))
    lacks_instructions = precision == "bf16" and best_precision(params.extract.device) != "bf16"
    slow = " (slow: the device has no bf16 instructions)" if lacks_instructions else ""
    message = (
        f"{token.encoder}: {dim}-d, computed in {precision}{slow}, stored as {dtype}, loaded in {duration(seconds)}"
    )
    figures = {
        "encoders": [token.encoder],
        "model": encoder_name(settings),
        "dim": dim,
        "precision": [precision],
        "dtype": dtype,
        "load_seconds": round(seconds, 3),
    }
    return settings, Check(f"encoder {features}", State.OK, message, figures=figures)


def _hub_hint(encoder: BaseEncoderConfig) -> str:
    """Return a hint about the models of an encoder that come from the model hub; empty if there are none."""
    if not isinstance(encoder, TransformersConfig) or not is_hub_id(encoder.model):
        return ""
    offline = "; HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else ""
    return f"{encoder.model} must be fetched once into {hub_cache()}, which needs network access{offline}"
