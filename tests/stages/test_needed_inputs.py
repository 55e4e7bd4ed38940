"""Stages compute and demand only what an encoder in use or a source of votes reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Corpus, Modality, Split, read_texts, write_corpus_tables
from ecmf_pipeline.core.errors import MissingInput, ModelError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.extraction.run import BranchInputs, input_digests
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.settings.resolve import resolve
from ecmf_pipeline.stages import extract, predict, rewrite, train, transcribe, vote
from ecmf_pipeline.stages.shared.status import stage_rows
from ecmf_pipeline.store import FeatureRow, StoreWriter, create_settings_group, make_current
from ecmf_pipeline.transcription.table import read_transcripts

UNAVAILABLE = """
llm: {model: no/where, gguf_file: null}
transcribe: {model: no/whisper}
train: {training: {folds: 2, seeds: 1, epochs: 2}}
"""
"""Models that no test can load: a stage that uses them fails."""
IMPORTED = (
    UNAVAILABLE
    + """
encoders: {roberta: {type: imported}}
extract: {encoders: {audio: egemaps, text: roberta}}
vote: {inputs: [], lightgbm: null, folds: 2}
"""
)
ORIGINAL = IMPORTED.replace("{roberta: {type: imported}}", "{minilm: {inputs: original}}").replace("roberta", "minilm")
ENRICHED = ORIGINAL.replace("inputs: original", "inputs: both")
CLIPS = [
    Clip(
        ClipId(f"c{number}"),
        path=f"{number}.wav",
        digest=f"{number:064d}",
        has_audio=True,
        transcript="Hello." if number else "",
        given_label=("happy", "sad")[number % 2],
        split=Split.TRAIN,
    )
    for number in range(12)
]
TRANSCRIBED = {clip.clip_id: ClipText(clip.transcript) for clip in CLIPS if clip.transcript}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An indexed project on which no later stage has run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_corpus_tables(Corpus(CLIPS, ["happy", "sad"], [], synthetic=False))


def use(params: str) -> Params:
    Path("params.yaml").write_text(params)
    return load_params()


def write_features(params: Params, texts: dict[str, ClipText]) -> None:
    rng = np.random.default_rng(0)
    for modality in params.extract.encoders:
        settings = params.settings_of(modality, weights_required=False)
        create_settings_group(paths.features(modality), settings, dim=4, dtype="float32")
        inputs = BranchInputs.of_settings(settings)
        digests = input_digests(modality, CLIPS, texts, inputs) or dict.fromkeys([c.clip_id for c in CLIPS], "imported")
        rows = [
            FeatureRow(name, digest, rng.normal(size=(1, 4)).astype(np.float32)) for name, digest in digests.items()
        ]
        with StoreWriter(paths.features(modality), fingerprint(settings)) as writer:
            writer.append(rows)
        make_current(paths.features(modality), fingerprint(settings))


def test_imported_text_features_need_no_texts(capsys: pytest.CaptureFixture[str]) -> None:
    params = use(IMPORTED)
    write_features(params, {})
    train.run("given")
    predict.run("given")
    vote.run()
    assert not paths.REWRITES.exists()
    assert not paths.TRANSCRIPTS.exists()
    capsys.readouterr()
    transcribe.run()
    rewrite.run()
    assert capsys.readouterr().out.count("nothing to do") == 2
    assert read_texts(paths.REWRITES) == {}
    assert read_transcripts(paths.TRANSCRIPTS) == {}
    assert read_quarantine(paths.quarantine("rewrite")) == []
    extract.run([Modality.TEXT])
    rows = {name: row for name, *row in stage_rows(params)}
    assert rows["rewrite"][:2] == [0, 0]
    assert rows["extract text"][:2] == [12, 0]


def test_original_transcripts_need_no_llm(capsys: pytest.CaptureFixture[str]) -> None:
    params = use(ORIGINAL.replace("no/whisper", "null"))
    rewrite.run()
    assert read_texts(paths.REWRITES) == TRANSCRIBED
    assert "none was enriched" in capsys.readouterr().out
    write_features(params, TRANSCRIBED)
    train.run("given")
    assert {name: row for name, *row in stage_rows(params)}["rewrite"][:2] == [11, 0]


def test_enriched_transcripts_need_the_llm_and_transcripts() -> None:
    use(ENRICHED)
    with pytest.raises(MissingInput) as caught:
        rewrite.run()
    assert caught.value.command == "ecmf-pipe transcribe"
    with pytest.raises(ModelError):
        transcribe.run()
    with pytest.raises(MissingInput) as caught:
        train.run("given")
    assert caught.value.command == "ecmf-pipe rewrite"


@pytest.mark.parametrize("written_with", [IMPORTED, ORIGINAL])
def test_a_table_that_lacks_needed_transcripts_is_not_used(written_with: str) -> None:
    use(written_with.replace("no/whisper", "null"))
    rewrite.run()
    params = use(ENRICHED.replace("no/whisper", "null"))
    write_features(params, {name: ClipText("Hello.", "Hello, happily.") for name in TRANSCRIBED})
    assert {name: row for name, *row in stage_rows(params)}["rewrite"][:2] == [0, 11]
    for stage in (lambda: extract.run([Modality.TEXT]), lambda: train.run("given")):
        with pytest.raises(MissingInput) as caught:
            stage()
        assert caught.value.command == "ecmf-pipe rewrite"


@pytest.mark.parametrize(
    ("params", "needs"),
    [
        (IMPORTED, set()),
        (IMPORTED.replace("inputs: []", "inputs: [text]"), {"transcripts", "llm", "votes_on_transcripts"}),
        (
            IMPORTED.replace("inputs: []", "inputs: [cues]") + "llm_votes",
            {"transcripts", "llm", "votes_on_transcripts"},
        ),
        (ORIGINAL, {"transcripts"}),
        (ORIGINAL.replace("inputs: original", "inputs: translation"), set()),
        (ENRICHED, {"transcripts", "llm", "enriched_texts"}),
    ],
)
def test_needs_of_params(params: str, needs: set[str]) -> None:
    loaded = use(
        params.replace("gguf_file: null}", "gguf_file: null, votes: {cues: [audio]}}").replace("llm_votes", "")
    )
    found = {
        name for name in ("transcripts", "llm", "enriched_texts", "face_crops") if getattr(loaded, f"needs_{name}")
    }
    assert found | ({"votes_on_transcripts"} if loaded.votes_on_transcripts else set()) == needs
    resolved = resolve(loaded, ["happy", "sad"])
    assert (resolved["rewrite"]().get("used", True) is False) is ("enriched_texts" not in needs)
    if "transcripts" not in needs:
        assert resolved["transcribe"]() == {"used": False}


@pytest.mark.parametrize(
    ("encoders", "vote", "expected"),
    [
        ("{face: mini_xception, audio: egemaps}", "{}", True),
        ("{audio: egemaps}", "{}", False),
        ("{face: crops, audio: egemaps}", "{}", False),
        ("{audio: egemaps}", "{inputs: [frames]}", True),
    ],
)
def test_face_crops_are_indexed_only_if_a_branch_or_vote_reads_them(encoders: str, vote: str, expected: bool) -> None:
    params = use(
        f"""
corpus: {{kind: mer, root: corpus}}
faces: {{source: openface}}
encoders: {{crops: {{type: imported}}}}
extract: {{encoders: {encoders}}}
vote: {vote}
llm: {{backend: openai, votes: {{frames: {{crops: true}}}}}}
"""
    )
    assert params.needs_face_crops is expected


def test_votes_without_voters_need_no_features() -> None:
    use(IMPORTED.replace("lightgbm: null", "lightgbm: null, linear: null"))
    vote.run()
    assert paths.VOTES.is_file()
