"""Scoring many texts: each asked once, by any number of workers, whatever breaks."""

from __future__ import annotations

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
from ecmf_pipeline.llm import answers as loop
from ecmf_pipeline.llm.answers import AnswerWriter, ScoreCache, TextScores, open_drafts, part_files
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.scoring import probabilities, score_texts, scoring_steps
from ecmf_pipeline.llm.votes import votes_from_scores
from ecmf_pipeline.runner.quarantine import QuarantineEntry, read_quarantine
from tests.llm.scripted import ScriptedModel, books, score

SIX = ("neutral", "angry", "happy", "sad", "worried", "surprise")


def table(folder: Path, stage: str = "rewrite") -> dict[str, QuarantineEntry]:
    return {entry.clip_id: entry for entry in read_quarantine(folder / f"{stage}.csv")}


def cached(folder: Path, stage: str = "rewrite") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in part_files(folder / stage / "cache" / "f")}


def asked(folder: Path, text: str) -> int:
    return ScriptedModel(folder).texts().count(text)


def test_each_text_is_asked_once_and_blank_ones_never(tmp_path: Path) -> None:
    result = score(tmp_path, ["abc", "", "abc", "  \n", "abcdef", "x" * 30])
    assert ScriptedModel(tmp_path).texts() == ["abc", "abcdef", "x" * 30]
    expected = [[1.0, -1.0], [np.nan] * 2, [1.0, -1.0], [np.nan] * 2, [2.0, -1.0], [10.0, -1.0]]
    np.testing.assert_array_equal(result.values, np.array(expected))
    assert (result.asked, result.cached, result.empty, result.truncated, result.quarantined) == (3, 0, 2, 1, 0)
    assert sum(content.count(b"\n") for content in cached(tmp_path).values()) == 3


def test_what_is_known_is_never_asked_again_nor_the_model_built(tmp_path: Path) -> None:
    texts = ["a", "ab", "", "x" * 30]
    first = score(tmp_path, texts)
    before = cached(tmp_path)
    (tmp_path / "built").unlink()
    again = score(tmp_path, texts, workers=2)
    np.testing.assert_array_equal(first.values, again.values)  # the fresh scores are rounded like the kept ones
    assert (again.asked, again.cached, again.truncated) == (0, 3, 0)
    assert not ScriptedModel(tmp_path).built
    assert cached(tmp_path) == before
    score(tmp_path, [*texts, "abc"])
    assert ScriptedModel(tmp_path).calls()[1:] == [["abc"]]
    assert before.items() < cached(tmp_path).items()


def test_no_words_at_all_build_no_model_but_the_table_is_there(tmp_path: Path) -> None:
    result = score(tmp_path, ["", " "], workers=1)
    assert np.isnan(result.values).all()
    assert not ScriptedModel(tmp_path).built
    assert not (tmp_path / "rewrite").exists()
    assert table(tmp_path) == {}
    assert (tmp_path / "rewrite.csv").is_file()  # DVC waits for it


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PART_SIZE", 8)
    texts = ["word " * (7 * number % 11) + str(number) for number in range(30)]
    written = []
    for workers in (0, 1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        result = score(folder, texts, workers=workers)
        assert result.asked == 30
        written.append((cached(folder), result.values.tolist()))
        assert not list((folder / ".rewrite.spool").rglob("*.batch"))
    assert len(written[0][0]) == 4
    assert written[0] == written[1] == written[2]


def test_texts_of_like_length_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PART_SIZE", 6)
    score(tmp_path, ["7777777", "1", "55555", "22", "333", "4444", "b", "a"])
    assert ScriptedModel(tmp_path).calls() == [["1", "22", "333"], ["4444", "55555", "7777777"], ["b", "a"]]


def test_an_error_of_ours_stops_and_keeps_what_was_done(tmp_path: Path) -> None:
    texts = [str(number) for number in range(6)] + ["gone!", "later..."]
    for workers in (0, 1):
        folder = tmp_path / str(workers)
        folder.mkdir()
        with pytest.raises(ConnectionError, match="gone"):
            score(folder, texts, workers=workers)
        assert table(folder) == {}
        (folder / "log").unlink()
        score(folder, [text.replace("gone", "back") for text in texts])
        assert ScriptedModel(folder).texts() == ["back!", "later..."]


def test_a_text_that_breaks_its_worker_is_set_aside_and_the_others_are_not(tmp_path: Path) -> None:
    texts = ["one", "a segfault", "two", "", "three", "a segfault", "four"]
    result = score(tmp_path, texts, workers=1)
    assert np.isnan(result.values[[1, 3, 5]]).all()
    assert np.isfinite(result.values[[0, 2, 4, 6]]).all()
    assert (result.asked, result.quarantined, result.empty) == (4, 2, 1)
    assert {clip: (entry.reason, entry.stage) for clip, entry in table(tmp_path).items()} == {
        "c1": ("WorkerCrashed", "rewrite"),
        "c5": ("WorkerCrashed", "rewrite"),
    }
    assert "SIGSEGV" in table(tmp_path)["c1"].message
    (tmp_path / "log").unlink()
    again = score(tmp_path, [*texts, "a segfault"], workers=1)  # now a third clip says it, too
    assert not ScriptedModel(tmp_path).calls()
    assert (again.asked, again.cached, again.quarantined) == (0, 4, 3)
    assert set(table(tmp_path)) == {"c1", "c5", "c7"}


def test_a_text_that_hangs_is_set_aside(tmp_path: Path) -> None:
    result = score(tmp_path, ["one", "hang on", "two"], workers=1, clip_timeout=0.5, batch_size=2)
    assert {clip: entry.reason for clip, entry in table(tmp_path).items()} == {"c1": "ClipTimeout"}
    assert np.isnan(result.values).all(axis=1).tolist() == [False, True, False]


def test_a_text_without_finite_scores_is_set_aside(tmp_path: Path) -> None:
    result = score(tmp_path, ["one", "nan", "two", "nan"])
    assert {clip: entry.reason for clip, entry in table(tmp_path).items()} == dict.fromkeys(
        ("c1", "c3"), "FeaturesNotFinite"
    )
    assert (result.asked, result.quarantined) == (2, 2)


@pytest.mark.parametrize("how", ["text", "settings", "asked for"])
def test_what_was_set_aside_is_asked_again_when_something_changed(tmp_path: Path, how: str) -> None:
    score(tmp_path, ["one", "nan"])
    assert asked(tmp_path, "nan") == 1
    if how == "text":
        score(tmp_path, ["one", "na n"])
        assert asked(tmp_path, "na n") == 1
        assert table(tmp_path) == {}
    elif how == "settings":
        score(tmp_path, ["one", "nan"], fingerprint="g")
        assert asked(tmp_path, "nan") == 2
        assert table(tmp_path)["c1"].fingerprint == "g"
    else:
        score(tmp_path, ["one", "nan"], retry=True)
        assert asked(tmp_path, "nan") == 2
        assert asked(tmp_path, "one") == 1


def test_a_later_stage_asks_neither_what_an_earlier_one_knows_nor_what_it_set_aside(tmp_path: Path) -> None:
    rewrite = books(tmp_path)
    vote = books(tmp_path, "vote", rewrite)
    score(tmp_path, ["one", "nan"], stage=rewrite)
    (tmp_path / "log").unlink()
    result = score(tmp_path, ["one", "nan", "two"], stage=vote)
    assert ScriptedModel(tmp_path).texts() == ["two"]
    assert (result.asked, result.cached, result.quarantined) == (1, 1, 1)
    assert {(entry.stage, entry.reason) for entry in table(tmp_path, "vote").values()} == {
        ("vote", "FeaturesNotFinite")
    }
    assert b"".join(cached(tmp_path, "vote").values()).count(b"\n") == 1
    # What the earlier stage has found out since is no longer set aside.
    with AnswerWriter(ScoreCache(rewrite.cache, "f"), rewrite.spool_folder) as writer:
        writer.append([TextScores.of(sha256_text("nan"), np.array([1.0, 2.0]))])
    assert score(tmp_path, ["one", "nan", "two"], stage=vote).quarantined == 0
    assert table(tmp_path, "vote") == {}


def test_too_many_texts_set_aside_stop_the_stage_also_the_next_time(tmp_path: Path) -> None:
    texts = ["one", "nan 1", "nan 2", "two", ""]
    for _ in range(2):
        with pytest.raises(TooManyQuarantined, match="2 of 4"):
            score(tmp_path, texts, max_quarantined=0.4)
    assert len(ScriptedModel(tmp_path).calls()) == 2
    assert score(tmp_path, texts, max_quarantined=0.5).cached == 2


def test_a_second_run_at_once_is_told_so(tmp_path: Path) -> None:
    score(tmp_path, ["one"])
    with AnswerWriter(ScoreCache(books(tmp_path).cache, "f"), books(tmp_path).spool_folder):
        with pytest.raises(StoreBusy, match="cache"):
            score(tmp_path, ["one", "two"])
        score(tmp_path, ["two"], stage=books(tmp_path, "vote", books(tmp_path)))  # another stage's is its own
    assert ScriptedModel(tmp_path).texts() == ["one", "two"]


def slow_run(folder: Path, workers: int, count: int = 200) -> subprocess.Popen[str]:
    code = "import sys; from tests.llm.scripted import main; main(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(workers), str(count)],
        cwd=Path(__file__).parents[2],  # so that it finds `tests`
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_batches(run: subprocess.Popen[str], folder: Path, least: int) -> None:
    while len(list((folder / ".rewrite.spool").rglob("*.batch"))) < least:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_loses_the_batches_in_flight_at_most(tmp_path: Path, workers: int) -> None:
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
    assert result.asked == 200 - len(before) + twice
    assert result.cached == len(before) - twice
    np.testing.assert_array_equal(result.values, [[round(8 / 3, 6), -1.0]] * 200)
    assert b"".join(cached(tmp_path).values()).count(b"\n") == 200
    assert not list((tmp_path / ".rewrite.spool").rglob("*.batch"))


@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_keeps_what_is_complete(tmp_path: Path, workers: int) -> None:
    with slow_run(tmp_path, workers) as run:
        wait_for_batches(run, tmp_path, 3)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=20)
    assert Interrupted.__name__ in said
    sealed = b"".join(cached(tmp_path).values()).count(b"\n")
    assert sealed
    # A batch that was just being taken over may still stand in the spool, for the next run.
    unsealed = sum(path.read_bytes().count(b"\n") for path in (tmp_path / ".rewrite.spool").rglob("*.batch"))
    begun = len(ScriptedModel(tmp_path).texts())
    assert max(9, begun - 3) <= sealed + unsealed <= begun < 200
    assert score(tmp_path, [f"text {number:03d}" for number in range(200)]).cached == sealed + unsealed


def test_a_real_model_says_the_same_in_a_worker(tmp_path: Path, tiny: LlmConfig) -> None:
    texts = ["I miss my mother.", "No!", "A much longer utterance, which goes on about the shop.", "Wow"]
    values = []
    for workers in (0, 1):
        result = score_texts(
            {str(number): text for number, text in enumerate(texts)},
            SIX,
            fingerprint="f",
            books=books(tmp_path / str(workers)),
            steps=scoring_steps(tiny, load_prompt(tiny.prompt), SIX, drafts=partial(open_drafts, books(tmp_path), "f")),
            config=tiny.model_copy(update={"workers": workers}),
        )
        values.append(result.values)
    assert np.isfinite(values[0]).all()
    np.testing.assert_array_equal(*values)


def test_whoever_hands_out_the_work_loads_no_torch() -> None:
    code = "import ecmf_pipeline.llm.scoring, sys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_probabilities() -> None:
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
