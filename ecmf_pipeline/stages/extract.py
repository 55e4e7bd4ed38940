"""`extract`: extract frozen features of new and changed clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipText, Modality, read_manifest
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.extraction.run import Branch, clip_limits, extract, open_writers, plan_branch
from ecmf_pipeline.extraction.shards import merge_all_shards, open_shard_writers, shard_tables
from ecmf_pipeline.runner import Engine, RunReport
from ecmf_pipeline.runner.config import EngineKind
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.sharing.hints import warn_of_shared_outputs
from ecmf_pipeline.stages.shared.engines import choose_engine
from ecmf_pipeline.stages.shared.inputs import read_needed_texts


def run(
    modalities: Sequence[Modality],
    *,
    workers: int | None = None,
    engine: EngineKind | None = None,
    retry_quarantined: bool = False,
    shard: Shard | None = None,
) -> None:
    """Extract the given modalities together; without a shard, first merge the results of all shards.

    Args:
        modalities: Modalities; empty: all in use.
        workers: Number of worker processes; None: the value in params.
        engine: The engine that runs them; None: that of params.
        retry_quarantined: Whether to process quarantined clips again although nothing changed.
        shard: The shard of the clips to extract; None: all clips.
    """
    params = load_params()
    requested = list(dict.fromkeys(modalities)) or list(params.extract.encoders)
    used = [modality for modality in requested if modality in params.extract.encoders]
    for modality in set(requested) - set(used):
        # DVC expects the outputs of the stage even if the modality is not in use.
        paths.features(modality).mkdir(parents=True, exist_ok=True)
        if not (table := paths.quarantine("extract", modality)).is_file():
            Quarantine(table, stage=f"extract {modality.value}").write()
        echo(f"extract {modality.value}: not in extract.encoders, nothing to do")
    uses_torch = any(
        params.encoder_of(*token).uses_torch for modality in used for token in params.tokens_of(modality).values()
    )
    runner = choose_engine(
        params.engine,
        engine,
        workers,
        clip_timeout=params.extract.clip_timeout,
        device=params.extract.device if uses_torch else "cpu",
        can_open=True,
        needs=[] if set(used) <= {Modality.TEXT} else [params.corpus.root],
    )
    warn_of_shared_outputs([paths.features(modality) for modality in used])
    clips = read_manifest(paths.MANIFEST)
    texts = read_needed_texts(params, clips) if Modality.TEXT in used else {}
    settings = {
        modality: {token.encoder: params.token_settings(token) for token in params.tokens_of(modality).values()}
        for modality in used
    }
    if shard is not None:
        clips = shard.clips_of(clips)
    # Each pass decodes a clip once for one encoder of each modality.
    for number in range(max((len(encoders) for encoders in settings.values()), default=0)):
        chosen = {modality: list(encoders)[number] for modality, encoders in settings.items() if number < len(encoders)}
        _extract_pass(
            params,
            clips,
            texts,
            chosen,
            settings,
            workers=workers,
            engine=runner,
            retry_quarantined=retry_quarantined,
            shard=shard,
        )


def _extract_pass(
    params: Params,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    chosen: Mapping[Modality, str],
    settings: Mapping[Modality, Mapping[str, dict[str, Any]]],
    *,
    workers: int | None,
    engine: Engine | None,
    retry_quarantined: bool,
    shard: Shard | None,
) -> None:
    """Extract the features of one encoder of each modality in ``chosen``."""
    stored = {modality: settings[modality][name] for modality, name in chosen.items()}
    tables = {modality: (paths.quarantine("extract", modality), list[Path]()) for modality in chosen}
    with (
        open_writers(stored, paths.features) if shard is None else open_shard_writers(stored, paths.features, shard)
    ) as writers:
        if shard is None:
            merge_all_shards(writers, lambda modality: paths.quarantine("extract", modality))
        else:
            tables = {
                modality: shard_tables(paths.features(modality), tables[modality][0], shard) for modality in chosen
            }
        branches = [
            plan_branch(
                modality,
                clips,
                texts,
                encoder=params.encoder_of(modality, name),
                settings=settings[modality][name],
                root=paths.features(modality),
                quarantine_path=tables[modality][0],
                limits=clip_limits(params.extract, params.media),
                retry_quarantined=retry_quarantined,
                earlier_tables=tables[modality][1],
                in_use=[fingerprint(one) for one in settings[modality].values()],
            )
            for modality, name in chosen.items()
        ]
        report = extract(
            branches,
            clips,
            texts,
            writers=writers,
            corpus_root=params.corpus.root,
            media=params.media,
            faces=params.faces,
            index_cache=paths.INDEX_CACHE,
            config=params.extract if workers is None else params.extract.model_copy(update={"workers": workers}),
            engine=engine,
        )
        for branch in branches:
            of_encoder = f" ({chosen[branch.modality]})" if len(settings[branch.modality]) > 1 else ""
            of_shard = f" shard {shard}" if shard else ""
            echo(_summary(branch, report, writers[branch.modality].adopted, of_encoder + of_shard))


def _summary(branch: Branch, report: RunReport, adopted: int, part: str) -> str:
    name = branch.modality.value
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.reasons[name].most_common())
    return (
        f"extract {name}{part}: {report.done[name]} done, {branch.reused} reused"
        + (f" ({adopted} of them from a killed run)" if adopted else "")
        + f", {branch.absent} absent, "
        f"{report.quarantined[name]} quarantined" + (f" ({reasons})" if reasons else "")
    )
