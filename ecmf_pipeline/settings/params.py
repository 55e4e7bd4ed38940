"""Model of params.yaml: one frozen, strict section for each stage, and sections that stages share.

Only stages use `Params`. Each package defines its own section and receives only that section.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Config, Pool, PoolOrFrames
from ecmf_pipeline.core.documents import parse_yaml
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.sample.config import SampleConfig
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig, TextColumn
from ecmf_pipeline.encoders.config import (
    EfficientNetConfig,
    EgemapsConfig,
    EncoderConfig,
    ImportedConfig,
    MiniXceptionConfig,
    TextConfig,
    configured_frames,
)
from ecmf_pipeline.encoders.embedded.packages import ModelsConfig
from ecmf_pipeline.evaluation.config import AblateConfig, EvaluateConfig
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.labels.config import RefineConfig, VoteConfig
from ecmf_pipeline.llm.config import LlmConfig, RewriteConfig
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.runner.config import EngineConfig
from ecmf_pipeline.segmentation.config import SegmentConfig
from ecmf_pipeline.settings.presets import DEFAULT_PRESET, merge_over_preset, preset_document, preset_names
from ecmf_pipeline.transcription.config import TranscribeConfig


class IndexConfig(Config):
    """Settings of the `index` stage.

    Attributes:
        max_quarantined: Share of unreadable files above which `index` ends with exit code 1. Of fewer than 20 files,
            three may be unreadable.
        workers: Worker processes that read new files. None: one for each core; 0: the main process only, which ends
            if the demuxer crashes on a file.
        clip_timeout: Seconds to hash and probe one file. A file that exceeds it twice is quarantined until the file
            changes or this value is raised.
    """

    max_quarantined: float = Field(0.2, ge=0, le=1)
    workers: int | None = Field(None, ge=0)
    clip_timeout: float = Field(60.0, gt=0)


class TrainConfig(Config):
    """Settings of the `train` stage.

    Attributes:
        pool: Pooling of the rows of a clip to one vector, for training, voting and prediction. With ``frames``, the
            fusion model takes a sequence of at most `arrays.MAX_FRAMES` rows and pools it as ``fusion.temporal``
            specifies; voters, which need vectors, get the mean.
        fusion: The fusion model.
        training: Training of the fusion model.
    """

    pool: PoolOrFrames = "mean"
    fusion: FusionConfig = FusionConfig()
    training: TrainingConfig = TrainingConfig()

    @property
    def vector_pool(self) -> Pool:
        """Pooling for models that need one vector for each clip."""
        return "mean" if self.pool == "frames" else self.pool


def _embedded_encoders() -> dict[str, EncoderConfig]:
    return {
        "efficientnet_lite0": EfficientNetConfig(),
        "mini_xception": MiniXceptionConfig(),
        "egemaps": EgemapsConfig(),
        "minilm": TextConfig(inputs="both"),
    }


class Token(NamedTuple):
    """An encoder of a modality; its features become one token of the fusion."""

    modality: Modality
    encoder: str


class Params(Config):
    """All params: params.yaml merged over its preset, with the defaults of ``embedded`` for all other keys.

    Attributes:
        preset: Name of the preset; see `presets`.
        encoders: Frozen encoders by name; ``extract.encoders`` assigns them to modalities.
        train: The fusion model and its training; `predict` uses these settings too.
    """

    preset: str = DEFAULT_PRESET
    engine: EngineConfig = EngineConfig()
    corpus: CorpusConfig = CorpusConfig()
    models: ModelsConfig = ModelsConfig()
    sample: SampleConfig = SampleConfig()
    segment: SegmentConfig = SegmentConfig()
    index: IndexConfig = IndexConfig()
    media: MediaConfig = MediaConfig()
    faces: FaceConfig = FaceConfig()
    encoders: dict[str, EncoderConfig] = Field(default_factory=_embedded_encoders)
    extract: ExtractConfig = ExtractConfig()
    transcribe: TranscribeConfig = TranscribeConfig()
    llm: LlmConfig = LlmConfig()
    rewrite: RewriteConfig = RewriteConfig()
    train: TrainConfig = TrainConfig()
    vote: VoteConfig = VoteConfig()
    refine: RefineConfig = RefineConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    ablate: AblateConfig = AblateConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for modality in self.extract.encoders:
            self._check_encoders(modality)
        if self.corpus.kind == "sample" and self.corpus.root != paths.SAMPLE:
            raise _inconsistent(
                "corpus.root",
                f"the corpus of kind sample is always in {paths.SAMPLE}",
                "for another corpus, set corpus.kind too",
            )
        if self.corpus.kind != "sample" and self.corpus.root == paths.SAMPLE:
            raise _inconsistent(
                "corpus.root",
                f"not set for a corpus of kind {self.corpus.kind}",
                "set corpus.root to the folder of the corpus",
            )
        if self.segment.by and self.corpus.kind != "folder":
            raise _inconsistent(
                "segment.by",
                f"only recordings of a corpus of kind folder are cut, not of kind {self.corpus.kind}",
                "set corpus.kind to folder, or segment.by to null",
            )
        if self.faces.source == "openface" and self.corpus.kind != "mer":
            raise _inconsistent(
                "faces.source",
                f"{self.faces.source} crops exist only in corpora of kind mer, not {self.corpus.kind}",
                "set faces.source to detect",
            )
        if "frames" in self.vote.inputs and self.llm.backend != "openai":
            raise _inconsistent(
                "vote.inputs", "frames need a server with a vision model", "set llm.backend to openai, or remove frames"
            )
        if "cues" in self.vote.inputs and not self.llm.votes.cues:
            raise _inconsistent(
                "llm.votes.cues", "empty although vote.inputs contains cues", "list face, audio or both"
            )
        fusion, search = self.train.fusion, self.train.training.search
        if indivisible := search.indivisible_widths(fusion.heads):
            raise _inconsistent(
                "train.training.search.hidden",
                f"{', '.join(map(str, indivisible))} cannot be divided by train.fusion.heads ({fusion.heads})",
                f"use multiples of {fusion.heads}",
            )
        for kind in self.rewrite.cues:
            self._check_cues(kind, "rewrite.cues")
        for kind in self.llm.votes.cues if "cues" in self.vote.inputs else ():
            self._check_cues(kind, "llm.votes.cues")
        return self

    def _check_cues(self, kind: str, key: str) -> None:
        modality = Modality(kind)
        names = self.extract.encoders.get(modality, ())
        required = MiniXceptionConfig if modality is Modality.FACE else EgemapsConfig
        if len(names) != 1 or not isinstance(self.encoders[names[0]], required):
            encoder = required.model_fields["type"].default
            raise _inconsistent(
                key,
                f"{kind} needs the encoder {encoder} only, but extract.encoders.{kind} is "
                f"{', '.join(names) or 'not in use'}",
                f"set extract.encoders.{kind} to {encoder}, or remove {kind}",
            )

    def _check_encoders(self, modality: Modality) -> None:
        names, key = self.extract.encoders[modality], f"extract.encoders.{modality.value}"
        for name in names:
            if name not in self.encoders:
                raise _inconsistent(key, f"no encoder is named {name!r}", _suggest(name, self.encoders))
            if modality not in self.encoders[name].modalities:
                usable = [other for other, config in self.encoders.items() if modality in config.modalities]
                raise _inconsistent(
                    key, f"{name!r} cannot encode this modality", f"use another encoder: {', '.join(usable) or 'none'}"
                )

    @property
    def tokens(self) -> dict[str, Token]:
        """The encoders in use, by the name of their features: ``text``, or ``text.minilm`` if text has several."""
        return {
            modality.value if len(names) == 1 else f"{modality.value}.{name}": Token(modality, name)
            for modality, names in self.extract.encoders.items()
            for name in names
        }

    def tokens_of(self, modality: Modality) -> dict[str, Token]:
        """Return the encoders of a modality, as `tokens` does; none if it is not in use."""
        return {name: token for name, token in self.tokens.items() if token.modality is modality}

    def encoder_of(self, modality: Modality, name: str = "") -> BaseEncoderConfig:
        """Return an encoder of a modality in use, resolved for the device; the first one without a name."""
        name = name or self.extract.encoders[modality][0]
        return self.encoders[name].named(name).resolved(self.extract.device)

    @property
    def text_columns(self) -> frozenset[TextColumn]:
        """The texts that the text encoders in use read; empty if there are none or their features are imported."""
        return frozenset(column for encoder in self.text_encoders.values() for column in encoder.text_columns)

    @property
    def text_encoders(self) -> dict[str, BaseEncoderConfig]:
        """The text encoders in use by name, without imported features."""
        names = self.extract.encoders.get(Modality.TEXT, ())
        return {name: self.encoders[name] for name in names if not isinstance(self.encoders[name], ImportedConfig)}

    def known_languages(self, column: TextColumn) -> frozenset[str] | None:
        """Return the languages that each text encoder knows which reads ``column``; None for every language."""
        known = [encoder.known_languages for encoder in self.text_encoders.values() if column in encoder.text_columns]
        limited = [languages for languages in known if languages is not None]
        return frozenset.intersection(*limited) if limited else None

    @property
    def needs_enriched_texts(self) -> bool:
        """Whether an encoder in use reads transcripts that the LLM has enriched."""
        return "enriched" in self.text_columns

    @property
    def needs_llm(self) -> bool:
        """Whether the LLM enriches transcripts or votes."""
        return self.needs_enriched_texts or bool(self.vote.inputs)

    @property
    def votes_on_transcripts(self) -> bool:
        """Whether the LLM votes on transcripts, or on cues of the voice, which include the rate of speech."""
        cues = self.llm.votes.cues if "cues" in self.vote.inputs else ()
        return "text" in self.vote.inputs or Modality.AUDIO.value in cues

    @property
    def needs_transcripts(self) -> bool:
        """Whether an encoder in use or the LLM reads transcripts; the report only shows them."""
        return bool(self.text_columns & {"original", "enriched"}) or self.votes_on_transcripts

    @property
    def needs_face_crops(self) -> bool:
        """Whether an encoder in use or the LLM reads the face crops that come with the corpus."""
        names = self.extract.encoders.get(Modality.FACE, ())
        computed = any(not isinstance(self.encoders[name], ImportedConfig) for name in names)
        votes = "frames" in self.vote.inputs and self.llm.votes.frames.crops
        return self.faces.source == "openface" and (computed or votes)

    def token_settings(self, token: Token, *, weights_required: bool = True) -> dict[str, Any]:
        """Return all settings that affect the features of an encoder of a modality; see `branch_settings`."""
        return self.settings_of(token.modality, self.encoder_of(*token), weights_required=weights_required)

    def settings_of(
        self, modality: Modality, encoder: BaseEncoderConfig | None = None, *, weights_required: bool = True
    ) -> dict[str, Any]:
        """Return all settings that affect the features of a modality; see `branch_settings`.

        Args:
            modality: A modality.
            encoder: Encoder to use instead of the one in params.
            weights_required: See `branch_settings`.
        """
        return branch_settings(
            modality, encoder or self.encoder_of(modality), self.media, self.faces, weights_required=weights_required
        )


def branch_settings(
    modality: Modality,
    encoder: BaseEncoderConfig,
    media: MediaConfig,
    faces: FaceConfig,
    *,
    weights_required: bool = True,
) -> dict[str, Any]:
    """Return all settings that affect the features of a modality: the encoder and the preparation of its input.

    Args:
        modality: The modality.
        encoder: Its encoder.
        media: How clips are read.
        faces: How faces are found.
        weights_required: Whether weights must be on this machine, as for extraction. If not, values that depend on
            missing weights are `core.weights.Unknown`; everything else can be compared with a store.

    Raises:
        MissingWeights: If weights are missing and required.
        ModelError: If embedded weights were altered.
    """
    settings: dict[str, Any] = {
        "modality": modality.value,
        "encoder": encoder.settings(weights_required=weights_required),
    }
    if isinstance(encoder, ImportedConfig):
        return settings  # their input was prepared elsewhere
    if modality in {Modality.GLOBAL, Modality.FACE}:
        # `recipe` is incremented whenever a change of the code changes the sampled frames or the samples of audio.
        settings["media"] = {
            **media.model_dump(mode="json", exclude={"least_readable", "reader"}),  # they change no frame
            "frames": configured_frames(encoder, media.frames),
            "recipe": 4,
        }
    if modality is Modality.FACE:
        settings["faces"] = faces.settings(weights_required=weights_required)
        if faces.source == "openface":
            settings["media"] = {"frames": settings["media"]["frames"]}  # crops are read instead of the video
    if modality is Modality.AUDIO:
        settings["media"] = {"sample_rate": SAMPLE_RATE, "recipe": 2}
    return settings


def load_params(path: Path = paths.PARAMS) -> Params:
    """Read params.yaml of the current directory.

    Raises:
        ParamsError: If the file does not exist, is not valid YAML, or has wrong keys or values; the error lists all
            wrong keys.
    """
    if not path.is_file():
        raise ParamsError(
            f"{path} does not exist in {Path.cwd()}",
            "change to a project folder, or create one",
            command="ecmf-pipe init FOLDER",
        )
    try:
        document = parse_yaml(path.read_text(encoding="utf-8-sig")) or {}
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not UTF-8 text ({error})", "save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParamsError(f"{path}{where}: not valid YAML: {error.problem}", "correct this line") from error
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}", "correct it") from error
    if not isinstance(document, dict):
        raise ParamsError(f"{path} is not a mapping of sections", "start it with a section such as corpus:")
    return validated(_with_folders_of_main_project(document), where=str(path))


_FOLDER_KEYS = {"root", "model"}
"""Keys whose value may be a folder that neither Git nor DVC tracks: the corpus, weights."""


def _with_folders_of_main_project(document: dict[str, Any]) -> dict[str, Any]:
    """In a temporary workspace of DVC, replace relative folders that only the main project has by their full path.

    Such folders do not change settings: corpora and weights are identified by content.
    """
    project = paths.dvc_project(paths.PARAMS)
    if project is None or (main := paths.main_project(project)) == project:
        return document
    folder = main / Path.cwd().relative_to(project)

    def replaced(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replaced(name, child) for name, child in value.items()}
        if key not in _FOLDER_KEYS or not isinstance(value, str) or paths.DATA in Path(value).parents:
            return value
        return str(folder / value) if not Path(value).exists() and (folder / value).is_dir() else value

    return {name: replaced(name, child) for name, child in document.items()}


def preset_params(name: str) -> Params:
    """Return the params of a preset for a corpus of kind mer, which all presets support.

    Raises:
        ParamsError: If there is no such preset.
    """
    return validated({"preset": name, "corpus": {"kind": "mer", "root": "corpus"}}, where=f"preset {name}")


def validated(document: dict[str, Any], *, where: str) -> Params:
    """Merge a params document over its preset and validate it.

    Args:
        document: Content of params.yaml.
        where: Name of the document in messages.

    Raises:
        ParamsError: If the preset does not exist, or keys or values are wrong; the error lists all wrong keys and
            marks those that the preset sets.
    """
    preset = document.get("preset", DEFAULT_PRESET)
    if not isinstance(preset, str):
        message = f"{where}: preset: should be the name of a preset (got {preset!r})"
        raise ParamsError(message, f"use one of {', '.join(preset_names())}", keys=["preset"])
    try:
        merged = merge_over_preset(preset_document(preset), document)
    except ParamsError as error:
        raise ParamsError(f"{where}: {error.message}", error.hint, keys=error.keys) from None
    try:
        return Params.model_validate(merged)
    except ValidationError as error:
        problems = [_problem(detail, document, merged) for detail in error.errors()]
        lines = [f"{one.text} (set by preset {preset!r})" if one.is_of_preset else one.text for one in problems]
        hints = dict.fromkeys(one.hint for one in problems if one.hint)
        keys = [one.key for one in problems]
        raise ParamsError(f"{where}: " + "\n  ".join(lines), " ".join(hints), keys=keys) from error


class _Problem(NamedTuple):
    """A wrong key, the text and hint of its message, and whether the preset sets it instead of params.yaml."""

    key: str
    text: str
    hint: str
    is_of_preset: bool


def _problem(detail: ErrorDetails, document: Mapping[str, Any], merged: Mapping[str, Any]) -> _Problem:
    """Convert an error of pydantic."""
    path = [part for part in detail["loc"] if part != "[key]"]
    location = path[:2] + path[3:] if path[:1] == ["encoders"] else path  # without the type of the encoder
    context = detail.get("ctx", {})
    key = ".".join(map(str, location)) or context.get("key", "")
    is_of_preset = _depth(merged, location) > _depth(document, location)
    if detail["type"] == "extra_forbidden":
        hint = _suggest(str(path[-1]), _known_keys(path[:-1]))
        return _Problem(key, f"{key}: unknown key", hint, is_of_preset)
    if detail["type"] == "union_tag_invalid":
        types = context["expected_tags"].replace("'", "").split(", ")
        return _Problem(key, f"{key}: unknown type {context['tag']!r}", _suggest(context["tag"], types), is_of_preset)
    text = detail["msg"].removeprefix("Value error, ")
    if location:
        got = "" if isinstance(detail["input"], dict) else f" (got {reprlib.repr(detail['input'])})"
        text = f"{text[:1].lower()}{text[1:]}{got}"
    return _Problem(key, f"{key}: {text}", context.get("hint", ""), is_of_preset)


def _inconsistent(key: str, message: str, hint: str) -> PydanticCustomError:
    """Return the error of two sections that contradict each other, for the key that is most likely wrong."""
    return PydanticCustomError("inconsistent", "{message}", {"key": key, "message": message, "hint": hint})


def _depth(document: Any, location: Sequence[Any]) -> int:
    """Count the leading keys of a location that a document has."""
    for depth, part in enumerate(location):
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(location)


def _suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known name that is most similar to ``name``, or with all known names."""
    close = difflib.get_close_matches(name, known := sorted(known), n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"instead of {name!r}, use one of {', '.join(known)}" if known else ""


def _known_keys(location: Sequence[Any]) -> Iterable[str]:
    """Return the keys of the section at a location of a validation error; empty if there is no section."""
    if location[:1] == ["encoders"]:
        kinds: Sequence[type[BaseModel]] = get_args(get_args(EncoderConfig)[0])
        return next(kind.model_fields for kind in kinds if kind.model_fields["type"].default == location[2])
    section: Any = Params()
    for part in location:
        section = getattr(section, str(part), None)
    return type(section).model_fields if isinstance(section, BaseModel) else ()
