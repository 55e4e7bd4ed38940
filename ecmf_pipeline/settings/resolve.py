"""Resolve the settings of each later stage and write them to `data/settings/*.json`.

DVC tracks params.yaml, but not the files it refers to: presets, prompts, model weights, label files and this package.
The later stages depend on the resolved settings. A change of such a file therefore runs only the stages that use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecmf_pipeline import __version__
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality, read_corpus_tables
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import cached_sha256, fingerprint, write_atomic
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.llm.prompt import load_prompt, load_rewrite_prompt
from ecmf_pipeline.settings.params import Params

_Settings = dict[str, Any]


def write_settings(params: Params, labels: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Write one file for each name of `resolve`; files whose content is unchanged are not written.

    Args:
        params: The params.
        labels: Labels of the corpus; MER's labels are used if there are none.

    Returns:
        The names of changed settings, and the reasons of unknown settings by name.

    Raises:
        ParamsError: If a prompt does not exist or cannot be used.
    """
    changed, unknown = [], {}
    for name, settings_of in resolve(params, labels).items():
        try:
            settings = settings_of()
        except ModelError as error:  # the stage that needs the weights raises it; other stages can run
            unknown[name] = error.message
            settings = {"unknown": error.message}
        text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        if write_atomic(paths.SETTINGS / f"{name}.json", text, only_if_changed=True):
            changed.append(name)
    return changed, unknown


def resolve(params: Params, labels: Sequence[str]) -> Mapping[str, Callable[[], _Settings]]:
    """Return a function for each name that resolves its settings; it raises ModelError if weights are missing."""
    return {
        **{f"extract-{modality.value}": partial(_extraction, params, modality) for modality in Modality},
        "llm": partial(params.llm.settings, labels or MER_LABELS),
        "rewrite": partial(_rewriting, params),
        "transcribe": partial(_transcription, params),
        "vote": partial(_voting, params),
        "labels": partial(_label_files, params),
        "rounds": partial(_rounds, params),
        "basis": partial(_basis, params),
        "package": partial(dict, version=__version__),
    }


def _extraction(params: Params, modality: Modality) -> _Settings:
    if modality not in params.extract.encoders:
        return {"used": False}
    settings = {token.encoder: params.token_settings(token) for token in params.tokens_of(modality).values()}
    return settings if len(settings) > 1 else next(iter(settings.values()))


def _transcription(params: Params) -> _Settings:
    """Return the settings of the model and the digest of the table of corrections."""
    if not params.needs_transcripts:
        return {"used": False}
    corrections = params.transcribe.find_corrections()
    digest = {str(corrections): cached_sha256(corrections)} if corrections else {}
    return {**params.transcribe.settings(), "corrections": digest}


def _rewriting(params: Params) -> _Settings:
    known = {column: params.known_languages(column) for column in sorted(params.text_columns)}
    languages = {column: None if codes is None else sorted(codes) for column, codes in known.items()}
    masks = {"languages": languages, "foreign_text": params.corpus.foreign_text}
    if not params.needs_enriched_texts:
        return {"used": False, "texts": sorted(params.text_columns), **masks}
    prompt = load_rewrite_prompt(params.rewrite.prompt)
    return {"prompt": fingerprint(prompt.model_dump(mode="json")), "how": params.rewrite.how, **masks}


def _voting(params: Params) -> _Settings:
    """Resolve the prompts of votes on cues and frames."""
    settings: _Settings = {"inputs": list(params.vote.inputs)}
    if "cues" in params.vote.inputs:
        settings["cues"] = fingerprint(load_prompt(params.llm.cues_prompt).model_dump(mode="json"))
    if "frames" in params.vote.inputs:
        settings["frames"] = fingerprint(load_prompt(params.llm.prompt).model_dump(mode="json"))
    return settings


def _label_files(params: Params) -> _Settings:
    """Return the digest of each file of votes and verdicts in params; None if the file does not exist."""
    verdicts = params.refine.verdicts
    saved = [str(model.folder / "config.json") for model in params.vote.transfer.values()]  # it has digests of weights
    files = map(Path, (*params.vote.sources, *saved, *([verdicts] if verdicts else [])))
    return {str(path): cached_sha256(path) if path.is_file() else None for path in files}


def _rounds(params: Params) -> _Settings:
    """Return the number of voting rounds and, if there are several, the training settings of the fusion model."""
    if params.vote.rounds == 1:
        return {"rounds": 1}
    return {"rounds": params.vote.rounds, "train": params.train.model_dump(mode="json")}


def _basis(params: Params) -> _Settings:
    """Return the digest of the verdicts that replace given labels in training; None if models are not trained on them.

    Given labels are in the manifest, on which the stages depend too.
    """
    verdicts = params.refine.verdicts
    if verdicts is None or not Path(verdicts).is_file() or not paths.MANIFEST.is_file():
        return {"verdicts": None}
    # SciPy and pandas, which most runs do not need
    from ecmf_pipeline.core.predictions import Basis
    from ecmf_pipeline.labels.basis import known_labels, training_basis
    from ecmf_pipeline.labels.verdicts import combine_answers, read_answers

    corpus = read_corpus_tables()
    answers, _ = read_answers(Path(verdicts), corpus.labels, corpus.columns.ids)
    human_labels = combine_answers(answers, corpus.clips, corpus.labels).gold
    if training_basis(corpus.given, human_labels) is not Basis.VERDICTS:
        return {"verdicts": None}
    return {"verdicts": fingerprint({"labels": known_labels(corpus.given, human_labels).tolist()})}
