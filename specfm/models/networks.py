"""Networks behind :class:`specfm.models.backbone.Backbone`: those of timm, with stems for small windows, and our own.

A network has ``num_features``, ``forward_features`` and, where its first layer is one convolution of the image, the
name of it in ``pretrained_cfg["first_conv"]``.

Shapes: B samples, K channels of the stem (L other ones), C bands, D width, h w map of the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from specfm.errors import UsageError
from specfm.models.small import SMALL, create_small

TIMM, OURS = "timm:", "small:"
TRIAL_SIDE = 32  # pixels of the image that a new network is tried on


def create_network(
    backbone: str, channels: int, stride: int | None, drop_path: float, options: dict[str, Any]
) -> tuple[Any, int]:
    """The network, with the stride wanted, and the pixels per position of its last map.

    Args:
        backbone: ``timm:NAME``, or ``small:`` and one of :data:`specfm.models.small.SMALL`.
        channels: of the image.
        stride: of the stem; None keeps what timm has.
        drop_path: as in timm; a small network has dropout in place of it.
        options: further ones of the network.

    Raises:
        UsageError: no such network, or one that cannot be built like this.
    """
    import timm

    name = backbone.removeprefix(OURS)
    if backbone.startswith(OURS):
        if stride not in (None, 1):
            raise UsageError(f"{backbone} looks at every pixel, so its stride is 1, not {stride}; leave stride out")
        return create_small(name, channels, drop_rate=drop_path, **options), 1
    name = backbone.removeprefix(TIMM)
    if not backbone.startswith(TIMM) or not timm.is_model(name):
        raise UsageError(
            f"there is no network {backbone!r}; choose timm:NAME (timm.list_models() lists them) or one of "
            f"{', '.join(OURS + each for each in SMALL)}"
        )
    return _of_timm(name, channels, stride, drop_path, options)


def stem_of(net: Any) -> nn.Conv2d:
    """The convolution that reads the image.

    Raises:
        UsageError: the network begins otherwise.
    """
    name = net.pretrained_cfg.get("first_conv")
    found = net.get_submodule(name) if isinstance(name, str) else None
    if not isinstance(found, nn.Conv2d):
        raise UsageError(
            "this network does not begin with one convolution of the image, so its stem cannot take other bands"
        )
    return found


def _of_timm(
    name: str, channels: int, stride: int | None, drop_path: float, options: dict[str, Any]
) -> tuple[Any, int]:
    import timm

    given = {"pretrained": False, "in_chans": channels, "num_classes": 0, **options}
    given |= {"drop_path_rate": drop_path} if drop_path else {}  # not every network has it
    is_vit = "patch_embed" in str(timm.get_pretrained_cfg_value(name, "first_conv"))
    if is_vit:
        given |= {"dynamic_img_size": True, "dynamic_img_pad": True}
        given |= {} if stride is None else {"patch_size": stride, "img_size": 8 * stride}
    try:
        net: Any = timm.create_model(name, **given)
        if stride is not None and not is_vit:
            _set_stride(net, stride)
        stem_of(net)
        side = max(TRIAL_SIDE, int(net.feature_info[-1]["reduction"]))
        with torch.no_grad():
            image = torch.zeros(1, channels, side, side)
            seen = net.eval().forward_features(image)
        if seen.ndim == 3:
            return net.train(), int(net.patch_embed.patch_size[0])
        return net.train(), side // as_map(seen, net, None).shape[-1]
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"timm model {name!r} cannot be built for {channels} bands ({error})") from None


def least_side(net: Any, channels: int, patch_size: int) -> int:
    """Pixels below which an image must be padded: networks that halve sides rounding down leave nothing of it."""
    try:
        with torch.no_grad():
            net.eval().forward_features(torch.zeros(1, channels, 1, 1))
    except RuntimeError:
        return patch_size
    finally:
        net.train()
    return 1


def needs_several(net: nn.Module) -> bool:
    """Whether it is trained by statistics of its own batch, which one number a channel does not have."""
    return any(
        isinstance(each, nn.modules.batchnorm._BatchNorm) and not isinstance(each, nn.SyncBatchNorm)
        for each in net.modules()
    )


def _set_stride(net: Any, stride: int) -> None:
    """Another stride of the first convolution; a pooling right behind it is taken out.

    Kernels as wide as their stride (patches) stay so, others become 3 x 3.
    """
    stem = stem_of(net)
    patches = stem.kernel_size == stem.stride
    side, padding = (stride, 0) if patches else (3, 1)
    fresh = type(stem)(
        stem.in_channels, stem.out_channels, side, stride=stride, padding=padding, bias=stem.bias is not None
    )
    parent, _, last = net.pretrained_cfg["first_conv"].rpartition(".")
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
    if fresh.bias is not None:
        nn.init.zeros_(fresh.bias)
    setattr(net.get_submodule(parent), last, fresh)
    if hasattr(net, "maxpool"):
        net.maxpool = nn.Identity()


def as_map(found: Tensor, net: Any, grid: tuple[int, int] | None) -> Tensor:
    """[B, D, h, w] from what ``forward_features`` gives: that, [B, h, w, D], or tokens behind prefix tokens."""
    if found.ndim == 3:
        assert grid is not None
        tokens = found[:, int(getattr(net, "num_prefix_tokens", 0)) :]
        return tokens.mT.reshape(found.shape[0], -1, *grid)
    return found if found.shape[1] == net.num_features else found.movedim(-1, 1)


def change_of_mixtures(old_KC: Tensor, new_LC: Tensor) -> Tensor:
    """M ``[K, L]`` with ``old = M @ new`` as nearly as can be: least squares, float64.

    Exact zeros and ones where the new rows begin with the old ones, which a solver would only come close to.
    """
    if len(new_LC) >= len(old_KC) and torch.equal(new_LC[: len(old_KC)].float(), old_KC.float()):
        return torch.eye(len(old_KC), len(new_LC), dtype=torch.float64, device=old_KC.device)
    solved = torch.linalg.lstsq(new_LC.T.cpu(), old_KC.T.cpu(), driver="gelsd").solution
    return solved.T.to(old_KC.device)
