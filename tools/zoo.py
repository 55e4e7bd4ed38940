"""Print a table of the results for the bad and unusual files of the zoo: ``python -m tools.zoo [MODELS]``.

The tool writes the zoo of tests/zoo to a temporary folder and runs `index` and `extract` on it, with a decoder that
hangs or crashes on some files. The table is in Markdown, with one row per file.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, read_manifest
from ecmf_pipeline.store import FeatureStore
from tests.zoo.checks import check_pictures, check_sound
from tests.zoo.command_line import DECODER_FAULT_ONCE, DECODER_FAULTS, ZooRun, quarantined, run_zoo
from tests.zoo.films import Film
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
    """Return the rows: file, result of `index`, result of the pictures, result of the sound."""
    clips = {clip.path: clip for clip in read_manifest(run.project / "data/manifest.csv")}
    films = {name: Film() for name in (*DECODER_FAULTS, DECODER_FAULT_ONCE)} | run.films
    others = [Specimen(f"{name}.mp4", film.write, film) for name, film in films.items()]
    return [_row(run, specimen, clips.get(specimen.name)) for specimen in [*zoo(), *others]]


def _row(run: ZooRun, specimen: Specimen, clip: Clip | None) -> Row:
    name = _format_name(specimen.name)
    if specimen.skip_reason:
        return name, f"not written: {specimen.skip_reason}", "", ""
    if clip is None:
        return name, "no clip" if specimen.finding == "none" else f"finding {specimen.finding}", "", ""
    indexed = quarantined(run.project, "index").get(clip.clip_id)
    if indexed:
        return name, f"{indexed['reason']}: {indexed['message']}", "", ""
    path = run.project.parent / "clips" / specimen.name
    checked = check_pictures(path, specimen.film, "decord")[0], check_sound(path, specimen.film)[0]
    extracted = _extraction_result(run, clip, "global"), _extraction_result(run, clip, "audio")
    pictures, sound = (
        result if result != "features" else check for result, check in zip(extracted, checked, strict=True)
    )
    return name, "clip", pictures, sound


def _extraction_result(run: ZooRun, clip: Clip, branch: str) -> str:
    entry = quarantined(run.project, f"extract-{branch}").get(clip.clip_id)
    if entry:
        return f"{entry['reason']}: {entry['message']}"
    if FeatureStore.open(run.project / f"data/features/{branch}.zarr").holds(clip.clip_id, clip.digest):
        return "features"
    has_input = clip.has_video if branch == "global" else clip.has_audio
    return "LOST" if has_input else "none"


def _format_name(name: str) -> str:
    printable = ascii(name)[1:-1] if not name.isprintable() else name
    average_rows = printable if len(printable) <= 40 else f"{printable[:30]}... ({len(name)} characters)"
    return f"`{average_rows}`".replace("|", "\\|")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "data" / "models")
