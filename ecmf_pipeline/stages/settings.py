"""`settings`: resolve what params, preset, prompts, labels and weights mean for each later stage.

It runs in every `dvc repro`, since prompt files, weights and label files change without DVC's notice.
"""

from __future__ import annotations

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import read_json
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.settings.resolve import write_settings


def run() -> None:
    """Write `data/settings/*.json`."""
    params = load_params()
    labels = read_json(paths.CORPUS, made_by="index")["labels"]
    changed, unknown = write_settings(params, labels)
    paths.CUES.mkdir(parents=True, exist_ok=True)  # `rewrite` depends on it, also if params ask for no cues
    echo(f"settings: {', '.join(changed) + ' changed' if changed else 'unchanged'}")
    for name, reason in unknown.items():
        echo(f"  {name}: {reason}")
