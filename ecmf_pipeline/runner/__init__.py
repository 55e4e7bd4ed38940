"""Run long loops in worker processes, batch by batch; a finished batch is never lost.

The names are imported when they are first used: params need only `runner.config`.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ecmf_pipeline.runner.pool import LocalProcesses as LocalProcesses
    from ecmf_pipeline.runner.run import Run as Run
    from ecmf_pipeline.runner.run import RunConfig as RunConfig
    from ecmf_pipeline.runner.run import RunReport as RunReport
    from ecmf_pipeline.runner.step import Done as Done
    from ecmf_pipeline.runner.step import Engine as Engine
    from ecmf_pipeline.runner.step import InProcess as InProcess
    from ecmf_pipeline.runner.step import Item as Item
    from ecmf_pipeline.runner.step import Opener as Opener
    from ecmf_pipeline.runner.step import Outcome as Outcome
    from ecmf_pipeline.runner.step import Step as Step
    from ecmf_pipeline.runner.step import StepFactory as StepFactory
    from ecmf_pipeline.runner.step import Target as Target
    from ecmf_pipeline.runner.step import Task as Task

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "pool": ["LocalProcesses"],
        "run": ["Run", "RunConfig", "RunReport"],
        "step": [
            "Done",
            "Engine",
            "InProcess",
            "Item",
            "Opener",
            "Outcome",
            "Step",
            "StepFactory",
            "Target",
            "Task",
        ],
    },
)
