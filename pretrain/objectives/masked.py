"""Masked modelling: predict what was hidden of a window, patches or ranges of wavelengths, from what was left to see.

As in SpecAware (arXiv 2510.27219), with visible patches gathered *before* the embedding, so that neither content nor
level of hidden ones reaches the encoder (and the embedding costs a quarter), and with validity of pixels and bands
throughout. The window is the first view's crop, turned and flipped like it, its values as stored: what the encoder must
not learn is hidden from it, not disturbed.

Shapes: B samples of a part, N tokens (K visible, T read), C bands (S read), P pixels of a patch, G = 1 or B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.objectives.base import MicroBatch, Objective, Surroundings
from pretrain.objectives.config import MaskedConfig
from pretrain.objectives.masking import hidden_ranges, inside_window, split_patches
from pretrain.pairs.nearest import moments_of, whitening_of
from pretrain.rng import SHARED, Keys
from pretrain.views.attributes import drop_attributes
from pretrain.views.spatial import plan_spatial
from pretrain.views.view import crop_part
from specfm.batch import BandTensors, BatchPart
from specfm.engine.schedule import ramp
from specfm.errors import UsageError
from specfm.models.decoders import Asked, Decoder
from specfm.models.embeddings import SpecAwareEmbedding
from specfm.models.embeddings.specaware import WIDTH as CODE_WIDTH
from specfm.models.encoder import Encoder
from specfm.models.features import Features
from specfm.models.patches import Patches, cut_patches
from specfm.models.quadrature import quadrature_weights
from specfm.shards import ShardSet

NOISE_SHIFT_PX = 3  # between pixels whose difference is noise
ALONE = 8  # property of an embedding (see specfm/models/registry.py): patches that are not given make no difference


@dataclass(frozen=True)
class Hidden:
    """One part of a batch with what is hidden of it.

    Attributes:
        x_BHWC: the crop as stored.
        mask_BHW: its valid pixels.
        bands: of the window, unusable outside it.
        shown: the same bands as the encoder is told them.
        keep_BK: visible tokens, None = all.
        read_BT: tokens to read.
        bands_BS: bands to read.
        stem_B: which acquisition's stem each sample goes through.
        weight_BTS: float32, of each in the loss; a token's sum to 1, or to 0 where nothing of it was hidden.
    """

    x_BHWC: Tensor
    mask_BHW: Tensor
    bands: BandTensors
    shown: BandTensors
    keep_BK: Tensor | None
    read_BT: Tensor
    bands_BS: Tensor
    weight_BTS: Tensor
    stem_B: Tensor | None = None


class Masked(Objective):
    """Predictions of hidden patches and wavelengths against what they are; a mean over samples."""

    def __init__(self, config: MaskedConfig, around: Surroundings) -> None:
        self.config, self.around, self.weight = config, around, config.weight
        self.compares_patches = config.mask != "ranges"
        plain, size = config.target == "plain", config.decoder
        if size.width % size.heads:
            raise UsageError(
                f"objective.masked.decoder.width {size.width} is not a multiple of its {size.heads} heads; change one"
            )
        self.decoder = Decoder(
            around.width,
            around.patch_size,
            **size.model_dump(),
            dropout=0.1 if config.published else 0.0,
            start=None if config.published else float(plain),
            own_codes=not config.published,
        )
        self.heads = {"masked": self.decoder}
        self._offsets: Tensor | None = None
        self._whitening: list[tuple[Tensor, Tensor]] = []

    def start(self, encoder: Encoder, shards: ShardSet) -> None:
        """Refuse what cannot be hidden from this encoder, and measure the noise of every shard for whitened targets.

        Raises:
            UsageError: an embedding that has to see all patches, or a shard without neighbours.
        """
        config, embedding = self.config, encoder.embedding
        is_published = isinstance(embedding, SpecAwareEmbedding)
        if config.published and not is_published:
            raise UsageError("objective.masked.published reproduces SpecAware; set model.embedding=specaware as well")
        if config.published and config.decoder.code_width != CODE_WIDTH:
            raise UsageError(
                f"objective.masked.decoder.code_width is {config.decoder.code_width}, but the decoder of SpecAware "
                f"starts from the codes of its embedding, which are {CODE_WIDTH} wide; leave it out"
            )
        if config.mask != "ranges" and not config.published and ALONE not in getattr(embedding, "claims", ()):
            raise UsageError(
                "objective.masked: this embedding reads all patches of a window, so none can be hidden; set "
                "objective.masked.published=true, objective.masked.mask=ranges, or model.embedding=hyper"
            )
        if config.target == "whitened":
            self._offsets = torch.as_tensor(shards.offsets).to(encoder.device)
            for reader in shards.readers:
                moments = moments_of(reader, NOISE_SHIFT_PX, 1, otherwise="set another objective.masked.target")
                maps = whitening_of(reader, moments), moments.mean_D
                matrix_CC, mean_C = (each.float().to(encoder.device) for each in maps)
                self._whitening.append((matrix_CC, mean_C))

    def separate(self, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        parts = part.pairs.first.parts
        hidden = [self.hide(each, part.step, part.strength) for each in parts]
        predicted, prepared = self.predict(part.encoder, hidden)
        losses = [
            self._compare(pred, each, self.target(source, each, patches))
            for pred, each, source, patches in zip(predicted, hidden, parts, prepared, strict=True)
        ]
        angle, charbonnier = (torch.cat(values).mean() for values in zip(*losses, strict=True))
        figures = {"masked/angle": angle.detach(), "masked/charbonnier": charbonnier.detach()}
        return angle + self.config.charbonnier * charbonnier, figures

    def predict(self, encoder: Encoder, hidden: Sequence[Hidden]) -> tuple[list[Tensor], list[Patches]]:
        """pred_BSTP of each part, and the patches of each that the encoder was given."""
        features, prepared = encode_visible(encoder, hidden, embed_all=self.config.published)
        asked = [self._ask(encoder, *each) for each in zip(hidden, prepared, strict=True)]
        return self.decoder(features, asked, encoder.positions), prepared

    def hide(self, part: BatchPart, step: int, strength: float) -> Hidden:
        """Choose what is hidden of each sample; a function of (seed, step, sample) alone.

        Where ``views.band_draw`` is ``part``, all samples of a domain have the same bands hidden.
        """
        config, views, seed = self.config, self.around.views, self.around.seed
        own = Keys.of(part.sample_id_B, seed, step, 0)
        spatial = plan_spatial(part, views, Keys.of(part.sample_id_B, seed, step, SHARED), own, strength)
        x_BHWC, mask_BHW = crop_part(part, spatial)

        share = ramp(step, config.window_start, 1.0, config.window_steps)
        drawn, bands = own, part.bands
        if len(bands) == 1 and views.band_draw == "part":
            drawn = Keys.of(part.domain_B[:1], seed, step, 0)
        elif share < 1 or config.mask != "patches" or views.attribute_dropout * strength > 0:
            bands = bands.expand(len(part))
        bands = drop_attributes(bands, drawn, views.attribute_dropout * strength)
        bands = bands.replace(valid_GC=inside_window(drawn, bands, share))
        hidden_GC = torch.zeros_like(bands.valid_GC)
        if config.mask != "patches":
            hidden_GC = hidden_ranges(drawn, bands, config.range_share, config.ranges)
        shown = bands.replace(valid_GC=bands.valid_GC & ~hidden_GC)

        exists_BN = cut_patches(mask_BHW[..., None], self.around.patch_size).flatten(2).any(-1)
        every_BN = torch.arange(exists_BN.shape[1], device=exists_BN.device).expand_as(exists_BN)
        keep_BK, read_BT = None, every_BN
        masked_BT = torch.zeros_like(exists_BN)
        if config.mask != "ranges":
            keep_BK, masked_BM = split_patches(own, exists_BN, config.ratio)
            masked_BT = torch.ones_like(exists_BN).scatter(1, keep_BK, False)
            if config.mask == "patches":
                read_BT, masked_BT = masked_BM, torch.ones_like(masked_BM, dtype=torch.bool)
        bands_BS = self._bands_read(own, bands, hidden_GC, len(part))
        weights_BC = torch.where(bands.valid_GC, 1.0, 0.0) if config.published else quadrature_weights(bands).float()
        weight_BS, hidden_BS = (v.expand(len(part), -1).gather(1, bands_BS) for v in (weights_BC, hidden_GC))
        weight_BTS = weight_BS[:, None] * (masked_BT[..., None] | hidden_BS[:, None])
        weight_BTS = weight_BTS / weight_BTS.sum(-1, keepdim=True).clamp_min(1e-12)
        return Hidden(x_BHWC, mask_BHW, bands, shown, keep_BK, read_BT, bands_BS, weight_BTS, part.stem_B)

    def _bands_read(self, own: Keys, bands: BandTensors, hidden_GC: Tensor, batch: int) -> Tensor:
        """bands_BS: all bands, or a random choice of those that may be predicted."""
        channels = bands.channels
        count = min(self.config.bands or channels, channels)
        if count == channels:
            return torch.arange(channels, device=hidden_GC.device).expand(batch, -1)
        wanted_GC = hidden_GC if self.config.mask == "ranges" else bands.valid_GC
        draw_BC = torch.where(wanted_GC.expand(batch, -1), own.uniform("bands read", channels), torch.inf)
        return draw_BC.argsort(dim=1, stable=True)[:, :count]

    def _ask(self, encoder: Encoder, hidden: Hidden, patches: Patches) -> Asked:
        bands, bands_BS = hidden.bands, hidden.bands_BS
        if isinstance(encoder.embedding, SpecAwareEmbedding) and self.config.published:
            code_GCE = encoder.embedding.band_codes(bands)
        else:
            code_GCE = self.decoder.codes(bands, quadrature_weights(bands).float())
        if bands_BS.shape[1] < bands.channels:
            code_GCE = code_GCE.expand(len(bands_BS), -1, -1)
            code_GCE = code_GCE.gather(1, bands_BS[..., None].expand(-1, -1, code_GCE.shape[2]))
        exists_BN = cut_patches(hidden.mask_BHW[..., None], self.around.patch_size).flatten(2).any(-1)
        return Asked(hidden.keep_BK, exists_BN, patches.grid_hw, bands.gsd_m_G, code_GCE, hidden.read_BT)

    @torch.no_grad()
    def target(self, part: BatchPart, hidden: Hidden, patches: Patches) -> tuple[Tensor, Tensor]:
        """value_BSTP (float32; undefined at invalid pixels) and pixel_BTP, True = valid.

        Args:
            part: the samples.
            hidden: what of them is hidden.
            patches: as the encoder is given them: their level is the unit of plain targets.
        """
        side, bands = self.around.patch_size, part.bands
        read_BT11 = hidden.read_BT[..., None, None]
        pixel_BTP1 = cut_patches(hidden.mask_BHW[..., None], side)
        pixel_BTP1 = pixel_BTP1.gather(1, read_BT11.expand(-1, -1, *pixel_BTP1.shape[2:]))
        x_BHWC = hidden.x_BHWC.to(torch.float32)
        scale, offset = (v.view(-1, 1, 1, 1) for v in (bands.scale_G, bands.offset_G))
        x_BNPC = cut_patches(x_BHWC, side)
        x_BTPC = x_BNPC.gather(1, read_BT11.expand(-1, -1, *x_BNPC.shape[2:])) * scale + offset
        x_BTPC = torch.where(pixel_BTP1 & bands.valid_GC[:, None, None], x_BTPC, 0.0)
        if self.config.target == "plain":
            x_BTPC = x_BTPC / patches.log_level_B.exp()[:, None, None, None]
        elif self.config.target == "whitened":
            x_BTPC = self._whitened(x_BTPC, part)
        else:
            weight_GC = quadrature_weights(hidden.bands).float()[:, None, None]
            axes = (2, 3) if self.config.target == "patch" else (3,)
            weight_BTPC = weight_GC * pixel_BTP1
            weight_BTPC = weight_BTPC / weight_BTPC.sum(axes, keepdim=True).clamp_min(1e-12)
            x_BTPC = x_BTPC - (x_BTPC * weight_BTPC).sum(axes, keepdim=True)
            variance_BTP1 = (x_BTPC.square() * weight_BTPC).sum(axes, keepdim=True)
            x_BTPC = x_BTPC * (variance_BTP1 + 1e-12).rsqrt()
        bands_B11S = hidden.bands_BS[:, None, None].expand(-1, *x_BTPC.shape[1:3], -1)
        return x_BTPC.gather(3, bands_B11S).movedim(3, 1), pixel_BTP1[..., 0]

    def _whitened(self, x_BTPC: Tensor, part: BatchPart) -> Tensor:
        assert self._offsets is not None, "start measures the noise"
        weights_GC = quadrature_weights(part.bands).float()
        level_BTP = (x_BTPC.abs() @ weights_GC[:, None, :, None]).squeeze(-1)
        x_BTPC = x_BTPC / torch.where(level_BTP > 0, level_BTP, 1.0)[..., None]
        shard_B = torch.searchsorted(self._offsets, part.sample_id_B.to(self._offsets), right=True) - 1
        found_BTPC = torch.zeros_like(x_BTPC)
        with torch.autocast(x_BTPC.device.type, enabled=False):
            for shard in shard_B.unique().tolist():
                matrix_CC, mean_C = self._whitening[shard]
                mine_B, channels = shard_B == shard, len(mean_C)  # a part may be padded to more bands
                found_BTPC[mine_B, ..., :channels] = (x_BTPC[mine_B, ..., :channels] - mean_C) @ matrix_CC.T
        return found_BTPC

    def _compare(self, pred_BSTP: Tensor, hidden: Hidden, target: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """angle_B and charbonnier_B: means over the pixels of a sample of which something was hidden."""
        value_BSTP, pixel_BTP = target
        with torch.autocast(pred_BSTP.device.type, enabled=False):
            return spectral_losses(pred_BSTP.float(), value_BSTP, hidden.weight_BTS, pixel_BTP, self.config.eps)


def encode_visible(
    encoder: Encoder, hidden: Sequence[Hidden], embed_all: bool = False
) -> tuple[Features, list[Patches]]:
    """Features of what is shown, and the patches of each part that were embedded.

    Args:
        encoder: it sees what is shown.
        hidden: of each part.
        embed_all: embed every patch and leave the hidden ones out afterwards, as published: the embedding then has seen
            them.
    """
    prepared = [
        encoder.prepare(each.x_BHWC, each.shown, each.mask_BHW, None if embed_all else each.keep_BK, stem_B=each.stem_B)
        for each in hidden
    ]
    then_keep = [each.keep_BK for each in hidden if each.keep_BK is not None] if embed_all else []
    return encoder(prepared, then_keep=then_keep or None), prepared


def spectral_losses(
    pred_BSTP: Tensor, value_BSTP: Tensor, weight_BTS: Tensor, pixel_BTP: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``1 - cosine`` along the spectrum and Charbonnier, ``sqrt(d^2 + eps^2) - eps``; angle_B and charbonnier_B.

    Sums over bands are weighted; means are over the valid pixels whose weights are not all 0 (0 if there are none).

    Args:
        pred_BSTP: undefined where weight or pixel say so.
        value_BSTP: likewise.
        weight_BTS: of each band of each token; 0 leaves it out.
        pixel_BTP: True = valid.
        eps: of Charbonnier's loss, in units of the values.
    """
    weight_BSTP = weight_BTS.transpose(1, 2)[..., None]
    counts_BTP = pixel_BTP & (weight_BTS.sum(-1) > 0)[..., None]
    used_BSTP = counts_BTP[:, None] & (weight_BSTP > 0)
    pred_BSTP, value_BSTP = (torch.where(used_BSTP, v, 0.0) for v in (pred_BSTP, value_BSTP))
    charbonnier_BTP = (weight_BSTP * (((pred_BSTP - value_BSTP).square() + eps**2).sqrt() - eps)).sum(1)
    dot_BTP = (weight_BSTP * pred_BSTP * value_BSTP).sum(1)
    # floors inside the roots: the gradient of a norm is not defined at 0
    norms = [((weight_BSTP * v.square()).sum(1) + 1e-8).sqrt() for v in (pred_BSTP, value_BSTP)]
    angle_BTP = torch.where(counts_BTP, 1 - dot_BTP / (norms[0] * norms[1]), 0.0)
    count_B = counts_BTP.sum((1, 2)).clamp_min(1)
    return angle_BTP.sum((1, 2)) / count_B, charbonnier_BTP.sum((1, 2)) / count_B
