"""The whole pipeline with a server: no file contains the key, and a colleague does not pay for answers again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.llm.fault_server import KEY, LABELS, serving

pytestmark = pytest.mark.slow

CLIPS = 12


def run(folder: Path, *words: str, **environment: str) -> str:
    """Run a command in a folder with a minimal environment; return its output."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("_KEY")} | environment
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "DVC_NO_ANALYTICS": "1"}
    env |= {f"GIT_{role}_{key}": "team@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def new_project(folder: Path, url: str, models: Path, make_clip: Callable[..., Path]) -> None:
    run(folder.parent, sys.executable, "-m", "ecmf_pipeline", "init", str(folder))
    shutil.copytree(models / "efficientnet_lite0", folder / "data" / "models" / "efficientnet_lite0")
    corpus = folder / "corpus"
    for number in range(CLIPS):
        make_clip(corpus / f"clip{number:02d}.mp4", pictures=6, audio_seconds=1.0, amplitude=0.1 + 0.02 * number)
    names = [f"clip{number:02d}" for number in range(CLIPS)]
    labels = [f"{name},{LABELS[number % 6]}" for number, name in enumerate(names)]
    (corpus / "labels.csv").write_text("\n".join(["name,label", *labels, ""]))
    texts = [f"{name},line {number}" for number, name in enumerate(names)]
    (corpus / "transcripts.csv").write_text("\n".join(["name,text", *texts, ""]))
    (folder / ".gitignore").write_text("/corpus/\n")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    server = {"base_url": url, "key_env": "MY_KEY", "structured": "none", "first_wait": 0.01, "concurrency": 2}
    params |= {
        "corpus": {"kind": "folder", "root": "corpus"},
        "models": {"names": ["efficientnet_lite0"]},
        "media": {"frames": 2},
        "extract": {"encoders": {"audio": "egemaps"}, "workers": 0},
        "llm": {"backend": "openai", "model": "served", "calibration": "none", "server": server},
        "vote": {"folds": 2, "lightgbm": None},
        "evaluate": {"draws": 100},
    }
    params["train"] = {"pool": "mean", "training": {"folds": 2, "seeds": 1, "epochs": 2}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def test_the_key_is_not_stored_and_answers_are_shared(
    tmp_path: Path, models: Path, make_clip: Callable[..., Path]
) -> None:
    def plan(text: str, attempt: int) -> str:  # an answer and an error that contain the key
        if text == "line 3":
            return "prose"
        return {"line 5": "500", "line 7": "429"}.get(text, "ok") if attempt == 0 else "ok"

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with serving(plan) as server:
        new_project(ours, server.url, models, make_clip)
        output = run(ours, "dvc", "repro", "report", MY_KEY=KEY)
        answers = run(ours, "ecmf-pipe", "llm", "ls")
        assert re.findall(r"(?<![\w.])\d+(?!\w)", answers.splitlines()[0]) == [str(CLIPS), "1"], "answers, abstentions"
        assert len(server.received) == CLIPS + 3
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    output += run(ours, "ecmf-pipe", "llm", "export", "answers.jsonl")
    assert "You sent Bearer ***" in (ours / "answers.jsonl").read_text(), "the raw answer is stored"
    assert (ours / "data" / "report" / "index.html").is_file()
    assert (ours / "dvc.lock").is_file()
    assert KEY not in output
    leaks = [path for path in ours.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not leaks

    # The server is down and a colleague has no key: `dvc pull` transfers the paid answers.
    run(ours, "git", "add", "--all")
    run(ours, "git", "commit", "--quiet", "--message", "Answers")
    run(ours, "dvc", "remote", "add", "--default", "team", str(tmp_path / "remote"))
    run(ours, "git", "commit", "--all", "--quiet", "--message", "Remote")
    run(ours, "dvc", "push", "rewrite", "vote", "index")
    run(tmp_path, "git", "clone", "--quiet", str(ours), str(theirs))
    run(theirs, "dvc", "pull", "rewrite", "vote", "index")
    plan_line = run(theirs, "ecmf-pipe", "llm", "plan").splitlines()[-1]
    assert re.findall(r"\d+", plan_line)[0] == "0"
    assert "nothing to do" in run(theirs, "ecmf-pipe", "rewrite"), "no encoder of the project reads texts"
    assert run(theirs, "ecmf-pipe", "llm", "ls").splitlines()[0] == answers.splitlines()[0], "all answers were pulled"
