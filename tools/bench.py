"""`make bench`: CPU seconds of each figure beside a reference, in the same run on the same cores, as a ratio."""

from __future__ import annotations

import resource
import sys
import tempfile
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
from ecmf_pipeline.extraction.run import extract, writing
from ecmf_pipeline.faces import FaceConfig
from ecmf_pipeline.files import sha256_file
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.media import MediaConfig
from tools.bench_dvc import dvc_no_op, dvc_no_op_same_graph, pushed_bytes
from tools.bench_store import FIGURES, cpu_seconds


def main() -> None:
    """Print one line a figure."""
    sys.stdout.write(f"{'CPU seconds':<62}{'ours':>12}{'reference':>12}{'less by':>10}\n")
    with tempfile.TemporaryDirectory() as name:
        for figure in (joint_decode, *FIGURES, score_labels):
            what, ours, reference = figure(Path(name))
            ratio = f"{reference / ours:.2f}x" if reference else "-"
            _line(what, f"{ours:.3f}", f"{reference:.3f}" if reference else "-", ratio)
        sys.stdout.write(f"{'DVC (CPU seconds; bytes)':<62}{'ours':>12}{'reference':>12}{'of it':>10}\n")
        # The first two share a finished project.
        for figure, folder in ((dvc_no_op, "repro"), (dvc_no_op_same_graph, "repro"), (pushed_bytes, "push")):
            what, ours, reference = figure(Path(name) / folder)
            _line(what, f"{ours:.6g}", f"{reference:.6g}", f"{ours / reference:.2f}x")
    sys.stdout.write(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB\n")


def _line(what: str, ours: str, reference: str, ratio: str) -> None:
    sys.stdout.write(f"{what:<62}{ours:>12}{reference:>12}{ratio:>10}\n")
    sys.stdout.flush()


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
        settings = {modality: branch_settings(modality, encoders[modality], media, faces) for modality in modalities}
        with writing(settings, lambda modality: where / f"{modality.value}.zarr") as writers:
            branches = [
                plan_branch(
                    modality,
                    clips,
                    {},
                    encoder=encoders[modality],
                    settings=settings[modality],
                    root=where / f"{modality.value}.zarr",
                    quarantine_path=where / f"{modality.value}.csv",
                )
                for modality in modalities
            ]
            extract(
                branches,
                clips,
                {},
                writers=writers,
                corpus_root=folder,
                media=media,
                faces=faces,
                config=ExtractConfig(workers=0),
            )

    run(list(encoders), folder / "warm-up")
    ours = cpu_seconds(lambda: run(list(encoders), folder / "joint"), repeats=1)

    def run_apart() -> None:
        for modality in encoders:
            run([modality], folder / "apart")

    reference = cpu_seconds(run_apart, repeats=1)
    return "three media branches of 12 clips, one decode", ours, reference


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
    ours = cpu_seconds(lambda: scores.append(scorer.log_likelihoods(texts, labels)), repeats=1)
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

    reference = cpu_seconds(from_scratch, repeats=1)
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
