"""Run long loops in worker processes, batch by batch; a finished batch is never lost."""

from ecmf_pipeline.runner.pool import LocalProcesses
from ecmf_pipeline.runner.run import Run, RunConfig, RunReport
from ecmf_pipeline.runner.step import Done, Engine, InProcess, Item, Opener, Outcome, Step, StepFactory, Target, Task

__all__ = [
    "Done",
    "Engine",
    "InProcess",
    "Item",
    "LocalProcesses",
    "Opener",
    "Outcome",
    "Run",
    "RunConfig",
    "RunReport",
    "Step",
    "StepFactory",
    "Target",
    "Task",
]
