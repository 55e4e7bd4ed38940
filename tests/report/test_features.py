"""Table of the origin of features."""

from __future__ import annotations

from typing import Any

from ecmf_pipeline.report.blocks import Collapsible, Paragraph, Table
from ecmf_pipeline.report.features import features_section, origin_blocks
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


def rows(**fields: Any) -> list[list[str]]:
    report = ReportInput(corpus={}, **fields)
    (table,) = next(block for block in origin_blocks(report) if isinstance(block, Collapsible)).blocks
    assert isinstance(table, Table)
    return [[str(cell).removeprefix("<bdi>").removesuffix("</bdi>") for cell in row] for row in table.rows]


def test_modalities_that_no_clip_has_are_named_once():
    covered = {"audio": {"done": 3, "absent": 0, "quarantined": 0, "missing": 0}}
    blocks = features_section(ReportInput({}, coverage=covered, absent=["global", "face"])).blocks
    texts = [block.text for block in blocks if isinstance(block, Paragraph)]
    assert [name for name in ("global", "face") if name in texts[0]] == ["global", "face"]
    assert "global" not in texts[1]


def test_a_hub_model_has_id_revision_and_commit():
    (row,) = rows(
        encoders={"global": {"encoder": {"type": "transformers_vision"}}},
        provenance={"global": CLIP},
        computed_with={"global": [{"numpy": "2.4.6", "torch": "2.13.0"}]},
    )
    assert row == [
        "global",
        "openai/clip",
        "main, commit 012345678901",
        "as in the commit",
        "resize 224 x 224, resample bicubic, std 0.1235 x 2",
        "bf16",
        "cuda",
        "numpy 2.4.6, torch 2.13.0",
    ]


def test_weights_are_shown_by_their_hashes():
    folder = {"model": "vit", "weights": {"files": {"model.safetensors": SHA, "config.json": "cd34" * 16}}}
    (row,) = rows(encoders={"face.vit": {}}, provenance={"face.vit": folder})
    assert row[:2] == ["face.vit", "vit"]
    assert row[3] == "ab12ab12ab12, cd34cd34cd34"


def test_all_combinations_of_versions_are_listed():
    (row,) = rows(
        encoders={"audio": {}},
        provenance={"audio": {"model": "egemaps"}},
        computed_with={"audio": [{}, {"opensmile": "2.5.0"}, {"opensmile": "2.6.0"}]},
    )
    assert row[-1] == "not recorded; some rows with opensmile 2.5.0; some rows with opensmile 2.6.0"


def test_imported_features_show_their_own_name():
    encoders = {"audio": {"encoder": {"type": "imported", "name": "mine", "dtype": "float32"}}}
    (notice,) = [
        block.text for block in origin_blocks(ReportInput({}, encoders=encoders)) if isinstance(block, Paragraph)
    ]
    assert notice.startswith("audio:")
    (row,) = rows(encoders=encoders)
    assert row[1:] == ["mine", unknown := "\N{EN DASH}", "none", unknown, "float32", unknown, "not recorded"]


def test_licences_of_packaged_encoders_are_named_and_no_others():
    encoders = {
        "audio": {"encoder": {"type": "egemaps"}},
        "text": {"encoder": {"type": "transformers_text"}},
        "global": {"encoder": {"type": "transformers_vision"}},
    }
    report = ReportInput({}, encoders=encoders, provenance={"text": {"model": "minilm"}, "global": CLIP})
    table = next(block for block in features_section(report).blocks if isinstance(block, Table))
    place = table.columns.index("Licence")
    found = [str(row[place]) for row in table.rows]
    assert "not for products" in found[0]
    assert "Apache-2.0" in found[1]
    assert found[2] == "see its model card"
