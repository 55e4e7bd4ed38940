"""Exceptions that nobody expects, at single clips, through the command line with real worker processes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.cli.main import main
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.extraction import step as step_module
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.store import FeatureStore
from tests.extraction.faulty import FaultyFactory

GOOD = [f"clip{number:02d}" for number in range(17)]


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ecmf-pipe", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def write_params(openers: int, max_quarantined: float) -> None:
    Path("params.yaml").write_text(
        "corpus: {kind: folder, root: clips}\nencoders: {voice: {type: egemaps}}\n"
        f"extract: {{encoders: {{audio: voice}}, workers: 1, openers: {openers}, batch_size: 4, "
        f"max_quarantined: {max_quarantined}}}\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("openers", [0, 1])
def test_three_faulty_clips_of_twenty_cost_only_themselves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_clip: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
    openers: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    faulty = ["opening", "working", *(["pickling"] if openers else ["another"])]
    for number, name in enumerate([*GOOD, *faulty]):
        make_clip(Path("clips", f"{name}.mp4"), video=False, audio_seconds=0.3, amplitude=0.2 + number / 50)
    write_params(openers, 0.2)
    assert command(monkeypatch, "index") == 0
    monkeypatch.setattr(step_module, "ExtractStepFactory", FaultyFactory)
    assert command(monkeypatch, "extract") == 0
    bad = {name for name in faulty if name != "another"}
    n_good = 20 - len(bad)
    assert f"{n_good} done, 0 reused, 0 absent, {len(bad)} quarantined (UnexpectedError" in capfd.readouterr().out
    assert len(FeatureStore.open(paths.features(Modality.AUDIO))) == n_good
    entries = read_quarantine(paths.quarantine("extract", Modality.AUDIO))
    assert Counter(entry.reason for entry in entries) == {"UnexpectedError": len(bad)}
    messages = {entry.clip_id: entry.message for entry in entries}
    assert messages["opening"].startswith("AttributeError: 'NoneType' object has no attribute 'skip_frame' (at ")
    assert messages["working"].startswith("ValueError: 25 is not a valid Type (at extraction/faulty.py:")

    assert command(monkeypatch, "status") == 0
    assert f"possible bugs of ecmf-pipeline: {len(bad)} entries with UnexpectedError" in capfd.readouterr().out
    assert command(monkeypatch, "extract") == 0
    assert f"0 done, {n_good} reused" in capfd.readouterr().out  # the same program does not try them again
    write_params(openers, 0.05)
    assert command(monkeypatch, "extract") == 1
    assert f"{len(bad)} of 20 clips are bad" in capfd.readouterr().err
    write_params(openers, 0.2)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ecmf_pipeline.runner.quarantine.program_version", lambda: "fixed")
    assert command(monkeypatch, "extract") == 0
    assert f"{len(bad)} done, {n_good} reused, 0 absent, 0 quarantined" in capfd.readouterr().out
