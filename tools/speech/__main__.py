"""Measure speech recognition: invented words on 200 sounds without speech, and word error rates on the sample corpus.

``python -m tools.speech`` needs the generated sample corpus (``dvc repro sample``) and the embedded weights. It exits
with code 1 if an invented transcript is used.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import wave
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.corpora.sample.config import SampleConfig
from ecmf_pipeline.corpora.sample.plan import plan_clips
from ecmf_pipeline.media.audio import read_audio
from ecmf_pipeline.media.clip_reader import ClipReader
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.runner import Target
from ecmf_pipeline.transcription.config import EMBEDDED, TranscribeConfig
from ecmf_pipeline.transcription.recognition import Recogniser, Samples
from ecmf_pipeline.transcription.run import Recording
from ecmf_pipeline.transcription.table import Transcript, Verdict, assess_transcript
from tools.speech.sounds import VARIANTS, sounds_without_speech


def write_wav(path: Path, samples: Samples) -> None:
    """Write mono samples at 16 kHz as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


def check_sounds(recogniser: Recogniser, config: TranscribeConfig, variants: int) -> list[tuple[str, Transcript]]:
    """Return the transcript of each sound without speech, read from a file as `transcribe` reads it."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for sound in sounds_without_speech(variants):
            path = Path(folder) / f"{sound.name}.wav"
            write_wav(path, sound.samples)
            results.append((sound.name, _transcribe(recogniser, config, path)))
    return results


def _transcribe(recogniser: Recogniser, config: TranscribeConfig, path: Path) -> Transcript:
    from ecmf_pipeline.core.files import sha256_file

    recording = Recording(path, sha256_file(path), path.stat().st_size, (Target("clip", "words", ""),))
    return assess_transcript(recogniser.recognise("", recording.read(ClipReader(MediaConfig()))), config)


def add_noise(samples: Samples, snr: float, rng: np.random.Generator) -> Samples:
    """Add white noise at a signal-to-noise ratio in dB."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    noise = rng.normal(scale=np.sqrt(power * 10 ** (-snr / 10)), size=len(samples))
    noisy: Samples = np.clip(samples + noise, -1, 1).astype(np.float32)
    return noisy


def normalise(text: str) -> str:
    """Return lower-case words without punctuation."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("\u2019", "'")).split())


def spoken_clips(folder: Path) -> Iterator[tuple[str, str, Samples]]:
    """Yield the name, the spoken sentence and the sound of each clip of the sample corpus that has sound."""
    for plan in plan_clips(SampleConfig()):
        if plan.has_audio:
            yield plan.clip_id, plan.spoken, read_audio(folder / f"{plan.clip_id}.mp4", MediaConfig())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=paths.SAMPLE, help="folder of the sample corpus")
    parser.add_argument("--model", default=EMBEDDED, help="value of transcribe.model")
    parser.add_argument("--variants", type=int, default=VARIANTS, help="variants of each of the 20 kinds of sound")
    parser.add_argument("--clips", type=int, default=None, help="number of clips of the corpus")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    config = TranscribeConfig(model=arguments.model)
    recogniser = Recogniser(config, arguments.threads)
    sounds = check_sounds(recogniser, config, arguments.variants)
    verdicts = Counter(transcript.verdict.value for _, transcript in sounds)
    echo(f"sounds without speech: {len(sounds)}; {', '.join(f'{name} {n}' for name, n in verdicts.most_common())}")
    for name, transcript in sounds:
        if transcript.verdict is not Verdict.SILENT:
            numbers = f"confidence {transcript.confidence:.2f}, no speech {transcript.no_speech:.2f}"
            echo(f"  {name:<14}{transcript.verdict.value:<16}{numbers}, {transcript.text[:60]!r}")
    spoken = list(spoken_clips(arguments.corpus / "video"))[: arguments.clips]
    for condition, snr in (("clean", None), ("white noise, 10 dB", 10.0)):
        _measure_words(recogniser, config, condition, snr, spoken)
    sys.exit(int(verdicts[Verdict.USED.value] > 0))


def _measure_words(
    recogniser: Recogniser,
    config: TranscribeConfig,
    condition: str,
    snr: float | None,
    spoken: list[tuple[str, str, Samples]],
) -> None:
    """Print the word error rate of all clips, with the unused transcripts as empty and without them, and ten clips."""
    said, recognised, used = [], [], []
    started = time.perf_counter()
    for name, sentence, samples in spoken:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        sound = samples if snr is None else add_noise(samples, snr, rng)
        transcript = assess_transcript(recogniser.recognise("", sound), config)
        used.append(transcript.verdict is Verdict.USED)
        said.append(normalise(sentence))
        recognised.append(normalise(transcript.text) if used[-1] else "")
    seconds = (time.perf_counter() - started) / len(spoken)
    of_used = [(a, b) for a, b, is_used in zip(said, recognised, used, strict=True) if is_used]
    echo(
        f"{condition}: {len(said)} sentences, {sum(used)} transcripts used; word error rate "
        f"{jiwer.wer(said, recognised):.3f} (unused transcripts count as empty), "
        f"{jiwer.wer([a for a, _ in of_used], [b for _, b in of_used]):.3f} of those used; "
        f"{sum(a == b for a, b in of_used)} without error; {seconds:.2f} s a clip"
    )
    for index in np.random.default_rng(18).permutation(len(said))[:10]:
        echo(f"  {spoken[index][0]}  said: {said[index]}\n{'':<16}got:  {recognised[index] or '(nothing)'}")


if __name__ == "__main__":
    main()
