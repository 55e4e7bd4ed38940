"""`index`: scan the corpus and write the manifest."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter

from ecmf_pipeline import layout
from ecmf_pipeline.clips import Clip, write_manifest
from ecmf_pipeline.corpora.index import IndexResult, index_corpus
from ecmf_pipeline.corpora.listing import CorpusListing, count_by_kind
from ecmf_pipeline.corpora.readers import read_corpus
from ecmf_pipeline.files import write_atomic, write_json
from ecmf_pipeline.params import load_params
from ecmf_pipeline.progress import say
from ecmf_pipeline.quarantine import Quarantine


def run() -> None:
    """Read the corpus, measure what is new, and write the manifest, the findings and the quarantine table."""
    params = load_params()
    listing = read_corpus(params.corpus)
    result = index_corpus(listing, layout.INDEX_CACHE, workers=os.cpu_count() or 1)
    quarantine = Quarantine(layout.quarantine("index"), stage="index")
    quarantine.keep_only({entry.clip_id: entry.digest for entry in result.quarantined})
    for entry in result.quarantined:
        quarantine.add(entry.clip_id, entry.reason, entry.message, entry.digest)
    quarantine.write()
    _write(listing, result)
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


def _counts(clips: tuple[Clip, ...]) -> dict[str, int]:
    splits = Counter(clip.split.value for clip in clips)
    return {"clips": len(clips), **{split: splits[split] for split in ("train", "candidate", "unlabeled")}}
