"""Tests of the stages that query the LLM, on a corpus with extracted features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.cli import llm
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Modality, Split, read_texts, write_corpus_tables
from ecmf_pipeline.core.errors import BudgetSpent, MissingInput, ParamsError
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.shards import SHARDS, Shard
from ecmf_pipeline.labels.voters import ALL, source_family
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages import cues, rewrite, vote
from ecmf_pipeline.stages.shared.inputs import read_labelled_corpus
from ecmf_pipeline.stages.shared.llm import llm_votes, read_contexts
from ecmf_pipeline.store import FeatureRow, StoreWriter, create_settings_group, make_current
from tests.llm.fault_server import serving

CLIPS = 30


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path, tiny_model: Path) -> Path:
    """Thirty clips of dialogues; the first has a smile and a loud voice, the last has neither video nor audio."""
    monkeypatch.chdir(tmp_path)
    paths.DATA.mkdir()
    paths.MODELS.symlink_to(models.resolve())
    write_params(tiny_model)
    clips = [
        Clip(
            ClipId(f"train_dia{number // 10}_utt{number % 10}"),
            path=f"{number}.mp4",
            digest=f"{number:064d}",
            duration=2.0,
            has_video=number < CLIPS - 1,
            has_audio=number < CLIPS - 1,
            transcript="" if number == 5 else f"This is line number {number}.",
            given_label=("happy", "sad")[number % 2],
            split=Split.TRAIN,
            group=f"dia{number // 10}",
        )
        for number in range(CLIPS)
    ]
    write_corpus_tables(Corpus(clips, ["happy", "sad"], [], synthetic=False))
    rng = np.random.default_rng(0)
    face, audio = rng.uniform(0, 0.1, (CLIPS, 180)), rng.uniform(0.9, 1.1, (CLIPS, 88))
    face[0, 128 + 44 : 128 + 46] = 0.9
    audio[0, 10] = 9.0
    write_features(Modality.FACE, clips, face)
    write_features(Modality.AUDIO, clips, audio)
    return tmp_path


def write_params(model: Path, more: str = "") -> None:
    llm = "transcribe: {model: null}\n"
    llm += f"llm: {{model: {model}, gguf_file: null, device: cpu, workers: 0, batch_size: 8}}\n"
    Path("params.yaml").write_text(llm + more)


def write_features(modality: Modality, clips: list[Clip], values: np.ndarray) -> None:
    params = load_params()
    settings = params.settings_of(modality)
    root = paths.features(modality)
    create_settings_group(root, settings, dim=values.shape[1], dtype="float32")
    rows = [
        FeatureRow(clip.clip_id, clip.digest, row[None].astype(np.float32), {}, {})
        for clip, row in zip(clips, values, strict=True)
        if clip.has_video
    ]
    with StoreWriter(root, fingerprint(settings)) as writer:
        writer.append(rows)
    make_current(root, fingerprint(settings))


@pytest.mark.usefixtures("project")
def test_rewrite_adds_facial_and_vocal_cues(tiny_model: Path) -> None:
    rewrite.run()
    without_cues = read_texts(paths.REWRITES)
    write_params(tiny_model, "rewrite: {cues: [face, audio]}\n")
    with pytest.raises(MissingInput) as caught:
        rewrite.run()
    assert "ecmf-pipe cues" in str(caught.value)
    cues.run([])
    rewrite.run()
    with_cues = read_texts(paths.REWRITES)
    first, last = "train_dia0_utt0", f"train_dia{(CLIPS - 1) // 10}_utt9"
    assert with_cues[first].enriched.startswith(without_cues[first].enriched)
    added = with_cues[first].enriched.removeprefix(without_cues[first].enriched)
    assert added.startswith(" Face and voice: corners of the mouth up, ")
    assert "voice louder than usual" in added
    assert with_cues[last] == without_cues[last], "a clip without features has no cues"
    assert with_cues[first].original == without_cues[first].original


@pytest.mark.usefixtures("project")
def test_shards_of_rewrite_and_vote_leave_no_question_to_the_run_that_merges(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for shard in (Shard(1, 2), Shard(2, 2)):
        rewrite.run(shard=shard)
        vote.run(shard=shard)
    assert not paths.REWRITES.exists()
    assert not paths.VOTES.exists()
    capsys.readouterr()
    rewrite.run()
    assert f"0 answered, {CLIPS - 1} from the cache" in capsys.readouterr().out
    _, (scored,) = llm_votes(load_params(), read_labelled_corpus())
    assert (scored.answered, scored.cached) == (0, CLIPS - 1)
    assert not (paths.DATA / SHARDS).exists()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("shard", "merge"),
    [(rewrite.run, rewrite.run), (vote.run, lambda: llm_votes(load_params(), read_labelled_corpus()))],
)
def test_shards_divide_the_budget_of_a_run(shard: Callable[..., Any], merge: Callable[[], Any]) -> None:
    with serving(lambda *_: 'content: {"label": "happy"}') as server:
        Path("params.yaml").write_text(
            "transcribe: {model: null}\n"
            "llm: {backend: openai, model: served, calibration: none, budget: {max_requests: 7},\n"
            f"      server: {{base_url: '{server.url}', key_env: null, concurrency: 1}}}}\n"
        )
        sent = []
        for number in (1, 2, 3):
            with pytest.raises(BudgetSpent):
                shard(shard=Shard(number, 3))
            sent.append(len(server.received))
        assert sent == [3, 5, 7], "seven requests: three for the first shard, two for each of the others"
        with pytest.raises(BudgetSpent):
            merge()
        assert len(server.received) == 14, "the run that merges has a budget of its own, and pays for no answer again"
        assert len(set(server.received)) == 14


@pytest.mark.usefixtures("project")
def test_context_contains_neighbours_and_cues(tiny_model: Path) -> None:
    write_params(tiny_model, "rewrite: {how: written, neighbours: 1, cues: [face]}\n")
    cues.run([Modality.FACE])
    clips = read_labelled_corpus().clips
    contexts = read_contexts(load_params(), clips)
    assert len(contexts) == CLIPS - 1
    assert contexts["train_dia0_utt0"].before == ()
    assert contexts["train_dia0_utt0"].cues == ("corners of the mouth up",)
    assert contexts["train_dia0_utt4"].after == ("This is line number 6.",), "clip 5 has no transcript"
    assert contexts["train_dia1_utt0"].before == ()


@pytest.mark.usefixtures("project")
def test_each_input_is_a_separate_source_of_votes(tiny_model: Path) -> None:
    by_text, scored = llm_votes(load_params(), read_labelled_corpus())
    assert list(by_text) == ["llm"]
    assert scored[0].answered == CLIPS - 1
    write_params(tiny_model, "vote: {inputs: [text, cues], llm_margin: 0}\n")
    by_both, scored = llm_votes(load_params(), read_labelled_corpus())
    assert list(by_both) == ["llm", "llm/cues"]
    assert (scored[0].answered, scored[0].cached) == (0, CLIPS - 1), "answers about transcripts are cached"
    assert scored[1].answered > 0
    assert np.isfinite(by_both["llm/cues"][0]).all()
    assert np.isnan(by_both["llm/cues"][-1]).all(), "the LLM abstains on a clip without face and audio"
    write_params(tiny_model, "vote: {inputs: [cues]}\n")
    by_cues, scored = llm_votes(load_params(), read_labelled_corpus())
    assert list(by_cues) == ["llm/cues"]
    assert scored[0].answered == 0
    assert paths.quarantine("vote").is_file()
    write_params(tiny_model, "vote: {inputs: []}\n")
    assert llm_votes(load_params(), read_labelled_corpus()) == ({}, [])


def test_sources_with_the_same_input_belong_to_one_family() -> None:
    families = {name: source_family(name) for name in ("llm", "llm/cues", "llm/frames", "fusion", "face/linear")}
    assert families == {"llm": "text", "llm/cues": ALL, "llm/frames": "global", "fusion": ALL, "face/linear": "face"}


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("vote: {inputs: [frames]}", "vote.inputs", "frames"),
        ("vote: {inputs: [text, cues, text]}", "vote.inputs", "text"),
        ("rewrite: {cues: [face]}\nextract: {encoders: {text: minilm}}", "rewrite.cues", "face needs"),
        ("vote: {inputs: [cues]}\nextract: {encoders: {text: minilm}}", "llm.votes.cues", "face needs"),
        ("vote: {inputs: [cues]}\nllm: {votes: {cues: []}}", "llm.votes.cues", "vote.inputs"),
        ("rewrite: {cues: [text]}", "rewrite.cues.0", "text"),
        ("vote: {inputs: [smell]}", "vote.inputs.0", "smell"),
        ("transcribe: {language: English}", "transcribe.language", "English"),
    ],
)
def test_inconsistent_params_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, key: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(text + "\n")
    with pytest.raises(ParamsError, match=message) as caught:
        load_params()
    assert caught.value.keys == (key,)


@pytest.mark.usefixtures("project")
def test_answers_in_use_are_counted_exported_and_not_pruned(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(tiny_model, "vote: {inputs: [text, cues]}\n")
    llm.plan()
    before = capsys.readouterr().out
    assert f"llm: {CLIPS - 1} questions to ask, 0 cached" in before
    assert "llm/cues: 0 questions" not in before
    llm_votes(load_params(), read_labelled_corpus())
    write_params(tiny_model, "vote: {inputs: [text, cues]}\nrewrite: {how: written, neighbours: 1}\n")
    llm.plan()
    after = capsys.readouterr().out
    assert f"rewrite: {CLIPS - 1} questions to ask, 0 cached" in after
    assert f"llm: 0 questions to ask, {CLIPS - 1} cached" in after
    assert "llm/cues: 0 questions to ask" in after
    llm.prune(yes=True)
    llm.ls()
    kept = capsys.readouterr().out
    assert kept.count("in use") == 2
    assert "removed" not in kept
    llm.export(tmp_path / "out.jsonl")
    entries = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {entry["source"] for entry in entries} == {"llm", "llm/cues"}
    write_params(tiny_model)
    llm.prune(yes=False)
    assert capsys.readouterr().out.count("--yes removes it") == 1, "answers about cues"
