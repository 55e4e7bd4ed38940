"""Tests of `ecmf-pipe forget` in a DVC project: the next run computes no features again, and DVC's cache is cleared."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

EXTRACT = '''
"""Like `extract`: compute missing features, and append the number of computed clips to a file."""
from pathlib import Path
import numpy as np
from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group, make_current

root, settings = Path("data/features/face.zarr"), {"encoder": {"type": "test"}}
with StoreWriter(root, fingerprint(settings)) as writer:
    create_settings_group(root, settings, dim=2, dtype="float16")
    store = FeatureStore(root, fingerprint(settings))
    clips = [clip for clip in read_manifest(Path("data/manifest.csv")) if not store.holds(clip.clip_id, clip.digest)]
    writer.append([FeatureRow(clip.clip_id, clip.digest, np.ones((1, 2))) for clip in clips])
make_current(root, fingerprint(settings))
with Path("computed").open("a") as file:
    file.write(f"{len(clips)}\\n")
'''


def test_the_next_repro_computes_no_features_and_gc_clears_the_cache(tmp_path: Path, write_media: Callable[..., Path]):
    source = Path(__file__).parents[2]
    author = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | author | {"PATH": path, "PYTHONPATH": str(source), "DVC_NO_ANALYTICS": "1"}
    project = tmp_path / "project"

    def run(*words: str) -> str:
        return subprocess.run(words, cwd=project, env=environment, check=True, capture_output=True, text=True).stdout

    def mentions(folder: str) -> list[Path]:
        return [path for path in (project / folder).rglob("*") if path.is_file() and b"annagone" in path.read_bytes()]

    for name in ("annagone", "bertstay", "clarastay", "dorastay"):
        write_media(project / "corpus" / f"{name}.mp4")
    pipe = f"{sys.executable} -m ecmf_pipeline"
    index = yaml.safe_load((source / "dvc.yaml").read_text())["stages"]["index"]
    index |= {"cmd": f"{pipe} index", "deps": [], "params": []}
    extract = {"cmd": f"{sys.executable} extract.py", "deps": ["data/manifest.csv"]}
    extract["outs"] = [{"data/features/face.zarr": {"persist": True}}]
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"index": index, "extract": extract}}))
    (project / "params.yaml").write_text("corpus: {kind: folder, root: corpus}\nindex: {workers: 0}\n")
    (project / "extract.py").write_text(EXTRACT)
    run("git", "init", "--quiet")
    run("dvc", "init", "--quiet")
    run("dvc", "repro", "--quiet")
    assert mentions("data")
    assert mentions(".ecmf")
    assert mentions(".dvc/cache")

    printed = run(*pipe.split(), "forget", "annagone")
    assert "data/features/face.zarr: removed 1" in printed
    assert "dvc gc --workspace" in printed
    run("dvc", "repro", "--quiet")
    run("dvc", "gc", "--workspace", "--force", "--quiet")
    assert (project / "computed").read_text().split() == ["4", "0"]
    assert mentions("data") + mentions(".ecmf") + mentions("labels") + mentions(".dvc/cache") == []
    assert (project / "corpus" / "annagone.mp4").is_file()
