"""`settings`: resolve the settings of each later stage from params, preset, prompts, labels and weights.

The stage runs in every `dvc repro`, since DVC does not track changes of prompt files, weights and label files.
"""

from __future__ import annotations

from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_corpus_description
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.settings.resolve import write_settings
from ecmf_pipeline.sharing.versions import keep_version


def run() -> None:
    """Write `data/settings/*.json`."""
    params = load_params()
    if params.refine.verdicts is not None:
        keep_version(Path(params.refine.verdicts))
    changed, unknown = write_settings(params, read_corpus_description().labels)
    paths.CUES.mkdir(parents=True, exist_ok=True)  # `rewrite` depends on the folder even if rewrite.cues is empty
    echo(f"settings: {', '.join(changed) + ' changed' if changed else 'unchanged'}")
    for name, reason in unknown.items():
        echo(f"  {name}: {reason}")
