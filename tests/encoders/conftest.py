"""Tiny transformers models with random weights, saved once per session, and views of clips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from skimage import data
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ecmf_pipeline.faces.detector import FaceTrack
from ecmf_pipeline.faces.tracking import crop_square

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "i", "am", "so", "very", "happy", "sad", "angry", "today", "what"]
VOCABULARY += ["a", "nice", "surprise", "miss", "my", "mother"]
ASTRONAUT_BOX = (165.0, 70.0, 115.0, 115.0)
SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
CONVOLUTIONS = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 64),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


_WHISPER_HALF = {"layers": 4, "attention_heads": 2, "ffn_dim": 48}


def _save_vision(folder: Path) -> None:
    square = {"height": 48, "width": 48}
    clip = transformers.CLIPVisionConfig(**SMALL, image_size=48, patch_size=16)
    transformers.CLIPVisionModel(clip).save_pretrained(folder / "clip")
    text = {**SMALL, "vocab_size": 30, "max_position_embeddings": 8}
    both = transformers.CLIPConfig(text_config=text, vision_config=clip.to_dict(), projection_dim=24)
    transformers.CLIPModel(both).save_pretrained(folder / "clip_two_towers")
    for name in ("clip", "clip_two_towers"):
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=square).save_pretrained(folder / name)
    vit = transformers.ViTConfig(**SMALL, image_size=48, patch_size=16)
    transformers.ViTModel(vit, add_pooling_layer=False).save_pretrained(folder / "vit")
    transformers.ViTImageProcessorPil(size=square).save_pretrained(folder / "vit")
    dino = transformers.Dinov2Config(**SMALL, image_size=70, patch_size=14)
    transformers.Dinov2Model(dino).save_pretrained(folder / "dinov2")
    transformers.BitImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, do_center_crop=True
    ).save_pretrained(folder / "dinov2")


def _save_more_vision(folder: Path) -> None:
    square = {"height": 48, "width": 48}
    tower = transformers.SiglipVisionConfig(**SMALL, image_size=48, patch_size=16)
    text = {**SMALL, "vocab_size": 30, "max_position_embeddings": 8}
    transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=tower.to_dict())
    ).save_pretrained(folder / "siglip")
    transformers.SiglipImageProcessorPil(size=square).save_pretrained(folder / "siglip")
    beit = transformers.Data2VecVisionConfig(
        **SMALL, image_size=48, patch_size=16, use_absolute_position_embeddings=True, use_relative_position_bias=True
    )
    transformers.Data2VecVisionModel(beit).save_pretrained(folder / "data2vec")
    transformers.BeitImageProcessorPil(size=square, do_center_crop=False).save_pretrained(folder / "data2vec")
    registers = transformers.Dinov2WithRegistersConfig(**SMALL, image_size=56, patch_size=14, num_register_tokens=3)
    transformers.Dinov2WithRegistersModel(registers).save_pretrained(folder / "dinov2_registers")
    transformers.BitImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, do_center_crop=True
    ).save_pretrained(folder / "dinov2_registers")
    dinov3 = transformers.DINOv3ViTConfig(**SMALL, image_size=48, patch_size=16, num_register_tokens=4)
    transformers.DINOv3ViTModel(dinov3).save_pretrained(folder / "dinov3")
    # As in its checkpoints; the class itself needs torchvision.
    processor = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": square, "resample": 2}
    processor |= {"crop_size": None, "do_center_crop": None, "do_resize": True, "do_rescale": True}
    processor |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_normalize": True}
    (folder / "dinov3" / "preprocessor_config.json").write_text(json.dumps(processor))


def _save_video(folder: Path) -> None:
    sizes = {**SMALL, "image_size": 48, "patch_size": 16, "num_frames": 4, "tubelet_size": 2}
    pretrained = transformers.VideoMAEConfig(**sizes, use_mean_pooling=False)
    transformers.VideoMAEModel(pretrained).save_pretrained(folder / "videomae")
    tuned = transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**sizes, use_mean_pooling=True))
    torch.nn.init.normal_(tuned.fc_norm.weight, 1.0, 0.3)  # weights of one would hide a missing norm
    tuned.save_pretrained(folder / "videomae_tuned")
    for name in ("videomae", "videomae_tuned"):
        transformers.VideoMAEImageProcessorPil(
            size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}
        ).save_pretrained(folder / name)


def _save_audio(folder: Path) -> None:
    for name, config, norm in (
        ("hubert", transformers.HubertConfig, "group"),
        ("wav2vec2", transformers.Wav2Vec2Config, "layer"),
        ("wavlm", transformers.WavLMConfig, "group"),
    ):
        model = transformers.AutoModel.from_config(config(**SMALL, **CONVOLUTIONS, feat_extract_norm=norm))
        model.save_pretrained(folder / name)
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer")
        extractor.save_pretrained(folder / name)
    stable = transformers.HubertConfig(**SMALL, **CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True)
    transformers.HubertModel(stable).save_pretrained(folder / "hubert_large")
    convolutions = {name: size for name, size in CONVOLUTIONS.items() if name.startswith("conv")}
    data2vec = transformers.Data2VecAudioConfig(
        **SMALL, **convolutions, conv_pos_kernel_size=5, num_conv_pos_embeddings=3, num_conv_pos_embedding_groups=2
    )
    transformers.Data2VecAudioModel(data2vec).save_pretrained(folder / "data2vec_audio")
    for name in ("hubert_large", "data2vec_audio"):
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / name)
    _save_whisper(folder / "whisper")


def _save_whisper(folder: Path) -> None:
    """Save a Whisper with windows of two seconds in the published form: with decoder and head."""
    layers = {f"{half}_{name}": size for half in ("encoder", "decoder") for name, size in _WHISPER_HALF.items()}
    tokens = {"vocab_size": 9, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(
        **layers, **tokens, d_model=32, num_mel_bins=16, max_source_positions=100, max_target_positions=8
    )
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2).save_pretrained(folder)


def _save_text(folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    sizes = {**SMALL, "vocab_size": len(vocabulary), "max_position_embeddings": 16}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(folder / "llama")
    bare.save_pretrained(folder / "llama")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    for name in ("bert", "sentence"):
        transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(folder / name)
        wrapped.save_pretrained(folder / name)
    roberta = transformers.RobertaConfig(**sizes, pad_token_id=0)
    transformers.RobertaModel(roberta).save_pretrained(folder / "roberta")
    wrapped.save_pretrained(folder / "roberta")
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path}
        for kind, path in (("Transformer", ""), ("Pooling", "1_Pooling"))
    ]
    (folder / "sentence" / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence" / "1_Pooling").mkdir()
    (folder / "sentence" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that contains one folder for each tiny transformers model."""
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        _save_vision(folder)
        _save_audio(folder)
        _save_text(folder)
        _save_more_vision(folder)  # last: the order determines the random weights of the others
        _save_video(folder)
    return folder


@pytest.fixture(scope="session")
def frames() -> list[NDArray[np.uint8]]:
    """Frames of four clips of different sizes."""
    astronaut, coffee, cat = data.astronaut(), data.coffee(), data.chelsea()
    return [
        np.stack([astronaut, astronaut[::-1], astronaut[:, ::-1]]),
        coffee[None],
        np.stack([cat, cat[:, ::-1]]),
        cat.transpose(1, 0, 2)[None, :130, :90],
    ]


def face_track(pictures: list[NDArray[np.uint8]]) -> FaceTrack:
    """Return a track whose crops are cut from the pictures at the face of the astronaut."""
    crops = np.stack([crop_square(picture, ASTRONAUT_BOX, 256) for picture in pictures])
    count = len(crops)
    return FaceTrack(
        crops=crops,
        frames=np.arange(count) * 2,
        boxes=np.tile(np.array(ASTRONAUT_BOX, np.float32), (count, 1)),
        scores=np.ones(count, np.float32),
        landmarks=np.full((count, 6, 2), np.nan, np.float32),
        landmark_quality=np.full(count, np.nan, np.float32),
    )


@pytest.fixture(scope="session")
def tracks() -> list[FaceTrack]:
    """Face tracks of three clips. The middle crop of the first and all crops of the last have no face."""
    face = data.astronaut()
    blank = np.full_like(face, 90)
    return [
        face_track([face, blank, (face * 0.8).astype(np.uint8)]),
        face_track([face[:, ::-1]]),
        face_track([blank, blank]),
    ]


@pytest.fixture(scope="session")
def sounds() -> list[NDArray[np.float32]]:
    """Four sounds, mono at 16 kHz; only the first and the last have equal lengths."""
    rng = np.random.default_rng(3)
    waves = [rng.normal(0, 0.1, count).astype(np.float32) for count in (16_000, 9_001, 24_321, 16_000)]
    return [wave * np.linspace(0.2, 1, len(wave), dtype=np.float32) for wave in waves]


@pytest.fixture
def hub_requests(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """Make the hub client fail as if offline; return a function that returns its requests."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    requests: list[Any] = []

    def download(*names: Any, **options: Any) -> str:
        requests.append((names, options))
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return lambda: requests


@pytest.fixture
def altered_model(tiny_models: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy a tiny model and replace values in one of its JSON files."""

    def alter(name: str, file: str = "config.json", **values: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_models / name, folder, dirs_exist_ok=True)
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **values}))
        return folder

    return alter
