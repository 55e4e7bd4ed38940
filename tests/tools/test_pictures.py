"""The data flow picture is up to date and shows stages that exist."""

from __future__ import annotations

from pathlib import Path

import yaml

from tools.pictures import BOXES, data_flow


def test_committed_picture_is_up_to_date(repository: Path) -> None:
    assert (repository / "docs/images/data-flow.svg").read_text(encoding="utf-8") == data_flow()


def test_boxes_are_stages_of_dvc_yaml(repository: Path) -> None:
    stages = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"].keys()
    drawn = {name for box in BOXES.values() if box.kind == "stage" for name in box.title.split(", ")}
    assert "extract" in drawn
    assert drawn <= stages
