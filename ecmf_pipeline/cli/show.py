"""Implement the read-only commands `status`, `encoders` and `score`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig, TransformersConfig
from ecmf_pipeline.encoders.config import ImportedConfig
from ecmf_pipeline.interop.mertools import read_answers, score_submission
from ecmf_pipeline.runner.quarantine import read_all
from ecmf_pipeline.settings.params import Params, load_params, preset_params
from ecmf_pipeline.settings.presets import preset_names
from ecmf_pipeline.stages.shared.status import stage_rows


def show_status() -> None:
    """Print one line for each stage, and the number of quarantined clips by reason."""
    params = load_params()
    rows = [("stage", "done", "missing", "absent", "quarantined"), *stage_rows(params)]
    width = max(18, *(len(row[0]) for row in rows))  # names of encoders may be long
    for row in rows:
        echo("{:<{width}}{:>9}{:>9}{:>9}{:>13}".format(*row, width=width))
    entries = read_all(paths.QUARANTINE, params.extract.encoders)
    counts = Counter((entry.stage, entry.modality, entry.reason) for entry in entries)
    for (stage, modality, reason), count in sorted(counts.items()):
        echo(f"  quarantined by {f'{stage} {modality}'.strip()}: {reason} {count}")
    if bugs := sum(entry.may_be_bug for entry in entries):
        echo(f"  possible bugs of ecmf-pipeline: {format_count(bugs, 'entry', 'entries')} with UnexpectedError")
    if entries:
        echo(f"  the clips are listed in {paths.QUARANTINE}/")


def show_score(predictions: Path, truth: Path, *, entry: str, as_json: bool) -> None:
    """Print weighted F1, accuracy and the scores of each label; see `read_answers` for the file formats.

    Raises:
        InputError: If a file cannot be used, or a labelled name has no prediction.
    """
    result = score_submission(read_answers(predictions, entry), read_answers(truth, entry, skip_blank=True))
    if as_json:
        echo(json.dumps(result, ensure_ascii=False))
        return
    weighted_f1, accuracy = result["weighted_f1"], result["accuracy"]
    echo(f"score: weighted F1 {weighted_f1:.4f}, accuracy {accuracy:.4f} over {result['clips']} names")
    for label, row in result["per_class"].items():
        echo(
            f"  {label}: F1 {row['f1']:.4f}, precision {row['precision']:.4f}, recall {row['recall']:.4f}, "
            f"{format_count(row['support'], 'name')}"
        )
    if result["unlabeled"]:
        echo(f"  predictions ignored because their names have no label: {result['unlabeled']}")


_SHOWN_OPTIONS = ("layers", "token_pool", "special_tokens", "frames", "frames_per_row", "inputs", "precision")
"""Params of an encoder that are printed if it has them."""

_EncoderRow = tuple[str, str, str, str, str]
"""Modality, entry, model, width, options."""


def show_encoders() -> None:
    """Print the encoders of each preset by modality, then the encoders in use.

    Raises:
        ParamsError: If params.yaml cannot be used.
    """
    params = load_params()
    tables = {
        f"preset {name}" + (" (selected in params.yaml)" if name == params.preset else ""): list(
            _encoder_rows(preset_params(name))
        )
        for name in preset_names()
    }
    tables[f"in use: {paths.PARAMS} merged over preset {params.preset}"] = list(_encoder_rows(params))
    widths = [max(len(row[column]) for rows in tables.values() for row in rows) for column in range(4)]
    for title, rows in tables.items():
        echo(title)
        for *cells, options in rows:
            echo(
                "  "
                + "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), options]).rstrip()
            )
    used = {name for modality in params.extract.encoders for name in params.extract.encoders[modality]}
    if unused := [name for name in params.encoders if name not in used]:
        echo(f"  entries of encoders that no modality uses: {', '.join(unused)}")


def _encoder_rows(params: Params) -> Iterator[_EncoderRow]:
    for modality in Modality:
        if modality not in params.extract.encoders:
            yield modality.value, "-", "not used", "", ""
            continue
        for name in params.extract.encoders[modality]:
            encoder = params.encoders[name].named(name)
            width = encoder.known_dim()
            yield modality.value, name, _model(encoder), "?-d" if width is None else f"{width}-d", _options(encoder)
    llm = params.llm
    model = f"{llm.model}/{llm.gguf_file}" if llm.gguf_file else llm.model
    yield "llm", "", model, "", f"prompt {llm.prompt}, {llm.dtype}"


def _model(encoder: BaseEncoderConfig) -> str:
    if isinstance(encoder, TransformersConfig):
        return encoder.model if encoder.revision == "main" else f"{encoder.model}@{encoder.revision[:12]}"
    return "imported features" if isinstance(encoder, ImportedConfig) else str(getattr(encoder, "type", ""))


def _options(encoder: BaseEncoderConfig) -> str:
    """Format the params of an encoder that are set."""
    options = {name: getattr(encoder, name) for name in _SHOWN_OPTIONS if getattr(encoder, name, None) is not None}
    texts = []
    for name, value in options.items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        texts.append(f"{name} {text.lower() if isinstance(value, bool) else text}")
    return ", ".join(texts)
