"""One clip of the sample corpus, from its plan to the bytes of its file."""

from __future__ import annotations

import numpy as np

from ecmf_pipeline.corpora.sample.acting import draw_acting, prosody
from ecmf_pipeline.corpora.sample.config import SampleConfig
from ecmf_pipeline.corpora.sample.face import FaceRig
from ecmf_pipeline.corpora.sample.plan import ClipPlan
from ecmf_pipeline.corpora.sample.scene import FRAMES_PER_SECOND, render
from ecmf_pipeline.corpora.sample.speakers import draw_speaker
from ecmf_pipeline.corpora.sample.speech import SAMPLE_RATE, Synthesizer, lay_over_room, loudness, speak_within
from ecmf_pipeline.corpora.sample.video import encode_mp4

SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_SECOND


def draw_clip(plan: ClipPlan, config: SampleConfig, rig: FaceRig, synthesizer: Synthesizer) -> bytes:
    """Draw a clip; it depends on its plan and the configuration alone.

    Returns:
        An mp4 file: H.264 at 25 frames a second and, if the plan says so, AAC at 16 kHz.
    """
    rng = np.random.default_rng([config.seed, plan.index])
    speaker = draw_speaker(rig, plan.speaker, config.seed)
    acting = draw_acting(plan.gold_label, config.weak, rng)
    lead, tail = rng.uniform(0.1, 0.4, 2)
    longest = max(config.max_seconds - lead - tail, config.max_seconds / 2)
    manner = prosody(acting.voice, rng)
    speech = speak_within(synthesizer, plan.spoken, speaker.voice, manner, longest)
    frames = _frame_count(lead + len(speech) / SAMPLE_RATE + tail, config)
    length = frames * SAMPLES_PER_FRAME
    start = int((length - len(speech)) * lead / (lead + tail))
    sound = lay_over_room(speech, start, length, speaker.voice.room, rng)
    pictures = render(rig, speaker, acting.face, loudness(sound, frames), config.size, rng)
    return encode_mp4(
        pictures,
        sound if plan.has_audio else None,
        frame_rate=FRAMES_PER_SECOND,
        sample_rate=SAMPLE_RATE,
        size=config.size,
    )


def _frame_count(seconds: float, config: SampleConfig) -> int:
    shortest = int(np.ceil(config.min_seconds * FRAMES_PER_SECOND))
    longest = max(shortest, int(config.max_seconds * FRAMES_PER_SECOND))
    return int(np.clip(round(seconds * FRAMES_PER_SECOND), shortest, longest))
