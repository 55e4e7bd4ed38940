"""Fixtures that all tests share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from tools.browser import browser, missing_browser

REPOSITORY = Path(__file__).parents[1]

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # parallel tests share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

settings.register_profile("untimed", deadline=None)  # tests must pass on a busy machine
settings.load_profile("untimed")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser; without one the tests of pages are skipped, with the command that installs it."""
    if problem := missing_browser():
        pytest.skip(problem)
    with browser() as started:
        yield started


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of embedded weights, with the layout of ``data/models``; `make test` fetches them."""
    folder = Path(os.environ.get("ECMF_MODELS", REPOSITORY / "data" / "models"))
    if not (folder / "minilm" / "config.json").is_file():
        pytest.fail(f"{folder} holds no weights: run `make test`, or `ecmf-pipe models`")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, texts and features, which is not part of the repository."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data does not exist on this machine")
    return folder


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """Return a function that writes a small clip of grey frames with increasing brightness and a tone."""

    def write(
        path: Path,
        *,
        pictures: int = 50,
        size: tuple[int, int] = (64, 48),
        durations_ms: Sequence[int] | None = None,
        audio_seconds: float = 0.0,
        video: bool = True,
        photograph: NDArray[np.uint8] | None = None,
        amplitude: float = 0.3,
    ) -> Path:
        import av

        lengths = list(durations_ms or [40] * pictures)
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            streams = []
            if video:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height = size if photograph is None else photograph.shape[1::-1]
                stream.pix_fmt = "yuv420p"
                stream.options = {"bf": "0", "crf": "10"}
                stream.codec_context.time_base = Fraction(1, 1000)
                streams.append(stream)
            if audio_seconds:
                sound = container.add_stream("aac", rate=16000)
                sound.layout = "mono"
                streams.append(sound)
            if video:
                start = 0
                for index, length in enumerate(lengths):
                    grey = np.full((size[1], size[0], 3), min(255, 5 * index), np.uint8)
                    frame = av.VideoFrame.from_ndarray(grey if photograph is None else photograph, format="rgb24")
                    frame.pts, frame.time_base = start, Fraction(1, 1000)
                    start += length
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
            if audio_seconds:
                time = np.arange(int(audio_seconds * 16000)) / 16000
                samples = (amplitude * np.sin(2 * np.pi * 220 * time)).astype(np.float32)
                tone = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
                tone.sample_rate, tone.pts = 16000, 0
                container.mux(sound.encode(tone))
                container.mux(sound.encode())
        return path

    return write


def _encode(path: Path, codec: str | None, *, sound: bool, shade: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        pictures = container.add_stream(codec, rate=10, width=32, height=32, pix_fmt="yuv420p") if codec else None
        speech = container.add_stream("aac", rate=16000) if sound else None
        if pictures:
            for _ in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode())
        if speech:
            for start in range(0, 8192, 1024):
                samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 16000, start, Fraction(1, 16000)
                container.mux(speech.encode(samples))
            container.mux(speech.encode())


@pytest.fixture(scope="session")
def media_bytes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Bytes of half-second clips with video, audio or both, in several containers."""
    folder = tmp_path_factory.mktemp("media")

    def encoded(name: str, codec: str | None, *, sound: bool = False, shade: int = 0) -> bytes:
        _encode(folder / name, codec, sound=sound, shade=shade)
        return (folder / name).read_bytes()

    return {
        "pictures": encoded("pictures.mp4", "mpeg4"),
        "other pictures": encoded("other.mp4", "mpeg4", shade=200),
        "sound": encoded("sound.mp4", None, sound=True),
        "both": encoded("both.mkv", "mpeg4", sound=True),
        "webm": encoded("pictures.webm", "libvpx"),
    }


@pytest.fixture
def write_media(media_bytes: dict[str, bytes]) -> Callable[..., Path]:
    """Return a function that writes a clip with unique bytes (a trailing `free` box), unless ``mark`` is given."""

    def write(path: Path, what: str = "pictures", *, mark: str | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (path.name if mark is None else mark).encode("utf-8", "surrogateescape")
        box = (8 + len(text)).to_bytes(4, "big") + b"free" + text
        path.write_bytes(media_bytes[what] + box)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random two-layer Llama with a chat template and a BPE tokenizer trained on the English prompt."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    from ecmf_pipeline.corpora.config import MER_LABELS
    from ecmf_pipeline.llm.prompt import load_prompt

    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([load_prompt("emotion_en").render("", MER_LABELS)] * 2, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|end|>"}
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]\n{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=tokenizer.get_vocab_size(),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                bos_token_id=0,
                eos_token_id=1,
                initializer_range=0.3,
            )
        )
    model.save_pretrained(folder)
    return folder
