"""Read stored features for training and prediction, and compare their settings with params and with saved models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecmf_pipeline.core.arrays import MAX_FRAMES
from ecmf_pipeline.core.clips import Clip, ClipText, Modality
from ecmf_pipeline.core.config import Config, PoolOrFrames
from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import InputError, MissingInput, StaleStore
from ecmf_pipeline.core.weights import Unknown
from ecmf_pipeline.encoders.config import has_imported_features, text_columns
from ecmf_pipeline.extraction.run import current_digests
from ecmf_pipeline.store import FeatureStore, current_fingerprint, has_fingerprint
from ecmf_pipeline.store.format import settings_attributes
from ecmf_pipeline.store.kept import lost_groups, restore_features
from ecmf_pipeline.store.state import settings_groups

_SAME_COLUMNS = frozenset({"dtype", "precision", "max_tokens", "window_seconds"})
"""Settings of an encoder that change numbers but not the meaning of a column.

They are the number type, and how much of a long clip is read at once.
"""

_OF_THE_MACHINE = frozenset({"reader", "precision"})
"""Settings whose value ``auto`` differs between machines: a model may predict on another machine."""
_ABSENT = "not set"
"""Description of the value of a setting that only one side has."""
_SHOWN_DIFFERENCES = 3
_SHOWN_CHARACTERS = 60


class FeatureOrigin(Config):
    """Origin of a modality's features.

    Attributes:
        encoders: Names under ``encoders`` in params.yaml, in column order. Informational: the same settings under
            another name give the same features.
        settings: Settings of the store (`Params.settings_of`); their hash is the fingerprint.
    """

    encoders: tuple[str, ...] = Field(min_length=1)
    settings: dict[str, Any]

    @property
    def columns(self) -> dict[str, Any]:
        """The settings that define the meaning of the columns, as JSON values: encoders and the texts that they read.

        Excluded are the reading of clips and the cropping of faces, which may differ between corpora, and the language:
        the original of one corpus is the translation of another.
        """
        return {"encoder": _columns(self.settings.get("encoder", {}))}


def _columns(encoder: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in encoder.items() if key not in _SAME_COLUMNS}
    if "inputs" in kept:
        texts = text_columns({"encoder": encoder})
        kept["inputs"] = ["original" if text == "translation" else text for text in texts]
    return kept


def check_feature_origins(
    trained: Mapping[str, FeatureOrigin],
    now: Mapping[str, FeatureOrigin],
    *,
    hint: str,
    command: str | None = None,
    columns_only: bool = False,
    other_machine: bool = False,
) -> None:
    """Raise if features come from other encoders than those that a saved model was trained on.

    Args:
        trained: Origin of the training features, by modality; modalities without an entry are not checked.
        now: Origin of the current features, by modality.
        hint: How to fix the error.
        command: The shell command that fixes it.
        columns_only: Whether to compare only `FeatureOrigin.columns` instead of all settings.
        other_machine: Whether the reader of videos and the precision of encoders may differ. Missing weights may too.

    Raises:
        InputError: If the origins of a modality differ.
    """
    differences = []
    for name, old in trained.items():
        if (new := now.get(name)) is None:
            continue
        pair = (old.columns, new.columns) if columns_only else (old.settings, new.settings)
        found = [one for one in compare_settings(*reversed(pair)) if not (other_machine and _may_differ(one))]
        if keys := [difference.key for difference in found]:
            differences.append(f"{name}: the saved model was trained on {_describe_difference(old, new, keys)}")
    if differences:
        raise InputError("; ".join(differences), hint, command=command)


def _may_differ(difference: Difference) -> bool:
    return _is_unknown(difference) or difference.key.rpartition(".")[2] in _OF_THE_MACHINE


def _describe_difference(old: FeatureOrigin, new: FeatureOrigin, keys: list[str]) -> str:
    before, after = ", ".join(old.encoders), ", ".join(new.encoders)
    if before != after:
        return f"features of {before}, but the current features are of {after}"
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"features of {before} with other settings ({', '.join(keys[:3])}{more})"


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that differs.

    Attributes:
        key: The setting, dotted, such as ``media.frames``.
        expected: Its expected value; `Unknown` if it cannot be compared because weights are missing.
        stored: The other value.
    """

    key: str
    expected: Any
    stored: Any

    def __str__(self) -> str:
        return f"{self.key} is {_shorten(self.expected)} in params and {_shorten(self.stored)} in the store"


def _shorten(value: Any) -> str:
    text = value if value == _ABSENT else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def compare_settings(expected: Any, stored: Any, key: str = "") -> Iterator[Difference]:
    """Yield the settings that differ or cannot be compared.

    Args:
        expected: Settings as JSON values, or `Unknown` in place of values.
        stored: Settings as JSON values.
        key: The dotted key of both.
    """
    children: list[tuple[str, Any, Any]] = []
    if isinstance(expected, Mapping) and isinstance(stored, Mapping):
        names = sorted({*expected, *stored})
        children = [(name, expected.get(name, _ABSENT), stored.get(name, _ABSENT)) for name in names]
    elif _are_objects(expected) and _are_objects(stored) and len(expected) == len(stored):
        children = [(str(number), *pair) for number, pair in enumerate(zip(expected, stored, strict=True))]
    elif isinstance(expected, Unknown) or expected != stored:
        yield Difference(key, expected, stored)
    for name, child, stored_child in children:
        yield from compare_settings(child, stored_child, f"{key}.{name}" if key else name)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def open_store(root: Path, settings: Mapping[str, Any]) -> FeatureStore:
    """Open the features of the settings in params, and refuse features of any other settings.

    All settings that are known without the weights are compared. If only the identity of missing weights is unknown,
    the features are opened with a warning.

    Args:
        root: Store of a modality.
        settings: Its settings (`branch_settings`), with `Unknown` in place of values that depend on missing weights.

    Raises:
        MissingInput: If there is no store, or no features were imported.
        StaleStore: If the store has only features of other settings; ``keys`` lists the settings that differ.
        StoreError: If the store is damaged.
    """
    modality, is_imported = root.stem, has_imported_features(settings)
    command = f"ecmf-pipe extract --modality {modality}"
    if is_imported:
        command = f"ecmf-pipe store import PATH --modality {modality} --encoder {settings['encoder']['name']}"
    _restore_lost_features(root, settings)
    current = current_fingerprint(root)
    if current is None:
        hint = "import the features" if is_imported else "compute the features, or get them with dvc pull"
        raise MissingInput(f"{root} does not exist", hint, command=command)
    compared = {current: _compare_group(root / current, settings)}
    if not all(map(_is_unknown, compared[current])):
        compared |= {name: _compare_group(root / name, settings) for name in settings_groups(root) if name != current}
    matches = [name for name, differences in compared.items() if all(map(_is_unknown, differences))]
    if len(matches) == 1:  # of several, any may be the one
        store = FeatureStore(root, matches[0])
        if is_imported and not len(store):
            raise MissingInput(f"{root} holds no imported features", "import the features", command=command)
        for unknown in compared[store.fingerprint]:
            warn(
                f"{root}: the features are used although {unknown.key} cannot be compared with the weights in params: "
                f"{unknown.expected.reason}"
            )
        return store
    known = [difference for difference in compared[current] if not _is_unknown(difference)]
    shown = [str(difference) for difference in known[:_SHOWN_DIFFERENCES]]
    shown += [f"{len(known) - len(shown)} more"] if len(known) > len(shown) else []
    shown += [difference.expected.reason for difference in compared[current] if _is_unknown(difference)]
    raise StaleStore(
        f"{root} holds features of other settings than params.yaml: {'; '.join(shown)}",
        f"{'import' if is_imported else 'compute'} the features of params.yaml, or set params.yaml to those settings",
        command=command,
        keys=[difference.key for difference in known],
    )


def _restore_lost_features(root: Path, settings: Mapping[str, Any]) -> None:
    """Restore kept features of the settings if the store has lost them, unless its current features can be used."""

    def is_usable(folder: Path) -> bool:
        return all(map(_is_unknown, _compare_group(folder, settings)))

    current = current_fingerprint(root)
    if current is None or not has_fingerprint(root, current) or not is_usable(root / current):
        for folder in filter(is_usable, lost_groups(root)):
            restore_features(root, folder.name)


def _is_unknown(difference: Difference) -> bool:
    return isinstance(difference.expected, Unknown)


def _compare_group(folder: Path, settings: Mapping[str, Any]) -> list[Difference]:
    """Compare settings with those of a settings group.

    If the commit of a hub model is unknown, its revision is compared with the one from which the features came.
    """
    attributes = settings_attributes(folder)
    provenance = attributes.get("provenance", {})
    return [_with_revision(one, provenance) for one in compare_settings(settings, attributes["settings"])]


def _with_revision(difference: Difference, provenance: Mapping[str, Any]) -> Difference:
    if not _is_unknown(difference) or not difference.expected.revision:
        return difference
    revision = provenance.get("revision", difference.expected.revision)
    if revision == difference.expected.revision:
        return difference
    keys = difference.key.split(".")  # encoder.weights.commit
    return Difference(".".join([*keys[:-2], "revision"]), difference.expected.revision, revision)


@dataclass(frozen=True)
class StoredFeatures:
    """The stored features of the manifest's clips, read on demand.

    Attributes:
        stores: The store of each encoder for which any clip has features, by the name of its features: the modality, or
            ``<modality>.<encoder>`` if the modality has several.
        digests: For each of these names, the digest of each clip's valid row; clips without the modality are left
            out.
    """

    stores: Mapping[str, FeatureStore]
    digests: Mapping[str, Mapping[str, str]]

    @property
    def modalities(self) -> list[str]:
        """The names of the features that any clip has, in order."""
        return list(self.stores)

    def read(self, clip_ids: Sequence[str], pool: PoolOrFrames) -> dict[str, NDArray[np.float32]]:
        """Read the features of some clips.

        Args:
            clip_ids: The clips, in output order.
            pool: How frame-level rows become one vector; ``frames`` keeps a sequence of at most `MAX_FRAMES` rows.

        Returns:
            For each modality (n, D), with rows of NaN for clips without features. With ``frames`` (n, T, D) if any of
            these clips has more than one row, padded with frames of NaN.
        """
        return {name: self._read(name, clip_ids, pool) for name in self.stores}

    def _read(self, name: str, clip_ids: Sequence[str], pool: PoolOrFrames) -> NDArray[np.float32]:
        store, digests = self.stores[name], self.digests[name]
        if pool != "frames":
            return store.load(clip_ids, pool=pool, digests=digests).values
        values = store.load_sequences(clip_ids, digests=digests, max_rows=MAX_FRAMES).values  # (n, T, D)
        if values.shape[1] > 1:
            return values
        missing = np.full((len(clip_ids), values.shape[2]), np.nan, np.float32)
        return values[:, 0] if values.shape[1] else missing


def open_features(
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    modalities: Mapping[str, Modality],
    *,
    open_named: Callable[[str], FeatureStore],
) -> StoredFeatures:
    """Open the given features.

    Only features of the current input of a clip count; if the clip has changed, its features are missing. Of imported
    features the newest count.

    Args:
        clips: The clips of the manifest.
        texts: Transcripts by clip id.
        modalities: The modality of each features to open, by name.
        open_named: Opens the features of a name.

    Raises:
        MissingInput: If a store does not exist.
        StaleStore: If a store has only features of other settings.
        InputError: If no clip has any features.
    """
    stores: dict[str, FeatureStore] = {}
    digests: dict[str, Mapping[str, str]] = {}
    for name, modality in modalities.items():
        store = open_named(name)
        valid_digests = current_digests(modality, clips, texts, store)
        if store.clips_with_features(valid_digests):
            stores[name], digests[name] = store, valid_digests
    if not stores:
        raise InputError("no clip has any features", "extract features first", command="ecmf-pipe extract")
    return StoredFeatures(stores, digests)
