"""The example of docs/guides/labels-from-python.md runs."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_the_documented_example_runs(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (repository / "docs" / "guides" / "labels-from-python.md").read_text(encoding="utf-8")
    example = page.split("```python")[1].split("```")[0]
    exec(compile(example, "docs/guides/labels-from-python.md", "exec"), {})
    assert "True blend fitted to 60 gold labels" in capsys.readouterr().out
