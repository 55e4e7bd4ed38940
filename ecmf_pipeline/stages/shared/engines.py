"""The engine that runs the workers of a stage, as params.yaml or the command line selects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.runner import Engine
from ecmf_pipeline.runner.config import EngineConfig, EngineKind


def choose_engine(
    config: EngineConfig,
    kind: EngineKind | None,
    workers: int | None,
    *,
    clip_timeout: float,
    device: str,
    can_open: bool = False,
    needs: Sequence[Path] = (),
) -> Engine | None:
    """Return the engine of a stage; None for processes of this machine, which the section of the stage configures.

    Args:
        config: The section ``engine``.
        kind: The engine of the command line; None: that of ``config``.
        workers: Number of workers of the command line; None: that of ``config``.
        clip_timeout: See `RayEngine`, also for the further arguments.
        device: Device of the models.
        can_open: Whether openers may open the items.
        needs: Files and folders that must exist on each node.

    Raises:
        InputError: If Ray is not installed, or cannot be used as configured.
    """
    if (kind or config.kind) == "local":
        return None
    if workers == 0:
        raise InputError("--workers 0 runs in the main process, not with the engine ray", "add --engine local")
    from ecmf_pipeline.runner.ray_engine import RayEngine

    return RayEngine(
        config if workers is None else config.model_copy(update={"workers": workers}),
        clip_timeout=clip_timeout,
        device=device,
        can_open=can_open,
        needs=needs,
    )
