"""A table of what becomes of the bad and odd files of the zoo: ``python -m tools.zoo [MODELS]``.

Makes the zoo of tests/zoo in a temporary folder, runs `index` and `extract` on it with a decoder that hangs and
crashes on some, and prints a line for each file, in Markdown.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, read_manifest
from ecmf_pipeline.store import FeatureStore
from tests.zoo.films import Film
from tests.zoo.judging import pictures_of, sound_of
from tests.zoo.running import BROKEN_BY_THE_DECODER, BROKEN_ONCE, ZooRun, quarantined, run_zoo
from tests.zoo.specimens import Specimen, zoo

REPOSITORY = Path(__file__).parents[1]

Row = tuple[str, str, str, str]


def main(models: Path) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        run = run_zoo(Path(folder), models)
        rows = table(run)
    lines = ["| file | listed | pictures | sound |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    sys.stdout.write("\n".join(lines) + "\n")


def table(run: ZooRun) -> list[Row]:
    """File, what `index` says, what became of the pictures, what of the sound."""
    clips = {clip.path: clip for clip in read_manifest(run.project / "data/manifest.csv")}
    films = {name: Film() for name in (*BROKEN_BY_THE_DECODER, BROKEN_ONCE)} | run.films
    others = [Specimen(f"{name}.mp4", film.write, film) for name, film in films.items()]
    return [_line(run, specimen, clips.get(specimen.name)) for specimen in [*zoo(), *others]]


def _line(run: ZooRun, specimen: Specimen, clip: Clip | None) -> Row:
    name = _shown(specimen.name)
    if specimen.why_not:
        return name, f"not made: {specimen.why_not}", "", ""
    if clip is None:
        return name, "no clip" if specimen.finding == "none" else f"finding {specimen.finding}", "", ""
    indexed = quarantined(run.project, "index").get(clip.clip_id)
    if indexed:
        return name, f"{indexed['reason']}: {indexed['message']}", "", ""
    path = run.project.parent / "clips" / specimen.name
    judged = pictures_of(path, specimen.film, "decord")[0], sound_of(path, specimen.film)[0]
    outcomes = _extracted(run, clip, "global"), _extracted(run, clip, "audio")
    pictures, sound = (
        outcome if outcome != "features" else judgement for outcome, judgement in zip(outcomes, judged, strict=True)
    )
    return name, "clip", pictures, sound


def _extracted(run: ZooRun, clip: Clip, branch: str) -> str:
    entry = quarantined(run.project, f"extract-{branch}").get(clip.clip_id)
    if entry:
        return f"{entry['reason']}: {entry['message']}"
    if FeatureStore.open(run.project / f"data/features/{branch}.zarr").holds(clip.clip_id, clip.digest):
        return "features"
    has_input = clip.has_video if branch == "global" else clip.has_audio
    return "LOST" if has_input else "none"


def _shown(name: str) -> str:
    shown = ascii(name)[1:-1] if not name.isprintable() else name
    return f"`{shown if len(shown) <= 40 else f'{shown[:30]}... ({len(name)} characters)'}`".replace("|", "\\|")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "data" / "models")
