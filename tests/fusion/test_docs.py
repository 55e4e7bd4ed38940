"""The example of the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def test_the_example_of_the_documentation_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(
        r"```python\n(.*?)```", (repository / "docs" / "guides" / "fusion-from-python.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/guides/fusion-from-python.md", "exec"), names)
    result = names["result"]
    assert result.metrics["accuracy"] > 0.8
    np.testing.assert_array_equal(result.modality_weights[7], [1, 0])
    again = names["again"]
    np.testing.assert_array_equal(again.probs, names["ensemble"].predict(names["features"]).probs)
    assert set(again.predictions) == {"calm", "cross"}
    assert "[1. 0.]" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "weights.safetensors",
        "folds.arrow",
    }
