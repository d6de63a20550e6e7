"""The encoder: patches of any sensor -> generated tokens -> a timm ViT trunk -> features.

Shapes: B samples, H W pixels, C bands, N tokens, K kept tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from specfm.bands import BandGrid
from specfm.batch import BandTensors, Batch
from specfm.errors import SpecfmError, UsageError
from specfm.library import Library
from specfm.models.alignment import Alignment
from specfm.models.normaliser import Normaliser
from specfm.models.patches import Patches, patchify
from specfm.models.position import corner_positions, position_embedding
from specfm.sensor_table import as_sensor
from specfm.sensors import Sensor

Bands = BandGrid | Sensor | str | Sequence[BandGrid | Sensor | str] | BandTensors


@dataclass(frozen=True)
class Features:
    """What an encoder returns.

    Attributes:
        tokens_BND: one feature per patch, row-major; parts of fewer tokens are padded. Undefined where masked out.
        pooled_BD: mean over a sample's valid tokens.
        token_mask_BN: True = the token exists and has a valid pixel.
        grid_hw: token grid per part, (rows, cols).
        class_BD: the class token; None where the encoder has none.
    """

    tokens_BND: Tensor
    pooled_BD: Tensor
    token_mask_BN: Tensor
    grid_hw: tuple[tuple[int, int], ...]
    class_BD: Tensor | None = None


class Encoder(nn.Module):
    """A ViT over generated tokens. Build it with :func:`specfm.create_encoder`.

    Args:
        embedding: module from :class:`Patches` to tokens_BND.
        patch_size, dim, depth, heads: of the trunk. mlp_ratio, drop_path: as in timm.
        layer_scale: initial gain of each residual branch (timm's ``init_values``): the trunk starts close to handing
            its tokens through, so that training begins from what the embedding sees, not from a random mixture of it.
        level: input scaling, ``patch``, ``pixel``, ``sample`` or ``none`` (``level_B`` passes another than the
            sample's).
        normalise: what of the training data's statistics is taken off after that: ``none``, ``band`` or ``dataset``
            (:mod:`specfm.models.normaliser`, which tells the four ways apart).
        gsd_reference_m: ground sampling distance at which positions are one patch apart.
        trunk: what stands before the blocks. ``stem``: a linear stem that can be whitened, and centred positions.
            ``mae``: as in published masked autoencoders of several sensors (Scale-MAE, SpecAware): a class token, no
            stem, positions in metres from the corner; with ``layer_scale`` 0 the blocks are theirs too.
        config: JSON description from which the same encoder can be built.

    Attributes:
        card: facts about its training. library: spectra like those it was pretrained on, None if not known.
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
        config: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.embedding = embedding
        self.patch_size, self.num_features = patch_size, dim
        self.level, self.gsd_reference_m = level, gsd_reference_m
        self.config = dict(config or {})
        self.card: dict[str, Any] = {}
        self.aligned = aligned
        self.normaliser = None if normalise == "none" else Normaliser(normalise)
        self.alignment: Alignment | None = None
        self._library: Library | None = None
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, drop_path=rate, init_values=layer_scale)
            for rate in rates
        )
        self.trunk, has_stem = trunk, trunk == "stem"
        stem = nn.Linear(dim, dim)
        with torch.no_grad():
            stem.weight.copy_(torch.eye(dim))
            stem.bias.zero_()
        self.stem: nn.Module = stem if has_stem else nn.Identity()
        # A few odd windows may have tokens hundreds of times the usual size once the stem divides out what all share;
        # tokens of one size keep positions and biases of the trunk from drowning the others.
        self.stem_norm = nn.LayerNorm(dim) if has_stem else nn.Identity()
        self.brightness = nn.Linear(1, dim, bias=False) if level == "patch" else None
        if self.brightness is not None:
            nn.init.normal_(self.brightness.weight, std=0.1)
        self.norm = nn.LayerNorm(dim) if has_stem else nn.LayerNorm(dim, eps=1e-6)
        self.class_token = None if has_stem else nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory in the trunk (as in timm)."""
        self.grad_checkpointing = enable

    def compile_parts(self) -> None:
        """torch.compile the embedding and each block; numbers of bands and tokens stay free: few graphs serve all."""
        self.embedding.compile(dynamic=True)
        for block in self.blocks:
            block.compile(dynamic=True)

    @property
    def library(self) -> Library | None:
        """Spectra like those it was pretrained on, None if not known."""
        return self._library

    @library.setter
    def library(self, library: Library | None) -> None:
        self._library = library
        self.alignment = Alignment(library) if self.aligned and library is not None else None

    def align(self, on: bool = True, sensors: Sequence[Sensor | BandGrid | str] = ()) -> Encoder:
        """Map what each sensor makes of a spectrum to what one ideal sensor would; see :class:`Alignment`.

        Features of several sensors agree best where all are put as the poorest of them would tell it: name them in
        ``sensors``. Such features are for that comparison only.

        For frozen features that are compared across sensors. The maps hold for the weights as they are, so
        :meth:`train` takes the alignment off again, unless the trunk is trained on aligned tokens; call it anew if you
        write to weights through ``.data``.

        Raises:
            UsageError: the encoder comes without a library of spectra.
        """
        if on and self.library is None:
            raise UsageError(
                "this encoder comes without a library of spectra, so it cannot be aligned; leave it as it is, or "
                "pretrain it on a sensor of 50 bands or more"
            )
        listed = [sensors] if isinstance(sensors, Sensor | BandGrid | str) else sensors
        known = [as_sensor(each) for each in listed]
        self.alignment = Alignment(self.library, known) if on and self.library is not None else None
        return self

    def train(self, mode: bool = True) -> Encoder:
        """As in torch; an encoder in training is not aligned, unless it is made for that."""
        if mode and not self.aligned:
            self.alignment = None
        return super().train(mode)

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    def prepare(
        self,
        x_BHWC: Tensor,
        bands: Bands,
        mask_BHW: Tensor | None = None,
        keep_BK: Tensor | None = None,
        level_B: Tensor | None = None,
    ) -> Patches:
        """Clean and cut a cube into patches on the encoder's device."""
        tensors = bands if isinstance(bands, BandTensors) else BandTensors.from_sensors(bands)
        x_BHWC, tensors = x_BHWC.to(self.device), tensors.to(self.device)
        if self.alignment is not None:
            tensors = self.alignment.narrow(tensors)
        mask_BHW, keep_BK, level_B = (
            None if given is None else torch.as_tensor(given).to(self.device) for given in (mask_BHW, keep_BK, level_B)
        )
        patches = self._cut(x_BHWC, tensors, mask_BHW, keep_BK, level_B)
        return patches if self.normaliser is None else self.normaliser(patches)

    def _cut(
        self,
        x_BHWC: Tensor,
        bands: BandTensors,
        mask_BHW: Tensor | None,
        keep_BK: Tensor | None = None,
        level_B: Tensor | None = None,
    ) -> Patches:
        return patchify(x_BHWC, bands, mask_BHW, self.patch_size, level=self.level, level_B=level_B, keep_BK=keep_BK)

    def fit_normaliser(self, batches: Iterable[Batch]) -> None:
        """Take the statistics that the encoder normalises by from training data; nothing happens without any.

        Raises:
            SpecfmError: no valid pixel in the batches.
        """
        if self.normaliser is not None:
            parts = (part for batch in batches for part in batch.to(self.device).parts)
            self.normaliser.fit(self._cut(part.x_BHWC, part.bands, part.mask_BHW) for part in parts)

    def take_statistics(self, source: Any) -> None:
        """Take over what another encoder of the same options knows of its training data beside its weights."""
        if self.normaliser is not None and isinstance(source, Encoder) and source.normaliser is not None:
            self.normaliser.load_state_dict(source.normaliser.state_dict())

    def generated(self, patches: Patches) -> Tensor:
        """tokens_BND of the embedding alone, with brightness where the level of a patch was divided out."""
        tokens_BND = self.embedding(patches)
        if self.brightness is not None:
            tokens_BND = tokens_BND + self.brightness(patches.log_patch_level_BN[..., None])
        return tokens_BND

    def embed_patches(self, patches: Patches) -> Tensor:
        """tokens_BND before the trunk: generated tokens through the stem, of one size, plus GSD-aware positions."""
        tokens_BND = self.stem(self.generated(patches))
        if self.alignment is not None:
            tokens_BND = self.alignment(self, patches.bands, tokens_BND)
        position = self.positions(patches.position_BN2, patches.grid_hw, patches.bands.gsd_m_G, self.num_features)
        return self.stem_norm(tokens_BND) + position

    def positions(self, position_BN2: Tensor, grid_hw: tuple[int, int], gsd_m_G: Tensor, width: int) -> Tensor:
        """position_BND (float32) of tokens on a grid, for the trunk or for a decoder of another width."""
        if self.trunk == "mae":
            return corner_positions(position_BN2, gsd_m_G, self.gsd_reference_m, width)
        return position_embedding(position_BN2, grid_hw, gsd_m_G, self.gsd_reference_m, width)

    def forward(
        self,
        x: Tensor | Batch | Sequence[Patches],
        bands: Bands | None = None,
        mask_BHW: Tensor | None = None,
        *,
        keep_BK: Tensor | None = None,
        level_B: Tensor | None = None,
        then_keep: Sequence[Tensor] | None = None,
    ) -> Features:
        """Encode a cube or a mixed batch in one call.

        Args:
            x: x_BHWC as stored, a tensor or array (any dtype; the sensor's scale applies), a :class:`Batch`, or what
                :meth:`prepare` made of the parts of one.
            bands: one BandGrid, Sensor or known name for all samples, one per sample (x padded to the widest of them,
                no further), or BandTensors, which say to how many bands x is padded.
            mask_BHW: True = valid pixel; None = all valid (non-finite values are always invalid).
            keep_BK: indices of the tokens to encode; the others are as if invalid.
            level_B: physical level that divides each sample, instead of its own.
            then_keep: by part, tokens that go on once all were embedded: the embedding, unlike with ``keep_BK``, has
                looked at the others too.

        Raises:
            SpecfmError: no bands given, or shapes that do not fit.
        """
        tokens, mask, grids = self._embed(x, bands, mask_BHW, keep_BK, level_B, then_keep)
        for block in self.blocks:
            tokens = self._run(block, tokens, mask)
        return self._finish(tokens, mask, grids)

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
    ) -> tuple[Features, ...]:
        """Features after chosen blocks: the last ``n`` of them, or the listed ones in the order of the list.

        Args:
            x, bands, mask_BHW, level_B: as in a call.
            n: how many of the last blocks (1 and up), or block numbers from 0, negative ones from the end.
            norm: through the final norm.

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
        tokens, mask, grids = self._embed(x, bands, mask_BHW, level_B=level_B)
        found = {}
        for i, block in enumerate(self.blocks):
            tokens = self._run(block, tokens, mask)
            if i in wanted:
                found[i] = self._finish(tokens, mask, grids, norm)
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
        keep_BK: Tensor | None = None,
        level_B: Tensor | None = None,
        then_keep: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, tuple[tuple[int, int], ...]]:
        """Tokens of all parts as the blocks take them, the class token first where there is one."""
        if isinstance(x, Batch):
            prepared = [self.prepare(part.x_BHWC, part.bands, part.mask_BHW) for part in x.parts]
        elif isinstance(x, list | tuple) and x and isinstance(x[0], Patches):
            prepared = [*x]
        elif bands is None:
            raise SpecfmError("the encoder needs to know the bands: pass a BandGrid or Sensor, or one per sample")
        else:
            prepared = [self.prepare(_as_tensor(x), bands, mask_BHW, keep_BK, level_B)]  # type: ignore[arg-type]
        tokens = [self.embed_patches(patches) for patches in prepared]
        masks = [p.token_mask_BN for p in prepared]
        if then_keep is not None:
            tokens = [
                t.gather(1, keep[..., None].expand(-1, -1, t.shape[2]))
                for t, keep in zip(tokens, then_keep, strict=True)
            ]
            masks = [m.gather(1, keep) for m, keep in zip(masks, then_keep, strict=True)]
        widest = max(t.shape[1] for t in tokens)
        if len(tokens) == 1:
            tokens_BND, mask_BN = tokens[0], masks[0]
        else:
            tokens_BND = torch.cat([nn.functional.pad(t, (0, 0, 0, widest - t.shape[1])) for t in tokens])
            mask_BN = torch.cat([nn.functional.pad(m, (0, widest - m.shape[1])) for m in masks])
        if self.class_token is not None:
            first_B1D = self.class_token.expand(len(tokens_BND), -1, -1).to(tokens_BND.dtype)
            tokens_BND, mask_BN = torch.cat([first_B1D, tokens_BND], 1), nn.functional.pad(mask_BN, (1, 0), value=True)
        return tokens_BND, mask_BN, tuple(p.grid_hw for p in prepared)

    def _run(self, block: nn.Module, tokens_BND: Tensor, mask_BN: Tensor) -> Tensor:
        # A sample without any valid token attends everywhere rather than to nothing (softmax of nothing is NaN).
        allowed = (mask_BN | ~mask_BN.any(1, keepdim=True))[:, None, None, :]
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens_BND, allowed, use_reentrant=False)
        return block(tokens_BND, attn_mask=allowed)

    def _finish(
        self, tokens_BND: Tensor, mask_BN: Tensor, grids: tuple[tuple[int, int], ...], norm: bool = True
    ) -> Features:
        tokens_BND = self.norm(tokens_BND) if norm else tokens_BND
        class_BD = None
        if self.class_token is not None:
            class_BD, tokens_BND, mask_BN = tokens_BND[:, 0], tokens_BND[:, 1:], mask_BN[:, 1:]
        share_BN = mask_BN / mask_BN.sum(1, keepdim=True).clamp_min(1)
        pooled_BD = torch.einsum(
            "bnd,bn->bd", torch.where(mask_BN[..., None], tokens_BND, 0.0), share_BN.to(tokens_BND)
        )
        return Features(tokens_BND, pooled_BD, mask_BN, grids, class_BD)


def _as_tensor(x: Tensor | np.ndarray) -> Tensor:
    """A cube as a tensor; an array that torch cannot look into (byte order, reversed axes) is copied first."""
    if isinstance(x, Tensor):
        if x.is_complex() or x.dtype == torch.bool:
            raise SpecfmError(f"a cube holds whole or real numbers, got a tensor of {x.dtype}; convert it first")
        return x
    x = np.asarray(x)
    if x.dtype.kind not in "iuf" or x.dtype.itemsize > 8:
        raise SpecfmError(f"a cube holds whole or real numbers, got an array of {x.dtype}; convert it first")
    return torch.from_numpy(np.ascontiguousarray(x, x.dtype.newbyteorder("=")))
