"""Layers that pad as TensorFlow's SAME does, for weights that were trained there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BATCH_NORM_EPSILON = 1e-3
"""TensorFlow's default."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after one axis: the odd pixel goes after, unlike torch's symmetric padding."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: torch.Tensor, kernel: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """Pad (B, C, H, W) so that a layer's output is ``ceil(H / stride)`` by ``ceil(W / stride)``."""
    rows = same_padding(x.shape[-2], kernel, stride)
    columns = same_padding(x.shape[-1], kernel, stride)
    return F.pad(x, (*columns, *rows), value=value) if any((*rows, *columns)) else x


class SameConv2d(nn.Conv2d):
    """A square convolution with SAME padding and no bias until a batch norm is folded into it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # without a stride SAME is symmetric, and the convolution pads by itself
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """From (B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] > 1:
            input = pad_same(input, self.kernel_size[0], self.stride[0])
        return super().forward(input)


class SameMaxPool2d(nn.Module):
    """Max pooling with SAME padding; padding never wins."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (B, C, H, W) to (B, C, ceil(H / stride), ceil(W / stride))."""
        return F.max_pool2d(pad_same(x, self.kernel, self.stride, float("-inf")), self.kernel, self.stride)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm with TensorFlow's epsilon."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON)


def fold(module: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Fold batch norms into the convolutions before them: the same function within rounding, in fewer steps.

    Args:
        module: In eval mode.
        pairs: Attribute names of a convolution and of the batch norm that follows it.
    """
    for conv, norm in pairs:
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
