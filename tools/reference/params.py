"""The page about params.yaml, generated from the pydantic models and their docstrings."""

from __future__ import annotations

import enum
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.encoders.config import EncoderConfig
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.settings.presets import preset_names
from tools.reference.docstrings import as_markdown, attribute_docs, introduction, table_cell

_TYPES = {
    "extract.encoders": "mapping of modality to the name of an entry under `encoders`, or a list of names",
}
"""Types that a validator widens."""

_DESCRIPTIONS = {
    "preset": "The set of default models. Keys of params.yaml override those of the preset. See [Presets](#presets).",
    "kind": "Constant.",
}
"""Descriptions of keys that no docstring describes."""

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

_INTRODUCTION = """\
Each project has one `params.yaml`. `ecmf-pipe init` writes it with all sections and the defaults. The rules:

- Each key is optional. A missing key takes its value from the preset, and otherwise its default.
- `dvc.yaml` follows all sections, `train.pool`, `rewrite.cues` and `extract.encoders`: these keys must exist, even if
  they are empty.
- An unknown key, a wrong type and a value out of range are errors. The message names each wrong key, and the exit
  code is 2.
- `null` is YAML's empty value.

A stage runs again only if a section that it depends on, or one of its input files, has changed.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of params.yaml.

    Attributes:
        path: Its dotted path, such as ``train.training.folds``; entries of ``encoders`` have ``encoders.<type>``.
        type: Its type and bounds, as Markdown.
        default: Its default, as YAML.
        description: Its effect, as Markdown.
    """

    path: str
    type: str
    default: str
    description: str

    @property
    def row(self) -> str:
        """A row of the table."""
        name = self.path.rpartition(".")[2]
        return f"| `{name}` | {table_cell(self.type)} | {table_cell(self.default)} | {table_cell(self.description)} |"


def params_page(root: Path) -> str:
    """Return the page."""
    stages = stages_by_section(root)
    parts = [_heading(), "# params.yaml", _INTRODUCTION]
    preset = next(key for key in section_keys(Params, "") if key.path == "preset")
    parts += ["## preset", _table([preset])]
    for name, field in Params.model_fields.items():
        model = _model_of(field.annotation)
        if name == "encoders":
            parts += ["## encoders", _used_by(stages.get(name, ())), *_encoders()]
        elif model is not None:
            parts += [f"## {name}", introduction(model), _used_by(stages.get(name, ())), *_section(model, name)]
    parts += ["## Presets", _PRESETS]
    for name in preset_names():
        text = (root / "ecmf_pipeline/settings/presets" / f"{name}.yaml").read_text(encoding="utf-8")
        parts += [f"### {name}", f"```yaml\n{text.strip()}\n```"]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


_PRESETS = """\
A preset is a partial params document. params.yaml overrides it key by key, with three exceptions:

- A list replaces the list of the preset.
- An entry under `encoders` that has a `type` replaces the whole entry of the same name.
- `extract.encoders` replaces the mapping of the preset as soon as it names one modality. A modality that it leaves out
  is not used.

`ecmf-pipe encoders --list` prints the models of each preset and those that params.yaml uses."""


def stages_by_section(root: Path) -> dict[str, list[str]]:
    """Return the DVC stages that depend on each section."""
    found: dict[str, list[str]] = {}
    for stage, definition in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        for param in definition.get("do", definition).get("params", ()):
            names = found.setdefault(param.partition(".")[0], [])
            if stage not in names:
                names.append(stage)
    return found


def all_keys() -> Iterator[Key]:
    """Yield each key of params.yaml; those of encoders once for each type."""
    for name, field in Params.model_fields.items():
        model = _model_of(field.annotation)
        if model is not None:
            yield from _nested_keys(model, name)
        elif name != "encoders":
            yield from (key for key in section_keys(Params, "") if key.path == name)
    for model in encoder_models():
        yield from section_keys(model, f"encoders.{model.model_fields['type'].default}")


def encoder_models() -> tuple[type[BaseModel], ...]:
    """Return the config class of each encoder type."""
    return get_args(get_args(EncoderConfig)[0])


def section_keys(model: type[BaseModel], path: str) -> Iterator[Key]:
    """Yield the keys of one model, without those of nested models.

    Raises:
        LookupError: If a key has no description.
    """
    docs = attribute_docs(model)
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] not in {"type", "kind"}):
        key = f"{path}.{name}".removeprefix(".")
        if _model_of(field.annotation) is not None or (name == "encoders" and not path):
            continue
        description = _DESCRIPTIONS.get(key) or field.description or docs.get(name) or _DESCRIPTIONS.get(name)
        if name == "type":
            description = "Selects this encoder type."
        if not description:
            raise LookupError(f"{model.__name__}.{name} ({key}) has no description in an `Attributes:` section")
        yield Key(key, _TYPES.get(key) or _type_of(field), _default_of(field), as_markdown(description))


def _nested_keys(model: type[BaseModel], path: str) -> Iterator[Key]:
    yield from section_keys(model, path)
    for name, field in model.model_fields.items():
        if (nested := _model_of(field.annotation)) is not None:
            yield from _nested_keys(nested, f"{path}.{name}")


def _section(model: type[BaseModel], path: str) -> Iterator[str]:
    keys = list(section_keys(model, path))
    if keys:
        yield _table(keys)
    docs = attribute_docs(model)
    for name, field in model.model_fields.items():
        nested = _model_of(field.annotation)
        if nested is not None:
            yield f"### {path}.{name}"
            yield introduction(nested)
            if description := docs.get(name):
                yield description
            if field.default is None or type(None) in get_args(field.annotation):
                yield "May be `null`."
            yield from _section(nested, f"{path}.{name}")


def _encoders() -> Iterator[str]:
    yield (
        "A mapping of names to encoders. The name is free; [`extract.encoders`](#extract) refers to it. `type` selects "
        "one of the types below, with its keys. An entry without `type` changes single keys of the entry with the same "
        "name in the preset."
    )
    for model in encoder_models():
        kind = model.model_fields["type"].default
        modalities: frozenset[Modality] = model.modalities  # type: ignore[attr-defined]
        width: int | None = model.dim  # type: ignore[attr-defined]
        served = ", ".join(modality.value for modality in Modality if modality in modalities)
        yield f"### type: {kind}"
        yield introduction(model)
        yield f"Modalities: {served}." + (f" Width of a row: {width}." if width else "")
        yield _table(section_keys(model, f"encoders.{kind}"))


def _table(keys: Iterator[Key] | list[Key]) -> str:
    return "\n".join(["| key | type | default | description |", "|---|---|---|---|", *(key.row for key in keys)])


def _used_by(stages: tuple[str, ...] | list[str]) -> str:
    return f"Stages that depend on it: {', '.join(f'`{stage}`' for stage in stages)}." if stages else ""


def _heading() -> str:
    return "<!-- Generated by `python -m tools.reference`. Edit the docstrings of the config classes instead. -->"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic model of an annotation, or of one with ``None``."""
    candidates = get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)
    models = [one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)]
    return models[0] if len(models) == 1 else None


def _type_of(field: FieldInfo) -> str:
    name = _type_name(field.annotation)
    optional = name.removesuffix(" or `null`") != name
    return _with_bounds(name.removesuffix(" or `null`"), field.metadata) + (" or `null`" if optional else "")


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metadata = [one for extra in arguments[1:] for one in getattr(extra, "metadata", None) or [extra]]
        return _with_bounds(_type_name(arguments[0]), metadata)
    if origin is Literal:
        return " or ".join(f"`{_yaml(value)}`" for value in arguments)
    if origin in {Union, types.UnionType}:
        names = [_type_name(one) for one in arguments if one is not type(None)]
        return " or ".join([*names, "`null`"] if type(None) in arguments else names)
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if origin in {dict, Mapping}:
        return f"mapping of {_type_name(arguments[0])} to {_type_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return "path"
    if (model := _model_of(annotation)) is not None:
        return f"mapping with {', '.join(f'`{key}`' for key in model.model_fields)}"
    return {bool: "boolean", int: "integer", float: "number", str: "string"}[annotation]


def _with_bounds(name: str, metadata: list[Any]) -> str:
    bounds = [
        f"{sign} {getattr(one, attribute):g}"
        for one in metadata
        for attribute, sign in _BOUNDS.items()
        if getattr(one, attribute, None) is not None
    ]
    for one in metadata:
        if (step := getattr(one, "multiple_of", None)) is not None:
            bounds.append(f"multiple of {step}")
        if (pattern := getattr(one, "pattern", None)) is not None:
            bounds.append(f"pattern `{pattern}`")
        if getattr(one, "min_length", None):
            bounds.append("not empty")
    return f"{name}, {', '.join(bounds)}" if bounds else name


def _default_of(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "required" if value is PydanticUndefined else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return re.sub(r"\n\.\.\.$", "", text.strip())


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {
            _plain(key): _plain(one[0] if isinstance(one, tuple) and len(one) == 1 else one)
            for key, one in value.items()
        }
    if isinstance(value, tuple | list | frozenset):
        return [_plain(one) for one in value]
    return value
