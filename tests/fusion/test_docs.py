from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np


def test_the_example_of_the_documentation_runs(repository: Path, tmp_path: Path, capsys: Any) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (repository / "docs" / "fusion.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"folder": tmp_path / "model"}
    exec(compile(example, "docs/fusion.md", "exec"), names)
    result = names["result"]
    assert result.metrics["accuracy"] > 0.8
    np.testing.assert_array_equal(result.modality_weights[7], [1, 0])
    np.testing.assert_array_equal(names["again"].probs, names["ensemble"].predict(names["features"]).probs)
    assert "[1. 0.]" in capsys.readouterr().out
