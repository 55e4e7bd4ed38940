"""The example of docs/labels.md runs."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_the_documented_example_runs(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (repository / "docs" / "labels.md").read_text(encoding="utf-8")
    example = page.split("```python")[1].split("```")[0]
    exec(compile(example, "docs/labels.md", "exec"), {})
    assert "True blend fitted to 60 gold labels" in capsys.readouterr().out
