"""The provenance table of the features section."""

from __future__ import annotations

from typing import Any

from ecmf_pipeline.report.blocks import Paragraph, Table
from ecmf_pipeline.report.corpus import sources
from ecmf_pipeline.report.inputs import ReportInput

SHA, COMMIT = "ab12" * 16, "0123456789" * 4
CLIP = {
    "model": "openai/clip",
    "revision": "main",
    "commit": COMMIT,
    "weights": {"model": "openai/clip", "commit": COMMIT},
    "preprocessing": {"resize": [224, 224], "resample": "bicubic", "crop": None, "std": [0.123456, 2.0]},
    "precision": "bf16",
    "device": "cuda",
    "versions": {"torch": "2.13.0"},
}


def rows(**about: Any) -> list[list[str]]:
    report = ReportInput(corpus={}, **about)
    table = next(block for block in sources(report) if isinstance(block, Table))
    return [[str(cell).removeprefix("<bdi>").removesuffix("</bdi>") for cell in row] for row in table.rows]


def test_a_hub_model_is_told_by_id_revision_and_commit():
    (row,) = rows(
        encoders={"global": {"encoder": {"type": "transformers_vision"}}},
        provenance={"global": CLIP},
        computed_with={"global": [{"numpy": "2.4.6", "torch": "2.13.0"}]},
    )
    assert row == [
        "global",
        "openai/clip",
        "main, commit 012345678901",
        "of that commit",
        "resize 224 x 224, resample bicubic, std 0.1235 x 2",
        "bf16",
        "cuda",
        "numpy 2.4.6, torch 2.13.0",
    ]


def test_encoders_side_by_side_have_a_row_each():
    folder = {"model": "vit", "weights": {"files": {"model.safetensors": SHA, "config.json": "cd34" * 16}}}
    found = rows(encoders={"face": {}}, provenance={"face": {"members": [CLIP, folder]}})
    assert [row[:2] for row in found] == [["face (1 of 2)", "openai/clip"], ["face (2 of 2)", "vit"]]
    assert found[1][3] == "ab12ab12ab12, cd34cd34cd34"


def test_rows_of_several_versions_and_of_unknown_ones_are_all_told():
    (row,) = rows(
        encoders={"audio": {}},
        provenance={"audio": {"model": "egemaps"}},
        computed_with={"audio": [{}, {"opensmile": "2.5.0"}, {"opensmile": "2.6.0"}]},
    )
    assert row[-1] == "not noted; some rows with opensmile 2.5.0; some rows with opensmile 2.6.0"


def test_imported_features_name_themselves():
    encoders = {"audio": {"encoder": {"type": "imported", "name": "mine", "dtype": "float32"}}}
    (said,) = [block.text for block in sources(ReportInput({}, encoders=encoders)) if isinstance(block, Paragraph)]
    assert said.startswith("audio: the store does not say")
    (row,) = rows(encoders=encoders)
    assert row[1:] == ["mine", unknown := "\N{EN DASH}", "none", unknown, "float32", unknown, "not noted"]
