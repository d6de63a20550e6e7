"""What stands before an encoder's trunk: patches, generated tokens, stems, and how sensors are aligned with each other.

:class:`specfm.models.encoder.Encoder` makes the parts, in its own order; here is what they do.

Shapes: B samples, H W pixels, C bands, N tokens, K kept tokens, Q pixel tokens, D width, G = 1 or B, S acquisitions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from specfm.bands import BandGrid
from specfm.batch import BandTensors, Batch
from specfm.errors import SpecfmError, UsageError
from specfm.library import Library
from specfm.models.alignment import Alignment
from specfm.models.normaliser import Normaliser
from specfm.models.one_size import ONE_SIZE
from specfm.models.patches import Patches, patchify
from specfm.models.pixels import pixel_patches
from specfm.models.position import corner_positions, position_embedding
from specfm.models.stem import Stem, Stems
from specfm.sensor_table import as_sensor
from specfm.sensors import Sensor

log = logging.getLogger(__name__)
UNALIGNED = "maps between sensors are of patch tokens; choose one of the two"
TRUNK = ("blocks", "norm", "head")  # parts whose precision may be chosen
Bands = BandGrid | Sensor | str | Sequence[BandGrid | Sensor | str] | BandTensors


class Front(nn.Module):
    """Everything up to the trunk; attributes as :class:`specfm.models.encoder.Encoder` has them.

    Attributes:
        aligned: its trunk is trained on aligned tokens, so it is aligned whenever it has a library.
    """

    card: dict[str, Any]
    embedding: nn.Module
    stem: Stem
    pixel_stem: Stem | None
    stem_norm: nn.Module
    brightness: nn.Linear | None
    normaliser: Normaliser | None
    norm: nn.LayerNorm
    patch_size: int
    num_features: int
    level: str
    trunk: str
    gsd_reference_m: float
    aligned: bool
    _library: Library | None
    _alignment: Alignment | None
    _set_aside: Alignment | None  # while it is in training

    @property
    def library(self) -> Library | None:
        """Spectra like those it was pretrained on, None if not known."""
        return self._library

    @library.setter
    def library(self, library: Library | None) -> None:
        self._library = library
        self.alignment = Alignment(library) if self.aligned and library is not None else None

    @property
    def alignment(self) -> Alignment | None:
        """See :meth:`align`; None where it is not aligned, or is in training."""
        return self._alignment

    @alignment.setter
    def alignment(self, alignment: Alignment | None) -> None:
        self._alignment, self._set_aside = alignment, None

    @property
    def aligned_to(self) -> list[Sensor] | None:
        """The sensors that it was aligned for by :meth:`align`, in training too; None where it was not."""
        asked = self._alignment or self._set_aside
        return None if asked is None or self.aligned else [sensor for _, sensor in asked.sensors]

    @property
    def pixel(self) -> bool:
        """Whether it has pixel tokens."""
        return self.pixel_stem is not None

    @property
    def fixed_side(self) -> int | None:
        """Side of the only windows that its embedding reads, pixels; None where it reads any."""
        return getattr(self.embedding, "image_size", None)

    @property
    def _own_stems(self) -> list[Stem]:
        return [stem for stem in (self.stem, self.pixel_stem) if isinstance(stem, Stem)]

    @property
    def stems(self) -> Stems | None:
        """Maps of the acquisitions that it was pretrained on, where each has its own."""
        held = [(stem.weight_SDD, stem.bias_SD) for stem in self._own_stems]
        if not held or not self._own_stems[0].acquisitions:
            return None
        weight_KSDD, bias_KSD = (torch.stack([t for t in each if t is not None]) for each in zip(*held, strict=True))
        return Stems(self._own_stems[0].acquisitions, weight_KSDD, bias_KSD)

    @stems.setter
    def stems(self, stems: Stems | None) -> None:
        own = self._own_stems
        if stems is not None and (len(stems.weight_KSDD), stems.weight_KSDD.shape[-1]) != (len(own), self.num_features):
            raise SpecfmError(
                f"stems of acquisitions have width {stems.weight_KSDD.shape[-1]}, the encoder {self.num_features}, or "
                "one of them has no pixel tokens"
            )
        for number, stem in enumerate(own):
            if stems is None:
                stem.hold((), None, None)
            else:
                stem.hold(stems.acquisitions, stems.weight_KSDD[number], stems.bias_KSD[number])

    def fit(
        self,
        scenes: Any | Iterable[Any],
        sensor: Sensor | BandGrid | str | None = None,
        **options: Any,
    ) -> Self:
        """Whiten the stem for one acquisition, without labels; see ``specfm.dense.fit.fit_encoder`` for the options."""
        from specfm.dense.fit import fit_encoder

        if not isinstance(self.stem, Stem):
            raise UsageError("an encoder with the trunk of published masked autoencoders has no stem to be fitted")
        return fit_encoder(self, scenes, sensor, **options)

    def align(self, on: bool = True, sensors: Sequence[Sensor | BandGrid | str] = ()) -> Self:
        """Map what each sensor makes of a spectrum to what one ideal sensor would; see :class:`Alignment`.

        Features of several sensors agree best where all are put as the poorest of them would tell it: name them in
        ``sensors``. Such features are for that comparison only.
        An encoder fitted to scenes (:meth:`fit`) puts all others as the sensor of these would tell it, whatever is
        named.

        For frozen features that are compared across sensors. It is saved with the encoder. The maps hold for the
        weights as they are, so :meth:`train` sets the alignment aside, unless the trunk is trained on aligned tokens,
        and :meth:`eval` fits it anew; call it yourself if you write to weights through ``.data``.

        Raises:
            UsageError: the encoder comes without a library of spectra, with pixel tokens, or reads no single spectra.
        """
        if on and self.fixed_side is not None:
            raise UsageError(f"an encoder cannot be aligned whose {ONE_SIZE}; leave it as it is")
        if on and self.pixel:
            raise UsageError(f"an encoder with pixel tokens cannot be aligned: {UNALIGNED}")
        if on and self.library is None:
            raise UsageError(
                "this encoder comes without a library of spectra, so it cannot be aligned; leave it as it is, or "
                "pretrain it on a sensor of 50 bands or more"
            )
        listed = [sensors] if isinstance(sensors, Sensor | BandGrid | str) else sensors
        known = [as_sensor(each) for each in listed]
        self.alignment = Alignment(self.library, known) if on and self.library is not None else None
        return self

    def train(self, mode: bool = True) -> Self:
        """As in torch; an encoder in training is not aligned, unless it is made for that, and is so again after it."""
        if mode and not self.aligned and self._alignment is not None:
            log.info("the encoder is in training: its alignment is set aside, and fitted anew by eval()")
            self._set_aside, self._alignment = self._alignment, None
        elif not mode and self._set_aside is not None and self._library is not None:
            self.alignment = Alignment(self._library, [sensor for _, sensor in self._set_aside.sensors])
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As in torch (``.to``, ``.half``, ...), but what comes before the trunk stays float32.

        Whitened stems amplify what was small in the embedding, and rounding with it; the trunk takes most of the time.
        """

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype != tensor.dtype else moved

        for name, child in self.named_children() if recurse else ():
            child._apply(fn if name in TRUNK else kept)
        super()._apply(fn, recurse=False)
        return self

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Within it the encoder is in evaluation and not aligned; then it is as before."""
        training, kept = self.training, (self._alignment, self._set_aside)
        self.alignment = None
        self.train(False)
        try:
            yield
        finally:
            super().train(training)
            self._alignment, self._set_aside = kept

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
        stem_B: Tensor | None = None,
    ) -> Patches:
        """Clean and cut a cube into patches on the encoder's device.

        Args:
            x_BHWC: the cube as stored.
            bands: a sensor for all samples or one of each, or their tensors.
            mask_BHW: True = valid; None: all are.
            keep_BK: tokens to keep, in row-major order; None keeps all.
            level_B: what the input is divided by, in place of what ``level`` says.
            stem_B: which acquisition's stem they go through, of each sample; default by the names of the sensors.
        """
        tensors = bands if isinstance(bands, BandTensors) else BandTensors.from_sensors(bands)
        x_BHWC, tensors = x_BHWC.to(self.device), tensors.to(self.device)
        if self.alignment is not None:
            tensors = self.alignment.narrow(tensors)
        mask_BHW, keep_BK, level_B = (
            None if given is None else torch.as_tensor(given).to(self.device) for given in (mask_BHW, keep_BK, level_B)
        )
        patches = self._normalised(self._cut(x_BHWC, tensors, mask_BHW, keep_BK, level_B))
        return patches if stem_B is None else replace(patches, stem_B=stem_B)

    def _cut(
        self,
        x_BHWC: Tensor,
        bands: BandTensors,
        mask_BHW: Tensor | None,
        keep_BK: Tensor | None = None,
        level_B: Tensor | None = None,
    ) -> Patches:
        return patchify(x_BHWC, bands, mask_BHW, self.patch_size, level=self.level, level_B=level_B, keep_BK=keep_BK)

    def _normalised(self, patches: Patches) -> Patches:
        return patches if self.normaliser is None else self.normaliser(patches)

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
        if self.normaliser is not None and isinstance(source, Front) and source.normaliser is not None:
            self.normaliser.load_state_dict(source.normaliser.state_dict())

    def generated(self, patches: Patches) -> Tensor:
        """tokens_BND of the embedding alone, with brightness where the level of a patch was divided out."""
        tokens_BND = self.embedding(patches)
        if self.brightness is not None:
            tokens_BND = tokens_BND + self.brightness(patches.log_patch_level_BN[..., None])
        return tokens_BND

    def embed_patches(self, patches: Patches, stem: Stem | None = None) -> Tensor:
        """tokens_BND before the trunk: generated tokens through the stem, of one size, plus GSD-aware positions.

        Args:
            patches: made by :meth:`prepare`.
            stem: that of pixel tokens; default that of patches.
        """
        stem = self.stem if stem is None else stem
        tokens_BND = self.generated(patches)
        if isinstance(stem, Stem):
            row_G = patches.stem_B
            if self.alignment is not None:
                row_G = None  # maps between sensors hold for one stem
            elif row_G is None:
                row_G = stem.rows_of(patches.bands.names)
            tokens_BND = stem(tokens_BND, row_G)
        if self.alignment is not None and stem is self.stem:
            tokens_BND = self.alignment(self, patches.bands, tokens_BND)
        position = self.positions(patches.position_BN2, patches.grid_hw, patches.bands.gsd_m_G, self.num_features)
        tokens_BND = self.stem_norm(tokens_BND) + position
        trunk = self.norm.weight.dtype
        return tokens_BND if trunk == torch.float32 else tokens_BND.to(trunk)

    def positions(self, position_BN2: Tensor, grid_hw: tuple[int, int], gsd_m_G: Tensor, width: int) -> Tensor:
        """position_BND (float32) of tokens on a grid, for the trunk or for a decoder of another width."""
        if self.trunk == "mae":
            return corner_positions(position_BN2, gsd_m_G, self.gsd_reference_m, width)
        return position_embedding(position_BN2, grid_hw, gsd_m_G, self.gsd_reference_m, width)

    def pixels(self, x_BHWC: Tensor, mask_BHW: Tensor | None, patches: Patches, place_Q2: Tensor) -> Patches:
        """Patches of single pixels of a cube that :meth:`prepare` made ``patches`` of (``specfm.models.pixels``)."""
        mask_BHW = None if mask_BHW is None else torch.as_tensor(mask_BHW).to(self.device)
        x_BHWC = x_BHWC.to(self.device)
        return self._normalised(pixel_patches(x_BHWC, mask_BHW, patches, place_Q2, self.patch_size, self.level))
