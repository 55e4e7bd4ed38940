"""`ecmf-pipe llm`: what a run would ask is what it then asks, and what is looked at stays as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ecmf_pipeline.cli import llm_commands
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Split, write_manifest
from ecmf_pipeline.core.errors import BudgetSpent, InputError
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages import rewrite
from ecmf_pipeline.stages.shared.inputs import read_labelled_corpus, with_words
from ecmf_pipeline.stages.shared.llm import llm_votes
from tests.llm.fault_server import LABELS, FaultServer, lines, serving

PARAMS = """
llm:
  backend: openai
  model: {model}
  calibration: none
  prices: {{prompt: 2.0, answer: 10.0}}
  server: {{base_url: '{url}', key_env: null, first_wait: 0.001}}
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.chdir(tmp_path)
    write_atomic(paths.CORPUS, json.dumps({"labels": LABELS, "candidates": [], "synthetic": False}))
    texts = [*lines(9), "line 0", ""]
    write_manifest(paths.MANIFEST, [Clip(ClipId(f"c{n:02d}"), transcript=text) for n, text in enumerate(texts)])
    with serving(lambda text, _: "prose" if text == "line 3" else "ok") as server:
        ask_of(server, "served")
        yield server


def ask_of(server: FaultServer, model: str) -> None:
    Path("params.yaml").write_text(PARAMS.format(url=server.url, model=model))


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("data").rglob("*.jsonl")}


def test_the_plan_is_what_is_then_asked(server: FaultServer, capsys: pytest.CaptureFixture[str]) -> None:
    llm_commands.plan()
    said = capsys.readouterr().out
    found = re.search(r"9 requests.*about (\d+) tokens of prompts and at most (\d+) of answers, at most about", said)
    assert found, said
    assert not server.asked
    rewrite.run()
    assert len(server.asked) == 10  # one answer was invalid, and asked for once more
    sent = sum(len(turn["content"]) for body in server.requests for turn in body["messages"]) / 4
    assert sent * 0.8 < int(found[1]) < sent * 1.3, "an estimate of what was sent"
    assert int(found[2]) == 9 * 64
    capsys.readouterr()
    llm_commands.plan()
    assert "0 requests" in capsys.readouterr().out


def test_other_settings_are_told_apart_and_pruned_when_told_so(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite.run()
    ask_of(server, "another")
    rewrite.run()
    both = files()
    assert len(both) == 2
    capsys.readouterr()
    llm_commands.ls()
    told = capsys.readouterr().out.splitlines()
    assert sorted(line.rsplit(", ", 1)[1] for line in told) == ["in use", "other settings"]
    assert all(": 9 " in line and " 1 without a valid" in line for line in told)
    llm_commands.prune(yes=False)
    assert files() == both
    llm_commands.prune(yes=True)
    assert len(files()) == 1
    assert files().items() < both.items()
    asked = len(server.asked)
    rewrite.run()
    assert len(server.asked) == asked, "what is in use is still there"


def test_samples_of_unfinished_texts_are_counted_and_pruned(
    server: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.plan = lambda _text, _attempt: "ok"

    def run(command: Callable[[], None]) -> str:
        capsys.readouterr()
        command()
        return capsys.readouterr().out

    with Path("params.yaml").open("a") as file:
        file.write("  budget: {max_requests: 13}\n")
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("key_env: null", "key_env: null, scoring: samples, concurrency: 9")
    )
    assert "45 requests" in run(llm_commands.plan)
    with pytest.raises(BudgetSpent):
        rewrite.run()
    paid = 5 * sum(content.count(b"key") for name, content in files().items() if "part-" in name)
    assert "32 requests" in run(llm_commands.plan)
    assert f": {13 - paid} paid answers of unfinished questions, in use" in run(llm_commands.ls)
    run(lambda: llm_commands.prune(yes=True))
    assert "32 requests" in run(llm_commands.plan), "what is in use stays"
    in_use = Path("params.yaml").read_text()
    ask_of(server, "another")
    assert f": {13 - paid} paid answers of unfinished questions, other settings" in run(llm_commands.ls)
    assert "unfinished questions: would go" in run(lambda: llm_commands.prune(yes=False))
    assert "unfinished questions: removed" in run(lambda: llm_commands.prune(yes=True))
    Path("params.yaml").write_text(in_use)
    assert "45 requests" in run(llm_commands.plan)


@pytest.mark.usefixtures("server")
def test_answers_are_written_out_with_what_was_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    rewrite.run()
    llm_commands.export(Path("out.jsonl"))
    rows = {row["text"]: row for row in map(json.loads, Path("out.jsonl").read_text().splitlines())}
    assert list(rows) == lines(9)
    assert max(rows["line 4"]["scores"], key=rows["line 4"]["scores"].get) == LABELS[4]
    assert not rows["line 3"]["scores"]
    assert [answer.split(":")[0] for answer in rows["line 3"]["raw"]] == ["not JSON"] * 2
    capsys.readouterr()
    llm_commands.export(Path("-"))
    assert capsys.readouterr().out == Path("out.jsonl").read_text()
    assert not Path("-").exists()
    with pytest.raises(InputError, match="already there"):
        llm_commands.export(Path("out.jsonl"))


@pytest.mark.usefixtures("server")
def test_answers_to_prompts_with_examples_of_the_corpus_are_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("params.yaml").open("a") as file:
        file.write("  votes: {examples: corpus}\nrewrite: {how: written}\nvote: {folds: 2}\n")
    clips = [
        Clip(
            ClipId(f"c{number:02d}"),
            transcript=f"what was said: line {number}",
            given_label=LABELS[number % 2],
            split=Split.TRAIN,
            group=f"g{number // 2}",
        )
        for number in range(12)
    ]
    write_manifest(paths.MANIFEST, clips)
    params = load_params()
    llm_votes(params, with_words(params, read_labelled_corpus()))
    paid = files()
    assert len(paid) == 2
    llm_commands.prune(yes=True)
    assert files() == paid
    capsys.readouterr()
    llm_commands.plan()
    told = capsys.readouterr().out
    assert "llm, fold 0: 0 questions to ask, 6 known" in told
    assert "llm, fold 1: 0 questions to ask, 6 known" in told
