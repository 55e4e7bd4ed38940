"""Commands read stored features only if every setting that is known without weights is that of params.yaml."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from ecmf_pipeline.cli import store_commands
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Corpus, Modality, Split, write_corpus_tables, write_texts
from ecmf_pipeline.core.errors import InputError, MissingInput, MissingWeights, ModelError, StaleStore
from ecmf_pipeline.core.files import fingerprint, write_atomic
from ecmf_pipeline.extraction.run import BranchInputs, input_digests
from ecmf_pipeline.interop.file_formats import FileFormat, Level
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages import ablate, predict, train, vote
from ecmf_pipeline.stages.shared import single_clip
from ecmf_pipeline.stages.shared.inputs import open_modality_store
from ecmf_pipeline.stages.shared.status import stage_rows
from ecmf_pipeline.store import FeatureRow, StoreWriter, create_settings_group, make_current

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
CLIP = "encoders: {clip: {type: transformers_vision, model: org/clip}}\nextract: {encoders: {global: clip}}\n"
CHANGED = CLIP + "media: {frames: 8}\n"

OK, WARNED, ABSENT = ("opened", ()), ("opened with a warning", ()), ("MissingInput", ())
FRAMES = ("StaleStore", ("media.frames",))
MODEL = ("StaleStore", ("encoder.weights.commit", "encoder.weights.model"))
MODEL_ONLY = ("StaleStore", ("encoder.weights.model",))
BOTH = ("StaleStore", ("encoder.weights.commit", "encoder.weights.model", "media.frames"))
BOTH_WITHOUT_COMMIT = ("StaleStore", ("encoder.weights.model", "media.frames"))

ANSWERS = {
    # weights, hub, settings: the answer if the store is (here, absent, other)
    ("here", "on", "same"): (OK, ABSENT, MODEL),
    ("here", "on", "changed"): (FRAMES, ABSENT, BOTH),
    ("here", "off", "same"): (OK, ABSENT, MODEL),
    ("here", "off", "changed"): (FRAMES, ABSENT, BOTH),
    ("away", "on", "same"): (OK, ABSENT, MODEL),
    ("away", "on", "changed"): (FRAMES, ABSENT, BOTH),
    ("away", "off", "same"): (WARNED, ABSENT, MODEL_ONLY),
    ("away", "off", "changed"): (FRAMES, ABSENT, BOTH_WITHOUT_COMMIT),
}
CASES = [
    (*case, store, answer)
    for case, answers in ANSWERS.items()
    for store, answer in zip(("here", "absent", "other"), answers, strict=True)
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that fills or empties the hub cache, and switches the hub on or off."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def fill(*_: Any, **__: Any) -> None:
        write_atomic(tmp_path / "hub/models--org--clip/refs/main", COMMIT)

    def prepare(weights: str, state: str) -> None:
        if weights == "here":
            fill()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        if state == "on":
            monkeypatch.setattr(huggingface_hub, "hf_hub_download", fill)

    return prepare


def write_hub_store(model: str = "org/clip", commit: str = COMMIT, revision: str = "main") -> None:
    """Write the features of one clip, as if computed by a model of the hub with the params in ``CLIP``."""
    Path("params.yaml").write_text(CLIP.replace("org/clip", f"{model}, revision: {commit}"))
    settings = load_params().settings_of(Modality.GLOBAL)
    provenance = {"model": model, "revision": revision, "commit": commit}
    write_store(Modality.GLOBAL, settings, [FeatureRow("a", "d", np.ones((1, 4), np.float32))], provenance)


def write_store(
    modality: Modality, settings: dict[str, Any], rows: list[FeatureRow], provenance: dict[str, Any] | None = None
) -> None:
    root, dim = paths.features(modality), rows[0].values.shape[1]
    create_settings_group(root, settings, dim=dim, dtype="float32", provenance=provenance)
    with StoreWriter(root, fingerprint(settings)) as writer:
        writer.append(rows)
    make_current(root, fingerprint(settings))


def outcome(capsys: pytest.CaptureFixture[str]) -> tuple[str, tuple[str, ...]]:
    """Open the features in params; return what happened, and the settings that differ."""
    capsys.readouterr()
    try:
        store = open_modality_store(load_params(), Modality.GLOBAL)
    except (MissingInput, StaleStore) as error:
        is_wrong_input = (error.exit_code, error.command) == (2, "ecmf-pipe extract --modality global")
        return type(error).__name__ if is_wrong_input else str(error), getattr(error, "keys", ())
    assert len(store) == 1
    return ("opened with a warning" if "warning: " in capsys.readouterr().err else "opened"), ()


@pytest.mark.parametrize(("weights", "state", "settings", "store", "answer"), CASES)
def test_weights_hub_settings_and_store(
    hub: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    weights: str,
    state: str,
    settings: str,
    store: str,
    answer: tuple[str, tuple[str, ...]],
) -> None:
    if store == "here":
        write_hub_store()
    elif store == "other":
        write_hub_store("org/other", OTHER_COMMIT)
    Path("params.yaml").write_text(CLIP if settings == "same" else CHANGED)
    hub(weights, state)
    assert outcome(capsys) == answer


def test_the_table_has_all_combinations() -> None:
    assert len(CASES) == len({case[:4] for case in CASES}) == 24


def test_the_message_names_both_values_of_the_setting(hub: Callable[..., None]) -> None:
    write_hub_store()
    Path("params.yaml").write_text(CHANGED)
    hub("away", "off")
    with pytest.raises(StaleStore) as caught:
        open_modality_store(load_params(), Modality.GLOBAL)
    assert "media.frames is 8 in params and 16 in the store" in caught.value.message


def test_an_unknown_commit_of_another_revision_is_refused(
    hub: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_hub_store()
    Path("params.yaml").write_text(CLIP.replace("org/clip", "org/clip, revision: v2"))
    hub("here", "off")
    assert outcome(capsys) == ("StaleStore", ("encoder.revision",))


@pytest.mark.parametrize(
    ("commit", "answer"), [(COMMIT, OK), (OTHER_COMMIT, ("StaleStore", ("encoder.weights.commit",)))]
)
def test_a_pinned_commit_needs_neither_weights_nor_hub(
    hub: Callable[..., None], capsys: pytest.CaptureFixture[str], commit: str, answer: tuple[str, tuple[str, ...]]
) -> None:
    write_hub_store()
    Path("params.yaml").write_text(CLIP.replace("org/clip", f"org/clip, revision: {commit}"))
    hub("away", "off")
    assert outcome(capsys) == answer


def test_features_that_were_extracted_earlier_are_found_again(
    hub: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_hub_store()
    write_hub_store("org/other", OTHER_COMMIT)
    Path("params.yaml").write_text(CLIP)
    hub("away", "off")
    assert outcome(capsys) == WARNED


def test_a_hub_model_that_was_never_extracted_is_refused(
    hub: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_text("extract: {encoders: {global: efficientnet_lite0}}\n")
    settings = load_params().settings_of(Modality.GLOBAL, weights_required=False)
    write_store(Modality.GLOBAL, settings, [FeatureRow("a", "d", np.ones((1, 4), np.float32))])
    Path("params.yaml").write_text(CLIP)
    hub("away", "off")
    kind, keys = outcome(capsys)
    assert kind == "StaleStore"
    assert "encoder.type" in keys


def test_a_missing_local_model_is_not_mistaken_for_a_hub_model(
    hub: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my/models/vit").mkdir(parents=True)
    Path("my/models/vit/config.json").write_text("{}")
    Path("params.yaml").write_text(CLIP.replace("org/clip", "my/models/vit"))
    settings = load_params().settings_of(Modality.GLOBAL)
    write_store(Modality.GLOBAL, settings, [FeatureRow("a", "d", np.ones((1, 4), np.float32))])
    assert outcome(capsys) == OK
    Path("my/models/vit/config.json").rename("config.json")
    assert outcome(capsys) == WARNED
    Path("my/models/vit/config.json").write_text("{ }")
    assert outcome(capsys) == ("StaleStore", ("encoder.weights.files.config.json",))
    Path("params.yaml").write_text(CLIP)
    hub("away", "off")
    kind, keys = outcome(capsys)
    assert (kind, "encoder.weights.model" in keys) == ("StaleStore", True)


EMBEDDED = """
encoders: {minilm: {inputs: both}}
extract: {encoders: {global: efficientnet_lite0, text: minilm}}
train: {training: {folds: 2, seeds: 1, epochs: 2}}
vote: {inputs: [], lightgbm: null, folds: 2}
"""
CHANGES = {
    "media.frames": EMBEDDED + "media: {frames: 8}\n",
    "encoder.inputs": EMBEDDED.replace("inputs: both", "inputs: original"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with features and trained models, but without any weights."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("params.yaml").write_text(EMBEDDED)
        clips = [
            Clip(
                ClipId(f"c{number}"),
                path=f"{number}.mp4",
                digest=f"{number:064d}",
                has_video=True,
                transcript="Hello.",
                given_label=("happy", "sad")[number % 2],
                split=Split.TRAIN,
            )
            for number in range(16)
        ]
        write_corpus_tables(Corpus(clips, ["happy", "sad"], [], synthetic=False))
        texts: dict[str, ClipText] = {clip.clip_id: ClipText("Hello.", "Hello, happily.") for clip in clips}
        write_texts(paths.REWRITES, texts)
        write_features(load_params(), clips, texts)
        train.run("given")
        predict.run("given")
    return folder


def write_features(params: Params, clips: list[Clip], texts: dict[str, ClipText]) -> None:
    rng = np.random.default_rng(0)
    for modality in params.extract.encoders:
        settings = params.settings_of(modality, weights_required=False)
        digests = input_digests(modality, clips, texts, BranchInputs.of_settings(settings))
        rows = [
            FeatureRow(name, digest, rng.normal(size=(2, 4)).astype(np.float32)) for name, digest in digests.items()
        ]
        write_store(modality, settings, rows)


def export() -> None:
    for modality in load_params().extract.encoders:
        root = paths.features(modality)
        store_commands.export(root, file_format=FileFormat.NPY, level=Level.UTTERANCE, out=Path("out"))


COMMANDS: dict[str, Callable[[], object]] = {
    "train": lambda: train.run("given"),
    "predict": lambda: predict.run("given"),
    "vote": vote.run,
    "ablate": ablate.run,
    "export": export,
    "predict --text": lambda: single_clip.run(None, "Hello.", None, as_json=True),
}


@pytest.mark.parametrize("key", CHANGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_features_of_other_settings(
    trained: Path, monkeypatch: pytest.MonkeyPatch, command: str, key: str
) -> None:
    monkeypatch.chdir(trained)
    try:
        Path("params.yaml").write_text(CHANGES[key])
        with pytest.raises(InputError) as caught:
            COMMANDS[command]()
        assert key in caught.value.message
        assert caught.value.exit_code == 2
        assert isinstance(caught.value, StaleStore) is (command != "predict --text")
    finally:
        Path("params.yaml").write_text(EMBEDDED)


def test_status_counts_features_of_other_settings_as_missing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)

    def counts() -> dict[str, tuple[Any, ...]]:
        return {name: row[:2] for name, *row in stage_rows(load_params()) if name.startswith("extract")}

    assert counts() == {"extract global": [16, 0], "extract text": [16, 0]}
    try:
        Path("params.yaml").write_text(CHANGES["media.frames"])
        assert counts() == {"extract global": [0, 16], "extract text": [16, 0]}
    finally:
        Path("params.yaml").write_text(EMBEDDED)


WEIGHTS: dict[str, Callable[[], object]] = {
    "efficientnet_lite0/efficientnet-lite0-57934424.pth": lambda: Params().settings_of(Modality.GLOBAL),
    "mini_xception/emotion_model.hdf5": lambda: Params().settings_of(Modality.FACE),
    "face_landmarker/face_landmarker.task": lambda: Params().settings_of(Modality.FACE),
    "face_landmarker/face_detector.tflite": lambda: Params().faces.settings(),
    "minilm/tokenizer.json": lambda: Params().settings_of(Modality.TEXT),
    "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": lambda: Params().llm.settings(["happy", "sad"]),
}


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> Path:
    """A copy of the embedded weights, as links."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models, paths.MODELS, copy_function=os.symlink)
    return paths.MODELS


@pytest.mark.parametrize("name", WEIGHTS)
def test_altered_embedded_weights_are_refused(own_models: Path, name: str) -> None:
    assert WEIGHTS[name]()
    (own_models / name).unlink()
    (own_models / name).write_bytes(b"altered")
    with pytest.raises(ModelError) as caught:
        WEIGHTS[name]()
    assert str(own_models / name) in caught.value.message
    assert caught.value.command == "ecmf-pipe models"
    assert not isinstance(caught.value, MissingWeights)


def test_an_embedded_model_with_other_files_is_refused(own_models: Path) -> None:
    (own_models / "minilm" / "added_tokens.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        Params().settings_of(Modality.TEXT)
    assert "added_tokens.json" in caught.value.message
    (own_models / "minilm" / "added_tokens.json").unlink()
    (own_models / "minilm" / "vocab.txt").unlink()
    with pytest.raises(MissingWeights, match=re.escape("minilm/vocab.txt")):
        Params().settings_of(Modality.TEXT)


def test_settings_of_embedded_models_are_known_without_weights(own_models: Path) -> None:
    present = {modality: Params().settings_of(modality) for modality in Modality}
    own_models.rename("elsewhere")
    assert {modality: Params().settings_of(modality, weights_required=False) for modality in Modality} == present
