"""Measure DVC: a `dvc repro` with nothing to do, and the bytes pushed for a few new clips."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.files import FileState
from ecmf_pipeline.corpora.measuring import IndexCache, Measurement
from ecmf_pipeline.sharing.new_project import make_project
from ecmf_pipeline.store import FeatureRow, StoreWriter, create_settings_group

CLIPS_STORED = 132_000
CLIPS_NEW = 100
WIDTH = 768
PART = 1024
REPEATS = 5


def dvc_no_op(folder: Path) -> tuple[str, float, float]:
    """Measure `dvc repro` with nothing to do; reference: a project with as many trivial stages.

    A trivial stage copies one small file. Child processes are included: in our project `index` and `settings` always
    run.
    """
    ours = _finished_project(folder / "ours")
    stages = _stages(ours)
    trivial = _trivial_project(folder / "trivial", len(stages))
    seconds, reference = _cpu_seconds_of_repro(ours, trivial)
    return f"dvc repro with nothing to do, vs {len(stages)} trivial stages", seconds, reference


def dvc_no_op_same_graph(folder: Path) -> tuple[str, float, float]:
    """Measure `dvc repro` with nothing to do; reference: the same graph, all commands replaced by `true`.

    The reference is the time of DVC itself; the difference is that of the two commands that always run.
    """
    ours = _finished_project(folder / "ours")
    same = folder / "same"
    shutil.copytree(ours, same, symlinks=True)
    _empty_stages(same)
    seconds, reference = _cpu_seconds_of_repro(ours, same)
    return "dvc repro with nothing to do, vs the same graph of empty commands", seconds, reference


def dvc_no_op_of_a_large_corpus(folder: Path) -> tuple[str, float, float]:
    """Measure the same for a corpus, a manifest and feature stores of 132,000 clips.

    Only `index` and `settings` have their real commands. A no-op does not run the other stages, which are empty in both
    projects.
    """
    ours = folder / "large"
    shutil.copytree(_finished_project(folder / "ours"), ours, symlinks=True)
    _enlarge(ours)
    _run(["ecmf-pipe", "index"], ours)
    _empty_stages(ours, except_for=("index", "settings"))
    same = folder / "large-same"
    shutil.copytree(ours, same, symlinks=True)
    _empty_stages(same)
    seconds, reference = _cpu_seconds_of_repro(ours, same)
    return f"the same for a corpus of {CLIPS_STORED:,} clips", seconds, reference


def pushed_bytes(folder: Path) -> tuple[str, float, float]:
    """Measure the bytes pushed for 100 new clips, without DVC's file list; reference: the bytes of their values."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    store = folder / "data.zarr"
    fingerprint = create_settings_group(store, {"bench": 3}, dim=WIDTH, dtype="float16")
    with StoreWriter(store, fingerprint) as writer:
        for rows in _rows(CLIPS_STORED, rng):
            writer.append(rows)
    _run(["dvc", "init", "--quiet", "--no-scm"], folder)
    _run(["dvc", "remote", "add", "--quiet", "--default", "team", "remote"], folder)
    _run(["dvc", "config", "cache.type", "hardlink"], folder)
    _run(["dvc", "add", "--quiet", store.name], folder)
    _run(["dvc", "push", "--quiet"], folder)
    before = _objects(folder / "remote")
    with StoreWriter(store, fingerprint) as writer:
        writer.append(next(_rows(CLIPS_NEW, rng, prefix="new")))
    _run(["dvc", "add", "--quiet", store.name], folder)
    _run(["dvc", "push", "--quiet"], folder)
    sent = {name: size for name, size in _objects(folder / "remote").items() if name not in before}
    file_list = sum(size for name, size in sent.items() if name.endswith(".dir"))
    title = f"dvc push: {CLIPS_NEW} new clips of {CLIPS_STORED:,} (and a file list of {file_list} B), vs payload"
    return title, float(sum(sent.values()) - file_list), float(CLIPS_NEW * WIDTH * 2)


def _rows(
    clips: int, rng: np.random.Generator, *, prefix: str = "clip", width: int = WIDTH
) -> Iterator[list[FeatureRow]]:
    for start in range(0, clips, PART):
        values = rng.standard_normal((min(PART, clips - start), 1, width)).astype(np.float16)
        yield [
            FeatureRow(f"{prefix}{start + index:06d}", f"{start + index:064x}", row) for index, row in enumerate(values)
        ]


def _finished_project(folder: Path) -> Path:
    """Create a small project of audio clips without speech, and run all of its stages. It needs no model weights."""
    if folder.exists():
        return folder
    make_project(folder)
    for number in range(12):
        _sound(folder / "corpus" / f"clip{number:02d}.mp4", 200 + 20 * number)
    labels = [f"clip{number:02d},{'good' if number % 2 else 'bad'}" for number in range(12)]
    (folder / "corpus" / "labels.csv").write_text("\n".join(["name,label", *labels, ""]))
    (folder / "llm").mkdir()
    (folder / "llm" / "none.gguf").write_text("never read")
    changes: dict[str, dict[str, Any]] = {
        "corpus": {"kind": "folder", "root": "corpus"},
        "models": {"names": []},
        "llm": {"model": "llm", "gguf_file": "none.gguf"},
        "train": {"training": {"folds": 2, "seeds": 1, "epochs": 2}},
        "vote": {"folds": 2, "lightgbm": {"rounds": 5}},
        "evaluate": {"draws": 100},
    }
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    for section, values in changes.items():
        params[section] |= values
    params["extract"]["encoders"] = {"audio": "egemaps"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    _run(["dvc", "repro", "--quiet"], folder)
    return folder


def _empty_stages(project: Path, *, except_for: Sequence[str] = ()) -> None:
    """Replace the commands of a finished project by `true`, and make DVC accept the existing outputs."""
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))
    for name, stage in pipeline["stages"].items():
        if name not in except_for:
            stage.get("do", stage)["cmd"] = "true"
    (project / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    _run(["dvc", "commit", "--quiet", "--force"], project)
    _run(["dvc", "repro", "--quiet"], project)


def _enlarge(project: Path) -> None:
    """Replace the corpus of a project by 132,000 small files that are in the cache of `index`, and its stores."""
    root = project.parent / "clips"
    root.mkdir()
    cache = IndexCache(project / paths.INDEX_CACHE, root)
    labels = ["name,label"]
    for number in range(CLIPS_STORED):
        name = f"film{number:06d}"
        path = root / f"{name}.mp4"
        path.write_bytes(b"%d" % number)
        measured = Measurement(f"{number:064x}", duration=3.0, has_video=True, has_audio=True)
        cache.put(path.name, FileState.of(path), measured)
        labels.append(f"{name},{'good' if number % 2 else 'bad'}")
    cache.save()
    (root / "labels.csv").write_text("\n".join([*labels, ""]))
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params["corpus"]["root"] = str(root)
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for modality in Modality:
        store = project / paths.features(modality)
        shutil.rmtree(store, ignore_errors=True)
        fingerprint = create_settings_group(store, {"bench": modality.value}, dim=8, dtype="float16")
        with StoreWriter(store, fingerprint) as writer:
            for rows in _rows(CLIPS_STORED, np.random.default_rng(7), width=8):
                writer.append(rows)
    time.sleep(0.1)  # `index` does not cache a run that starts immediately after a file was written


def _trivial_project(folder: Path, stages: int) -> Path:
    folder.mkdir(parents=True)
    _run(["git", "init", "--quiet"], folder)
    _run(["dvc", "init", "--quiet"], folder)
    _run(["dvc", "config", "core.analytics", "false"], folder)
    pipeline = {}
    for number in range(stages):
        (folder / f"in{number}.txt").write_text(f"{number}\n")
        pipeline[f"copy{number}"] = {
            "cmd": f"cp in{number}.txt out{number}.txt",
            "deps": [f"in{number}.txt"],
            "outs": [f"out{number}.txt"],
        }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": pipeline}))
    _run(["dvc", "repro", "--quiet"], folder)
    return folder


def _cpu_seconds_of_repro(*projects: Path) -> list[float]:
    """Return the minimum CPU seconds of a no-op in each project, including child processes; projects take turns."""
    least = [float("inf")] * len(projects)
    for _ in range(REPEATS + 1):  # the first run fills the caches of the next ones
        for position, project in enumerate(projects):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            _run(["dvc", "repro", "--quiet"], project)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            least[position] = min(least[position], seconds)
    return least


def _stages(project: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((project / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return stages


def _objects(remote: Path) -> dict[str, int]:
    return {str(path.relative_to(remote)): path.stat().st_size for path in remote.rglob("*") if path.is_file()}


def _sound(path: Path, hertz: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000).astype(np.float32) / 4
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _run(command: Sequence[str], folder: Path) -> None:
    # use `dvc` and `ecmf-pipe` of the environment that runs the benchmark
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
