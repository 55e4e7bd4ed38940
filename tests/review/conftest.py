"""A small project with refined labels, written by hand, for the tests of the review page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Split, write_corpus_tables
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.core.tables import write_sealed
from ecmf_pipeline.labels.decision_files import NEXT_COLUMNS

LABELS = ("neutral", "happy", "sad")
COUNT = 12


def write_refined(names: Sequence[str], labels: Sequence[str]) -> None:
    """Write refined.csv, in which later clips gain more by a verdict, and next.csv with the last two clips."""
    header = ["clip_id", "split", "given_label", "refined_label", "decision", "weight", "confidence", "agreement"]
    header += ["label", "rival", "reason", "basis"]
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow([*header, *(f"posterior_{label}" for label in labels), "fusion_vote", "fusion_prob"])
    for position, name in enumerate(names):
        best = round(0.9 - 0.5 * position / len(names), 6)
        rest = round((1 - best) / (len(labels) - 1), 6)
        basis = "zero-shot" if position == 7 else "given"
        decision = "keep" if position % 2 else "review"
        row = [
            name,
            "train",
            labels[0],
            labels[0],
            decision,
            1,
            best,
            0.4 if position % 3 else 1.0,
            labels[0],
            labels[1],
        ]
        rows.writerow([*row, f"reason of {name}", basis, best, *[rest] * (len(labels) - 1), labels[0], best])
    write_sealed(paths.REFINED, table.getvalue())
    empty = "," * (len(NEXT_COLUMNS) - 1)
    lines = [",".join(NEXT_COLUMNS), *(f"{name}{empty}" for name in names[-1:-3:-1])]
    paths.NEXT.write_text("\n".join(lines) + "\n")


@pytest.fixture
def make_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_clip: Callable[..., Path]
) -> Callable[..., list[Clip]]:
    """Return a function that writes a project with clips and refined labels into the current directory."""
    film = make_clip(tmp_path / "film.mp4", pictures=10, audio_seconds=0.4)

    def write(names: Sequence[str] = (), *, labels: Sequence[str] = LABELS, refined: bool = True) -> list[Clip]:
        project = tmp_path / "project"
        (project / "corpus").mkdir(parents=True)
        monkeypatch.chdir(project)
        Path("params.yaml").write_text("corpus: {kind: folder, root: corpus}\n")
        names = sorted(names or [f"clip{number:02d}" for number in range(COUNT)])
        clips = []
        for number, name in enumerate(names):
            path = project / "corpus" / f"{number}.mp4"
            mark = f"{number:04d}".encode()
            path.write_bytes(film.read_bytes() + (8 + len(mark)).to_bytes(4, "big") + b"free" + mark)
            digest = sha256_file(path)
            clips.append(
                Clip(
                    ClipId(name),
                    path.name,
                    digest,
                    path.stat().st_size,
                    0.4,
                    has_video=True,
                    has_audio=True,
                    transcript=f"Words of <b>{number}</b>.",
                    given_label=labels[0],
                    split=Split.TRAIN,
                    group=f"speaker{number % 2}",
                    file_digest=digest,
                )
            )
        write_corpus_tables(Corpus(clips, list(labels), [], synthetic=False))
        if refined:
            write_refined(names, labels)
        return clips

    return write


@pytest.fixture
def project(make_project: Callable[..., list[Clip]]) -> list[Clip]:
    """Clips of a project in the current directory."""
    return make_project()
