"""Shards of questions: each is sent once, and the answers are merged by the run without a shard."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.errors import StoreBusy
from ecmf_pipeline.core.files import exclusive_lock
from ecmf_pipeline.core.shards import SHARDS, Shard
from ecmf_pipeline.llm.answers import AnswerWriter, ScoreCache, TextScores, pack_rows, part_files
from ecmf_pipeline.llm.server_run import DRAFTS_FILE, Draft, Drafts
from ecmf_pipeline.llm.shards import files_of_shard
from ecmf_pipeline.runner.quarantine import read_quarantine
from tests.llm.scripted import ScriptedModel, answer_files, score

TEXTS = [f"text {number}" for number in range(20)]


def score_shard(folder: Path, text: str, texts: list[str] = TEXTS):
    return score(folder, texts, stage=files_of_shard(answer_files(folder), Shard.parse(text)))


def test_shards_send_each_question_once_and_are_merged(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    expected = score(tmp_path / "one", TEXTS)
    texts = [*TEXTS, *TEXTS[:3]]  # copies belong to the same shard
    answered = [score_shard(tmp_path, f"{number}/3", texts).answered for number in (1, 2, 3)]
    assert sum(answered) == 20
    assert all(answered)
    assert not (tmp_path / "rewrite").exists(), "a shard wrote to the cache of the stage"
    assert score_shard(tmp_path, "2/5").answered == 0
    merged = score(tmp_path, TEXTS)
    np.testing.assert_array_equal(merged.values, expected.values)
    assert (merged.answered, merged.cached) == (0, 20)
    assert Counter(ScriptedModel(tmp_path).texts()) == Counter(TEXTS)
    parts = part_files(tmp_path / "rewrite" / "cache" / "f")
    assert sum(path.read_bytes().count(b"\n") for path in parts) == 20
    assert not (tmp_path / SHARDS).exists()


def test_quarantined_questions_of_a_shard_are_not_sent_again(tmp_path: Path) -> None:
    texts = [*TEXTS, "gone"]
    quarantined = sum(score_shard(tmp_path, f"{number}/2", texts).quarantined for number in (1, 2))
    assert quarantined == 1
    score_shard(tmp_path, "1/1", texts)
    assert score(tmp_path, texts).quarantined == 1
    assert [entry.clip_id for entry in read_quarantine(tmp_path / "rewrite.csv")] == ["c20"]
    # A batch that fails is tried again text by text, once.
    assert ScriptedModel(tmp_path).texts().count("gone") <= 2


def test_batches_and_drafts_of_a_killed_shard_are_kept(tmp_path: Path) -> None:
    files = files_of_shard(answer_files(tmp_path), Shard(1, 2))
    writer = AnswerWriter(ScoreCache(files.cache, "f"), files.spool_folder)
    writer.spool.folder.mkdir(parents=True)
    row = TextScores.of("0" * 64, np.array([0.25, 0.5]))
    (writer.spool.folder / "run.0.batch").write_bytes(pack_rows([row]))
    Drafts(writer.spool.folder / DRAFTS_FILE).add("1" * 64, 0, Draft(1))
    score_shard(tmp_path, "1/3")
    assert row.key in ScoreCache(files.cache, "f"), "the batch was not recovered"
    score(tmp_path, TEXTS)
    assert ScoreCache(tmp_path / "rewrite" / "cache", "f")[row.key] == row
    assert Drafts(tmp_path / ".rewrite.spool" / "f" / DRAFTS_FILE).get("1" * 64, 0) == Draft(1)


def test_a_merge_keeps_the_batches_of_other_questions(tmp_path: Path) -> None:
    score_shard(tmp_path, "1/2")
    files = files_of_shard(answer_files(tmp_path), Shard(1, 2))
    batch = files.spool_folder / "other" / "run.0.batch"  # about cues, of a shard that was killed
    batch.parent.mkdir()
    batch.write_bytes(pack_rows([TextScores.of("0" * 64, np.array([0.25, 0.5]))]))
    assert score(tmp_path, TEXTS).cached
    assert batch.is_file()


def test_a_shard_that_runs_is_not_merged(tmp_path: Path) -> None:
    score_shard(tmp_path, "1/2")
    files = files_of_shard(answer_files(tmp_path), Shard(1, 2))
    with exclusive_lock(files.spool_folder / "lock", "shard"):
        with pytest.raises(StoreBusy):
            score_shard(tmp_path, "1/2")
        with pytest.raises(StoreBusy):
            score(tmp_path, TEXTS)
        score_shard(tmp_path, "2/2")
    assert score(tmp_path, TEXTS).answered == 0
