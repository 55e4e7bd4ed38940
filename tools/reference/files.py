"""The page about the files of a run: paths, columns and keys, with meanings from docstrings where these exist."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum

from ecmf_pipeline.core.clips import MANIFEST_COLUMNS, Clip, ClipText
from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.corpora.listing import Finding
from ecmf_pipeline.corpora.segments import Segment
from ecmf_pipeline.evaluation.ablation import ROBUSTNESS_COLUMNS, VARIANT_COLUMNS
from ecmf_pipeline.labels.decision_files import REFINED_COLUMNS
from ecmf_pipeline.labels.refine import Decision
from ecmf_pipeline.runner.quarantine import QuarantineEntry
from ecmf_pipeline.transcription.table import Verdict
from tools.reference.docstrings import attribute_docs, introduction, table_cell

Column = tuple[str, str]
"""Type and meaning of a column or key."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file, or one kind of file, of a project.

    Attributes:
        path: Its path; ``<name>`` is a placeholder.
        stage: The command that writes it.
        about: One or two sentences, as Markdown.
        columns: The columns of a csv file by name, in their order; ``<label>`` is a placeholder.
        keys: The top-level keys of a JSON file.
        free_keys: Whether the JSON file has further keys, which depend on params.
    """

    path: str
    stage: str
    about: str
    columns: Mapping[str, Column] = field(default_factory=dict)
    keys: Mapping[str, Column] = field(default_factory=dict)
    free_keys: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        """A pattern of the paths that the entry describes."""
        return template_pattern(self.path)


def template_pattern(template: str) -> re.Pattern[str]:
    """Return the pattern of a path or name with placeholders; a trailing slash matches all files below."""
    parts = [re.escape(part) for part in re.split(r"<[^<>]+>", template)]
    return re.compile(".+".join(parts) + (".*" if template.endswith("/") else ""))


def described(cls: type, names: tuple[str, ...] | None = None, **overrides: Column) -> dict[str, Column]:
    """Return the columns that are the attributes of a dataclass, with types and meanings of its docstring.

    Args:
        cls: The dataclass.
        names: The columns; None: all attributes.
        **overrides: Columns that no docstring describes, or not as a column.

    Raises:
        KeyError: If an attribute has no description.
    """
    docs, hints = attribute_docs(cls), typing.get_type_hints(cls)
    columns: dict[str, Column] = {}
    for name in names or tuple(one.name for one in fields(cls)):
        columns[name] = overrides[name] if name in overrides else (_type_name(hints[name]), docs[name])
    return columns


def _type_name(hint: typing.Any) -> str:
    hint = getattr(hint, "__supertype__", hint)  # of a NewType
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{member.value}`" if member.value else "empty" for member in hint)
    if hint == tuple[str, ...]:
        return "words separated by spaces"
    return {str: "text", int: "integer", float: "number", bool: "0 or 1"}[hint]


_CLIP_ID: Column = ("text", "The clip.")
_LABEL_PROBABILITY: Column = ("number", "Probability of the label, from 0 to 1. Empty if the source abstains.")
_F1: Column = ("number", "Weighted F1.")
_INTERVAL: dict[str, Column] = {
    "difference": ("number", "Weighted F1 minus that of the fusion model with all modalities."),
    "low": ("number", "Lower end of the paired 95% interval of the difference."),
    "high": ("number", "Upper end."),
}
_STUDY: dict[str, Column] = {
    "clips": ("integer", "Clips that are scored."),
    "weighted_f1": _F1,
    "accuracy": ("number", "Accuracy."),
    **_INTERVAL,
}

_PREDICTIONS: dict[str, Column] = {
    "clip_id": _CLIP_ID,
    "split": ("`train` or `candidate` or `unlabeled`", "The split of the clip."),
    "label": ("text", "The most probable label."),
    "out_of_fold": ("0 or 1", "Whether only models predicted the clip that saw neither it nor its group in training."),
    "flag": (
        "text",
        "Empty; `no usable modality`: the clip gets the shares of the given labels; or `too uncertain`: a zero-shot "
        "label below `refine.zero_shot_above`, which counts as an abstention.",
    ),
    "basis": (
        "text",
        "Labels of training: `given`, `verdicts`, or `zero-shot` for none of this corpus.",
    ),
    "p_<label>": ("number", "Probability of the label, from 0 to 1."),
    "w_<modality>": ("number", "Share of the modality in the decision. Empty if the clip is flagged."),
}

_SUBMISSION: dict[str, Column] = {
    "name": ("text", "The candidate."),
    "discrete": ("text", "The predicted label."),
}

FILES = (
    FileEntry(
        "data/models/<name>/",
        "models",
        "Weights of the default models. `ecmf-pipe models --list` prints names and licences.",
    ),
    FileEntry(
        "data/sample/",
        "sample",
        "The synthetic corpus in the layout of MER: `video/`, label tables, `gold.csv`, `groups.csv`. For other "
        "corpora it holds a note.",
    ),
    FileEntry(
        "data/manifest.csv",
        "index",
        "One row for each clip, sorted by clip id. Each later stage starts from this table.",
        columns=described(Clip, MANIFEST_COLUMNS),
    ),
    FileEntry(
        "data/corpus.json",
        "index",
        "Properties of the whole corpus.",
        keys={
            "labels": ("list of text", "The labels, in the order of the model's outputs."),
            "candidates": ("list of text", "Clip ids in the order of the submission."),
            "synthetic": ("boolean", "Whether the corpus is generated."),
            "manifest_sha256": ("text", "SHA-256 of the manifest that was written with this file."),
            "digest": ("text", "Digest of the other keys."),
        },
    ),
    FileEntry(
        "data/<folder>/<table>.csv.sha256",
        "index, transcribe, cues, rewrite, predict, vote, refine",
        "SHA-256 of a table that nobody edits, in the format of `sha256sum`: `findings.csv`, `transcripts.csv`, "
        "`rewrites.csv`, `votes.csv`, `refined.csv`, those of cues and of predictions. A table that differs from it is "
        "an error. JSON files have the digest of their content under the key `digest`.",
    ),
    FileEntry(
        "data/index/findings.csv",
        "index",
        "Missing or inconsistent parts of the corpus. The run continues. A cell that a spreadsheet would evaluate "
        "starts with an apostrophe.",
        columns={
            "kind": ("text", "Kind of the finding, such as `label_without_file` or `duplicate_content`."),
            **described(Finding, ("clip_id", "message", "count")),
        },
    ),
    FileEntry(
        "data/index/votes.csv",
        "index",
        "Votes that come with the corpus (CREMA-D, CH-SIMS), in the format of `vote.sources`; no rows if it has none.",
        columns={
            "clip_id": ("text", "Clip."),
            "source": ("text", "Who voted, such as `crowd/voice` or `people/text`."),
            "p_<label>": ("number", "Share of the votes on the label."),
        },
    ),
    FileEntry(
        "data/segments/segments.csv",
        "segment",
        "One row for each clip of a recording, and one without times for a recording without clips. Header only if "
        "`segment.by` is `null`.",
        columns={
            "path": ("text", "The recording, relative to the corpus folder."),
            **described(Segment),
            "digest": ("text", "SHA-256 of the recording."),
        },
    ),
    FileEntry(
        "data/segments/findings.csv",
        "segment",
        "Problems of the times of cues, and recordings without clips; `index` adds them to its findings.",
        columns={
            "kind": ("text", "Kind of the finding."),
            **described(Finding, ("clip_id", "message", "count")),
        },
    ),
    FileEntry(
        "data/segments/cache/", "segment", "Cues and speech by digest of the recording, as immutable `.jsonl` parts."
    ),
    FileEntry(
        "data/quarantine/<stage>.csv",
        "segment, index, extract, transcribe, rewrite, vote",
        "Clips that a stage could not use. `extract` writes one table for each modality, `extract-<modality>.csv`. A "
        "clip is not tried again until its input or the settings change, or until `--retry-quarantined`.",
        columns=described(QuarantineEntry),
    ),
    FileEntry(
        "data/settings/<name>.json",
        "settings",
        "One file for each set of settings that later stages depend on: `extract-<modality>`, `llm`, `rewrite`, "
        "`transcribe`, `vote`, `labels`, `rounds`, `package`. A stage runs again if the bytes of its file change.",
        free_keys=True,
    ),
    FileEntry(
        "data/transcripts/transcripts.csv",
        "transcribe",
        "One row for each clip that was transcribed or corrected. Header only if there is none.",
        columns={
            "clip_id": _CLIP_ID,
            "transcript": ("text", "The words."),
            "words_from": ("`machine` or `corrected`", "Speech recognition, or `labels/transcripts.csv`."),
            "verdict": (
                " or ".join(f"`{verdict.value}`" for verdict in Verdict),
                "Whether the transcript is used, or the reason why not.",
            ),
            "language": ("text", "Code of the language, such as `en`. Empty if nothing was recognised."),
            "language_probability": ("number", "Probability of the language, 1 if it was set. Empty likewise."),
            "confidence": ("number", "Mean log-probability of the tokens. Empty likewise."),
            "no_speech": ("number", "Probability that nobody speaks. Empty likewise."),
            "loudness": ("number", "Level of the loudest utterance in dBFS. Empty likewise."),
        },
    ),
    FileEntry(
        "data/transcripts/cache/",
        "transcribe",
        "Recognised words, with their times, by digest of the sound, as immutable `.jsonl` parts.",
    ),
    FileEntry(
        "data/cues/<modality>.csv",
        "cues",
        "Unusual facial actions or properties of the voice. Written only for modalities in `rewrite.cues`.",
        columns={"clip_id": _CLIP_ID, "cues": ("text", "Names of the cues, separated by spaces; may be empty.")},
    ),
    FileEntry(
        "data/rewrite/rewrites.csv",
        "rewrite",
        "The texts of each clip; the text branch reads this table. An empty cell: the clip has no such text.",
        columns={"clip_id": _CLIP_ID, **described(ClipText)},
    ),
    FileEntry("data/rewrite/cache/", "rewrite", "Label scores of the LLM by fingerprint; see [formats](formats.md)."),
    FileEntry("data/rewrite/answers/", "rewrite", "Answers of the LLM for `rewrite.how: written`, by fingerprint."),
    FileEntry(
        "data/features/<modality>.zarr/",
        "extract",
        "The features: a Zarr v3 store; see [formats](formats.md#feature-store).",
    ),
    FileEntry(
        "data/fusion/<labels>/<model>/",
        "train",
        "A saved ensemble: `config.json` and `weights.safetensors`. `<labels>` is `given` or `refined`. `<model>` is "
        "`fusion`, or the name of a modality that was trained alone (given labels only).",
    ),
    FileEntry(
        "data/predictions/<labels>/<model>.csv",
        "predict",
        "Predictions for each clip by the models that saw neither it nor its group in training. `evaluate` scores "
        "these. `deployed/fusion.csv` holds the predictions of the whole ensemble, from which the submission is made.",
        columns=_PREDICTIONS,
    ),
    FileEntry(
        "data/predictions/<labels>/<model>.npz",
        "predict",
        "The same, without rounding, as arrays without pickle: `clip_ids`, `splits`, `labels`, `out_of_fold`, `flags` "
        "`(n,)`; `label_names` `(C,)`; `probs` `(n, C)`; `modalities` `(M,)`; `modality_weights` `(n, M)`; "
        "`basis`. Of the fusion trained on refined labels also the probabilities by each of its branches: `branches` "
        "`(B,)`; `branch_probs` `(n, B, C)`, NaN if a clip lacks the modality.",
    ),
    FileEntry(
        "data/predictions/<labels>/deployed/timeline.csv",
        "predict",
        "The predictions of the clips of recordings by time; only if clips are spans of a file. An empty label: "
        "nothing of the clip is usable, or it is too uncertain. `timeline.json` holds the same.",
        columns={
            "path": ("text", "The recording."),
            "clip_id": _CLIP_ID,
            "start": ("number", "Start in seconds."),
            "end": ("number", "End in seconds."),
            "text": ("text", "The words; empty if unknown."),
            "label": ("text", "Most likely label."),
            "basis": ("text", "Basis of the label: `given`, `verdicts` or `zero-shot` (unverified)."),
            "p_<label>": ("number", "Probability of the label."),
        },
    ),
    FileEntry(
        "data/predictions/<labels>/trained_on.json",
        "predict",
        "Identifies the labels that the models learned from. Written for refined labels only.",
        keys={
            "labels_sha256": ("text", "SHA-256 of `data/labels/refined.csv`."),
            "digest": ("text", "Digest of the other keys."),
        },
    ),
    FileEntry(
        "data/submission.csv",
        "predict",
        "The submission of the model trained on refined labels: one row for each candidate, in their order.",
        columns=_SUBMISSION,
    ),
    FileEntry(
        "data/submission_given.csv",
        "predict",
        "The submission of the model trained on given labels.",
        columns=_SUBMISSION,
    ),
    FileEntry(
        "data/votes/votes.csv",
        "vote",
        "One row for each clip and source, sorted by clip, then source.",
        columns={
            "clip_id": _CLIP_ID,
            "source": ("text", "The voter, such as `face/linear`, `llm` or the name in a file of `vote.sources`."),
            "label": ("text", "The most probable label. Empty if the source abstains."),
            "p_<label>": _LABEL_PROBABILITY,
        },
    ),
    FileEntry("data/votes/cache/", "vote", "Label scores of the LLM by fingerprint; see [formats](formats.md)."),
    FileEntry(
        "data/labels/refined.csv",
        "refine",
        "The decision about each clip's label, with all votes, sorted by clip. See "
        "[the decisions](../explanation/labels.md#decisions).",
        columns={
            **described(Decision, REFINED_COLUMNS),
            "posterior_<label>": ("number", "Probability of the label according to the label model."),
            "<source>_vote": ("text", "The label that the source votes for. Empty if it abstains."),
            "<source>_prob": ("number", "Its probability. Empty if it abstains."),
        },
    ),
    FileEntry(
        "data/labels/next.csv",
        "refine",
        "The clips that a person should label next, the highest expected gain first; clips without readable media are "
        "last. See [the gain](../explanation/labels.md#clips-to-label-next). A cell that a spreadsheet would evaluate "
        "starts with an apostrophe, which `refine` removes again.",
        columns={
            **described(Decision, ("clip_id",)),
            **described(Clip, ("path",)),
            **described(Decision, ("split", "given_label", "decision")),
            "gain": ("number", "Probability that a verdict changes the label of the clip."),
            **described(Clip, ("transcript", "words_from")),
            "sources": ("text", "The sources that vote for each label, with their probability, most votes first."),
            **described(Decision, ("reason",)),
        },
    ),
    FileEntry(
        "data/metrics/index.json",
        "index",
        "Counts of the corpus.",
        keys={
            "clips": ("integer", "All clips."),
            "train": ("integer", "Clips with a given label."),
            "candidate": ("integer", "Clips of the submission."),
            "unlabeled": ("integer", "The others."),
            "findings": ("mapping", "Clips, rows or files of each kind of finding."),
            "languages": ("mapping", "Number of transcripts in each language."),
            "translation_language": ("text", "Language of the translations; empty without any."),
            "splits": ("text", "Groups and splits of a published corpus; empty for other corpora."),
        },
    ),
    FileEntry(
        "data/metrics/refine.json",
        "refine",
        "Summary of the refinement.",
        keys={
            "basis": (
                "text",
                "Labels of training: `given`, `verdicts`, or `zero-shot` for none of this corpus.",
            ),
            "decisions": ("mapping", "Clips of each decision."),
            "verdicts": ("integer", "Clips whose label a person confirmed."),
            "sources": ("mapping", "Coverage and agreement of each source."),
        },
    ),
    FileEntry(
        "data/metrics/summary.json",
        "evaluate",
        "The numbers that `dvc metrics` and `dvc exp show` print, rounded to four digits. A number that is unknown is "
        "left out. Git tracks this file.",
        keys={
            "basis": ("text or null", "`zero-shot`, or `verdicts` if they are all labels; left out otherwise."),
            "f1": ("number", "Weighted F1 of the fusion model trained on refined labels: the main figure."),
            "f1_lo": ("number", "Lower bound of its 95% bootstrap interval, over groups if the corpus has groups."),
            "f1_hi": ("number", "Upper bound of this interval."),
            "acc": ("number", "Accuracy of the same model."),
            "single": ("number or null", "Weighted F1 of the best single modality, trained on given labels."),
            "gain": (
                "number or null",
                "Weighted F1 of the fusion model trained on given labels, minus `single`. Not with one modality only.",
            ),
            "given": ("number or null", "Share of the given training labels that are right; only with gold labels."),
            "refined": ("number or null", "Share of the refined training labels in use that are right."),
            "agree": ("number or null", "Zero-shot only: share of the common votes on which the sources agree."),
            "labelled": ("integer or null", "Zero-shot only: clips with a label."),
            "verdicts": ("integer or null", "Zero-shot only: clips whose label a person confirmed."),
            "clips": ("integer", "Clips that are scored; zero-shot: all clips."),
            "quarantined": ("integer", "Clips of the corpus that some stage could not use."),
        },
    ),
    FileEntry(
        "data/metrics/evaluate.json",
        "evaluate",
        "All scores. Intervals are 95% bootstrap intervals over clips, or over groups if the corpus has groups.",
        keys={
            "weighted_f1": ("number", "Weighted F1 of the fusion model trained on refined labels: the main figure."),
            "interval": ("list of 2 numbers", "Bounds of the 95% bootstrap interval of the main figure."),
            "accuracy": ("number", "Its accuracy."),
            "basis": (
                "text",
                "Labels of training; `zero-shot`: none of this corpus, and other keys.",
            ),
            "clips": ("integer", "Clips that are scored."),
            "judged_by": ("`gold` or `given`", "The labels that predictions are compared with."),
            "model": ("text", "The labels that the model of the main figure was trained on."),
            "fusion": ("mapping", "Scores of the fusion model trained on given and on refined labels."),
            "modalities": ("mapping", "Scores of each modality alone."),
            "by_split": ("mapping", "Scores of the fusion model in each split."),
            "fusion_over_best_modality": ("mapping or null", "Paired difference to the best modality."),
            "plain": (
                "mapping",
                "Plain models on the same features and folds (`models`): weighted F1, accuracy, and the paired "
                "difference of the fusion to each. The best is chosen on inner folds. `why` if there are none.",
            ),
            "refined_over_given": ("mapping", "Paired difference between training on refined and on given labels."),
            "labels": (
                "mapping or null",
                "Accuracy of the training labels, given and refined: `fixed` and `broken` labels, and how many of them "
                "by verdicts (`fixed_by_verdicts`, `broken_by_verdicts`, `pseudo_by_verdicts`). Only with gold labels.",
            ),
            "confusion": ("mapping", "Confusion matrix: `labels` and `counts`, rows are true labels."),
            "no_modality": ("integer", "Clips that no modality could judge."),
            "controls": (
                "mapping",
                "Weighted F1 of a linear classifier, and of the fusion model (`controls.fusion`), trained on given, "
                "rebalanced, drop-only, refined, and refined and pseudo-labels; and the best training set.",
            ),
            "label_model": (
                "mapping or null",
                "Reliability curve, calibration error, accuracy of the most certain clips, and the label model without "
                "each family of sources.",
            ),
            "label_methods": (
                "mapping or null",
                "The label model compared with majority, weighted majority, Dawid-Skene, OneCoin, MMSR, CROWDLAB and a "
                "stack fitted on gold labels.",
            ),
        },
    ),
    FileEntry(
        "data/metrics/sources.json",
        "evaluate",
        "Evidence about each source of votes.",
        free_keys=True,
        keys={"sources": ("mapping", "Reliability, confusion and error correlation of each source, with intervals.")},
    ),
    FileEntry(
        "data/metrics/ablate.json",
        "ablate",
        "The ablation study.",
        free_keys=True,
        keys={
            "judged_by": ("`gold` or `given`", "The labels that predictions are compared with."),
            "reference": ("mapping", "Scores of the fusion model with all modalities."),
            "variants": ("list", "The rows of `variants.csv`."),
            "robustness": ("list", "The rows of `robustness.csv`."),
        },
    ),
    FileEntry(
        "data/metrics/plots/confusion.csv",
        "evaluate",
        "One row for each scored clip, for `dvc plots show`.",
        columns={"actual": ("text", "True label."), "predicted": ("text", "Label predicted by the fusion model.")},
    ),
    FileEntry(
        "data/metrics/plots/models.csv",
        "evaluate",
        "One row for each model, for `dvc plots show`.",
        columns={"model": ("text", "The model."), "weighted_f1": _F1},
    ),
    FileEntry(
        "data/metrics/plots/reliability.csv",
        "evaluate",
        "Confidence and accuracy of the fusion model trained on refined labels, for `dvc plots show`. One row for each "
        "tenth of confidence with clips.",
        columns={
            "confidence": ("number", "Mean probability of the predicted labels."),
            "accuracy": ("number", "Share of the predictions that are right."),
            "ideal": ("number", "Accuracy of perfect calibration: the same as `confidence`."),
            "clips": ("integer", "Clips."),
        },
    ),
    FileEntry(
        "data/metrics/plots/training_<labels>.csv",
        "train",
        "Means over the models of the fusion in each epoch of joint training, for `dvc plots show`. A model that has "
        "stopped counts with the values of its best epoch, so the last row shows the models as they are used.",
        columns={
            "epoch": ("integer", "The epoch; 0 is before joint training, after that of single modalities."),
            "loss": ("number", "Validation loss."),
            "weighted_f1": ("number", "Weighted F1 on the validation clips of each model."),
            "models": ("integer", "Models that were trained in this epoch."),
        },
    ),
    FileEntry(
        "data/ablation/variants.csv",
        "ablate",
        "Variants of the fusion model.",
        columns={
            name: {
                "table": ("text", "Group of variants; `reference` for the fusion model itself."),
                "name": ("text", "The variant."),
                **_STUDY,
            }[name]
            for name in VARIANT_COLUMNS
        },
    ),
    FileEntry(
        "data/ablation/robustness.csv",
        "ablate",
        "The fusion model on damaged inputs.",
        columns={
            name: {
                "modality": ("text", "The modality that is damaged."),
                "damage": ("`missing` or `noisy` or `shuffled`", "The kind of damage."),
                "trained_without": ("number", "Weighted F1 of a model trained without the modality."),
                **_STUDY,
            }[name]
            for name in ROBUSTNESS_COLUMNS
        },
    ),
    FileEntry(
        "data/ablation/answers.npz",
        "ablate",
        "Predicted labels: `clip_ids` `(j,)`, `variants` `(V,)`, `labels` `(V, S, j)` for S seeds.",
    ),
    FileEntry("data/report/index.html", "report", "The report: one page that loads nothing from elsewhere."),
    FileEntry(
        "data/transfer.json", "evaluate --transfer", "Scores of a model that was trained elsewhere.", free_keys=True
    ),
    FileEntry(
        "data/.<name>",
        "each",
        "Caches and work in progress: remembered digests, the index cache, spools. Any of these files may be deleted "
        "while no run is writing; DVC does not track them.",
    ),
    FileEntry(
        "data/features/.<name>",
        "extract",
        "Lock and spool of a store, and the parts that `store verify --mend` moved out of it. DVC does not track them.",
    ),
)
"""All files below `data/`, in the order in which stages write them."""

_INTRODUCTION = """\
<!-- Generated by `python -m tools.reference` from `tools/reference/files.py` and docstrings. -->

# Files of a run

All files of a run are below `data/` of the project folder. Csv files are UTF-8 with a header. A boolean is 0 or 1.
Unchanged content gives unchanged bytes, so that DVC runs no later stage for nothing. `<name>` is a placeholder.
"""


def entry_of(path: str) -> FileEntry | None:
    """Return the entry that describes a file: the last one whose pattern matches and whose text is longest."""
    matching = [entry for entry in FILES if entry.pattern.fullmatch(path)]
    return max(matching, key=lambda entry: len(re.sub(r"<[^<>]+>", "", entry.path)), default=None)


def files_page() -> str:
    """Return the page."""
    parts = [_INTRODUCTION.strip(), _overview()]
    for entry in FILES:
        if not (entry.columns or entry.keys):
            continue
        parts += [f"## `{entry.path}`", f"Written by {entry.stage}. {entry.about}"]
        for title, rows in (("column", entry.columns), ("key", entry.keys)):
            if rows:
                lines = [f"| {title} | type | meaning |", "|---|---|---|"]
                lines += [
                    f"| `{name}` | {table_cell(kind)} | {table_cell(text)} |" for name, (kind, text) in rows.items()
                ]
                parts.append("\n".join(lines))
        if entry.keys and entry.free_keys:
            parts.append("Further keys depend on params.")
    parts += ["## Quarantine reasons", "The column `reason` of the quarantine tables:", _reasons()]
    return "\n\n".join(parts) + "\n"


def _reasons() -> str:
    rows = [
        f"| `{cls.__name__}` | {table_cell(introduction(cls).partition(chr(10))[0])} |"
        for cls in _subclasses(ClipError)
    ]
    return "\n".join(["| reason | meaning |", "|---|---|", *rows])


def _subclasses(cls: type) -> list[type]:
    """Return all subclasses, in the order of their definition."""
    own = [direct for direct in cls.__subclasses__() if direct.__module__ == cls.__module__]  # tests define others
    return [one for direct in own for one in (direct, *_subclasses(direct))]


def _overview() -> str:
    rows = [f"| `{entry.path}` | {entry.stage} | {table_cell(entry.about)} |" for entry in FILES]
    return "\n".join(["| file | written by | content |", "|---|---|---|", *rows])
