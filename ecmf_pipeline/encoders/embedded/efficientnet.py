"""EfficientNet-Lite0, the default encoder of the global branch, and TensorFlow layers that mini-Xception also uses.

Architecture: MBConv without squeeze-and-excitation, ReLU6, stem and head of fixed width, as published with the
TensorFlow models (tensorflow/tpu, models/official/efficientnet/lite; EfficientNet is arXiv 1905.11946).
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.weights import MODELS_COMMAND, MODELS_HINT
from ecmf_pipeline.encoders.config import EfficientNetConfig
from ecmf_pipeline.encoders.inference import Inference
from ecmf_pipeline.encoders.preprocess import PictureEncoder, PicturePreparer, Preprocessing

BATCH_NORM_EPSILON = 1e-3
"""The default of TensorFlow."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after one axis. The odd pixel goes after, unlike torch's symmetric padding."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: torch.Tensor, kernel: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """Pad (B, C, H, W) such that the output of a layer is ``ceil(H / stride)`` by ``ceil(W / stride)``."""
    rows = same_padding(x.shape[-2], kernel, stride)
    columns = same_padding(x.shape[-1], kernel, stride)
    return F.pad(x, (*columns, *rows), value=value) if any((*rows, *columns)) else x


class SameConv2d(nn.Conv2d):
    """A square convolution with SAME padding, without bias until a batch norm is folded into it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # With stride 1 SAME padding is symmetric, so the convolution can pad.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] > 1:
            input = pad_same(input, self.kernel_size[0], self.stride[0])
        return super().forward(input)


class SameMaxPool2d(nn.Module):
    """Max pooling with SAME padding; padding is never the maximum."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C, ceil(H / stride), ceil(W / stride))."""
        return F.max_pool2d(pad_same(x, self.kernel, self.stride, float("-inf")), self.kernel, self.stride)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Build a batch norm with the epsilon of TensorFlow."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON)


def fold(module: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Fold batch norms into the preceding convolutions: the same function up to rounding, in fewer steps.

    Args:
        module: In eval mode.
        pairs: Attribute names of each convolution and the batch norm that follows it.
    """
    for conv, norm in pairs:
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())


SIDE = 224

_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first block, expansion, output channels."""


class MBConv(nn.Module):
    """Expansion, depthwise convolution, projection; with a shortcut if the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        if expansion > 1:
            self.expand_conv, self.bn0 = SameConv2d(inputs, width, 1), batch_norm(width)
        self.depthwise_conv, self.bn1 = SameConv2d(width, width, kernel, stride, groups=width), batch_norm(width)
        self.project_conv, self.bn2 = SameConv2d(width, outputs, 1), batch_norm(outputs)
        self.expands, self.shortcut = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        y: torch.Tensor = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.shortcut else y

    def fold(self) -> None:
        """Fold the batch norms into the convolutions."""
        fold(self, [("depthwise_conv", "bn1"), ("project_conv", "bn2")])
        if self.expands:
            fold(self, [("expand_conv", "bn0")])


class EfficientNetLite0(nn.Module):
    """The network. Parameter names are those of the published state dict without leading underscores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = SameConv2d(3, 32, 3, 2), batch_norm(32)
        blocks, inputs = [], 32
        for count, kernel, stride, expansion, outputs in _STAGES:
            for position in range(count):
                blocks.append(MBConv(inputs, outputs, kernel, stride if position == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.conv_head, self.bn1 = SameConv2d(inputs, EfficientNetConfig.dim, 1), batch_norm(EfficientNetConfig.dim)
        self.fc = nn.Linear(EfficientNetConfig.dim, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pictures (B, 3, 224, 224) to features (B, 1280); ``fc`` maps these to ImageNet logits (B, 1000)."""
        x = F.relu6(self.bn0(self.conv_stem(x)))  # (B, 32, 112, 112)
        for block in self.blocks:
            x = block(x)
        x = F.relu6(self.bn1(self.conv_head(x)))  # (B, 1280, 7, 7)
        return x.mean(dim=(2, 3))

    def fold(self) -> None:
        """Fold the batch norms into the convolutions. Call it once, in eval mode."""
        fold(self, [("conv_stem", "bn0"), ("conv_head", "bn1")])
        for block in self.blocks:
            if isinstance(block, MBConv):
                block.fold()


def load_efficientnet(path: Path) -> EfficientNetLite0:
    """Build the network from a published state dict, in eval mode, with folded batch norms.

    Raises:
        ModelError: If the file is missing, damaged, or of another shape.
    """
    if not path.is_file():
        raise ModelError(f"weights file {path} does not exist", MODELS_HINT, command=MODELS_COMMAND)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = EfficientNetLite0()
        network.load_state_dict({name.replace("._", ".").lstrip("_"): tensor for name, tensor in state.items()})
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{path} does not contain the weights of EfficientNet-Lite0 ({error})",
            MODELS_HINT,
            command=MODELS_COMMAND,
        ) from error
    network.eval()
    network.fold()
    return network.eval().requires_grad_(False)


def build_efficientnet_preparer(config: EfficientNetConfig) -> PicturePreparer:
    """Build the preparer that resizes pictures to the input size of the network."""
    stretch = config.fit == "stretch"
    preprocessing = Preprocessing(
        resize=(SIDE, SIDE) if stretch else SIDE,
        resample="bicubic",
        crop=None if stretch else (SIDE, SIDE),
        mean=(127.0,) * 3,
        std=(128.0,) * 3,
        arithmetic="torch",  # its training pictures were resized by TensorFlow, not Pillow
    )
    return PicturePreparer(preprocessing)


class EfficientNetEncoder(PictureEncoder):
    """EfficientNet-Lite0 without its classifier: one row for each frame."""

    def __init__(self, config: EfficientNetConfig, device: str = "auto") -> None:
        self.settings = config.settings()
        self.inference = Inference(device, config.batch_size)
        self.network = self.inference.place(load_efficientnet(config.weights))
        self.preparer = build_efficientnet_preparer(config)

    @property
    def dim(self) -> int:
        """D, the channels of the head of the network."""
        return EfficientNetConfig.dim

    def _forward(self, frames: torch.Tensor) -> torch.Tensor:
        pictures: torch.Tensor = self.preparer.preprocessing.normalise(frames)
        features: torch.Tensor = self.network(pictures.contiguous(memory_format=torch.channels_last))
        return features
