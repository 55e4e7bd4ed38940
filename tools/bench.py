"""`make bench`: CPU seconds of each figure beside a reference, in the same run on the same cores, as a ratio."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from skimage import data

from ecmf_pipeline.clips import Clip, ClipId, Modality, Split
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.encoders.config import EfficientNetConfig, EgemapsConfig, MiniXceptionConfig
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.plan import branch_settings, plan_branch
from ecmf_pipeline.extraction.run import extract
from ecmf_pipeline.faces import FaceConfig
from ecmf_pipeline.files import sha256_file
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.media import MediaConfig
from ecmf_pipeline.store import FeatureRow, FeatureStore

CLIPS_IN_MEMORY = 8_000
CLIPS_PLANNED = 132_000


def main() -> None:
    """Print one line a figure."""
    sys.stdout.write(f"{'what':<58}{'ours':>10}{'reference':>12}{'ratio':>8}\n")
    with tempfile.TemporaryDirectory() as name:
        for figure in (joint_decode, load_all, plan_nothing, score_labels):
            what, ours, reference = figure(Path(name))
            ratio = f"{reference / ours:.2f}x" if reference else ""
            sys.stdout.write(f"{what:<58}{ours:>8.3f} s{f'{reference:.3f} s' if reference else '-':>12}{ratio:>8}\n")
    sys.stdout.write(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB\n")


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process that ``work`` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def joint_decode(folder: Path) -> tuple[str, float, float]:
    """Global, face and audio from one decode, against the three one after another (720p, 12 clips)."""
    clips = [_clip(folder / f"clip{number}.mp4") for number in range(12)]
    media, faces = MediaConfig(), FaceConfig()
    encoders = {
        Modality.GLOBAL: EfficientNetConfig(),
        Modality.FACE: MiniXceptionConfig(),
        Modality.AUDIO: EgemapsConfig(),
    }

    def run(modalities: list[Modality], where: Path) -> None:
        branches = [
            plan_branch(
                modality,
                clips,
                {},
                encoder=encoders[modality],
                settings=branch_settings(modality, encoders[modality], media, faces),
                root=where / f"{modality.value}.zarr",
                quarantine_path=where / f"{modality.value}.csv",
            )
            for modality in modalities
        ]
        extract(
            branches,
            clips,
            {},
            corpus_root=folder,
            media=media,
            faces=faces,
            config=ExtractConfig(),
            store_root=lambda modality: where / f"{modality.value}.zarr",
        )

    run(list(encoders), folder / "warm-up")
    ours = cpu_seconds(lambda: run(list(encoders), folder / "joint"))
    reference = cpu_seconds(lambda: [run([modality], folder / "apart") for modality in encoders])
    return "three media branches of 12 clips, one decode", ours, reference


def load_all(folder: Path) -> tuple[str, float, float]:
    """All pooled features from a store, against one npy file a clip, read, averaged and stacked."""
    rng = np.random.default_rng(7)
    store = FeatureStore.create(folder / "load.zarr", {"bench": 1}, dim=768, dtype="float16")
    names = [f"clip{number:06d}" for number in range(CLIPS_IN_MEMORY)]
    (folder / "npy").mkdir()
    for start in range(0, len(names), 128):
        rows = []
        for name in names[start : start + 128]:
            values = rng.standard_normal((int(rng.integers(8, 25)), 768)).astype(np.float16)
            rows.append(FeatureRow(name, "d", values))
            np.save(folder / "npy" / f"{name}.npy", values)
        store.append(rows)
    ours = cpu_seconds(lambda: FeatureStore.open(folder / "load.zarr").load(names))
    reference = cpu_seconds(
        lambda: np.stack([np.load(folder / "npy" / f"{name}.npy").squeeze().mean(axis=0) for name in names])
    )
    return f"load {CLIPS_IN_MEMORY} clips of 8-24 x 768, against npy files", ours, reference


def plan_nothing(folder: Path) -> tuple[str, float, float]:
    """Open a store of 132,000 clips and find that all are there."""
    store = FeatureStore.create(folder / "plan.zarr", {"bench": 2}, dim=8, dtype="float16")
    digest = "0" * 64
    clips = {f"clip{number:06d}": digest for number in range(CLIPS_PLANNED)}
    names = list(clips)
    for start in range(0, len(names), 1024):
        store.append([FeatureRow(name, digest, np.ones((1, 8))) for name in names[start : start + 1024]])

    def plan() -> None:
        opened = FeatureStore.open(folder / "plan.zarr")
        missing = [name for name, wanted in clips.items() if not opened.holds(name, wanted)]
        if missing:
            raise RuntimeError(f"{len(missing)} clips are missing")

    return f"plan a run over {CLIPS_PLANNED} clips that has nothing to do", cpu_seconds(plan), 0.0


def score_labels(_folder: Path) -> tuple[str, float, float]:
    """CPU seconds an utterance of scoring six labels: cached prefix and batches, against each from scratch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ecmf_pipeline.llm.local import TransformersScorer
    from ecmf_pipeline.llm.prompt import as_data, load_prompt

    config, labels = LlmConfig(), MER_LABELS
    texts = [f"I told you {number} times that the train has gone." for number in range(48)]
    scorer = TransformersScorer(config)
    scorer.log_likelihoods(texts[:1], labels)  # loads the model
    scores: list[NDArray[np.float64]] = []
    ours = cpu_seconds(lambda: scores.append(scorer.log_likelihoods(texts, labels)))
    prompt = load_prompt(config.prompt)
    tokenizer = AutoTokenizer.from_pretrained(config.model, gguf_file=config.gguf_file)
    model = AutoModelForCausalLM.from_pretrained(config.model, gguf_file=config.gguf_file).eval()
    plain = np.empty((3, len(labels)))

    @torch.inference_mode()
    def from_scratch() -> None:
        for row, text in enumerate(texts[: len(plain)]):
            before = tokenizer(prompt.render(as_data(text), labels), add_special_tokens=False)["input_ids"]
            for column, word in enumerate(prompt.words(labels)):
                tokens = before + tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
                likelihoods = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
                plain[row, column] = sum(likelihoods[i - 1, tokens[i]] for i in range(len(before), len(tokens)))

    reference = cpu_seconds(from_scratch)
    furthest = np.abs(plain - scores[0][: len(plain)]).max()
    what = f"score 6 labels of an utterance (scores differ by {furthest:.0e})"
    return what, ours / len(texts), reference / len(plain)


def _clip(path: Path) -> Clip:
    """A 720p clip of three seconds: a photograph that moves, and a tone."""
    face = data.astronaut()[:360]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 1280, 720, "yuv420p"
        sound = container.add_stream("aac", rate=16000)
        sound.layout = "mono"
        for index in range(75):
            picture = np.full((720, 1280, 3), 90, np.uint8)
            picture[180:540, 300 + 2 * index : 812 + 2 * index] = face
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        tone = np.sin(2 * np.pi * 200 * np.arange(48000) / 16000).astype(np.float32) / 4
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return Clip(
        ClipId(path.stem),
        path=path.name,
        digest=sha256_file(path),
        bytes=path.stat().st_size,
        has_video=True,
        has_audio=True,
        split=Split.UNLABELED,
    )


if __name__ == "__main__":
    main()
