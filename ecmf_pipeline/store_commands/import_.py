"""`ecmf-pipe store import`: features that were computed elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ecmf_pipeline import layout
from ecmf_pipeline.clips import Modality, read_manifest
from ecmf_pipeline.corpora.listing import naming_some
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.errors import ParamsError
from ecmf_pipeline.extraction.plan import branch_settings
from ecmf_pipeline.files import fingerprint
from ecmf_pipeline.interop.feature_import import ImportReport, import_features
from ecmf_pipeline.interop.feature_sources import open_source
from ecmf_pipeline.params import Params, load_params
from ecmf_pipeline.progress import say
from ecmf_pipeline.store import make_current

SHOWN = 20
"""Bad arrays that are listed one by one."""


def run(path: Path, *, modality: Modality, encoder: str) -> bool:
    """Import features of the manifest's clips into the modality's store.

    Returns:
        Whether all arrays of clips could be used.

    Raises:
        ParamsError: When params.yaml has an encoder of that name that computes its features.
        InputError: When nothing in ``path`` can be used.
    """
    params = load_params()
    config = _config(params, encoder)
    clip_ids = [clip.clip_id for clip in read_manifest(layout.MANIFEST)]
    root = layout.features(modality)
    settings = branch_settings(modality, config, params.media, params.faces)
    with open_source(path) as source:
        report = import_features(source, clip_ids, root, settings, dtype=config.dtype)
    serves = params.extract.encoders.get(modality) in (encoder, (encoder,)) and encoder in params.encoders
    if serves:
        make_current(root, fingerprint(settings))
    for line in _lines(report, f"import {modality.value} {encoder}"):
        say(line)
    for line in _params_to_add(params, modality, encoder):
        say(line)
    return not report.bad


def _config(params: Params, encoder: str) -> ImportedConfig:
    """The encoder's params; those of a new one where params.yaml has none of that name."""
    if not re.fullmatch(r"[\w.-]+", encoder):
        raise ParamsError(f"--encoder {encoder!r} is no name", "use letters, digits, `_`, `-` and `.`")
    config = params.encoders.get(encoder, ImportedConfig()).named(encoder)
    if not isinstance(config, ImportedConfig):
        raise ParamsError(
            f"encoders.{encoder} of params.yaml computes its features: imported ones must not mix with them",
            "give another --encoder name",
        )
    return config


def _lines(report: ImportReport, what: str) -> list[str]:
    shown = list(report.bad.items())[:SHOWN]
    return [
        f"{what}: {report.new} new, {report.changed} changed, {report.reused} reused, {len(report.bad)} bad "
        f"({report.dim}-d)",
        *_some(report.missing, "clips of the manifest have none, and are absent"),
        *_some(report.blank, "hold nothing but zeros (the baseline's sign that it found nothing), and are absent"),
        *_some(report.extra, "names are of no clip of the manifest, and were not imported"),
        *_some(report.passed_over, "files beside them are no features"),
        *(f"  bad: {clip_id!r}: {why}" for clip_id, why in shown),
        *([f"  bad: {len(report.bad) - SHOWN} more"] if len(report.bad) > SHOWN else []),
    ]


def _some(names: list[str], what: str) -> list[str]:
    return [f"  {len(names)} {what}: {naming_some(names)}"] if names else []


def _params_to_add(params: Params, modality: Modality, encoder: str) -> list[str]:
    """What params.yaml still lacks for these features to be used."""
    name = json.dumps(encoder) if encoder[0] in "-.0123456789" else encoder
    lacking = []
    if encoder not in params.encoders:
        lacking.append(f"  under encoders:          {name}: {{type: imported}}")
    if params.extract.encoders.get(modality) not in (encoder, (encoder,)):
        lacking.append(f"  under extract.encoders:  {modality.value}: {name}")
    return ["to use them, params.yaml must say:", *lacking] if lacking else []
