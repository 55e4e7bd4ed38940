from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.llm.cache import ScoreCache


def row(*values: float) -> np.ndarray:
    return np.array(values)


def test_what_is_put_is_got_by_the_next_reader(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "llm", "abc")
    cache.put_many({"hello": row(1 / 3, -2.0), "你好": row(0.0, 1.0)})
    for reader in (cache, ScoreCache(tmp_path / "llm", "abc")):
        found = reader.get_many(["hello", "你好", "unknown"])
        assert {text: list(scores) for text, scores in found.items()} == {"hello": [0.333333, -2], "你好": [0, 1]}


def test_other_fingerprints_share_nothing(tmp_path: Path) -> None:
    ScoreCache(tmp_path, "abc").put_many({"hello": row(1, 2)})
    assert not ScoreCache(tmp_path, "abd").get_many(["hello"])


def test_further_folders_are_read_and_never_written(tmp_path: Path) -> None:
    ScoreCache(tmp_path / "rewrite", "abc").put_many({"paid": row(1, 2)})
    before = (tmp_path / "rewrite" / "abc.jsonl").read_bytes()
    cache = ScoreCache(tmp_path / "vote", "abc", also=[tmp_path / "rewrite", tmp_path / "absent"])
    assert list(cache.get_many(["paid"])) == ["paid"]
    assert not (tmp_path / "vote").exists()
    cache.put_many({"new": row(3, 4)})
    assert (tmp_path / "rewrite" / "abc.jsonl").read_bytes() == before
    assert len(ScoreCache(tmp_path / "vote", "abc")) == 1


@given(cut=st.integers(min_value=1, max_value=200))
def test_a_torn_last_line_costs_that_line_only(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("torn")
    texts = ["one", "two", "three"]
    for text in texts:
        ScoreCache(folder, "abc").put_many({text: row(-0.125, 0.25)})
    path = folder / "abc.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    whole = [text for text in texts if text in ScoreCache(folder, "abc").get_many(texts)]
    assert whole == texts[: len(whole)]
    assert len(whole) >= content[:-cut].count(b"\n")
    # The next writer loses nothing of its own to the torn line.
    ScoreCache(folder, "abc").put_many({"four": row(1, 2)})
    healed = ScoreCache(folder, "abc")
    assert set(healed.get_many([*texts, "four"])) == {*whole, "four"}
    assert healed.dropped <= 1


def test_damaged_lines_are_dropped_and_counted(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, "abc")
    cache.put_many({"hello": row(1, 2)})
    with cache.path.open("ab") as file:
        file.write(b'17\n{"key": "x"}\n\xff\xfe\n{"key": "x", "scores": ["?"]}\n\n')
    damaged = ScoreCache(tmp_path, "abc")
    assert damaged.dropped == 4
    assert len(damaged) == 1


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, "abc")
    with pytest.raises(ValueError, match="JSON"):
        cache.put_many({"hello": row(1, np.nan)})
    assert not cache.path.exists()


WRITER = """
import sys
from pathlib import Path
import numpy as np
from ecmf_pipeline.llm.cache import ScoreCache
cache = ScoreCache(Path(sys.argv[1]), "abc")
for batch in range(40):
    cache.put_many({f"{sys.argv[2]} {batch} {i}": np.full(6, float(i)) for i in range(30)})
    cache.put_many({"asked by both": np.full(6, 1.0)})
"""


def test_two_processes_may_append_at_once(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    lines = (tmp_path / "abc.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 40 * 31
    assert all(len(json.loads(line)["scores"]) == 6 for line in lines)
    cache = ScoreCache(tmp_path, "abc")
    assert len(cache) == 2 * 40 * 30 + 1
    assert cache.dropped == 0
