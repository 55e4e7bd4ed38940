"""The first hour of a new user: only commands that the README, the tutorial and the guide to experiments print.

Twenty clips of the user's own, labels with two mistakes, a first report, another encoder, two experiments compared,
human labels, a second report. Every command works as printed, prints at most 40 lines of our own, and no feature is
computed twice.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from skimage import data
from skimage.transform import resize

from ecmf_pipeline.core import paths

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "docs/tutorial.md", "docs/guides/experiments.md")]
MAX_LINES = 40
EMOTIONS = ("happy", "sad", "angry", "neutral")
SPEAKERS = ("anna", "ben", "cleo", "dan", "eva")
WORDS = {
    "happy": "What a wonderful day this is",
    "sad": "I miss my old home so much",
    "angry": "Stop that at once or leave",
    "neutral": "The train leaves at nine",
}
DVC_LINES = re.compile(
    r"^(Running stage|Stage '|Updating lock|Use `dvc|To track|To enable|To apply|\tgit|\tdvc|> |'.*' didn't|Ran exp|"
    r"Reproducing exp|Building workspace|Data and pipelines|Generating|Verifying|\s*$)"
)


class Terminal:
    """Runs lines as a user types them, and keeps what our own commands printed."""

    def __init__(self, folder: Path, caches: Path) -> None:
        self.folder = folder
        self.pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
        self._environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(caches),
            "COLUMNS": "120",
        }
        for role in ("AUTHOR", "COMMITTER"):
            self._environment |= {f"GIT_{role}_NAME": "A New User", f"GIT_{role}_EMAIL": "new@example.org"}

    def __call__(self, line: str, *, code: int = 0) -> str:
        """Run a line that the pages print; return what it printed."""
        assert re.search(rf"^{re.escape(line)}$", self.pages, re.MULTILINE), f"no page has {line!r}"
        if line.startswith("cd "):
            self.folder /= line[3:]
            return ""
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        ours = [printed for printed in done.stdout.splitlines() if not DVC_LINES.match(printed)]
        if not line.startswith("dvc repro") and not line.startswith("dvc exp run"):
            assert len(ours) <= MAX_LINES, f"{line} prints {len(ours)} lines"
        else:  # each stage prints its own
            for stage in re.split(r"^> .*$", done.stdout, flags=re.MULTILINE):
                printed = [text for text in stage.splitlines() if not DVC_LINES.match(text)]
                assert len(printed) <= MAX_LINES, f"{line}: a stage prints {len(printed)} lines"
        return done.stdout + done.stderr


def write_clip(path: Path, number: int) -> None:
    """Write two seconds of a face, moving and with a brightness of its own, and a tone."""
    face = 255 * resize(data.astronaut()[:300, 60:360], (180, 180), anti_aliasing=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=12, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        for index in range(24):
            picture = np.full((240, 320, 3), 60 + 5 * number, np.uint8)
            left = 20 + 2 * index + number
            picture[30:210, left : left + 180] = (face * (0.7 + 0.015 * number)).clip(0, 255).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        times = np.arange(32_000) / 16_000
        samples = 0.3 * np.sin(2 * np.pi * (140 + 20 * number) * times) * (0.6 + 0.4 * np.sin(6 * times))
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*sound.encode(frame), *sound.encode()])


def write_clips(folder: Path) -> list[list[str]]:
    """Write 20 clips with transcripts; return the rows of their labels."""
    folder.mkdir()
    rows = []
    for number in range(20):
        speaker, label = SPEAKERS[number // 4], EMOTIONS[number % 4]
        write_clip(folder / f"{speaker}_{number:02d}.mp4", number)
        rows.append([f"{speaker}_{number:02d}", label, speaker])
    write_csv(folder / "transcripts.csv", ["name", "text"], [[name, WORDS[label]] for name, label, _ in rows])
    return rows


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def set_params(project: Path, changes: dict[str, dict[str, object]]) -> None:
    """Edit params.yaml as a user does: some values change, comments do not matter here."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in changes.items():
        params[section] = (params[section] or {}) | values
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def extracted(printed: str) -> dict[str, tuple[int, int]]:
    """Return how many clips of each modality were done and reused."""
    lines = re.findall(r"extract (\w+): (\d+) done, (\d+) reused", printed)
    return {modality: (int(done), int(reused)) for modality, done, reused in lines}


def params_of(project: Path, revision: str) -> dict[str, Any]:
    """Return the params of a commit, or of an experiment of DVC by its name."""
    command = ["git", "for-each-ref", "--format=%(refname)", "refs/exps"]
    refs = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout.split()
    [revision] = [ref for ref in refs if ref.endswith(f"/{revision}")] or [revision]
    command = ["git", "show", f"{revision}:params.yaml"]
    params: dict[str, Any] = yaml.safe_load(
        subprocess.run(command, cwd=project, capture_output=True, check=True).stdout
    )
    return params


def test_the_first_hour(tmp_path: Path, models: Path) -> None:
    rows = write_clips(tmp_path / "my_clips")
    caches = tmp_path / "caches"
    terminal = Terminal(tmp_path, caches)

    printed = terminal("ecmf-pipe init my_project")
    assert "ecmf-pipe models" in printed
    terminal("cd my_project")
    project = terminal.folder
    (project / "data" / "models").mkdir(exist_ok=True)
    for weights in models.iterdir():  # no download in tests
        (project / "data" / "models" / weights.name).symlink_to(weights)
    set_params(project, {"corpus": {"kind": "folder", "root": str(tmp_path / "my_clips")}})
    # Fewer rounds of training than the defaults: the test has no hour.
    set_params(project, {"media": {"frames": 4}, "evaluate": {"draws": 100}, "vote": {"folds": 3}})
    set_params(project, {"train": {"training": {"seeds": 1, "epochs": 10, "folds": 3}}})
    set_params(project, {"evaluate": {"fusion_controls": False, "plain": False}})
    set_params(project, {"ablate": {"seeds": 1, "fusions": ["concat"], "draws": 100, "plain": False}})

    # Two mistakes: a label that is misspelt, and a name without a file.
    wrong = [["anna_00", "hapy", "anna"], *rows[1:], ["anna_77", "sad", "anna"]]
    write_csv(tmp_path / "my_clips" / "labels.csv", ["name", "label", "group"], wrong)
    terminal("ecmf-pipe models")
    assert "anna_77" in terminal("ecmf-pipe index")
    findings = (project / paths.FINDINGS).read_text(encoding="utf-8")
    assert "hapy" in findings
    assert "'happy'" in findings, "the nearest label is named"
    write_csv(tmp_path / "my_clips" / "labels.csv", ["name", "label", "group"], rows)
    assert "ok       corpus" in terminal("ecmf-pipe doctor")

    printed = terminal("dvc repro")
    assert extracted(printed) == dict.fromkeys(("global", "face", "audio", "text"), (20, 0))
    report = project / "data" / "report" / "index.html"
    first_report = report.read_bytes()
    terminal("ecmf-pipe status")
    assert extracted(terminal("dvc repro")) == {}, "nothing is computed twice"

    terminal("git add params.yaml dvc.lock data/metrics")
    terminal('git commit -m "First results"')
    terminal("dvc exp run --name small --set-param train.fusion.hidden=64")
    terminal("git restore params.yaml")
    terminal("dvc exp run --name strict --set-param refine.drop_below=0.4")
    shown = terminal('dvc exp show --only-changed --no-pager --hide-workspace --drop "Created|^data/|^acc$|^single$"')
    assert "small" in shown
    assert "strict" in shown
    assert "refine.drop_below" in shown.splitlines()[1]
    assert max(len(row.rstrip()) for row in shown.splitlines()) <= 120
    counted = subprocess.run(["git", "count-objects", "-v"], cwd=project, capture_output=True, text=True, check=True)
    (size,) = re.findall(r"(?m)^size: (\d+)$", counted.stdout)
    assert int(size) < 2_000, "kB in git, which stores no weights"
    for name, section, key in (("small", "train", "fusion"), ("strict", "refine", "drop_below")):
        differing = params_of(project, name), params_of(project, "HEAD")
        for params in differing:
            params[section].pop(key)
        assert differing[0] == differing[1], "an experiment differs from the commit in the value that it sets"
    for line in ("dvc metrics show", "dvc metrics diff", "dvc plots show"):
        assert max(map(len, terminal(line).splitlines()), default=0) <= 120 or line == "dvc plots show"
    assert len(json.loads((project / "data/metrics/summary.json").read_text())) <= 10

    # Another encoder: only the text is computed again.
    set_params(project, {"encoders": {"minilm": {"inputs": "original"}}})
    done = extracted(terminal("dvc repro"))
    assert done["text"] == (20, 0)
    assert all(done.get(name, (0, 20)) == (0, 20) for name in ("global", "face", "audio"))

    with (project / paths.NEXT).open(newline="", encoding="utf-8") as file:
        doubtful = [row["clip_id"] for row in csv.DictReader(file)][:3]
    assert doubtful
    truth = {name: label for name, label, _ in rows}
    write_csv(project / "labels" / "verdicts.csv", ["clip_id", "label"], [[name, truth[name]] for name in doubtful])
    terminal("ecmf-pipe refine --dry-run")
    assert not extracted(terminal("dvc repro")), "verdicts need no features"
    assert report.read_bytes() != first_report
    with (project / paths.REFINED).open(newline="", encoding="utf-8") as file:
        refined = {row["clip_id"]: row["refined_label"] for row in csv.DictReader(file)}
    assert {name: refined[name] for name in doubtful} == {name: truth[name] for name in doubtful}
