"""The networks of the PyTorch peers: the layers, initial distributions and paddings of the Flax ones, [n, c, h, w]."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SimpLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = lecun(nn.Conv2d(1, 3, 5, padding=2))
        self.conv2 = lecun(nn.Conv2d(3, 6, 5, padding=2))
        self.dense = lecun(nn.Linear(294, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        return self.dense(x.flatten(1))


class Same(nn.Conv2d):
    """A 3x3 convolution of stride 2 that pads as TensorFlow and Flax do: an even image at the right and bottom only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


class MobileNetV1(nn.Module):
    """Width 0.25 (Howard et al. 2017, table 1), the first convolution without stride."""

    CHANNELS = (16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self, momentum: float) -> None:
        super().__init__()

        def unit(conv: nn.Conv2d) -> list[nn.Module]:
            return [truncated(conv, 2.0), nn.BatchNorm2d(conv.out_channels, eps=1e-3, momentum=1 - momentum), nn.ReLU()]

        layers, c = unit(nn.Conv2d(3, 8, 3, padding=1, bias=False)), 8
        for c_out, stride in zip(self.CHANNELS, self.STRIDES, strict=True):
            options: dict[str, Any] = {"groups": c, "bias": False}
            depthwise = nn.Conv2d(c, c, 3, padding=1, **options) if stride == 1 else Same(c, c, 3, 2, **options)
            layers += unit(depthwise) + unit(nn.Conv2d(c, c_out, 1, bias=False))
            c = c_out
        self.layers = nn.Sequential(*layers)
        self.dense = lecun(nn.Linear(c, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.layers(x).mean((2, 3)))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: of type A, or with `projects` a 1x1 convolution (type B)."""

    def __init__(self, c_in: int, c_out: int, stride: int, momentum: float, *, projects: bool = False) -> None:
        super().__init__()

        def conv_bn(c_in: int, size: int, stride: int) -> nn.Sequential:
            conv = fan_out(nn.Conv2d(c_in, c_out, size, stride, size // 2, bias=False))
            return nn.Sequential(conv, nn.BatchNorm2d(c_out, momentum=1 - momentum))

        self.conv1, self.conv2 = conv_bn(c_in, 3, stride), conv_bn(c_out, 3, 1)
        self.projection = conv_bn(c_in, 1, stride) if projects else None
        self.stride, self.added = stride, c_out - c_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(functional.relu(self.conv1(x)))
        if self.projection is not None:
            x = self.projection(x)
        elif self.stride > 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """He et al. 2016: stages of equal blocks, the first block of all but the first stage halves height and width."""

    def __init__(self, stem: nn.Module, widths: tuple[int, ...], blocks: int, momentum: float, *, projects: bool) -> None:
        super().__init__()
        layers, c = [stem], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                first = stage > 0 and block == 0
                layers.append(Block(c, width, 2 if first else 1, momentum, projects=projects and first))
                c = width
        self.layers = nn.Sequential(*layers)
        self.dense = torch_dense(nn.Linear(c, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.layers(x).mean((2, 3)))


def resnet20(momentum: float) -> nn.Module:
    stem = nn.Sequential(fan_out(nn.Conv2d(3, 16, 3, padding=1, bias=False)), nn.BatchNorm2d(16, momentum=1 - momentum))
    return ResNet(stem.append(nn.ReLU()), (16, 32, 64), 3, momentum, projects=False)


def resnet18(momentum: float) -> nn.Module:
    stem = nn.Sequential(fan_out(nn.Conv2d(3, 64, 7, 2, 3, bias=False)), nn.BatchNorm2d(64, momentum=1 - momentum))
    stem = stem.append(nn.ReLU()).append(nn.MaxPool2d(3, 2, 1))
    return ResNet(stem, (64, 128, 256, 512), 2, momentum, projects=True)


class PreActivated(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, momentum: float) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(c_in, momentum=1 - momentum), nn.BatchNorm2d(c_out, momentum=1 - momentum)
        self.conv1 = fan_out(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False))
        self.conv2 = fan_out(nn.Conv2d(c_out, c_out, 3, padding=1, bias=False))
        self.projection = fan_out(nn.Conv2d(c_in, c_out, 1, stride, bias=False)) if c_in != c_out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(x))
        if self.projection is not None:
            x = self.projection(y)
        return x + self.conv2(functional.relu(self.bn2(self.conv1(y))))


class WRN402(nn.Module):
    """WRN-40-2 (Zagoruyko, Komodakis 2016): three stages of six pre-activated blocks, 32, 64 and 128 channels."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [fan_out(nn.Conv2d(3, 16, 3, padding=1, bias=False))]
        c = 16
        for stage, width in enumerate((32, 64, 128)):
            for block in range(6):
                layers.append(PreActivated(c, width, 2 if stage and not block else 1, momentum))
                c = width
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(c, momentum=1 - momentum), nn.ReLU())
        self.dense = torch_dense(nn.Linear(c, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.layers(x).mean((2, 3)))


def truncated(layer: Any, gain: float) -> Any:
    """Normal weights of variance gain / fan in, cut at two deviations, as Flax's `he_normal` and `lecun_normal`."""
    deviation = math.sqrt(gain / layer.weight[0].numel()) / 0.87962566103423978
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    return layer


def lecun(layer: Any) -> Any:
    nn.init.zeros_(layer.bias)
    return truncated(layer, 1.0)


def fan_out(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return layer


def torch_dense(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.bias)  # the weights are PyTorch's own
    return layer


def build(name: str, batch_norm_momentum: float = 0.9) -> nn.Module:
    if name == "simplenet_v1":
        return SimpLeNet()
    networks = {"mobilenet_v1": MobileNetV1, "resnet20": resnet20, "resnet18": resnet18, "wrn_40_2": WRN402}
    if name not in networks:
        raise SystemExit(f"the PyTorch peers have simplenet_v1, {', '.join(networks)}; not {name}")
    return networks[name](batch_norm_momentum)


def count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
