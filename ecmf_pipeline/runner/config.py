"""Configuration of the engine that runs the workers. Workers do not import this module, which needs pydantic."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecmf_pipeline.core.config import Config

EngineKind = Literal["local", "ray"]
"""Where workers run."""


class EngineConfig(Config):
    """Where the workers of `extract`, `transcribe`, `rewrite` and `vote` run; no value changes a result.

    All keys but ``kind`` only apply to Ray. The numbers of workers and openers in the sections of the stages apply to
    one machine, and only to ``kind: local``.

    Attributes:
        kind: ``local``: processes of this machine. ``ray``: processes of all machines of a Ray cluster, which share a
            file system with this one. ``--engine`` overrides it.
        address: Address of a running Ray cluster, host:port. The environment variable RAY_ADDRESS overrides it. None:
            Ray is started on this machine for the run.
        workers: Number of workers. None: as many as the nodes have room for at the start. Workers without room wait for
            new nodes. ``--workers`` overrides it.
        cpus: CPU cores that Ray reserves for each worker, also a fraction; a worker has as many threads, at least one.
        gpus: GPUs that Ray reserves for each worker; a fraction puts several workers on one GPU. None: 1 if the device
            of the stage is not cpu and the cluster has GPUs, else 0.
        openers: Number of openers, which decode clips for the workers of `extract`. None: with GPUs as many as fit
            beside the workers, else 0.
        opener_cpus: CPU cores that Ray reserves for each opener, also a fraction.
        wait: Seconds without room for any worker on the cluster after which the run ends.
    """

    kind: EngineKind = "local"
    address: str | None = Field(None, min_length=1)
    workers: int | None = Field(None, gt=0)
    cpus: float = Field(1.0, gt=0)
    gpus: float | None = Field(None, ge=0)
    openers: int | None = Field(None, ge=0)
    opener_cpus: float = Field(1.0, gt=0)
    wait: float = Field(300.0, gt=0)
