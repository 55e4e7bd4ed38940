"""Scoring of many texts: each text once, with any number of workers, and with any failure."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.errors import Interrupted, StoreBusy, TooManyQuarantined
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm import questions
from ecmf_pipeline.llm.answers import AnswerWriter, ScoreCache, TextScores, open_drafts, part_files
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.scoring import probabilities, score_texts, scoring_steps
from ecmf_pipeline.llm.votes import votes_from_scores
from ecmf_pipeline.runner.quarantine import QuarantineEntry, read_quarantine
from tests.llm.scripted import ScriptedModel, answer_files, score

SIX = ("neutral", "angry", "happy", "sad", "worried", "surprise")


def table(folder: Path, stage: str = "rewrite") -> dict[str, QuarantineEntry]:
    return {entry.clip_id: entry for entry in read_quarantine(folder / f"{stage}.csv")}


def cached_parts(folder: Path, stage: str = "rewrite") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in part_files(folder / stage / "cache" / "f")}


def count_calls(folder: Path, text: str) -> int:
    return ScriptedModel(folder).texts().count(text)


def test_each_text_is_scored_once_and_blank_ones_never(tmp_path: Path) -> None:
    result = score(tmp_path, ["abc", "", "abc", "  \n", "abcdef", "x" * 30])
    assert ScriptedModel(tmp_path).texts() == ["abc", "abcdef", "x" * 30]
    expected = [[1.0, -1.0], [np.nan] * 2, [1.0, -1.0], [np.nan] * 2, [2.0, -1.0], [10.0, -1.0]]
    np.testing.assert_array_equal(result.values, np.array(expected))
    assert (result.answered, result.cached, result.empty, result.truncated, result.quarantined) == (3, 0, 2, 1, 0)
    assert sum(content.count(b"\n") for content in cached_parts(tmp_path).values()) == 3


def test_cached_scores_need_no_model(tmp_path: Path) -> None:
    texts = ["a", "ab", "", "x" * 30]
    first = score(tmp_path, texts)
    before = cached_parts(tmp_path)
    (tmp_path / "built").unlink()
    again = score(tmp_path, texts, workers=2)
    np.testing.assert_array_equal(first.values, again.values)  # new scores are rounded like cached ones
    assert (again.answered, again.cached, again.truncated) == (0, 3, 0)
    assert not ScriptedModel(tmp_path).built
    assert cached_parts(tmp_path) == before
    score(tmp_path, [*texts, "abc"])
    assert ScriptedModel(tmp_path).calls()[1:] == [["abc"]]
    assert before.items() < cached_parts(tmp_path).items()


def test_without_words_no_model_is_built_and_the_table_is_written(tmp_path: Path) -> None:
    result = score(tmp_path, ["", " "], workers=1)
    assert np.isnan(result.values).all()
    assert not ScriptedModel(tmp_path).built
    assert not (tmp_path / "rewrite").exists()
    assert table(tmp_path) == {}
    assert (tmp_path / "rewrite.csv").is_file()  # an output of the DVC stage


def test_the_parts_do_not_depend_on_the_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PART_SIZE", 8)
    texts = ["word " * (7 * number % 11) + str(number) for number in range(30)]
    results = []
    for workers in (0, 1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        result = score(folder, texts, workers=workers)
        assert result.answered == 30
        results.append((cached_parts(folder), result.values.tolist()))
        assert not list((folder / ".rewrite.spool").rglob("*.batch"))
    assert len(results[0][0]) == 4
    assert results[0] == results[1] == results[2]


def test_texts_of_similar_length_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PART_SIZE", 6)
    score(tmp_path, ["7777777", "1", "55555", "22", "333", "4444", "b", "a"])
    assert ScriptedModel(tmp_path).calls() == [["1", "22", "333"], ["4444", "55555", "7777777"], ["b", "a"]]


def test_an_unexpected_error_quarantines_only_its_text(tmp_path: Path) -> None:
    texts = [str(number) for number in range(6)] + ["gone!", "later..."]
    for workers in (0, 1):
        folder = tmp_path / str(workers)
        folder.mkdir()
        result = score(folder, texts, workers=workers)
        assert (result.answered, result.quarantined) == (7, 1)
        assert {clip: entry.reason for clip, entry in table(folder).items()} == {"c6": "UnexpectedError"}
        (folder / "log").unlink()
        score(folder, texts, workers=workers)
        assert ScriptedModel(folder).texts() == []
        score(folder, [text.replace("gone", "back") for text in texts])
        assert ScriptedModel(folder).texts() == ["back!"]


def test_a_text_that_crashes_its_worker_is_quarantined(tmp_path: Path) -> None:
    texts = ["one", "a segfault", "two", "", "three", "a segfault", "four"]
    result = score(tmp_path, texts, workers=1)
    assert np.isnan(result.values[[1, 3, 5]]).all()
    assert np.isfinite(result.values[[0, 2, 4, 6]]).all()
    assert (result.answered, result.quarantined, result.empty) == (4, 2, 1)
    assert {clip: (entry.reason, entry.stage) for clip, entry in table(tmp_path).items()} == {
        "c1": ("WorkerCrashed", "rewrite"),
        "c5": ("WorkerCrashed", "rewrite"),
    }
    assert "SIGSEGV" in table(tmp_path)["c1"].message
    (tmp_path / "log").unlink()
    again = score(tmp_path, [*texts, "a segfault"], workers=1)  # a third clip with the same text
    assert not ScriptedModel(tmp_path).calls()
    assert (again.answered, again.cached, again.quarantined) == (0, 4, 3)
    assert set(table(tmp_path)) == {"c1", "c5", "c7"}


def test_a_text_that_hangs_is_quarantined(tmp_path: Path) -> None:
    result = score(tmp_path, ["one", "hang on", "two"], workers=1, clip_timeout=0.5, batch_size=2)
    assert {clip: entry.reason for clip, entry in table(tmp_path).items()} == {"c1": "ClipTimeout"}
    assert np.isnan(result.values).all(axis=1).tolist() == [False, True, False]


def test_a_text_without_finite_scores_is_quarantined(tmp_path: Path) -> None:
    result = score(tmp_path, ["one", "nan", "two", "nan"])
    assert {clip: entry.reason for clip, entry in table(tmp_path).items()} == dict.fromkeys(
        ("c1", "c3"), "FeaturesNotFinite"
    )
    assert (result.answered, result.quarantined) == (2, 2)


@pytest.mark.parametrize("change", ["text", "settings", "retry"])
def test_quarantined_texts_are_retried_after_a_change(tmp_path: Path, change: str) -> None:
    score(tmp_path, ["one", "nan"])
    assert count_calls(tmp_path, "nan") == 1
    if change == "text":
        score(tmp_path, ["one", "na n"])
        assert count_calls(tmp_path, "na n") == 1
        assert table(tmp_path) == {}
    elif change == "settings":
        score(tmp_path, ["one", "nan"], fingerprint="g")
        assert count_calls(tmp_path, "nan") == 2
        assert table(tmp_path)["c1"].fingerprint == "g"
    else:
        score(tmp_path, ["one", "nan"], retry=True)
        assert count_calls(tmp_path, "nan") == 2
        assert count_calls(tmp_path, "one") == 1


def test_a_later_stage_reuses_scores_and_quarantine_of_an_earlier_one(tmp_path: Path) -> None:
    rewrite = answer_files(tmp_path)
    vote = answer_files(tmp_path, "vote", rewrite)
    score(tmp_path, ["one", "nan"], stage=rewrite)
    (tmp_path / "log").unlink()
    result = score(tmp_path, ["one", "nan", "two"], stage=vote)
    assert ScriptedModel(tmp_path).texts() == ["two"]
    assert (result.answered, result.cached, result.quarantined) == (1, 1, 1)
    assert {(entry.stage, entry.reason) for entry in table(tmp_path, "vote").values()} == {
        ("vote", "FeaturesNotFinite")
    }
    assert b"".join(cached_parts(tmp_path, "vote").values()).count(b"\n") == 1
    # An answer that the earlier stage has received since is used.
    with AnswerWriter(ScoreCache(rewrite.cache, "f"), rewrite.spool_folder) as writer:
        writer.append([TextScores.of(sha256_text("nan"), np.array([1.0, 2.0]))])
    assert score(tmp_path, ["one", "nan", "two"], stage=vote).quarantined == 0
    assert table(tmp_path, "vote") == {}


def test_too_many_quarantined_texts_stop_the_stage_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecmf_pipeline.runner.quarantine.ALLOWED_OF_FEW", 0)
    texts = ["one", "nan 1", "nan 2", "two", ""]
    for _ in range(2):
        with pytest.raises(TooManyQuarantined) as caught:
            score(tmp_path, texts, max_quarantined=0.4)
        assert {"2", "4"} <= set(re.findall(r"\d+", caught.value.message))
    assert len(ScriptedModel(tmp_path).calls()) == 2
    assert score(tmp_path, texts, max_quarantined=0.5).cached == 2


def test_two_runs_at_once_fail_with_store_busy(tmp_path: Path) -> None:
    score(tmp_path, ["one"])
    with AnswerWriter(ScoreCache(answer_files(tmp_path).cache, "f"), answer_files(tmp_path).spool_folder):
        with pytest.raises(StoreBusy) as caught:
            score(tmp_path, ["one", "two"])
        assert str(answer_files(tmp_path).cache) in caught.value.message
        score(
            tmp_path, ["two"], stage=answer_files(tmp_path, "vote", answer_files(tmp_path))
        )  # other stages have other locks
    assert ScriptedModel(tmp_path).texts() == ["one", "two"]


def slow_run(folder: Path, workers: int, count: int = 200) -> subprocess.Popen[str]:
    code = "import sys; from tests.llm.scripted import main; main(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(workers), str(count)],
        cwd=Path(__file__).parents[2],  # for the import of `tests`
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_batches(run: subprocess.Popen[str], folder: Path, least: int) -> None:
    while len(list((folder / ".rewrite.spool").rglob("*.batch"))) < least:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_loses_at_most_its_batches_in_progress(tmp_path: Path, workers: int) -> None:
    texts = [f"text {number:03d}" for number in range(200)]
    with slow_run(tmp_path, workers) as run:
        wait_for_batches(run, tmp_path, 5)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    time.sleep(0.2)  # its workers die with it
    assert not (tmp_path / "rewrite").exists()
    before = ScriptedModel(tmp_path).texts()
    assert 15 <= len(before) < 200
    result = score(tmp_path, texts)
    twice = len(ScriptedModel(tmp_path).texts()) - len(texts)
    assert 0 <= twice <= 3 * max(1, workers)
    assert result.answered == 200 - len(before) + twice
    assert result.cached == len(before) - twice
    np.testing.assert_array_equal(result.values, [[round(8 / 3, 6), -1.0]] * 200)
    assert b"".join(cached_parts(tmp_path).values()).count(b"\n") == 200
    assert not list((tmp_path / ".rewrite.spool").rglob("*.batch"))


@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_keeps_finished_batches(tmp_path: Path, workers: int) -> None:
    with slow_run(tmp_path, workers) as run:
        wait_for_batches(run, tmp_path, 3)
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=20)
    assert Interrupted.__name__ in stderr
    sealed = b"".join(cached_parts(tmp_path).values()).count(b"\n")
    assert sealed
    # A batch may remain in the spool for the next run.
    unsealed = sum(path.read_bytes().count(b"\n") for path in (tmp_path / ".rewrite.spool").rglob("*.batch"))
    started = len(ScriptedModel(tmp_path).texts())
    assert max(9, started - 3) <= sealed + unsealed <= started < 200
    assert score(tmp_path, [f"text {number:03d}" for number in range(200)]).cached == sealed + unsealed


def test_a_real_model_has_the_same_scores_in_a_worker(tmp_path: Path, tiny: LlmConfig) -> None:
    texts = ["I miss my mother.", "No!", "A much longer utterance, which goes on about the shop.", "Wow"]
    values = []
    for workers in (0, 1):
        result = score_texts(
            {str(number): text for number, text in enumerate(texts)},
            SIX,
            fingerprint="f",
            answer_files=answer_files(tmp_path / str(workers)),
            steps=scoring_steps(
                tiny, load_prompt(tiny.prompt), SIX, drafts=partial(open_drafts, answer_files(tmp_path), "f")
            ),
            config=tiny.model_copy(update={"workers": workers}),
        )
        values.append(result.values)
    assert np.isfinite(values[0]).all()
    np.testing.assert_array_equal(*values)


def test_importing_scoring_does_not_import_torch() -> None:
    code = "import ecmf_pipeline.llm.scoring, sys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_probabilities_are_a_softmax_with_temperature() -> None:
    scores = np.array([[np.log(3), 0.0], [1000.0, 0.0], [np.nan, np.nan]])
    np.testing.assert_allclose(probabilities(scores), np.array([[0.75, 0.25], [1, 0], [np.nan] * 2]), atol=1e-12)
    np.testing.assert_allclose(probabilities(scores[:1], temperature=0.5), [[0.9, 0.1]])


def test_votes_abstain_below_the_margin_and_without_words() -> None:
    scores = np.log(np.array([[0.6, 0.4], [0.55, 0.45], [0.2, 0.8]]))
    scores = np.vstack([scores, [np.nan, np.nan]])
    votes = votes_from_scores(scores, margin=0.15)
    nan = float("nan")
    np.testing.assert_allclose(votes, np.array([[0.6, 0.4], [nan, nan], [0.2, 0.8], [nan, nan]]))
    assert not np.isnan(votes_from_scores(scores, margin=0)[:3]).any()
    assert np.isnan(votes_from_scores(scores / 100, margin=0.15)).all()
