"""The work of `index`: scan the corpus, write the manifest, and note what the settings mean now."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecmf_pipeline import __version__
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Modality, write_manifest
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import fingerprint, sha256_file, write_atomic, write_json
from ecmf_pipeline.core.progress import say
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.index import IndexResult, index_corpus
from ecmf_pipeline.corpora.listing import CorpusListing, count_by_kind
from ecmf_pipeline.corpora.registry import looked_at, read_corpus
from ecmf_pipeline.encoders.base_config import TransformersConfig
from ecmf_pipeline.encoders.weights import hub_reference
from ecmf_pipeline.extraction.plan import branch_settings
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.rewrite_prompt import load_rewrite_prompt
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.settings import index_stamp
from ecmf_pipeline.settings.params import Params, load_params

_METRICS = paths.METRICS / "index.json"


def index() -> None:
    """Read the corpus, measure what is new, and write the manifest, the findings and the quarantine table."""
    begun_ns = time.time_ns()
    params = load_params()
    listing = read_corpus(params.corpus, face_crops=params.faces.are_cut_already)
    result = index_corpus(
        listing, paths.INDEX_CACHE, workers=params.index.workers, clip_timeout=params.index.clip_timeout
    )
    quarantine = Quarantine(paths.quarantine("index"), stage="index")
    quarantine.keep_only({entry.clip_id: entry.digest for entry in result.quarantined})
    for entry in result.quarantined:
        quarantine.add(entry.clip_id, entry.reason, entry.message, entry.digest)
    quarantine.write()
    _write(listing, result)
    paths.CUES.mkdir(parents=True, exist_ok=True)  # `rewrite` depends on what is in there, also where nothing is
    notes = {paths.SETTINGS / f"{name}.json": note for name, note in _notes(params, listing.labels).items()}
    are_known = [_write_note(path, note) for path, note in notes.items()]
    changed = write_manifest(paths.MANIFEST, result.clips)
    say(_summary(result, listing.labels, result.hashed, changed=changed))
    quarantine.refuse_too_many(sum(bool(clip.path) for clip in result.clips), params.index.max_quarantined)
    if all(are_known) and all(entry.digest for entry in result.quarantined):
        again = _summary(result, listing.labels, 0, changed=False)
        index_stamp.remember(_watched(params, notes), again + "\n", begun_ns=begun_ns)


def _summary(result: IndexResult, labels: Sequence[str], read: int, *, changed: bool) -> str:
    """What was found; labels are named where they are one's own, so that a slip of the pen among them is seen."""
    counts = _counts(result.clips)
    own = "" if set(labels) <= set(MER_LABELS) else f"; labels: {', '.join(labels)}"
    lines = [
        f"index: {counts['clips']} clips ({counts['train']} train, {counts['candidate']} candidate, "
        f"{counts['unlabeled']} unlabeled), {read} files read, {len(result.quarantined)} quarantined; "
        f"manifest {'written' if changed else 'unchanged'}{own}"
    ]
    found = count_by_kind(result.findings).items()
    return "\n".join([*lines, *(f"  {kind}: {count} (see {paths.FINDINGS})" for kind, count in found)])


def _watched(params: Params, notes: Iterable[Path]) -> index_stamp.Watched:
    """All that this run has read, and written.

    Any text in the settings of models may name a file or a folder; one that names none may do so tomorrow.
    """
    folders, trees = looked_at(params.corpus, face_crops=params.faces.are_cut_already)
    models = [params.llm, params.llm.votes, params.rewrite, params.transcribe, params.faces]
    named = [*models, *params.encoders.values()]
    texts = {str(value) for model in named for value in dict(model).values() if isinstance(value, str | Path)}
    trees += [Path(text) for text in sorted(texts) if text]
    trees.append(Path(params.llm.model, params.llm.gguf_file or ""))
    trees += map(Path, params.label_files())
    transformers = [encoder for encoder in params.encoders.values() if isinstance(encoder, TransformersConfig)]
    on_hub = [encoder for encoder in transformers if not Path(encoder.model).is_dir()]
    trees += [hub_reference(encoder.model, encoder.revision) for encoder in on_hub]
    if params.transcribe.model and not Path(params.transcribe.model).is_dir():
        trees.append(hub_reference(params.transcribe.model, params.transcribe.revision))
    written = [paths.MANIFEST, paths.CORPUS, paths.FINDINGS, paths.quarantine("index"), _METRICS, *notes]
    return index_stamp.Watched(*(tuple(map(str, group)) for group in (folders, trees, written)))


def _write(listing: CorpusListing, result: IndexResult) -> None:
    write_json(
        paths.CORPUS,
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
    write_atomic(paths.FINDINGS, findings.getvalue(), only_if_changed=True)
    metrics = {**_counts(result.clips), "findings": count_by_kind(result.findings)}
    write_json(_METRICS, metrics)


def _notes(params: Params, labels: Sequence[str]) -> dict[str, Callable[[], dict[str, Any]]]:
    """What params mean now, by name: weights, prompts and code may stand outside what DVC watches.

    Stages depend on these files, so that a model folder, a prompt file or a package that changed runs them again.
    """
    return {
        **{f"extract-{modality.value}": partial(_extraction, params, modality) for modality in Modality},
        "llm": partial(params.llm.settings, labels or MER_LABELS),
        "rewrite": partial(_rewriting, params),
        "transcribe": params.transcribe.settings,
        "vote": partial(_voting, params),
        "labels": partial(_label_files, params),
        "rounds": partial(_rounds, params),
        "package": partial(dict, version=__version__),
    }


def _extraction(params: Params, modality: Modality) -> dict[str, Any]:
    if modality not in params.extract.encoders:
        return {"used": False}
    return branch_settings(modality, params.encoder_of(modality), params.media, params.faces)


def _rewriting(params: Params) -> dict[str, Any]:
    prompt = load_rewrite_prompt(params.rewrite.prompt)
    return {"prompt": fingerprint(prompt.model_dump(mode="json")), "how": params.rewrite.how}


def _voting(params: Params) -> dict[str, Any]:
    """The prompts that are asked for beside the one of ``llm``."""
    note: dict[str, Any] = {"inputs": list(params.vote.inputs)}
    if "cues" in params.vote.inputs:
        note["cues"] = fingerprint(load_prompt(params.llm.cues_prompt).model_dump(mode="json"))
    if "frames" in params.vote.inputs:
        note["frames"] = fingerprint(load_prompt(params.llm.prompt).model_dump(mode="json"))
    return note


def _label_files(params: Params) -> dict[str, Any]:
    """Votes and verdicts that stand in files of the user's, with their content."""
    files = map(Path, params.label_files())
    return {str(path): sha256_file(path) if path.is_file() else None for path in files}


def _rounds(params: Params) -> dict[str, Any]:
    """What further rounds of `vote` train the fusion with; one round trains none, and need not run again for it."""
    if params.vote.rounds == 1:
        return {"rounds": 1}
    return {"rounds": params.vote.rounds, "train": params.train.model_dump(mode="json")}


def _write_note(path: Path, settings: Callable[[], dict[str, Any]]) -> bool:
    """Write a note, and tell whether it is known what the settings mean."""
    try:
        note = settings()
    except ModelError as error:
        note = {"unknown": error.what}  # the stage that needs the weights will say so; others must not stop here
    text = json.dumps(note, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomic(path, text, only_if_changed=True)
    return "unknown" not in note


def _counts(clips: tuple[Clip, ...]) -> dict[str, int]:
    splits = Counter(clip.split.value for clip in clips)
    return {"clips": len(clips), **{split: splits[split] for split in ("train", "candidate", "unlabeled")}}
