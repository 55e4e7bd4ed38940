"""The cache of answers: immutable parts, one writer, no lost answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.core.errors import InputError, StoreBusy
from ecmf_pipeline.core.files import sha256_bytes, sha256_text
from ecmf_pipeline.llm.answers import AnswerWriter, ScoreCache, TextScores, part_files


def row(text: str, *values: float) -> TextScores:
    return TextScores.of(sha256_text(text), np.array(values))


def writer(folder: Path, fingerprint: str = "abc") -> AnswerWriter:
    keys = {f"clip {text}": sha256_text(text) for text in ("a", "b", "c", "d", "x", "in flight")}
    return AnswerWriter(ScoreCache(folder / "cache", fingerprint), folder / ".spool", keys)


def append(folder: Path, *rows: TextScores, fingerprint: str = "abc") -> None:
    with writer(folder, fingerprint) as open_writer:
        open_writer.append(rows)


def scores_of(cache: ScoreCache, *texts: str) -> dict[str, tuple[float, ...]]:
    return {text: cache[sha256_text(text)].scores for text in texts if sha256_text(text) in cache}


def read(folder: Path, *texts: str) -> dict[str, tuple[float, ...]]:
    return scores_of(ScoreCache(folder / "cache", "abc"), *texts)


def plain_line(text: str, *values: float) -> bytes:
    return json.dumps({"key": sha256_text(text), "scores": values}, separators=(",", ":")).encode() + b"\n"


def test_added_rows_are_visible_to_the_writer_and_to_new_readers(tmp_path: Path) -> None:
    with writer(tmp_path) as open_writer:
        assert open_writer.append([row("hello", 1 / 3, -2.0), row("你好", 0.0, 1.0)]) == 2
        assert scores_of(open_writer.cache, "hello") == {"hello": (0.333333, -2)}
    assert read(tmp_path, "hello", "你好", "unknown") == {"hello": (0.333333, -2), "你好": (0, 1)}


def test_a_line_contains_key_and_scores(tmp_path: Path) -> None:
    append(tmp_path, row("hello", 0.5, -2.0), TextScores.of(sha256_text("long"), np.array([1.0, 2.0]), cut=True))
    (part,) = part_files(tmp_path / "cache" / "abc")
    lines = part.read_bytes().splitlines(keepends=True)
    assert lines[0] == plain_line("hello", 0.5, -2.0)
    assert json.loads(lines[1])["cut"] is True
    assert ScoreCache(tmp_path / "cache", "abc")[sha256_text("long")].cut


def test_fingerprints_have_separate_answers(tmp_path: Path) -> None:
    append(tmp_path, row("hello", 1, 2))
    assert not scores_of(ScoreCache(tmp_path / "cache", "abd"), "hello")


def test_appending_does_not_modify_existing_parts(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    append(tmp_path, row("first", 1, 2))
    shared = tmp_path / "dvc-cache"
    shared.mkdir()
    for path in part_files(cache / "abc"):
        os.link(path, shared / path.name)  # like the hardlinks of DVC
        path.chmod(0o444)
    before = {path: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in shared.iterdir()}
    append(tmp_path, row("second", 3, 4))
    append(tmp_path, row("first", 9, 9))  # has an answer: nothing to add
    after = {path: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in shared.iterdir()}
    assert after == before
    assert [path.name[:11] for path in part_files(cache / "abc")] == ["part-000000", "part-000001"]
    assert read(tmp_path, "first", "second") == {"first": (1, 2), "second": (3, 4)}


def test_part_names_depend_on_the_content(tmp_path: Path) -> None:
    names = []
    for folder, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        append(tmp_path / folder, row("hello", value, 0))
        names += [path.name for path in part_files(tmp_path / folder / "cache" / "abc")]
    assert names[0] == names[1] != names[2]


def test_parts_of_two_clones_can_be_merged(tmp_path: Path) -> None:
    append(tmp_path / "a", row("both", 1, 2), row("only a", 1, 2))
    append(tmp_path / "b", row("only b", 3, 4), row("both", 1, 2))
    for path in part_files(tmp_path / "b" / "cache" / "abc"):
        path.rename(tmp_path / "a" / "cache" / "abc" / path.name)
    assert read(tmp_path / "a", "both", "only a", "only b") == {"both": (1, 2), "only a": (1, 2), "only b": (3, 4)}
    append(tmp_path / "a", row("next", 5, 6))
    assert part_files(tmp_path / "a" / "cache" / "abc")[-1].name.startswith("part-000001")


def test_further_caches_are_only_read(tmp_path: Path) -> None:
    append(tmp_path / "rewrite", row("paid", 1, 2))
    append(tmp_path / "other", row("paid elsewhere", 5, 6))
    also = [tmp_path / "rewrite" / "cache", tmp_path / "other" / "cache", tmp_path / "absent"]
    before = {path: path.read_bytes() for folder in also for path in folder.rglob("*") if path.is_file()}
    cache = ScoreCache(tmp_path / "vote", "abc", also=also)
    with AnswerWriter(cache, tmp_path / ".spool") as open_writer:
        assert open_writer.append([row("paid", 1, 2), row("paid elsewhere", 1, 2)]) == 0
        assert not (tmp_path / "vote").exists()
        assert open_writer.append([row("paid", 1, 2), row("new", 3, 4)]) == 1
    assert {path: path.read_bytes() for folder in also for path in folder.rglob("*") if path.is_file()} == before
    assert len(ScoreCache(tmp_path / "vote", "abc")) == 1


@given(data=st.data())
def test_an_altered_part_is_an_error_with_its_path(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("altered")
    append(folder, row("one", -0.125, 0.25), row("two", 1, 2))
    (part,) = part_files(folder / "cache" / "abc")
    content = part.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    altered = bytes([content[position] ^ data.draw(st.integers(1, 255))])
    part.write_bytes(content[:position] + data.draw(st.sampled_from([altered + content[position + 1 :], b""])))
    with pytest.raises(InputError) as caught:
        read(folder, "one")
    assert str(part) in caught.value.message
    assert caught.value.command == f"rm {part} && dvc checkout {part}"
    part.unlink()
    assert read(folder, "one", "two") == {}, "its questions are sent again"


def test_lines_that_cannot_be_parsed_are_dropped_and_counted(tmp_path: Path) -> None:
    damage = b'17\n{"key": "x"}\n\xff\xfe\n{"key": "x", "scores": ["?"]}\n{"key": "x", "scores": [NaN]}\n'
    content = plain_line("hello", 1, 2) + damage + b'{"key": ["x"], "scores": [1]}\n\n' + plain_line("you", 3, 4)
    path = tmp_path / "cache" / "abc" / f"part-000007-{sha256_bytes(content)[:8]}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    damaged = ScoreCache(tmp_path / "cache", "abc")
    assert damaged.dropped == 6
    assert scores_of(damaged, "hello", "you") == {"hello": (1, 2), "you": (3, 4)}


def test_a_score_of_nan_raises_value_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        row("hello", 1, np.nan)


def test_sealing_sorts_rows_by_clip_and_empties_the_spool(tmp_path: Path) -> None:
    with writer(tmp_path) as open_writer:
        open_writer.spool.keep("000000-0001", [row("c", 3, 3), row("a", 1, 1)])
        open_writer.spool.keep("000000-0000", [row("b", 2, 2)])
        clip_ids = [f"clip {text}" for text in "abxc"]
        # Chunks may finish in any order; parts have the numbers of their chunks.
        assert open_writer.seal(1, ["000000-0000", "000000-0001"], clip_ids) == 3
        open_writer.spool.keep("000001-0000", [row("d", 4, 4)])
        assert open_writer.seal(0, ["000001-0000"], ["clip d"]) == 1
        assert not list(open_writer.spool.folder.glob("*.batch"))
    assert not open_writer.spool.folder.exists()
    first, second = part_files(tmp_path / "cache" / "abc")
    assert [json.loads(line)["key"] for line in second.read_text().splitlines()] == [
        sha256_text(text) for text in "abc"
    ]
    assert "part-000000" in first.name
    assert sha256_text("d") in first.read_text()


def test_leftovers_of_a_killed_run_are_adopted_once(tmp_path: Path) -> None:
    with writer(tmp_path) as killed:
        killed.spool.keep("000000-0000", [row("paid", 1, 2), row("sealed", 3, 4)])
        killed.append([row("sealed", 3, 4)])  # killed after writing the part and before cleaning the spool
        (killed.spool.folder / ".batch-half-writt").write_bytes(b'{"key": "')
        (killed.spool.folder / "part-000001-01234567.jsonl").write_bytes(b"half")
    assert not read(tmp_path, "paid")
    with writer(tmp_path) as next_writer:
        assert next_writer.adopted == 1
        assert scores_of(next_writer.cache, "paid", "sealed") == {"paid": (1, 2), "sealed": (3, 4)}
        assert not list(next_writer.spool.folder.iterdir())
    with writer(tmp_path) as third:
        assert third.adopted == 0
    assert sum(path.read_bytes().count(b"\n") for path in part_files(tmp_path / "cache" / "abc")) == 2


def test_a_second_writer_fails_with_store_busy(tmp_path: Path) -> None:
    with writer(tmp_path) as first:
        first.spool.keep("000000-0000", [row("in flight", 1, 2)])
        for fingerprint in ("abc", "another"):
            with pytest.raises(StoreBusy), writer(tmp_path, fingerprint):
                pass
        assert first.seal(0, ["000000-0000"], ["clip in flight"]) == 1
    with writer(tmp_path):
        pass


def test_a_writer_reads_parts_added_after_its_creation(tmp_path: Path) -> None:
    late = writer(tmp_path)
    append(tmp_path, row("meanwhile", 1, 2))
    with late as open_writer:
        assert open_writer.append([row("meanwhile", 1, 2)]) == 0


LOCK_HOLDER = """
import sys
from pathlib import Path
from ecmf_pipeline.llm.answers import ScoreCache, AnswerWriter
folder = Path(sys.argv[1])
with AnswerWriter(ScoreCache(folder / "cache", "abc"), folder / ".spool"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_killed_writer_is_released(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCK_HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreBusy) as caught, writer(tmp_path):
            pass
        assert str(holder.pid) in caught.value.message
        holder.kill()
        holder.wait(timeout=10)
        append(tmp_path, row("hello", 1, 2))
    assert read(tmp_path, "hello")
