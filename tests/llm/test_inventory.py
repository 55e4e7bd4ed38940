"""`ecmf-pipe llm`: the plan matches the requests of a run, and only answers of other settings are pruned."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ecmf_pipeline.cli import llm
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Split, write_corpus_tables
from ecmf_pipeline.core.errors import BudgetSpent, InputError
from ecmf_pipeline.llm.server_run import DRAFTS_FILE
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages import rewrite
from ecmf_pipeline.stages.shared.inputs import add_transcripts, read_labelled_corpus
from ecmf_pipeline.stages.shared.llm import llm_votes
from tests.llm.fault_server import LABELS, FaultServer, numbered_texts, serving

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
    texts = [*numbered_texts(9), "line 0", ""]
    clips = [Clip(ClipId(f"c{n:02d}"), transcript=text) for n, text in enumerate(texts)]
    write_corpus_tables(Corpus(clips, [*LABELS], [], synthetic=False))
    with serving(lambda text, _: "prose" if text == "line 3" else "ok") as server:
        write_params(server, "served")
        yield server


def write_params(server: FaultServer, model: str) -> None:
    Path("params.yaml").write_text(PARAMS.format(url=server.url, model=model))


def counts(line: str) -> list[float]:
    """Return the numbers in a line of output."""
    return [float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)", line)]


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("data").rglob("*.jsonl")}


def test_the_plan_matches_the_requests_of_a_run(server: FaultServer, capsys: pytest.CaptureFixture[str]) -> None:
    llm.plan()
    requests, prompt_tokens, answer_tokens, cost = counts(capsys.readouterr().out.splitlines()[-1])
    assert requests == 9
    assert not server.received
    rewrite.run()
    assert len(server.received) == 10  # one answer was invalid and requested once more
    sent = sum(len(turn["content"]) for body in server.requests for turn in body["messages"]) / 4
    assert sent * 0.8 < prompt_tokens < sent * 1.3
    assert answer_tokens == 9 * 64
    assert cost == pytest.approx((2.0 * prompt_tokens + 10.0 * answer_tokens) / 1e6, abs=0.005)
    capsys.readouterr()
    llm.plan()
    assert counts(capsys.readouterr().out.splitlines()[-1])[0] == 0


def test_only_answers_of_other_settings_are_pruned(server: FaultServer, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite.run()
    write_params(server, "another")
    rewrite.run()
    both = files()
    assert len(both) == 2
    capsys.readouterr()
    llm.ls()
    output = capsys.readouterr().out.splitlines()
    assert sorted("in use" in line for line in output) == [False, True]
    assert [counts(line) for line in output] == [[9, 1]] * 2
    llm.prune(yes=False)
    assert files() == both
    llm.prune(yes=True)
    assert len(files()) == 1
    assert files().items() < both.items()
    requests = len(server.received)
    rewrite.run()
    assert len(server.received) == requests, "answers in use are still in the cache"


def test_drafts_are_counted_and_pruned(server: FaultServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.plan = lambda _text, _attempt: "ok"

    def run(command: Callable[[], None]) -> list[str]:
        capsys.readouterr()
        command()
        return capsys.readouterr().out.splitlines()

    def planned_requests() -> float:
        return counts(run(llm.plan)[-1])[0]

    with Path("params.yaml").open("a") as file:
        file.write("  budget: {max_requests: 13}\n")
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("key_env: null", "key_env: null, scoring: samples, concurrency: 9")
    )
    assert planned_requests() == 45
    with pytest.raises(BudgetSpent):
        rewrite.run()
    paid = 5 * sum(content.count(b"key") for name, content in files().items() if "part-" in name)
    assert planned_requests() == 32
    unfinished = run(llm.ls)[-1]
    assert counts(unfinished) == [13 - paid]
    assert "in use" in unfinished
    assert not any("removed" in line for line in run(lambda: llm.prune(yes=True)))
    assert planned_requests() == 32, "drafts in use are kept"
    in_use = Path("params.yaml").read_text()
    write_params(server, "another")
    unfinished = run(llm.ls)[-1]
    assert counts(unfinished) == [13 - paid]
    assert "in use" not in unfinished
    (drafts,) = Path("data").rglob(DRAFTS_FILE)
    assert any("unfinished" in line for line in run(lambda: llm.prune(yes=False)))
    assert drafts.exists()
    assert any("unfinished" in line for line in run(lambda: llm.prune(yes=True)))
    assert not drafts.exists()
    Path("params.yaml").write_text(in_use)
    assert planned_requests() == 45


@pytest.mark.usefixtures("server")
def test_exported_answers_include_raw_invalid_ones(capsys: pytest.CaptureFixture[str]) -> None:
    rewrite.run()
    llm.export(Path("out.jsonl"))
    rows = {row["text"]: row for row in map(json.loads, Path("out.jsonl").read_text().splitlines())}
    assert list(rows) == numbered_texts(9)
    assert max(rows["line 4"]["scores"], key=rows["line 4"]["scores"].get) == LABELS[4]
    assert not rows["line 3"]["scores"]
    assert [answer.split(":")[0] for answer in rows["line 3"]["raw"]] == ["not JSON"] * 2
    capsys.readouterr()
    llm.export(Path("-"))
    assert capsys.readouterr().out == Path("out.jsonl").read_text()
    assert not Path("-").exists()
    with pytest.raises(InputError) as caught:
        llm.export(Path("out.jsonl"))
    assert "out.jsonl" in caught.value.message


@pytest.mark.usefixtures("server")
def test_answers_to_prompts_with_corpus_examples_are_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with Path("params.yaml").open("a") as file:
        file.write("  votes: {examples: corpus}\nrewrite: {how: written}\nvote: {folds: 2}\n")
    clips = [
        Clip(
            ClipId(f"c{number:02d}"),
            transcript=f"the transcript of line {number}",
            given_label=LABELS[number % 2],
            split=Split.TRAIN,
            group=f"g{number // 2}",
        )
        for number in range(12)
    ]
    write_corpus_tables(Corpus(clips, [*LABELS], [], synthetic=False))
    params = load_params()
    llm_votes(params, add_transcripts(params, read_labelled_corpus()))
    paid = files()
    assert len(paid) == 2
    llm.prune(yes=True)
    assert files() == paid
    capsys.readouterr()
    llm.plan()
    for line, fold in zip(capsys.readouterr().out.splitlines()[-3:-1], (0, 1), strict=True):
        source, _, plan = line.partition(": ")
        assert source == f"llm, fold {fold}"
        assert counts(plan) == [0, 6]
