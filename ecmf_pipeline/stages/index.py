"""`index`: scan the corpus and write the manifest."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ecmf_pipeline import __version__, layout
from ecmf_pipeline.clips import Clip, Modality, write_manifest
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.index import IndexResult, index_corpus
from ecmf_pipeline.corpora.listing import CorpusListing, count_by_kind
from ecmf_pipeline.corpora.readers import read_corpus
from ecmf_pipeline.errors import ModelError
from ecmf_pipeline.extraction.plan import branch_settings
from ecmf_pipeline.files import write_atomic, write_json
from ecmf_pipeline.params import Params, load_params
from ecmf_pipeline.progress import say
from ecmf_pipeline.quarantine import Quarantine


def run() -> None:
    """Read the corpus, measure what is new, and write the manifest, the findings and the quarantine table."""
    params = load_params()
    listing = read_corpus(params.corpus)
    result = index_corpus(
        listing, layout.INDEX_CACHE, workers=params.index.workers, clip_timeout=params.index.clip_timeout
    )
    quarantine = Quarantine(layout.quarantine("index"), stage="index")
    quarantine.keep_only({entry.clip_id: entry.digest for entry in result.quarantined})
    for entry in result.quarantined:
        quarantine.add(entry.clip_id, entry.reason, entry.message, entry.digest)
    quarantine.write()
    _write(listing, result)
    _write_settings(params, listing.labels)
    changed = write_manifest(layout.MANIFEST, result.clips)
    counts = _counts(result.clips)
    say(
        f"index: {counts['clips']} clips ({counts['train']} train, {counts['candidate']} candidate, "
        f"{counts['unlabeled']} unlabeled), {result.hashed} files read, {len(quarantine)} quarantined; "
        f"manifest {'written' if changed else 'unchanged'}"
    )
    for kind, count in count_by_kind(result.findings).items():
        say(f"  {kind}: {count} (see {layout.FINDINGS})")
    quarantine.refuse_too_many(sum(bool(clip.path) for clip in result.clips), params.index.max_quarantined)


def _write(listing: CorpusListing, result: IndexResult) -> None:
    write_json(
        layout.CORPUS,
        {
            "candidates": list(listing.candidate_order),
            "labels": list(listing.labels),
            "synthetic": listing.synthetic,
        },
    )
    findings = io.StringIO()
    writer = csv.writer(findings, lineterminator="\n")
    writer.writerow(["kind", "clip_id", "message", "count"])
    writer.writerows([finding.kind, finding.clip_id, finding.message, finding.count] for finding in result.findings)
    write_atomic(layout.FINDINGS, findings.getvalue(), only_if_changed=True)
    metrics = {**_counts(result.clips), "findings": count_by_kind(result.findings)}
    write_json(layout.METRICS / "index.json", metrics)


def _write_settings(params: Params, labels: Sequence[str]) -> None:
    """Note what params mean now: weights, prompts and code may stand outside what DVC watches.

    Stages depend on these files, so that a model folder, a prompt file or a package that changed runs them again.
    """
    for modality in Modality:
        _write_note(f"extract-{modality.value}", partial(_extraction, params, modality))
    _write_note("llm", partial(params.llm.settings, labels or MER_LABELS))
    _write_note("package", partial(dict, version=__version__))


def _extraction(params: Params, modality: Modality) -> dict[str, Any]:
    if modality not in params.extract.encoders:
        return {"used": False}
    return branch_settings(modality, params.encoder_of(modality), params.media, params.faces)


def _write_note(name: str, settings: Callable[[], dict[str, Any]]) -> None:
    try:
        note = settings()
    except ModelError as error:
        note = {"unknown": error.what}  # the stage that needs the weights will say so; others must not stop here
    text = json.dumps(note, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomic(layout.SETTINGS / f"{name}.json", text, only_if_changed=True)


def _counts(clips: tuple[Clip, ...]) -> dict[str, int]:
    splits = Counter(clip.split.value for clip in clips)
    return {"clips": len(clips), **{split: splits[split] for split in ("train", "candidate", "unlabeled")}}
