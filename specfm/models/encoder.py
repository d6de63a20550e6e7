"""The encoder: patches of any sensor -> generated tokens -> a timm ViT trunk -> features.

Shapes: B samples, H W pixels, C bands, N tokens, K kept tokens, Q pixel tokens, D width, G = 1 or B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from specfm.bands import BandGrid
from specfm.batch import Batch
from specfm.errors import UsageError
from specfm.library import Library
from specfm.models.alignment import Alignment
from specfm.models.features import Features, masked_mean, one_below_the_other
from specfm.models.front import UNALIGNED, Bands, Front
from specfm.models.hub import HubMethods
from specfm.models.normaliser import Normaliser
from specfm.models.one_size import ONE_SIZE
from specfm.models.patches import Patches, as_tensor
from specfm.models.pixels import Asked, attention_mask, pixel_places
from specfm.models.stem import Stem
from specfm.models.timm_surface import TimmSurface
from specfm.sensors import Sensor


@dataclass(frozen=True)
class _Prepared:
    """What the trunk takes: the class token if any, patch tokens, Q pixel tokens; their masks; grids of the parts."""

    tokens_BTD: Tensor
    mask_BN: Tensor
    pixel_mask_BQ: Tensor
    grids: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Part:
    """A part of a batch before it meets the others; no pixel tokens where the encoder has none."""

    patches: Patches
    tokens_BND: Tensor
    pixel_BQD: Tensor | None = None
    pixel_mask_BQ: Tensor | None = None


class Encoder(HubMethods, TimmSurface, Front):
    """A ViT over generated tokens. Build it with :func:`specfm.create_encoder`.

    Args:
        embedding: module from :class:`Patches` to tokens_BND.
        patch_size: side of a patch, pixels.
        dim: width of the trunk.
        depth: its blocks.
        heads: of a block.
        mlp_ratio: as in timm.
        drop_path: as in timm.
        layer_scale: initial gain of each residual branch (timm's ``init_values``): the trunk starts close to handing
            its tokens through, so that training begins from what the embedding sees, not from a random mixture of it.
        level: input scaling, ``patch``, ``pixel``, ``sample`` or ``none`` (``level_B`` passes another than the
            sample's).
        gsd_reference_m: ground sampling distance at which positions are one patch apart.
        aligned: its trunk is trained on aligned tokens.
        normalise: what of the training data's statistics is taken off after that: ``none``, ``band`` or ``dataset``
            (:mod:`specfm.models.normaliser`, which tells the four ways apart).
        trunk: what stands before the blocks. ``stem``: a linear stem that can be whitened, and centred positions.
            ``mae``: as in published masked autoencoders of several sensors (Scale-MAE, SpecAware): a class token, no
            stem, positions in metres from the corner; with ``layer_scale`` 0 the blocks are theirs too.
        brightness: with ``level`` patch, a direction of the tokens says how bright a patch is beside its sample.
        pixel: a token of the middle pixel of every window beside those of patches (``specfm.models.pixels``).
        config: JSON description from which the same encoder can be built.

    Attributes:
        card: facts about its training.
        library: spectra like those it was pretrained on, None if not known.
        aligned: its trunk is trained on aligned tokens, so it is aligned whenever it has a library.
        alignment: see :meth:`align`.
    """

    def __init__(
        self,
        embedding: nn.Module,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        layer_scale: float = 0.1,
        level: str = "patch",
        gsd_reference_m: float = 10.0,
        aligned: bool = False,
        normalise: str = "none",
        trunk: str = "stem",
        brightness: bool = True,
        pixel: bool = False,
        config: dict[str, Any] | None = None,
    ):
        super().__init__()
        if aligned and pixel:
            raise UsageError(f"encoder options aligned and pixel go not together: {UNALIGNED}")
        self.embedding = embedding
        if (aligned or pixel) and self.fixed_side is not None:
            raise UsageError(f"options aligned and pixel are not for an encoder whose {ONE_SIZE}; leave them out")
        self.patch_size, self.num_features = patch_size, dim
        self.level, self.gsd_reference_m = level, gsd_reference_m
        self.config = dict(config or {})
        self.card: dict[str, Any] = {}
        self.aligned = aligned
        self.normaliser = None if normalise == "none" else Normaliser(normalise)
        self._alignment: Alignment | None = None
        self._set_aside: Alignment | None = None  # while it is in training
        self._library: Library | None = None
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, drop_path=rate, init_values=layer_scale)
            for rate in rates
        )
        self.trunk, has_stem = trunk, trunk == "stem"
        if pixel and not has_stem:
            raise UsageError("a trunk of published masked autoencoders has no pixel tokens; leave out trunk or pixel")
        self.stem: Stem = Stem(dim) if has_stem else nn.Identity()  # type: ignore[assignment]
        # A few odd windows may have tokens hundreds of times the usual size once the stem divides out what all share;
        # tokens of one size keep positions and biases of the trunk from drowning the others.
        self.stem_norm = nn.LayerNorm(dim) if has_stem else nn.Identity()
        self.brightness = nn.Linear(1, dim, bias=False) if level == "patch" and brightness else None
        if self.brightness is not None:
            nn.init.normal_(self.brightness.weight, std=0.1)
        self.norm = nn.LayerNorm(dim) if has_stem else nn.LayerNorm(dim, eps=1e-6)
        self.class_token = None if has_stem else nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        # one pixel has more noise than the mean of a patch, and none of its texture: a stem of its own
        self.pixel_stem = Stem(dim) if pixel else None
        self.grad_checkpointing = False
        self._start_surface()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in the trunk (as in timm)."""
        self.grad_checkpointing = enable

    def compile_parts(self) -> None:
        """torch.compile the embedding and each block; numbers of bands and tokens stay free: few graphs serve all."""
        self.embedding.compile(dynamic=True)
        for block in self.blocks:
            block.compile(dynamic=True)

    def forward(
        self,
        x: Tensor | Batch | Sequence[Patches],
        bands: Bands | None = None,
        mask_BHW: Tensor | None = None,
        *,
        keep_BK: Tensor | None = None,
        level_B: Tensor | None = None,
        pixels: Asked = "centre",
        then_keep: Sequence[Tensor] | None = None,
    ) -> Features:
        """Encode a cube or a mixed batch in one call.

        Args:
            x: x_BHWC as stored, a tensor or array (any dtype; the sensor's scale applies), a :class:`Batch`, or what
                :meth:`prepare` made of the parts of one (without pixel tokens).
            bands: one BandGrid, Sensor or known name for all samples, one per sample (x padded to the widest of them,
                no further), or BandTensors, which say to how many bands x is padded.
            mask_BHW: True = valid pixel; None = all valid (non-finite values are always invalid).
            keep_BK: indices of the tokens to encode; the others are as if invalid.
            level_B: physical level that divides each sample, instead of its own.
            pixels: which pixels have a token of their own, in an encoder with pixel tokens: the middle one of each
                sample, or all, row-major (a cube, no Batch).
            then_keep: by part, tokens that go on once all were embedded: the embedding, unlike with ``keep_BK``, has
                looked at the others too.

        Raises:
            SpecfmError: no bands given, or shapes that do not fit.
        """
        prepared = self._embed(x, bands, mask_BHW, keep_BK, level_B, pixels, then_keep)
        tokens = prepared.tokens_BTD
        for block in self.blocks:
            tokens = self._run(block, tokens, prepared)
        return self._finish(tokens, prepared)

    def forward_features(self, x: Tensor | Batch, bands: Bands | None = None, mask_BHW: Tensor | None = None) -> Tensor:
        """tokens_BND after the final norm (as in timm)."""
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
        """Features after chosen blocks: the last ``n`` of them, or the listed ones in the order of the list.

        Args:
            x: as in a call.
            bands: as in a call.
            mask_BHW: as in a call.
            n: how many of the last blocks (1 and up), or block numbers from 0, negative ones from the end.
            norm: through the final norm.
            level_B: as in a call.
            pixels: as in a call.

        Raises:
            UsageError: a block that the encoder does not have.
        """
        depth = len(self.blocks)
        chosen = range(-n, 0) if isinstance(n, int) else list(n)
        if not chosen or any(not -depth <= i < depth for i in chosen):
            asked = n if isinstance(n, int) else list(n)
            raise UsageError(
                f"the encoder has blocks 0 to {depth - 1} (or -1 to -{depth} from the end), so it cannot give n={asked}"
            )
        wanted = [i % depth for i in chosen]
        prepared = self._embed(x, bands, mask_BHW, None, level_B, pixels)
        tokens, found = prepared.tokens_BTD, {}
        for i, block in enumerate(self.blocks[: max(wanted) + 1]):
            tokens = self._run(block, tokens, prepared)
            if i in wanted:
                found[i] = self._finish(tokens, prepared, norm)
        return tuple(found[i] for i in wanted)

    def embed(self, scene: Any, sensor: Sensor | BandGrid | str | None = None, **options: Any) -> Any:
        """Dense features of a scene or (H, W, C) array with coordinates; see ``specfm.dense.memory.embed_scene``."""
        from specfm.dense.memory import embed_scene

        return embed_scene(self, scene, sensor, **options)

    def _embed(
        self,
        x: Tensor | Batch | Sequence[Patches],
        bands: Bands | None,
        mask_BHW: Tensor | None,
        keep_BK: Tensor | None,
        level_B: Tensor | None,
        asked: Asked,
        then_keep: Sequence[Tensor] | None = None,
    ) -> _Prepared:
        if isinstance(x, Batch):
            if asked != "centre":
                raise UsageError("pixels='all' takes a cube, not a Batch, whose parts differ in size")
            parts = [self._one(p.x_BHWC, p.bands, p.mask_BHW, None, None, asked, p.stem_B) for p in x.parts]
        elif isinstance(x, list | tuple) and x and isinstance(x[0], Patches):
            parts = [_Part(patches, self.embed_patches(patches)) for patches in x]
        elif bands is None:
            raise UsageError("the encoder needs to know the bands: pass a BandGrid or Sensor, or one per sample")
        else:
            parts = [self._one(as_tensor(x), bands, mask_BHW, keep_BK, level_B, asked, None)]  # type: ignore[arg-type]
        tokens, masks = [part.tokens_BND for part in parts], [part.patches.token_mask_BN for part in parts]
        if then_keep is not None:
            tokens = [
                t.gather(1, keep[..., None].expand(-1, -1, t.shape[2]))
                for t, keep in zip(tokens, then_keep, strict=True)
            ]
            masks = [m.gather(1, keep) for m, keep in zip(masks, then_keep, strict=True)]
        tokens_BTD, mask_BN = one_below_the_other(tokens, masks)
        if self.class_token is not None:
            first_B1D = self.class_token.expand(tokens_BTD.shape[0], -1, -1).to(tokens_BTD.dtype)
            tokens_BTD = torch.cat([first_B1D, tokens_BTD], 1)
        seen = [part.pixel_mask_BQ for part in parts if part.pixel_mask_BQ is not None]
        if not seen:
            seen = [mask_BN.new_zeros(mask_BN.shape[0], 0)]
        else:
            pixels = [part.pixel_BQD for part in parts if part.pixel_BQD is not None]
            tokens_BTD = torch.cat([tokens_BTD, torch.cat(pixels)], 1)
        return _Prepared(tokens_BTD, mask_BN, torch.cat(seen), tuple(part.patches.grid_hw for part in parts))

    def _one(
        self,
        x_BHWC: Tensor,
        bands: Bands,
        mask_BHW: Tensor | None,
        keep_BK: Tensor | None,
        level_B: Tensor | None,
        asked: Asked,
        stem_B: Tensor | None,
    ) -> _Part:
        patches = self.prepare(x_BHWC, bands, mask_BHW, keep_BK, level_B, stem_B)
        tokens_BND = self.embed_patches(patches)
        if self.pixel_stem is None:
            return _Part(patches, tokens_BND)
        places = pixel_places((x_BHWC.shape[1], x_BHWC.shape[2]), asked, self.device)
        pixels = self.pixels(x_BHWC, mask_BHW, patches, places)
        seen_BQ = pixels.token_mask_BN
        if keep_BK is not None:  # of a patch that is hidden, no pixel counts
            cell_Q = places.div(self.patch_size, rounding_mode="floor") @ places.new_tensor([patches.grid_hw[1], 1])
            seen_BQ = seen_BQ & (keep_BK.to(self.device)[:, None] == cell_Q[:, None]).any(2)
        return _Part(patches, tokens_BND, self.embed_patches(pixels, self.pixel_stem), seen_BQ)

    def _run(self, block: nn.Module, tokens_BTD: Tensor, of: _Prepared) -> Tensor:
        mask_BT = of.mask_BN if self.class_token is None else nn.functional.pad(of.mask_BN, (1, 0), value=True)
        allowed = attention_mask(mask_BT, of.pixel_mask_BQ.shape[1])
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens_BTD, allowed, use_reentrant=False)
        return block(tokens_BTD, attn_mask=allowed)

    def _finish(self, tokens_BTD: Tensor, of: _Prepared, norm: bool = True) -> Features:
        tokens_BTD = self.norm(tokens_BTD) if norm else tokens_BTD
        mask_BN, count, class_BD = of.mask_BN, of.mask_BN.shape[1], None
        if self.class_token is not None:
            class_BD, tokens_BTD = tokens_BTD[:, 0], tokens_BTD[:, 1:]
        tokens_BND = tokens_BTD[:, :count]
        pooled_BD = masked_mean(tokens_BND, mask_BN)
        if not self.pixel:
            return Features(tokens_BND, pooled_BD, mask_BN, of.grids, class_BD)
        return Features(tokens_BND, pooled_BD, mask_BN, of.grids, None, tokens_BTD[:, count:], of.pixel_mask_BQ)
