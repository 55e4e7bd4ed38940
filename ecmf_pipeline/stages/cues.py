"""`cues`: describe facial and vocal cues for the rewrite; runs only for the modalities in `rewrite.cues`."""

from __future__ import annotations

from collections.abc import Sequence

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.llm.cues import write_cues
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import read_manifest_with_transcripts
from ecmf_pipeline.stages.shared.llm import cues_of


def run(modalities: Sequence[Modality]) -> None:
    """Write the table of cues of each modality.

    Args:
        modalities: Modalities; empty: those of ``rewrite.cues``.
    """
    params = load_params()
    requested = modalities or list(map(Modality, params.rewrite.cues))
    if not params.needs_enriched_texts:
        for modality in requested:
            write_cues(paths.cues(modality), {})
        echo("cues: no encoder in use reads enriched transcripts, nothing to do")
        return
    clips = read_manifest_with_transcripts(params)
    for modality in requested:
        cues = cues_of(params, clips, modality)
        changed = write_cues(paths.cues(modality), {clip.clip_id: cues.get(clip.clip_id, ()) for clip in clips})
        with_cues = sum(bool(names) for names in cues.values())
        state = "written" if changed else "unchanged"
        echo(f"cues {modality.value}: {with_cues} of {len(clips)} clips have cues; table {state}")
