"""Count the modules that process one clip from file to prediction, and one label from input to report.

``python -m tools.walks`` prints both numbers, ``--list`` also the modules and the functions that run. A module counts
if the body of one of its functions runs in the process of the command; imports and the reading of params.yaml do not
count. The clip is new to `predict --video`: its text is enriched, features of all four modalities are extracted and
read, and the saved ensemble predicts. The label passes through `vote` (without the LLM), `refine`, and the part of
`report` that writes the table of changed labels.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

import ecmf_pipeline

PACKAGE = Path(ecmf_pipeline.__file__).parent
REPOSITORY = PACKAGE.parent
SETTINGS = """
sample: {labelled: 12, unlabeled: 3, speakers: 4, min_seconds: 1.5, max_seconds: 2.0}
media: {frames: 4}
index: {workers: 0}
extract: {workers: 0}
llm: {workers: 0}
train: {training: {seeds: 1, epochs: 15}}
vote: {folds: 3, lightgbm: {rounds: 20}}
evaluate: {draws: 100}
"""
STAGES = """sample
index
settings
extract --modality global --modality face --modality audio
transcribe
rewrite
extract --modality text
train --labels given
predict --labels given
vote
refine
train --labels refined
predict --labels refined
evaluate
report"""
VIDEO = "data/sample/video/sample_00000.mp4"


@dataclass(frozen=True, slots=True)
class Leg:
    """One command of a walk.

    Attributes:
        words: Words of the command line.
        only: Names of functions: only these and the functions they call count. Empty: all functions count.
        without: Names of functions: these and the functions they call do not count.
        also: Names of functions that count although they are not called by those of ``only``.
    """

    words: tuple[str, ...]
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ("load_params",)
    also: tuple[str, ...] = ()


WALKS = {
    "clip": [Leg(("predict", "--labels", "given", "--video", VIDEO, "--text", "What a lovely day!"))],
    "label": [
        Leg(("vote",), without=("load_params", "llm_votes")),
        Leg(("refine",)),
        Leg(("report",), only=("read_decisions", "_decisions", "_changes"), also=("run",)),
    ],
}


class FunctionRecorder:
    """Profile function that records the functions of the package that run, by module."""

    def __init__(self, leg: Leg) -> None:
        self.functions: dict[str, set[str]] = defaultdict(set)
        self.unseen = {*leg.only, *leg.without, *leg.also}
        self._leg = leg
        self._root = f"{PACKAGE}{os.sep}"

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Record the function, unless it runs during an import or does not count."""
        if event != "call":  # checked first: most events are calls of C functions
            return
        code = frame.f_code
        file, name = code.co_filename, code.co_qualname
        # The code of modules and classes does not have the flag.
        if not (file.startswith(self._root) and file.endswith(".py") and code.co_flags & CO_OPTIMIZED):
            return
        self.unseen.discard(code.co_name)
        module = file[len(self._root) : -3].replace(os.sep, ".").removesuffix(".__init__")
        if name not in self.functions.get(module, ()) and self._counts(frame):
            self.functions[module].add(name)

    def _counts(self, frame: FrameType | None) -> bool:
        counts = not self._leg.only or (frame is not None and frame.f_code.co_name in self._leg.also)
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith("<frozen importlib"):
                return False
            if code.co_filename.startswith(self._root):
                if code.co_name in self._leg.without:
                    return False
                counts = counts or code.co_name in self._leg.only
            frame = frame.f_back
        return counts


def main() -> None:
    """Print the number of modules of each walk."""
    parser = argparse.ArgumentParser(prog="python -m tools.walks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="also print the modules and the functions that run")
    parser.add_argument("--models", type=Path, default=REPOSITORY / "data" / "models", help="embedded weights")
    parser.add_argument("--project", type=Path, help="keep the small project in this folder and reuse it")
    parser.add_argument("--leg", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.leg:
        trace(WALKS[options.leg[0]][int(options.leg[1])])
        return
    with tempfile.TemporaryDirectory(prefix="walks-") as name:
        folder = (options.project or Path(name) / "project").resolve()
        if not (folder / "data" / "report").is_dir():
            make_project(folder, options.models.resolve())
        for walk, legs in WALKS.items():
            modules: dict[str, set[str]] = defaultdict(set)
            for number in range(len(legs)):
                for module, functions in _traced(folder, walk, number).items():
                    modules[module] |= set(functions)
            sys.stdout.write(f"{walk}: {len(modules)} modules\n")
            if options.list:
                sys.stdout.writelines(
                    f"  {module:<34} {', '.join(sorted(functions))}\n" for module, functions in sorted(modules.items())
                )


def make_project(folder: Path, models: Path) -> None:
    """Create a small project with the synthetic corpus and run its stages, without DVC."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    if not (folder / "data" / "models").exists():
        (folder / "data" / "models").symlink_to(models)
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    merged = _merged(params, yaml.safe_load(SETTINGS))
    (folder / "params.yaml").write_text(yaml.safe_dump(merged, sort_keys=False), encoding="utf-8")
    known = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for words in map(str.split, STAGES.splitlines()):
        if words[0] in known:
            _run(folder, ["ecmf_pipeline", *words])


def trace(leg: Leg) -> None:
    """Run a command in this process and write the functions that run to trace.json, by module.

    Raises:
        SystemExit: If the command fails, or a function named in the leg did not run.
    """
    recorder = FunctionRecorder(leg)
    sys.argv = ["ecmf-pipe", *leg.words]
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    try:
        runpy.run_module("ecmf_pipeline", run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if recorder.unseen:
        names = ", ".join(sorted(recorder.unseen))
        raise SystemExit(f"{leg.words[0]}: no function named {names} ran; update WALKS in tools/walks.py")
    Path("trace.json").write_text(json.dumps({m: sorted(f) for m, f in recorder.functions.items()}), encoding="utf-8")


def _traced(folder: Path, walk: str, number: int) -> dict[str, list[str]]:
    # In a new process: caches in memory must not skip functions of the next command.
    _run(folder, ["tools.walks", "--leg", walk, str(number)])
    functions: dict[str, list[str]] = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
    return functions


def _run(folder: Path, module: Sequence[str]) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(REPOSITORY)])
    command = [sys.executable, "-m", *module]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    return below | {
        key: _merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }


if __name__ == "__main__":
    main()
