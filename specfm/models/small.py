"""Small networks for the bands of one sensor: students to distil into, and what anything small is measured against.

All are dense (one feature vector a pixel) and have the surface of a timm network, so that everything done with a
:class:`specfm.models.backbone.Backbone` is done with them: training, maps, export. A perceptron and a convolution along
the spectrum see single pixels; give them windows of 1.

Shapes: B images, C bands, H W pixels, D width, S channels of a spectral filter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import ceil
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from specfm.errors import UsageError


class SmallNetwork(nn.Module, ABC):
    """What the networks have in common.

    Attributes:
        num_features: D.
        pretrained_cfg: as in timm: the name of the convolution that reads the image, if there is one.
    """

    def __init__(self, width: int, first_conv: str | None, drop_rate: float) -> None:
        super().__init__()
        self.num_features = width
        self.pretrained_cfg = {"first_conv": first_conv}
        self.drop = nn.Dropout(drop_rate)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Small networks have no activations worth trading.

        Raises:
            UsageError: ``enable``.
        """
        if enable:
            raise UsageError("small networks have no gradient checkpointing; leave it out")

    @abstractmethod
    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Features of every pixel ``[B, D, H, W]``."""


def _layer(inputs: int, outputs: int, side: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Mlp(SmallNetwork):
    """A perceptron of single pixels: ``depth`` layers of ``width``."""

    def __init__(self, channels: int, width: int = 64, depth: int = 2, drop_rate: float = 0.0) -> None:
        super().__init__(width, "layers.0.0", drop_rate)
        self.layers = nn.Sequential(*(_layer(width if i else channels, width) for i in range(depth)))

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Features of every pixel ``[B, D, H, W]``."""
        return self.drop(self.layers(x_BCHW))


class Cnn1d(SmallNetwork):
    """Convolutions along the spectrum of single pixels, after Hu et al. 2015 (J. Sensors 258619).

    ``depth`` of them with ``filters`` channels, each halving the spectrum, then one layer of ``width``.
    """

    def __init__(
        self, channels: int, width: int = 64, filters: int = 16, depth: int = 2, drop_rate: float = 0.0
    ) -> None:
        super().__init__(width, None, drop_rate)
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [
                nn.Conv1d(filters if i else 1, filters, 7, padding=3, bias=False), nn.BatchNorm1d(filters), nn.ReLU(),
                nn.MaxPool1d(2, ceil_mode=True),
            ]  # fmt: skip
            channels = -(-channels // 2)
        self.layers = nn.Sequential(*layers)
        self.mix = nn.Sequential(nn.Linear(filters * channels, width), nn.ReLU())

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Features of every pixel ``[B, D, H, W]``."""
        x_NSC = self.layers(rearrange(x_BCHW, "B C H W -> (B H W) 1 C"))
        x_ND = self.drop(self.mix(x_NSC.flatten(1)))
        return rearrange(x_ND, "(B H W) D -> B D H W", H=x_BCHW.shape[2], W=x_BCHW.shape[3])


class Cnn2d(SmallNetwork):
    """Bands mixed pixel by pixel, then ``depth`` convolutions of 3 x 3 pixels, all of ``width`` channels."""

    def __init__(self, channels: int, width: int = 48, depth: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__(width, "layers.0.0", drop_rate)
        self.layers = nn.Sequential(_layer(channels, width), *(_layer(width, width, 3) for _ in range(depth)))

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Features of every pixel ``[B, D, H, W]``."""
        return self.drop(self.layers(x_BCHW))


class Cnn3d(SmallNetwork):
    """Two convolutions over spectrum and place at once, after HybridSN (Roy et al. 2019, arXiv 1902.06701).

    ``step`` is how coarse the first one makes the spectrum; then it is mixed into ``width`` channels.
    """

    def __init__(self, channels: int, width: int = 64, filters: int = 8, step: int = 4, drop_rate: float = 0.0) -> None:
        super().__init__(width, None, drop_rate)
        self.layers = nn.Sequential(
            nn.Conv3d(1, filters, (7, 3, 3), (step, 1, 1), (3, 1, 1), bias=False), nn.BatchNorm3d(filters), nn.ReLU(),
            nn.Conv3d(filters, 2 * filters, (5, 3, 3), (2, 1, 1), (2, 1, 1), bias=False), nn.BatchNorm3d(2 * filters),
            nn.ReLU(),
        )  # fmt: skip
        coarse = ceil(ceil(channels / step) / 2)
        self.mix = _layer(2 * filters * coarse, width)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Features of every pixel ``[B, D, H, W]``."""
        x_BSCHW = self.layers(x_BCHW[:, None])
        return self.drop(self.mix(x_BSCHW.flatten(1, 2)))


SMALL: dict[str, Callable[..., SmallNetwork]] = {"mlp": Mlp, "cnn1d": Cnn1d, "cnn2d": Cnn2d, "cnn3d": Cnn3d}


def create_small(name: str, channels: int, **options: Any) -> SmallNetwork:
    """A small network with random weights.

    Args:
        name: one of :data:`SMALL`.
        channels: C.
        options: those of the class.

    Raises:
        UsageError: an unknown name or option, or a number below 1.
    """
    if name not in SMALL:
        raise UsageError(f"there is no small network {name!r}; choose one of {', '.join(SMALL)}")
    for key, value in options.items():
        if key != "drop_rate" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UsageError(f"option {key} of small:{name} must be a whole number of at least 1, not {value!r}")
    try:
        return SMALL[name](channels, **options)
    except TypeError as error:
        raise UsageError(f"small:{name} does not take these options ({error})") from None
