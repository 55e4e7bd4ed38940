"""`transcribe`: words for clips that come without any; off unless params name a model."""

from __future__ import annotations

from collections import Counter

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.sharing.hints import pull_hint
from ecmf_pipeline.transcription.table import Verdict, write_transcripts


def run(*, workers: int | None = None, retry_quarantined: bool = False) -> None:
    """Listen to the clips without words (each file once, ever) and write the table of transcripts.

    Args:
        workers: Processes side by side; None: as params say.
        retry_quarantined: Whether clips that were set aside are tried again although nothing changed.
    """
    params = load_params()
    config = params.transcribe if workers is None else params.transcribe.model_copy(update={"workers": workers})
    path = paths.quarantine("transcribe")
    if config.model is None:
        quarantine = Quarantine(path, stage="transcribe")
        quarantine.clear()
        quarantine.write()
        write_transcripts(paths.TRANSCRIPTS, {})
        echo("transcribe: transcribe.model is not set, nothing to do")
        return
    if hint := pull_hint([paths.TRANSCRIPTS.parent]):
        echo(hint)
    from ecmf_pipeline.transcription.run import transcribe

    found = transcribe(
        read_manifest(paths.MANIFEST),
        config=config,
        corpus_root=params.corpus.root,
        cache_root=paths.TRANSCRIPT_CACHE,
        waiting=paths.DATA / ".transcripts.spool",
        quarantine_path=path,
        retry_quarantined=retry_quarantined,
    )
    changed = write_transcripts(paths.TRANSCRIPTS, found.transcripts)
    verdicts = Counter(transcript.verdict for transcript in found.transcripts.values())
    unused = ", ".join(f"{verdict.value} {verdicts[verdict]}" for verdict in Verdict if verdict is not Verdict.USED)
    echo(
        f"transcribe: {found.heard} files listened to, {found.reused} clips from the cache, "
        f"{verdicts[Verdict.USED]} transcripts used ({unused}), {found.quarantined} quarantined; "
        f"table {'written' if changed else 'unchanged'}"
    )
