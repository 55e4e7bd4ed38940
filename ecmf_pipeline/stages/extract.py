"""`extract`: extract frozen features of new and changed clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality, read_manifest
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.extraction.run import Branch, clip_limits, extract, open_writers, plan_branch
from ecmf_pipeline.extraction.shards import merge_all_shards, open_shard_writers, shard_tables
from ecmf_pipeline.runner import RunReport
from ecmf_pipeline.runner.config import EngineKind
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.settings.params import load_params
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
    named = {name: token for modality in used for name, token in params.tokens_of(modality).items()}
    uses_torch = any(params.encoder_of(*token).uses_torch for token in named.values())
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
    settings = {name: params.token_settings(token) for name, token in named.items()}
    # Encoders of a modality that differ only in their name have the same features.
    distinct = {(token.modality, fingerprint(settings[name])): name for name, token in reversed(named.items())}
    tokens = {name: token for name, token in named.items() if name in distinct.values()}
    settings = {name: settings[name] for name in tokens}
    roots = {name: paths.features(token.modality) for name, token in tokens.items()}
    tables = {name: (paths.quarantine("extract", token.modality), list[Path]()) for name, token in tokens.items()}
    if shard is not None:
        clips = shard.clips_of(clips)
    with (
        open_writers(settings, roots.__getitem__)
        if shard is None
        else open_shard_writers(settings, roots.__getitem__, shard)
    ) as writers:
        if shard is None:
            merge_all_shards(writers, lambda name: tables[name][0])
        else:
            tables = {name: shard_tables(root, tables[name][0], shard) for name, root in roots.items()}
        branches = [
            plan_branch(
                token.modality,
                clips,
                texts,
                encoder=params.encoder_of(*token),
                settings=settings[name],
                root=roots[name],
                quarantine_path=tables[name][0],
                name=name,
                limits=clip_limits(params.extract, params.media),
                retry_quarantined=retry_quarantined,
                earlier_tables=tables[name][1],
                in_use=[fingerprint(settings[other]) for other, root in roots.items() if root == roots[name]],
            )
            for name, token in tokens.items()
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
            engine=runner,
        )
        for branch in branches:
            of_encoder = f" ({tokens[branch.name].encoder})" if branch.name != branch.modality else ""
            of_shard = f" shard {shard}" if shard else ""
            echo(_summary(branch, report, writers[branch.name].adopted, of_encoder + of_shard))


def _summary(branch: Branch, report: RunReport, adopted: int, part: str) -> str:
    name = branch.name
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.reasons[name].most_common())
    return (
        f"extract {branch.modality.value}{part}: {report.done[name]} done, {branch.reused} reused"
        + (f" ({adopted} of them from a killed run)" if adopted else "")
        + f", {branch.absent} absent, "
        f"{report.quarantined[name]} quarantined" + (f" ({reasons})" if reasons else "")
    )
