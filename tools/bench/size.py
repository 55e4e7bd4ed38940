"""Measure the stages on a synthetic corpus of many clips with small features: CPU time, wall time and peak memory.

::

    python -m tools.bench.size                      # 2,000 and 20,000 clips
    python -m tools.bench.size --clips 1000000 --folder /tmp/million
    python -m tools.bench.size --clips 20000 --stages evaluate,report --folder /tmp/twenty   # a finished project

The project has a manifest, features of two modalities (one computed, one imported), cached answers of a language model
and verdicts. Everything else is made by the commands that a user runs, each in its own process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import (
    MANIFEST_COLUMNS,
    CorpusDescription,
    Modality,
    write_corpus_description,
)
from ecmf_pipeline.core.files import fingerprint, sha256_file, sha256_text, write_csv, write_sealed_json
from ecmf_pipeline.core.tables import write_sealed_csv
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.llm.questions import PART_SIZE
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.store import FeatureRow, StoreWriter, create_settings_group

LABELLED, CANDIDATES, VERDICTS = 7_369, 20_000, 200
"""Clips with a given label, clips to predict, and verdicts; the first two as in MER2025. Both have gold labels."""
DIMS = {Modality.AUDIO: 8, Modality.FACE: 12}
CLIPS_OF_A_GROUP = 8
STAGES = {
    "extract": "extract",
    "train": "train --labels given",
    "predict": "predict --labels given",
    "vote": "vote",
    "refine": "refine",
    "train-refined": "train --labels refined",
    "predict-refined": "predict --labels refined",
    "evaluate": "evaluate",
    "report": "report",
}
PARAMS = """
corpus: {kind: table, root: corpus}
models: {names: []}
encoders: {faces: {type: imported}}
extract: {encoders: {audio: egemaps, face: faces}}
transcribe: {model: null}
llm: {model: llm, gguf_file: none.gguf}
train: {fusion: {hidden: 16, heads: 2}, training: {folds: 3, seeds: 1, epochs: 3}}
vote: {folds: 3}
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds, wall seconds and peak memory in GB of one process."""

    cpu: float
    wall: float
    memory: float


def main() -> None:
    """Print one line for each stage and number of clips."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.size", description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[2_000, 20_000], help="numbers of clips")
    parser.add_argument("--stages", default=",".join(STAGES), help="stages to run, separated by commas")
    parser.add_argument("--folder", type=Path, help="keep the project in this folder, and use it again")
    options = parser.parse_args()
    previous: dict[str, float] = {}
    for clips in options.clips:
        with tempfile.TemporaryDirectory() as name:
            project = options.folder or Path(name)
            if not (project / paths.MANIFEST).is_file():
                write_project(project, clips)
            for stage in options.stages.split(","):
                usage = run_stage(project, STAGES[stage])
                each = usage.cpu / clips * 1e6
                ratio = f"{each / previous[stage]:8.2f} of the CPU time a clip" if stage in previous else ""
                previous[stage] = each
                sys.stdout.write(
                    f"{clips:>9,} clips {stage:<16}{usage.cpu:9.1f} s CPU {usage.wall:9.1f} s {usage.memory:7.2f} GB"
                    f" {each:10.1f} us a clip{ratio}\n"
                )
                sys.stdout.flush()


def run_stage(project: Path, command: str) -> Usage:
    """Run a command of `ecmf-pipe` in a project, and return what it used.

    Raises:
        RuntimeError: If it fails.
    """
    start = time.perf_counter()
    words = [sys.executable, "-c", "from ecmf_pipeline.cli.main import main; main()", *command.split()]
    with (project / "output.log").open("ab") as log:
        process = subprocess.Popen(words, cwd=project, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"ecmf-pipe {command} failed with {process.returncode}: see {project / 'output.log'}")
    return Usage(used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss * 1024 / 1e9)


def write_project(project: Path, clips: int) -> None:
    """Write a project up to `extract`: manifest, features, cached answers of the language model, verdicts."""
    (project / "llm").mkdir(parents=True)
    (project / "llm" / "none.gguf").write_text("never read")
    (project / "labels").mkdir()
    (project / "params.yaml").write_text(PARAMS)
    rng = np.random.default_rng(7)
    truth = rng.integers(len(MER_LABELS), size=clips)
    with chdir(project):
        _write_manifest(clips, truth, rng)
        _write_features(clips, truth, rng)
        _write_answers(clips, truth, rng)
        judged = sorted(rng.choice(min(clips, LABELLED), min(clips, VERDICTS), replace=False).tolist())
        write_csv(paths.VERDICTS, ["name", "label"], ([_name(row), MER_LABELS[truth[row]]] for row in judged))


def _name(number: int) -> str:
    return f"samplenew3_{number:08d}"


def _digest(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def _blocks(clips: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, clips)) for start in range(0, clips, size))


def _words(number: int) -> str:
    return f"I informed you {number} times that the train has gone, and that there is no other one."


def _write_manifest(clips: int, truth: NDArray[np.int64], rng: np.random.Generator) -> None:
    given = np.where(rng.random(clips) < 0.8, truth, rng.integers(len(MER_LABELS), size=clips))

    def rows() -> Iterator[list[str]]:
        for number in range(clips):
            is_labelled, has_gold = number < LABELLED, number < LABELLED + CANDIDATES
            values = {
                "clip_id": _name(number),
                "path": f"video/{_name(number)}.mp4",
                "digest": _digest(number),
                "bytes": "300000",
                "duration": "3.200",
                "has_video": "1",
                "has_audio": "1",
                "transcript": _words(number),
                "given_label": MER_LABELS[given[number]] if is_labelled else "",
                "gold_label": MER_LABELS[truth[number]] if has_gold else "",
                "split": "train" if is_labelled else "candidate" if has_gold else "unlabeled",
                "group": f"dialogue{number // CLIPS_OF_A_GROUP:07d}",
                "face_bytes": "0",
                "audio_bytes": "0",
                "file_digest": _digest(number),
                "start": "0.000",
                "end": "0.000",
                "words_from": "corpus",
                "language": "en",
            }
            yield [values.get(column, "") for column in MANIFEST_COLUMNS]

    write_csv(paths.MANIFEST, MANIFEST_COLUMNS, rows())
    candidates = [_name(number) for number in range(LABELLED, min(clips, LABELLED + CANDIDATES))]
    digest = sha256_file(paths.MANIFEST)
    write_corpus_description(paths.CORPUS, CorpusDescription([*MER_LABELS], candidates, True, digest))
    write_sealed_json(paths.INDEX_METRICS, {"clips": clips, "findings": {}, "splits": {}})
    write_sealed_csv(paths.FINDINGS, ["kind", "clip_id", "message"], [])


def _write_features(clips: int, truth: NDArray[np.int64], rng: np.random.Generator) -> None:
    params = load_params()
    for modality, dim in DIMS.items():
        centres = rng.normal(size=(len(MER_LABELS), dim))
        key = create_settings_group(paths.features(modality), params.settings_of(modality), dim=dim, dtype="float16")
        with StoreWriter(paths.features(modality), key) as writer:
            for numbers in _blocks(clips, params.extract.part_size):
                part = slice(numbers[0], numbers[-1] + 1)
                values = (centres[truth[part]] + 1.5 * rng.normal(size=(len(numbers), dim))).astype(np.float16)
                writer.append(
                    [FeatureRow(_name(n), _digest(n), row[None]) for n, row in zip(numbers, values, strict=True)]
                )


def _write_answers(clips: int, truth: NDArray[np.int64], rng: np.random.Generator) -> None:
    folder = paths.VOTE_CACHE / fingerprint(load_params().llm.settings(MER_LABELS))
    folder.mkdir(parents=True)
    for part, numbers in enumerate(_blocks(clips, PART_SIZE)):
        scores = rng.normal(size=(len(numbers), len(MER_LABELS)))
        scores[np.arange(len(numbers)), truth[list(numbers)]] += 1.0
        lines = (
            json.dumps({"key": sha256_text(_words(n)), "scores": row}, separators=(",", ":")) + "\n"
            for n, row in zip(numbers, scores.round(6).tolist(), strict=True)
        )
        content = "".join(lines)
        (folder / f"part-{part:06d}-{sha256_text(content)[:8]}.jsonl").write_text(content)


if __name__ == "__main__":
    main()
