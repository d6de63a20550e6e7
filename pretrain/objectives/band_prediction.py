"""Predict the bands that a view held out, from the tokens of that view: the joint term beside NT-Xent.

A token must then keep the spectrum's shape, not only what tells samples apart. Targets are the clean raw values of the
held-out bands in the view's own crop, turned and flipped like it. They are divided by the clean level of the bands that
the view kept: the scale in which the encoder's input scaling puts its input.

Shapes: B samples, N tokens (1 when pooled), T target bands, C raw bands, D width, R rank of the readout, h w crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.objectives.base import VIEWS, MicroBatch, Objective, Surroundings
from pretrain.objectives.config import BandPredictionConfig
from pretrain.views.config import ViewConfig
from pretrain.views.view import PartPlan, crop_part, plan_part
from specfm.batch import FILLER_NM, Batch, BatchPart
from specfm.models.embeddings.codes import SpectralFourier
from specfm.models.quadrature import effective_fwhm_nm, quadrature_weights, safe_wavelengths_nm


@dataclass(frozen=True)
class BandTargets:
    """What to predict.

    Attributes:
        wavelengths_nm_BT: float64.
        fwhm_nm_BT: float64.
        weight_BT: float32 quadrature weights of the targets, each row sums to 1 (to 0 where a sample has none).
        value_BNT: float32, in units of the sample's level.
        mask_BN: True where value_BNT rests on a valid pixel.
        held_out_B: False where seen bands had to stand in.
    """

    wavelengths_nm_BT: Tensor
    fwhm_nm_BT: Tensor
    weight_BT: Tensor
    value_BNT: Tensor
    mask_BN: Tensor
    held_out_B: Tensor


def band_targets(
    batch: Batch,
    views: ViewConfig,
    config: BandPredictionConfig,
    patch_size: int,
    seed: int,
    step: int,
    view: int,
    strength: float = 1.0,
) -> BandTargets:
    """Targets for the view that :func:`pretrain.views.make_view` makes of ``batch`` from the same arguments.

    Args:
        batch: raw, as stored.
        views: how views are made.
        config: of the objective.
        patch_size: of the encoder, so that targets lie on its token grid.
        seed: as of :func:`pretrain.views.make_view`.
        step: likewise.
        view: likewise.
        strength: likewise.
    """
    targets = [
        _part_targets(part, plan_part(part, views, seed, step, view, strength), config, patch_size) for part in batch
    ]
    width = max(t.value_BNT.shape[2] for t in targets)
    tokens = max(t.value_BNT.shape[1] for t in targets)

    def bands(name: str) -> Tensor:
        # what stands in the padding has weight 0 but enters the readout: an ordinary wavelength keeps it finite
        return torch.cat([F.pad(v := getattr(t, name), (0, width - v.shape[1]), value=FILLER_NM) for t in targets])

    return BandTargets(
        bands("wavelengths_nm_BT"),
        bands("fwhm_nm_BT"),
        torch.cat([F.pad(t.weight_BT, (0, width - t.weight_BT.shape[1])) for t in targets]),
        torch.cat(
            [F.pad(v := t.value_BNT, (0, width - v.shape[2], 0, tokens - v.shape[1])) for t in targets],
        ),
        torch.cat([F.pad(t.mask_BN, (0, tokens - t.mask_BN.shape[1])) for t in targets]),
        torch.cat([t.held_out_B for t in targets]),
    )


def _part_targets(part: BatchPart, plan: PartPlan, config: BandPredictionConfig, patch_size: int) -> BandTargets:
    raw = part.bands.expand(len(part))
    chosen_BC, held_out_B = _choose(raw.valid_GC, plan, config)
    order_BC = torch.where(chosen_BC, plan.keys.uniform("target", raw.channels), torch.inf).argsort(dim=1, stable=True)
    source_BT = order_BC[:, : config.targets]
    taken_BT = chosen_BC.gather(1, source_BT)

    x_BhwC, mask_Bhw = crop_part(part, plan.spatial)
    scale_B, offset_B = raw.scale_G[:, None, None, None], raw.offset_G[:, None, None, None]
    level_B = _kept_level(x_BhwC, mask_Bhw, part, plan)
    index = source_BT[:, None, None].expand(*x_BhwC.shape[:3], -1)
    moved = x_BhwC.view(torch.int16) if x_BhwC.dtype == torch.uint16 else x_BhwC
    value_BhwT = moved.gather(3, index).view(x_BhwC.dtype).float() * scale_B + offset_B
    value_BhwT = torch.where(mask_Bhw[..., None] & taken_BT[:, None, None], value_BhwT, 0.0)
    value_BNT, mask_BN = _patch_means(value_BhwT, mask_Bhw, patch_size if config.per == "token" else None)

    weight_BT = torch.where(taken_BT, quadrature_weights(raw).gather(1, source_BT), 0.0)
    weight_BT = weight_BT / weight_BT.sum(1, keepdim=True).clamp_min(1e-12)
    return BandTargets(
        safe_wavelengths_nm(raw).gather(1, source_BT),
        effective_fwhm_nm(raw).gather(1, source_BT),
        weight_BT.float(),
        value_BNT / level_B[:, None, None],
        mask_BN,
        held_out_B,
    )


def _choose(valid_BC: Tensor, plan: PartPlan, config: BandPredictionConfig) -> tuple[Tensor, Tensor]:
    """Bands that may be targets: those the view held out, or a random share of all where it held out none."""
    held_BC = valid_BC & (plan.spectral.slot_BC < 0)
    draw_BC = torch.where(valid_BC, plan.keys.uniform("seen target", valid_BC.shape[1]), torch.inf)
    wanted_B1 = (valid_BC.sum(1, keepdim=True) * config.seen_share).ceil()
    share_BC = valid_BC & (draw_BC.argsort(dim=1, stable=True).argsort(dim=1) < wanted_B1)
    held_out_B = held_BC.any(1)
    return torch.where(held_out_B[:, None], held_BC, share_BC), held_out_B


def _kept_level(x_BhwC: Tensor, mask_Bhw: Tensor, part: BatchPart, plan: PartPlan) -> Tensor:
    """level_B: quadrature-weighted mean magnitude of the bands the view kept, without its gain, tilt and noise."""
    spectral, raw = plan.spectral, part.bands.expand(len(part))
    weight_BC = quadrature_weights(spectral.bands).gather(1, spectral.slot_BC.clamp_min(0))
    if spectral.matrix_BKC is not None:
        weight_BC = weight_BC * spectral.matrix_BKC.sum(1)
    weight_BC = torch.where(spectral.slot_BC >= 0, weight_BC, 0.0).float()
    usable = mask_Bhw[..., None] & raw.valid_GC[:, None, None]
    x_BhwC = x_BhwC.float() * raw.scale_G[:, None, None, None] + raw.offset_G[:, None, None, None]
    magnitude_BC = torch.where(usable, x_BhwC, 0.0).abs().sum((1, 2)) / mask_Bhw.sum((1, 2)).clamp_min(1)[:, None]
    level_B = (magnitude_BC * weight_BC).sum(1)
    return torch.where(level_B > 0, level_B, 1.0)


def _patch_means(value_BhwT: Tensor, mask_Bhw: Tensor, patch: int | None) -> tuple[Tensor, Tensor]:
    """value_BNT and mask_BN: means over the valid pixels of each patch (row-major); without ``patch``, of the crop."""
    batch, height, width, bands = value_BhwT.shape
    if patch is None:
        total, count = value_BhwT.sum((1, 2))[:, None], mask_Bhw.sum((1, 2))[:, None]
    else:
        rows, cols = -(-height // patch), -(-width // patch)
        grow = (0, cols * patch - width, 0, rows * patch - height)
        cut = F.pad(value_BhwT, (0, 0, *grow)).view(batch, rows, patch, cols, patch, bands)
        total = cut.sum((2, 4)).flatten(1, 2)
        count = F.pad(mask_Bhw, grow).view(batch, rows, patch, cols, patch).sum((2, 4)).flatten(1, 2)
    return total / count.clamp_min(1)[..., None], count > 0


class BandPredictor(nn.Module):
    """Low-rank readout of any band from a token: token and band code meet in a product of rank R.

    Args:
        width: D of the encoder.
        rank: R.
        hidden: width of the network over band codes.
    """

    def __init__(self, width: int, rank: int = 64, hidden: int = 128):
        super().__init__()
        self.fourier = SpectralFourier()
        self.norm = nn.LayerNorm(width)
        self.token = nn.Linear(width, rank)
        self.band = nn.Sequential(nn.Linear(self.fourier.num_features, hidden), nn.GELU(), nn.Linear(hidden, rank + 1))
        self.rank = rank

    def forward(self, tokens_BND: Tensor, wavelengths_nm_BT: Tensor, fwhm_nm_BT: Tensor) -> Tensor:
        """prediction_BNT in units of the sample's level; around 1, the mean of any spectrum, at the start."""
        code_BTR = self.band(self.fourier(wavelengths_nm_BT, fwhm_nm_BT))
        key_BTR, bias_BT = code_BTR[..., : self.rank], code_BTR[..., self.rank]
        query_BNR = self.token(self.norm(tokens_BND))
        return torch.einsum("bnr,btr->bnt", query_BNR, key_BTR) / self.rank**0.5 + bias_BT[:, None] + 1.0


def band_prediction_loss(
    prediction_BNT: Tensor, targets: BandTargets, config: BandPredictionConfig, token_mask_BN: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted Charbonnier plus ``1 - cosine`` along the spectrum, over valid tokens.

    The mean is over tokens within a sample, then over all B samples (those without a target count 0), so the loss of a
    batch is the mean of the losses of its equal parts.

    Args:
        prediction_BNT: of :class:`BandPredictor`.
        targets: what is predicted.
        config: of the objective.
        token_mask_BN: True where the encoder's token is defined.

    Returns:
        The loss (before ``config.weight``) and detached figures to log.
    """
    prediction = prediction_BNT.float()
    value, weight = targets.value_BNT, targets.weight_BT[:, None]
    mask_BN = targets.mask_BN if token_mask_BN is None else targets.mask_BN & token_mask_BN
    mask_BN = mask_BN & (targets.weight_BT.sum(1) > 0)[:, None]
    prediction = torch.where(mask_BN[..., None], prediction, 0.0)
    value = torch.where(mask_BN[..., None], value, 0.0)

    charbonnier_BN = (weight * (((prediction - value).square() + config.eps**2).sqrt() - config.eps)).sum(-1)
    dot_BN = (weight * prediction * value).sum(-1)
    # floors inside the roots: the gradient of a norm is not defined at 0
    norm_BN = (((weight * prediction.square()).sum(-1) + 1e-12) * ((weight * value.square()).sum(-1) + 1e-12)).sqrt()
    angle_BN = torch.where(mask_BN, 1 - dot_BN / norm_BN, 0.0)

    tokens_B = mask_BN.sum(1).clamp_min(1)
    charbonnier = (torch.where(mask_BN, charbonnier_BN, 0.0).sum(1) / tokens_B).mean()
    angle = (angle_BN.sum(1) / tokens_B).mean()
    figures = {
        "bands/charbonnier": charbonnier.detach(),
        "bands/angle": angle.detach(),
        "bands/held_out": targets.held_out_B.float().mean(),
    }
    return charbonnier + config.cosine_weight * angle, figures


class BandPrediction(Objective):
    """The bands that each view held out, from its tokens or its pooled feature; the mean over both views."""

    def __init__(self, config: BandPredictionConfig, around: Surroundings) -> None:
        self.config, self.around, self.weight = config, around, config.weight
        self.predictor = BandPredictor(around.width, config.rank)
        self.heads = {"band_prediction": self.predictor}

    def separate(self, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        found = [self._of_view(part, view, name) for view, name in enumerate(VIEWS)]
        loss = torch.stack([loss for loss, _ in found]).sum() / len(found)
        return loss, {name: torch.stack([f[name] for _, f in found]).sum() / len(found) for name in found[0][1]}

    def _of_view(self, part: MicroBatch, view: int, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        around, features, rows = self.around, part.features, part.rows_of(name)
        targets = band_targets(
            part.pairs.sides[view],
            around.views,
            self.config,
            around.patch_size,
            around.seed,
            part.step,
            view,
            part.strength,
        )
        per_token = self.config.per == "token"
        tokens = features.tokens_BND[rows] if per_token else features.pooled_BD[rows, None]
        mask = features.token_mask_BN[rows] if per_token else features.token_mask_BN[rows].any(1, keepdim=True)
        predicted = self.predictor(tokens, targets.wavelengths_nm_BT, targets.fwhm_nm_BT)
        return band_prediction_loss(predicted, targets, self.config, mask)
