"""params.yaml: one section a stage and a few that stages share, every section one frozen, strict model.

Only stages see `Params`; each room owns, and is handed, its own section.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Config, Pool, PoolOrFrames
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.sample.config import SampleConfig
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.config import (
    EfficientNetConfig,
    EgemapsConfig,
    EncoderConfig,
    ImportedConfig,
    JoinedConfig,
    MiniXceptionConfig,
    TextConfig,
    frames_of,
)
from ecmf_pipeline.encoders.embedded.packages import ModelsConfig
from ecmf_pipeline.evaluation.config import AblateConfig, EvaluateConfig
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.labels.config import RefineConfig, VoteConfig
from ecmf_pipeline.llm.config import LlmConfig, RewriteConfig
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.media.containers import resolved_reader
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.settings.presets import DEFAULT_PRESET, merged_over, preset_document
from ecmf_pipeline.transcription.config import TranscribeConfig


class IndexConfig(Config):
    """How the corpus is scanned.

    Attributes:
        max_quarantined: Share of the corpus' files that may be unreadable before `index` ends with exit code 1.
        workers: Processes that read new files. None: one for each core; 0: none but the main process, and a file at
            which the demuxer crashes ends the run.
        clip_timeout: Seconds that one file may take to be hashed and probed. One that takes longer, twice, is
            quarantined until it changes, or this does.
    """

    max_quarantined: float = Field(0.2, ge=0, le=1)
    workers: int | None = Field(None, ge=0)
    clip_timeout: float = Field(60.0, gt=0)


class TrainConfig(Config):
    """The `train` stage.

    Attributes:
        pool: How the rows of a clip become one vector, for training, voting and prediction alike. ``frames``: the
            fusion takes them as a sequence of `arrays.MOST_FRAMES` at most, and ``fusion.temporal`` says how it sums
            them up; voters, which take vectors, are given their mean.
    """

    pool: PoolOrFrames = "mean"
    fusion: FusionConfig = FusionConfig()
    training: TrainingConfig = TrainingConfig()

    @property
    def vector_pool(self) -> Pool:
        """How rows become one vector for what takes nothing else."""
        return "mean" if self.pool == "frames" else self.pool


def _embedded_encoders() -> dict[str, EncoderConfig]:
    return {
        "efficientnet_lite0": EfficientNetConfig(),
        "mini_xception": MiniXceptionConfig(),
        "egemaps": EgemapsConfig(),
        "minilm": TextConfig(inputs="both"),
    }


class Params(Config):
    """All of params.yaml over its preset. What both leave out has its default, which is that of ``embedded``.

    Attributes:
        preset: The choice of models that the file stands on; see `presets`.
        encoders: Frozen models by name; ``extract`` says which of them serves which modality.
        train: The fusion model and its training; `predict` has no settings of its own.
    """

    preset: str = DEFAULT_PRESET
    corpus: CorpusConfig = CorpusConfig()
    models: ModelsConfig = ModelsConfig()
    sample: SampleConfig = SampleConfig()
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
            raise _wrong("corpus.root", f"the generated corpus stands in {paths.SAMPLE}; set corpus.kind as well")
        if self.corpus.kind != "sample" and self.corpus.root == paths.SAMPLE:
            raise _wrong("corpus.root", f"say where the {self.corpus.kind} corpus stands")
        if self.faces.source == "openface" and self.corpus.kind != "mer":
            raise _wrong("faces.source", f"{self.faces.source} crops come with corpora of corpus.kind mer alone")
        if "frames" in self.vote.inputs and self.llm.backend != "openai":
            raise _wrong("vote.inputs", "frames are shown to a server whose model can see: set llm.backend to openai")
        if "cues" in self.vote.inputs and not self.llm.votes.cues:
            raise _wrong("llm.votes.cues", "vote.inputs asks for cues: name face, audio or both")
        fusion, search = self.train.fusion, self.train.training.search
        if odd := search.not_split_by(fusion.heads):
            raise _wrong(
                "train.training.search.hidden",
                f"{', '.join(map(str, odd))}: each must be a multiple of train.fusion.heads ({fusion.heads})",
            )
        for kind in self.rewrite.cues:
            self._check_cues(kind, "rewrite.cues")
        for kind in self.llm.votes.cues if "cues" in self.vote.inputs else ():
            self._check_cues(kind, "llm.votes.cues")
        return self

    def _check_cues(self, kind: str, key: str) -> None:
        modality = Modality(kind)
        names = self.extract.encoders.get(modality, ())
        wanted = MiniXceptionConfig if modality is Modality.FACE else EgemapsConfig
        if len(names) != 1 or not isinstance(self.encoders[names[0]], wanted):
            raise _wrong(
                key,
                f"{kind} is put into words from {wanted.model_fields['type'].default} alone, and "
                f"extract.encoders.{kind} is {', '.join(names) or 'not in use'}",
            )

    def _check_encoders(self, modality: Modality) -> None:
        names, key = self.extract.encoders[modality], f"extract.encoders.{modality.value}"
        for name in names:
            if name not in self.encoders:
                raise _wrong(key, f"no encoder is named {name!r}{_nearest(name, self.encoders)}")
            if modality not in self.encoders[name].modalities:
                raise _wrong(key, f"{name!r} cannot serve this modality")
            if len(names) > 1 and isinstance(self.encoders[name], ImportedConfig):
                raise _wrong(key, f"{name!r} stands for imported features, which cannot be joined with others")
        if len({getattr(self.encoders[name], "frames", None) for name in names}) > 1:
            raise _wrong(key, "encoders that are joined must say the same of `frames`")

    def encoder_of(self, modality: Modality) -> BaseEncoderConfig:
        """The encoder that serves a modality in use, with all decided that is left to the device; several as one."""
        members = [self.encoders[name].named(name) for name in self.extract.encoders[modality]]
        encoder = members[0] if len(members) == 1 else JoinedConfig(members=tuple(members))
        return encoder.resolved(self.extract.device)

    def settings_of(self, modality: Modality, encoder: BaseEncoderConfig | None = None) -> dict[str, Any]:
        """Return all that changes the features of a modality; see `branch_settings`.

        Args:
            modality: Which.
            encoder: Another encoder than the one that serves it.

        Raises:
            ModelError: If weights are missing.
        """
        return branch_settings(modality, encoder or self.encoder_of(modality), self.media, self.faces)


def branch_settings(
    modality: Modality, encoder: BaseEncoderConfig, media: MediaConfig, faces: FaceConfig
) -> dict[str, Any]:
    """All that changes a modality's numbers: the encoder and what prepares its input.

    Raises:
        ModelError: When weights are missing.
    """
    settings: dict[str, Any] = {"modality": modality.value, "encoder": encoder.settings()}
    if isinstance(encoder, ImportedConfig):
        return settings  # what prepared their input happened elsewhere
    if modality in {Modality.GLOBAL, Modality.FACE}:
        # The recipe is raised whenever a change of code changes which pictures are sampled.
        settings["media"] = {
            **media.model_dump(mode="json"),
            "frames": frames_of(encoder, media.frames),
            "reader": resolved_reader(media),
            "recipe": 3,
        }
    if modality is Modality.FACE:
        settings["faces"] = faces.settings()
        if faces.source == "openface":
            settings["media"] = {"frames": settings["media"]["frames"]}  # no video is read
    if modality is Modality.AUDIO:
        settings["media"] = {"sample_rate": SAMPLE_RATE}
    return settings


class _OnceOnly(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice, as DVC does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if doubled := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key {doubled[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_params(path: Path = paths.PARAMS) -> Params:
    """Read params.yaml of the current directory.

    Raises:
        ParamsError: When it is missing, is not YAML, or a key or value is wrong; every wrong key is named.
    """
    if not path.is_file():
        raise ParamsError(
            f"{path} is not in {Path.cwd()}", "change into a project folder, or make one with `ecmf-pipe init FOLDER`"
        )
    try:
        document = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_OnceOnly) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ParamsError(f"{path} holds no sections", "it starts with `corpus:`; see the README")
    return validated(document, where=str(path))


def preset_params(name: str) -> Params:
    """Return the params of a preset on its own, on a corpus of the kind that every preset can be used with.

    Raises:
        ParamsError: If there is no such preset.
    """
    return validated({"preset": name, "corpus": {"kind": "mer", "root": "corpus"}}, where=f"preset {name}")


def validated(document: dict[str, Any], *, where: str) -> Params:
    """A params document, called ``where`` in messages, over the preset it names.

    Raises:
        ParamsError: When there is no such preset, or a key or value is wrong; every wrong key is named, and whether it
            stands in the document or in the preset.
    """
    preset = document.get("preset", DEFAULT_PRESET)
    if not isinstance(preset, str):
        raise ParamsError(f"{where}: `preset`: name one of the presets (found {preset!r})", keys=["preset"])
    try:
        merged = merged_over(preset_document(preset), document)
    except ParamsError as error:
        raise ParamsError(f"{where}: {error.message}", error.hint, keys=error.keys) from None
    try:
        return Params.model_validate(merged)
    except ValidationError as error:
        keys, lines = [], []
        for detail in error.errors():
            key, text, is_presets = _problem(detail, document, merged)
            keys.append(key)
            lines.append(f"{text} (from the preset {preset!r})" if is_presets else text)
        raise ParamsError(f"{where}: " + "\n  ".join(lines), keys=keys) from error


def _problem(detail: ErrorDetails, document: Mapping[str, Any], merged: Mapping[str, Any]) -> tuple[str, str, bool]:
    """Return the key that is wrong, what is wrong with it, and whether it stands in the preset, not in params.yaml."""
    found = [part for part in detail["loc"] if part != "[key]"]
    location = found[:2] + found[3:] if found[:1] == ["encoders"] else found  # without the type of the encoder
    key = ".".join(map(str, location)) or detail.get("ctx", {}).get("key", "")
    if detail["type"] == "extra_forbidden":
        text = f"unknown key `{key}`{_nearest(str(found[-1]), _known_keys(found[:-1]))}"
    elif location:
        text = f"`{key}`: {detail['msg'].removeprefix('Value error, ')} (found {detail['input']!r})"
    else:
        text = detail["msg"]
    return key, text, _depth(merged, location) > _depth(document, location)


def _wrong(key: str, what: str) -> PydanticCustomError:
    """Two sections that do not fit each other, as an error of the key that is most likely wrong."""
    return PydanticCustomError("inconsistent", "`{key}`: {what}", {"key": key, "what": what})


def _depth(document: Any, location: Sequence[Any]) -> int:
    """Count the keys of a location that a document has."""
    for depth, part in enumerate(location):
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(location)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known := sorted(known), n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; there are {', '.join(known)}" if known else ""


def _known_keys(location: Sequence[Any]) -> Iterable[str]:
    """Return the keys that may stand at a location of a validation error; none if nothing stands there by default."""
    if location[:1] == ["encoders"]:
        kinds: Sequence[type[BaseModel]] = get_args(get_args(EncoderConfig)[0])
        return next(kind.model_fields for kind in kinds if kind.model_fields["type"].default == location[2])
    place: Any = Params()
    for part in location:
        place = getattr(place, str(part), None)
    return type(place).model_fields if isinstance(place, BaseModel) else ()
