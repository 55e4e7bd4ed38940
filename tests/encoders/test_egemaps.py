from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from ecmf_pipeline.encoders.config import EgemapsConfig
from ecmf_pipeline.encoders.embedded.egemaps import MIN_SAMPLES, EgemapsEncoder


@pytest.fixture(scope="module")
def encoder() -> EgemapsEncoder:
    return EgemapsEncoder(EgemapsConfig())


def test_pitch_of_a_tone(encoder: EgemapsEncoder) -> None:
    time = np.arange(16_000) / 16_000
    tone = np.sum([np.sin(2 * np.pi * 150 * harmonic * time) / harmonic for harmonic in range(1, 9)], axis=0)
    row = encoder.encode([(0.2 * tone).astype(np.float32)])[0].values[0]
    assert row[0] == pytest.approx(12 * math.log2(150 / 27.5), abs=0.3)  # mean F0 in semitones above 27.5 Hz


def test_silence_has_a_row(encoder: EgemapsEncoder) -> None:
    assert encoder.encode([np.zeros(16_000, np.float32)])[0].values.shape == (1, 88)


@pytest.mark.parametrize("samples", [0, 1, MIN_SAMPLES - 1])
def test_too_short_sound_has_no_row(encoder: EgemapsEncoder, samples: int) -> None:
    assert encoder.encode([np.full(samples, 0.1, np.float32)])[0].values.shape == (0, 88)


def test_shortest_sound_has_a_row(encoder: EgemapsEncoder) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, MIN_SAMPLES).astype(np.float32)
    assert encoder.encode([noise])[0].values.shape == (1, 88)


def test_non_finite_sound_has_no_row(encoder: EgemapsEncoder) -> None:
    broken = np.full(16_000, np.nan, np.float32)
    assert encoder.encode([broken])[0].values.shape == (0, 88)


def test_module_does_not_import_torch() -> None:
    code = "import sys; import ecmf_pipeline.encoders.embedded.egemaps; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_columns_have_the_names_of_opensmile(encoder: EgemapsEncoder) -> None:
    names = encoder.column_names
    assert len(set(names)) == encoder.dim == 88
    assert names[0] == "F0semitoneFrom27.5Hz_sma3nz_amean"
    assert names[10] == "loudness_sma3_amean"
