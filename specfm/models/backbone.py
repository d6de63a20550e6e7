"""A network of timm, or a small one of ours, behind the call of an encoder: for one known list of bands.

A backbone has a stem of one channel a usable band, so unlike :class:`specfm.models.Encoder` it serves one sensor. It
takes bands in any order (it knows them by wavelength) and refuses others. Its input is standardised band by band with
statistics of the training data, which are part of its weights; masked pixels and missing bands count as the mean.

Shapes: B samples, H W pixels, C usable bands of the backbone, K channels of the stem, G = 1 or B band grids of M bands
as given, D width, h w token grid, N = h * w tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specfm.bands import BandGrid
from specfm.batch import BandTensors, Batch
from specfm.errors import SpecfmError, UsageError
from specfm.library import Library
from specfm.models.encoder import Bands, Encoder
from specfm.models.features import Features, masked_mean, one_below_the_other
from specfm.models.hub import HubMethods
from specfm.models.known_bands import match_bands
from specfm.models.networks import as_map, change_of_mixtures, least_side, needs_several, stem_of
from specfm.models.patches import as_tensor, sample_level
from specfm.models.pixels import Asked
from specfm.models.stem import Stems
from specfm.models.timm_surface import TimmSurface
from specfm.reducers.moments import Moments
from specfm.sensors import Sensor

WIDEST = 10.0  # standardised values are cut off here, deviations: a dead or saturated pixel is not worth more


class Backbone(HubMethods, TimmSurface, nn.Module):
    """A timm network for one list of bands. Build it with :func:`specfm.create_backbone`.

    Args:
        net: the network without a classifier.
        bands: the usable ones are its C bands.
        mixtures: K, where the stem sees mixtures of the bands (see :meth:`set_channels` and
            :func:`specfm.models.mixtures.fit_mixtures`); None: the bands.
        patch_size: pixels of the image per position of the network's last map.
        level: ``none``: physical values are standardised as they are; ``sample``: after division by each sample's mean
            level (or ``level_B``).
        config: JSON description from which the same backbone can be built.

    Attributes:
        card: facts about its training.
        blocks: the network, which counts as one block.
        library: as of an encoder; a backbone has none.
        aligned: likewise.
        alignment: likewise.
    """

    mean_C: Tensor
    factor_C: Tensor
    own_nm_C: Tensor
    mix_KC: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        bands: BandGrid,
        mixtures: int | None,
        patch_size: int,
        level: str,
        config: dict[str, Any],
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([net])
        self.num_features = int(net.num_features)  # type: ignore[arg-type]
        count = int(bands.valid.sum())
        self._least_side = least_side(net, count if mixtures is None else mixtures, patch_size)
        self.bands, self.patch_size, self.level, self.config = bands, patch_size, level, config
        self.card: dict[str, Any] = {}
        self.library: Library | None = None
        self.aligned, self.alignment = False, None
        self.register_buffer("mean_C", torch.zeros(count))
        self.register_buffer("factor_C", torch.ones(count))
        self.register_buffer("mix_KC", None if mixtures is None else torch.eye(mixtures, count))
        own_nm = torch.from_numpy(bands.wavelengths_nm[bands.valid].copy())
        self.register_buffer("own_nm_C", own_nm, persistent=False)
        self._start_surface()

    @property
    def net(self) -> Any:
        """The network."""
        return self.blocks[0]

    @property
    def device(self) -> torch.device:
        return self.mean_C.device

    @property
    def channels(self) -> int:
        """K."""
        return len(self.mean_C if self.mix_KC is None else self.mix_KC)

    def fit_statistics(self, tiles: Iterable[tuple[Tensor, Bands, Tensor | None]]) -> Moments:
        """Fix the standardisation by what training tiles show, in one pass and bounded memory.

        Args:
            tiles: (x_BHWC as stored, bands, mask_BHW) of training data.

        Returns:
            Mean and covariance of the C bands as given to the standardisation.

        Raises:
            SpecfmError: not a single valid pixel, or bands that are not the backbone's.
        """
        moments = Moments(len(self.mean_C))
        with torch.no_grad():
            for x_BHWC, bands, mask_BHW in tiles:
                x_BHWC, valid_BHW = self._physical(x_BHWC, bands, mask_BHW, None)
                moments.add(x_BHWC[valid_BHW])
            mean_C, sd_C = moments.mean_C, moments.sd_C
            varies_C = sd_C > 1e-6 * mean_C.abs().clamp_min(1e-12)
            self.mean_C.copy_(mean_C)
            self.factor_C.copy_(torch.where(varies_C, 1 / torch.where(varies_C, sd_C, 1.0), 0.0))
        return moments

    def take_statistics(self, source: Any) -> None:
        """Take over what another backbone of the same options knows of its training data beside its weights."""
        if isinstance(source, Backbone):
            for name in ("mean_C", "factor_C", "mix_KC"):
                if (mine := getattr(self, name)) is not None:
                    mine.copy_(getattr(source, name))

    @torch.no_grad()
    def pixels(self, x_BHWC: Tensor, bands: Bands, mask_BHW: Tensor | None = None) -> Tensor:
        """Valid pixels as the stem would see them without mixtures, standardised, [n, C]."""
        z_BHWC, valid_BHW = self.standardised(x_BHWC, bands, mask_BHW)
        return z_BHWC[valid_BHW]

    def standardised(self, x_BHWC: Tensor, bands: Bands, mask_BHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(z_BHWC, valid_BHW): pixels as the stem would see them without mixtures; undefined where not valid."""
        x_BHWC, valid_BHW = self._physical(x_BHWC, bands, mask_BHW, None)
        return ((x_BHWC - self.mean_C) * self.factor_C).clamp(-WIDEST, WIDEST), valid_BHW

    def set_channels(self, mix_KC: Tensor | None) -> tuple[nn.Parameter, nn.Parameter, Tensor]:
        """Let the stem see other mixtures of the bands, and answer as before as far as the new ones can tell.

        Channels are ``mix_KC @ standardised bands``. The new weights are ``W M`` with M the least-squares solution of
        ``old mix = M @ new mix``: where the new mixtures span the old ones (components added to nested ones, groups of
        bands divided) the function is unchanged; nested components get columns of zeros.

        Args:
            mix_KC: None stands for the bands themselves.

        Returns:
            Old and new parameter of the stem's weight, and M, for the state of an optimiser.
        """
        whole_CC = torch.eye(len(self.mean_C), dtype=torch.float64, device=self.device)
        old_KC = whole_CC if self.mix_KC is None else self.mix_KC.double()
        new_KC = whole_CC if mix_KC is None else mix_KC.to(whole_CC)
        if new_KC.shape[1] != len(whole_CC):
            raise SpecfmError(f"the mixtures are of {new_KC.shape[1]} bands, but the backbone has {len(whole_CC)}")
        change = change_of_mixtures(old_KC, new_KC)
        stem = stem_of(self.net)
        before = cast(nn.Parameter, stem.weight)
        with torch.no_grad():
            weight = torch.einsum("okhw,kl->olhw", before.double(), change).to(before.dtype)
        after = stem.weight = nn.Parameter(weight.contiguous(), requires_grad=before.requires_grad)
        stem.in_channels = len(new_KC)
        # laid out as it is read back: another order of the same numbers sums otherwise in the last bit
        self.mix_KC = None if mix_KC is None else new_KC.to(self.mean_C).contiguous()
        self.config = {**self.config, "mixtures": None if mix_KC is None else len(mix_KC)}
        return before, after, change

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory (as in timm)."""
        self.net.set_grad_checkpointing(enable)

    def compile_parts(self) -> None:
        """torch.compile the network."""
        self.net.compile()

    @property
    def stems(self) -> None:
        """None: a backbone sees one sensor."""
        return None

    @stems.setter
    def stems(self, stems: Stems | None) -> None:
        if stems is not None:
            raise UsageError(f"{self.config['backbone']} has no stems of acquisitions")

    def fit(self, scenes: Any, sensor: Any = None, **options: Any) -> Backbone:
        """A backbone has no stem that a scene could be fitted to.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.config['backbone']} has no stem that could be fitted to a scene; leave fit out")

    def align(self, on: bool = True, sensors: Sequence[Sensor | BandGrid | str] = ()) -> Backbone:
        """A backbone sees one sensor, so there is nothing to align.

        Raises:
            UsageError: ``on``.
        """
        if on:
            raise UsageError(f"{self.config['backbone']} is built for one list of bands and is not aligned; leave it")
        return self

    def forward(
        self,
        x: Tensor | Batch,
        bands: Bands | None = None,
        mask_BHW: Tensor | None = None,
        *,
        keep_BK: Tensor | None = None,
        level_B: Tensor | None = None,
    ) -> Features:
        """Features of a cube or of a batch, whose parts all show the backbone's bands.

        Args:
            x: x_BHWC as stored (the sensor's scale applies), or a :class:`Batch`.
            bands: of all samples, or one per sample: bands of the backbone in any order. In training some may be
                missing (views leave bands out); else all must be there.
            mask_BHW: True = valid pixel; None = all valid (non-finite values are always invalid).
            keep_BK: None; a backbone sees whole images.
            level_B: used where ``level`` is ``sample``.

        Raises:
            SpecfmError: no bands given, other bands than the backbone's, or shapes that do not fit.
            UsageError: ``keep_BK``.
        """
        if keep_BK is not None:
            raise UsageError("a backbone of timm sees whole images, no chosen tokens; masked pretraining needs ours")
        if not isinstance(x, Batch):
            if bands is None:
                raise UsageError("the encoder needs to know the bands: pass a BandGrid or Sensor, or one per sample")
            return self._features(*self._physical(as_tensor(x), bands, mask_BHW, level_B))
        parts = [self._physical(part.x_BHWC, part.bands, part.mask_BHW, None) for part in x]
        if len({cube.shape[1:] for cube, _ in parts}) == 1:  # one call: batch statistics are of the whole batch
            whole = self._features(torch.cat([cube for cube, _ in parts]), torch.cat([valid for _, valid in parts]))
            return Features(whole.tokens_BND, whole.pooled_BD, whole.token_mask_BN, whole.grid_hw * len(parts))
        found = [self._features(*part) for part in parts]
        tokens_BND, mask_BN = one_below_the_other(
            [each.tokens_BND for each in found], [each.token_mask_BN for each in found]
        )
        pooled_BD = torch.cat([each.pooled_BD for each in found])
        return Features(tokens_BND, pooled_BD, mask_BN, tuple(each.grid_hw[0] for each in found))

    def forward_features(self, x: Tensor | Batch, bands: Bands | None = None, mask_BHW: Tensor | None = None) -> Tensor:
        """tokens_BND (as in timm)."""
        return self(x, bands, mask_BHW).tokens_BND

    def get_intermediate_layers(
        self,
        x: Tensor | Batch,
        bands: Bands | None = None,
        mask_BHW: Tensor | None = None,
        *,
        n: int | Sequence[int] = 1,
        norm: bool = True,
        level_B: Tensor | None = None,
        pixels: Asked = "centre",
    ) -> tuple[Features, ...]:
        """Features of the one block that a backbone counts as; see :meth:`specfm.models.Encoder`.

        Raises:
            UsageError: any other block.
        """
        chosen = [n] if isinstance(n, int) else list(n)
        if not chosen or any(i not in ((1,) if isinstance(n, int) else (0, -1)) for i in chosen):
            raise UsageError(f"a backbone of timm gives its last features only (block 0), not n={n}")
        return (self(x, bands, mask_BHW, level_B=level_B),) * len(chosen)

    def embed(self, scene: Any, sensor: Sensor | BandGrid | str | None = None, **options: Any) -> Any:
        """Dense features of a scene or (H, W, C) array; see ``specfm.dense.memory.embed_scene``."""
        from specfm.dense.memory import embed_scene

        return embed_scene(self, scene, sensor, **options)

    def _physical(
        self, x_BHWM: Tensor, bands: Bands, mask_BHW: Tensor | None, level_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Physical values of the C bands, float32 [B, H, W, C], NaN where a band is missing; and valid pixels.

        Invalid pixels hold zeros.
        """
        tensors = bands if isinstance(bands, BandTensors) else BandTensors.from_sensors(bands)
        x_BHWM, tensors = x_BHWM.to(self.device), tensors.to(self.device)
        if x_BHWM.ndim != 4 or x_BHWM.shape[-1] != tensors.channels or len(tensors) not in (1, x_BHWM.shape[0]):
            raise SpecfmError(
                f"a cube of shape {tuple(x_BHWM.shape)} does not go with {len(tensors)} grids of {tensors.channels} "
                "bands; give (batch, rows, cols, bands) and the bands of the cube"
            )
        index_GC, there_GC = tensors.once(
            "match", lambda: match_bands(self.own_nm_C, tensors, self.training, self.config["backbone"])
        )
        if len(tensors) == 1:
            index_C = index_GC[0]
            whole = len(index_C) == tensors.channels and not torch.compiler.is_exporting()
            whole = whole and bool((index_C[1:] > index_C[:-1]).all())
            x_BHWC = (x_BHWM if whole else x_BHWM[..., index_C]).to(torch.float32)
        else:
            x_BHWC = x_BHWM.to(torch.float32).gather(3, index_GC[:, None, None].expand(*x_BHWM.shape[:3], -1))
        scale_G, offset_G = (v.view(-1, 1, 1, 1) for v in (tensors.scale_G, tensors.offset_G))
        x_BHWC = x_BHWC * scale_G + offset_G
        missing_GC = ~there_GC[:, None, None]
        valid_BHW = (x_BHWC.isfinite() | missing_GC).all(-1)
        if mask_BHW is not None:
            valid_BHW = valid_BHW & torch.as_tensor(mask_BHW).to(self.device).bool()
        x_BHWC = torch.where(valid_BHW[..., None], x_BHWC, 0.0)
        if self.level == "sample":
            given = None if level_B is None else torch.as_tensor(level_B).to(x_BHWC)
            level = sample_level(x_BHWM, tensors, valid_BHW) if given is None else given
            x_BHWC = x_BHWC / level.clamp_min(1e-12)[:, None, None, None]
        return torch.where(missing_GC, torch.nan, x_BHWC), valid_BHW

    def _features(self, x_BHWC: Tensor, valid_BHW: Tensor) -> Features:
        p, (height, width) = self.patch_size, valid_BHW.shape[1:]
        grid = (-(-height // p), -(-width // p))
        if self.training and len(x_BHWC) == 1 and grid == (1, 1) and needs_several(self.net):
            raise UsageError(
                f"{self.config['backbone']} is trained with batch norm, and one window of {height}x{width} pixels "
                f"leaves it one number a channel (its stride is {p}); give several windows at a time, or larger ones"
            )
        x_BHWC = (x_BHWC - self.mean_C) * self.factor_C
        x_BHWC = torch.where(valid_BHW[..., None] & x_BHWC.isfinite(), x_BHWC, 0.0).clamp(-WIDEST, WIDEST)
        if self.mix_KC is not None:
            x_BHWC = x_BHWC @ self.mix_KC.T
        short = (max(self._least_side - size, 0) for size in (width, height))
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, next(short), 0, next(short)))  # with the mean
        map_BDhw = as_map(self.net.forward_features(x_BHWC.movedim(-1, 1)), self.net, grid)
        if tuple(map_BDhw.shape[-2:]) != grid:  # networks round odd sides up or down
            map_BDhw = F.interpolate(map_BDhw, size=grid, mode="bilinear", align_corners=False)
        padded = F.pad(valid_BHW[:, None].float(), (0, grid[1] * p - width, 0, grid[0] * p - height))
        mask_BN = F.max_pool2d(padded, p).flatten(1) > 0
        tokens_BND = map_BDhw.flatten(2).mT
        pooled_BD = masked_mean(tokens_BND, mask_BN)
        return Features(tokens_BND, pooled_BD, mask_BN, (grid,))


AnyEncoder = Encoder | Backbone


def side_multiple(encoder: Any) -> int:
    """What sides of windows are a multiple of: the patch of an encoder; networks of timm take any side."""
    return 1 if isinstance(encoder, Backbone) else int(encoder.patch_size)
