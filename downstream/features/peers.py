"""Published encoders under the same protocol: torchgeo's DOFA, Panopticon and Copernicus-FM, and any timm model.

A peer is named ``NAME[@SIDE][=FILE]``: ``dofa_base=weights.safetensors``, ``panopticon@56``, ``timm:resnet18``. Without
a file its weights are random, and its row says so. Windows are resized (bilinear) to SIDE pixels: 224 with weights, as
published, else four patches. The vector probed is the peer's own pooled output, whatever ``--pooling`` says.

What a peer is given: physical values divided by the mean of the window's valid pixels and bands, because scenes come in
different quantities and no scaler may see test data; the published recipes standardise per band of a known product
instead, so a row with weights may understate the peer. Invalid pixels get the mean, invalid bands are left out. A timm
model gets three bands: those nearest to 640, 550 and 460 nm, or, where the sensor has none within 60 nm of one of them,
the middles of the three thirds of its band list.

Shape suffixes: B windows, H rows, W columns, C bands (K valid ones).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specfm.bands import BandGrid
from specfm.errors import SpecfmError, UsageError
from specfm.models.features import Features
from specfm.sensors import Sensor

RGB_NM = (640.0, 550.0, 460.0)
RGB_WITHIN_NM = 60.0
PUBLISHED_SIDE = 224
# name -> (module of torchgeo.models, function, patch side)
TORCHGEO: dict[str, tuple[str, int]] = {
    "dofa_small": ("dofa_small_patch16_224", 16),
    "dofa_base": ("dofa_base_patch16_224", 16),
    "dofa_large": ("dofa_large_patch16_224", 16),
    "panopticon": ("panopticon_vitb14", 14),
    "copernicusfm": ("copernicusfm_base", 16),
}
Call = Callable[[nn.Module, Tensor, BandGrid], Tensor]


@dataclass(frozen=True)
class PeerName:
    """A peer as the user names it."""

    name: str
    side: int | None
    weights: Path | None

    @classmethod
    def parse(cls, text: str) -> PeerName:
        """Split ``NAME[@SIDE][=FILE]``.

        Raises:
            UsageError: an unknown name, or a side that is no number.
        """
        head, _, file = text.partition("=")
        name, _, side = head.partition("@")
        if not name.startswith("timm:") and name not in TORCHGEO:
            raise UsageError(f"unknown peer {name!r}; one of {', '.join(TORCHGEO)}, or timm:MODEL")
        if side and not (side.isdigit() and int(side)):
            raise UsageError(f"peer {text!r}: after @ comes the side of its image in pixels, as in {name}@64")
        return cls(name, int(side) if side else None, Path(file) if file else None)


class Peer(nn.Module):
    """One peer behind the interface of an encoder: ``(x_BHWC, sensor, mask_BHW) -> Features`` of one token."""

    patch_size = 1  # windows are resized, so every side is fine

    def __init__(self, model: nn.Module, call: Call, side: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.side, self.config = model, side, config
        self._call = call

    def forward(self, x_BHWC: Tensor, sensor: Sensor, mask_BHW: Tensor) -> Features:
        """Features of windows as stored."""
        bands = sensor.bands
        valid_K = np.flatnonzero(bands.valid)
        x_BHWK = torch.nan_to_num(x_BHWC[..., torch.as_tensor(valid_K, device=x_BHWC.device)].float())
        x_BHWK = x_BHWK * sensor.scale + sensor.offset
        weight = mask_BHW[..., None].float()
        level_B = (x_BHWK * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * len(valid_K)).clamp_min(1)
        level = torch.where(level_B.abs() > 1e-12, level_B, 1.0)[:, None, None, None]
        x_BKHW = torch.where(mask_BHW[..., None], x_BHWK / level, 1.0).permute(0, 3, 1, 2)
        image = F.interpolate(x_BKHW, size=(self.side, self.side), mode="bilinear", align_corners=False)
        z_BD = self._call(self.model, image, bands.subset(valid_K))
        mask_BN = torch.ones(len(z_BD), 1, dtype=torch.bool, device=z_BD.device)
        return Features(z_BD[:, None], z_BD, mask_BN, ((1, 1),))


def load_peer(text: str, seed: int = 0, device: str = "cpu") -> tuple[Peer, str]:
    """Build the peer named by ``text`` and its name in the table.

    Raises:
        UsageError: an unknown peer, torchgeo missing, a size the peer cannot take.
        SpecfmError: weights that cannot be read or do not fit.
    """
    wanted = PeerName.parse(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, call, side = _timm(wanted) if wanted.name.startswith("timm:") else _torchgeo(wanted)
    digest = _load_weights(model, wanted) if wanted.weights else None
    config = {"peer": wanted.name, "side": side, "weights": digest, "seed": None if digest else seed}
    label = f"{wanted.name} {'weights ' + digest[:6] if digest else 'random'} @{side}"
    return Peer(model, call, side, config).to(device).eval(), label


def _torchgeo(wanted: PeerName) -> tuple[nn.Module, Call, int]:
    try:
        from torchgeo import models
    except ImportError as error:
        raise UsageError(
            f"peer {wanted.name!r} needs torchgeo, which cannot be imported ({error}); pip install 'specfm[peers]'"
        ) from None
    function, patch = TORCHGEO[wanted.name]
    side = wanted.side or (PUBLISHED_SIDE if wanted.weights else 4 * patch)
    if side % patch:
        raise UsageError(f"peer {wanted.name!r} has patches of {patch} pixels; {side} is not a multiple of that")
    size = {} if wanted.name == "copernicusfm" else {"img_size": side}
    if wanted.name == "copernicusfm":
        call: Call = _call_copernicus
    else:
        call = _call_panopticon if wanted.name == "panopticon" else _call_dofa
    return getattr(models, function)(**size), call, side


def _centred(image_BKHW: Tensor) -> Tensor:
    return (image_BKHW - 1) / 0.5


def _call_dofa(model: Any, image_BKHW: Tensor, bands: BandGrid) -> Tensor:
    return model.forward_features(_centred(image_BKHW), (bands.wavelengths_nm / 1000).tolist())


def _call_panopticon(model: Any, image_BKHW: Tensor, bands: BandGrid) -> Tensor:
    channel_K = torch.tensor(bands.wavelengths_nm.tolist(), device=image_BKHW.device)
    # repeated, not expanded: the model writes into it
    return model({"imgs": _centred(image_BKHW), "chn_ids": channel_K.repeat(len(image_BKHW), 1)})


def _call_copernicus(model: Any, image_BKHW: Tensor, bands: BandGrid) -> Tensor:
    unknown_B4 = torch.full((len(image_BKHW), 4), float("nan"), device=image_BKHW.device)
    return model.forward_features(
        _centred(image_BKHW), unknown_B4, wavelengths=bands.wavelengths_nm.tolist(),
        bandwidths=bands.effective_fwhm_nm.tolist(), input_mode="spectral", kernel_size=16,
    )  # fmt: skip


def three_bands(bands: BandGrid) -> np.ndarray:
    """The three bands that stand for red, green and blue (see the module's text), as indices."""
    centre_K = np.asarray(bands.wavelengths_nm)
    if len(centre_K) < 3:
        return np.resize(np.arange(len(centre_K)), 3)
    gap_3K = np.abs(centre_K[None] - np.array(RGB_NM)[:, None])
    near_3 = gap_3K.argmin(1)
    if gap_3K.min(1).max() <= RGB_WITHIN_NM and len(set(near_3.tolist())) == 3:
        return near_3
    return np.array([len(centre_K) * part // 6 for part in (5, 3, 1)])


def _timm(wanted: PeerName) -> tuple[nn.Module, Call, int]:
    import timm

    name = wanted.name.removeprefix("timm:")
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}; list them with timm.list_models()")
    side = wanted.side or (PUBLISHED_SIDE if wanted.weights else 64)
    try:
        try:
            model = timm.create_model(name, pretrained=False, num_classes=0, img_size=side)
        except TypeError:  # convolutional networks take any size and no such argument
            model = timm.create_model(name, pretrained=False, num_classes=0)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(f"timm model {name!r} cannot be built for images of {side} pixels ({error})") from None
    told: Any = model.pretrained_cfg
    mean_3 = torch.tensor(told.get("mean", (0.485, 0.456, 0.406)))
    sd_3 = torch.tensor(told.get("std", (0.229, 0.224, 0.225)))

    def call(model: Any, image_BKHW: Tensor, bands: BandGrid) -> Tensor:
        rgb = image_BKHW[:, torch.as_tensor(three_bands(bands), device=image_BKHW.device)]
        rgb = rgb / rgb.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)  # the level of these bands, not of all
        mean, sd = (v.to(rgb)[None, :, None, None] for v in (mean_3, sd_3))
        return model((rgb * mean.mean() - mean) / sd)

    return model, call, side


def _load_weights(model: nn.Module, wanted: PeerName) -> str:
    """Fill the model from a local safetensors file; returns the digest of the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from specfm.files import sha256_file

    path = wanted.weights
    assert path is not None
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: only .safetensors are read, as other formats can run code; convert the file first")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SpecfmError(f"{path} cannot be read ({error})") from None
    target = model.state_dict()
    weights = {k: v for k, v in weights.items() if k in target or not k.startswith(("head.", "fc.", "classifier."))}
    for key in weights.keys() & target.keys():
        if key.endswith("pos_embed") and weights[key].shape != target[key].shape:
            from timm.layers import resample_abs_pos_embed

            side = round((target[key].shape[1] - 1) ** 0.5)
            weights[key] = resample_abs_pos_embed(weights[key], [side, side], num_prefix_tokens=1)
    wrong = [k for k in weights.keys() & target.keys() if weights[k].shape != target[k].shape]
    missing = [k for k in target.keys() - weights.keys() if not k.startswith(("head.", "fc_norm."))]
    unknown = sorted(weights.keys() - target.keys())
    if wrong or missing or unknown:
        raise SpecfmError(
            f"{path} does not fit {wanted.name}: missing {sorted(missing)[:3]}, unknown {unknown[:3]}, "
            f"other shape {sorted(wrong)[:3]}"
        )
    model.load_state_dict(weights, strict=False)
    return sha256_file(path)[:16]
