"""A batch that can mix sensors: homogeneous parts that travel together.

Shapes: B samples of a part, H W pixels, C bands (padded to the widest), G = 1 when a part shares one grid, else B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from specfm.bands import BandGrid
from specfm.errors import SpecfmError
from specfm.sensor_table import as_sensor
from specfm.sensors import LEVELS, QUANTITIES, Sensor

Found = TypeVar("Found", bound=Tensor | tuple[Tensor, ...])
FILLER_NM = 1000.0  # stands where a padded or unusable band has no centre; never enters a result


@dataclass(frozen=True)
class BandTensors:
    """What a model is told about the bands and the sensor of G samples. Unknown values: NaN, -1 or None.

    Attributes:
        wavelengths_nm_GC: float64, nm.
        fwhm_nm_GC: float64, nm.
        valid_GC: bool.
        scale_G: float32, ``physical = stored * scale + offset``.
        offset_G: float32, in physical units.
        quantity_G: int64 index into :data:`QUANTITIES`; -1 unknown.
        level_G: int64 index into :data:`LEVELS`; -1 unknown.
        gsd_m_G: float32 metres, NaN unknown.
        names: G instrument names.
        folded: what :meth:`once` asks, of bands that a model is baked for (``specfm.deploy``); else None.
    """

    wavelengths_nm_GC: Tensor
    fwhm_nm_GC: Tensor
    valid_GC: Tensor
    scale_G: Tensor
    offset_G: Tensor
    quantity_G: Tensor
    level_G: Tensor
    gsd_m_G: Tensor
    names: tuple[str | None, ...]
    folded: Callable[[str, Callable[[], Any]], Any] | None = field(default=None, compare=False)

    @classmethod
    def from_sensors(
        cls, sensors: Sensor | BandGrid | str | Sequence[Sensor | BandGrid | str], channels: int | None = None
    ) -> BandTensors:
        """Stack sensors, padding each to ``channels`` (default: the widest) with unusable bands.

        Raises:
            SpecfmError: no sensor, or one that has more bands than ``channels``.
        """
        given: Any = sensors if isinstance(sensors, Sequence) and not isinstance(sensors, str) else [sensors]
        known = [as_sensor(each) for each in given]
        if not known:
            raise SpecfmError("the list of sensors is empty; give one for all samples, or one per sample")
        width = max(len(s.bands) for s in known) if channels is None else channels
        if any(len(s.bands) > width for s in known):
            raise SpecfmError(f"a sensor has {max(len(s.bands) for s in known)} bands but the cube has {width}")
        count = len(known)
        wavelengths = torch.full((count, width), FILLER_NM, dtype=torch.float64)
        fwhm = torch.full((count, width), float("nan"), dtype=torch.float64)
        valid = torch.zeros(count, width, dtype=torch.bool)
        for g, sensor in enumerate(known):
            bands, size = sensor.bands, len(sensor.bands)
            wavelengths[g, :size] = torch.from_numpy(bands.wavelengths_nm.copy()).nan_to_num(nan=FILLER_NM)
            fwhm[g, :size] = torch.from_numpy(bands.fwhm_nm.copy())
            valid[g, :size] = torch.from_numpy(bands.valid.copy())
        return cls(
            wavelengths,
            fwhm,
            valid,
            torch.tensor([s.scale for s in known], dtype=torch.float32),
            torch.tensor([s.offset for s in known], dtype=torch.float32),
            # pretreated values are of none of the quantities
            torch.tensor([_index(QUANTITIES, None if s.pretreatment else s.quantity) for s in known]),
            torch.tensor([_index(LEVELS, s.level) for s in known]),
            torch.tensor([float("nan") if s.gsd_m is None else s.gsd_m for s in known], dtype=torch.float32),
            tuple(s.name for s in known),
        )

    def __len__(self) -> int:
        return self.wavelengths_nm_GC.shape[0]

    @property
    def channels(self) -> int:
        """C, padding included."""
        return self.wavelengths_nm_GC.shape[1]

    def _map(self, function: Any, names: tuple[str | None, ...]) -> BandTensors:
        tensors = {f.name: function(getattr(self, f.name)) for f in fields(self) if f.name not in ("names", "folded")}
        return BandTensors(**tensors, names=names)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> BandTensors:
        """Move every tensor."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking), self.names).replace(folded=self.folded)

    def once(self, what: str, compute: Callable[[], Found]) -> Found:
        """What follows from the bands alone: computed, or looked up where a model is baked for these bands.

        Args:
            what: its name, one for each use in a model.
            compute: gives a tensor or a tuple of them.
        """
        return compute() if self.folded is None else self.folded(what, compute)

    def expand(self, batch: int) -> BandTensors:
        """One row per sample (views, no copy) when the part shares one grid; itself when it already has ``batch``."""
        if len(self) == batch:
            return self
        if len(self) != 1:
            raise SpecfmError(f"{len(self)} band grids given for {batch} samples; give one, or one per sample")
        return self._map(lambda t: t.expand(batch, *t.shape[1:]), self.names * batch)

    def select(self, index: Tensor) -> BandTensors:
        """Rows ``index`` (a shared grid stays shared)."""
        if len(self) == 1:
            return self
        return self._map(lambda t: t[index], tuple(self.names[int(i)] for i in index))

    def replace(self, **changes: Any) -> BandTensors:
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class BatchPart:
    """Samples of one dtype, one window and one padded band count.

    Attributes:
        x_BHWC: values as stored (integers kept) or float; ``bands`` says how they become physical.
        bands: metadata, G = 1 or B.
        mask_BHW: True = valid pixel, None = all valid.
        sample_id_B: global id.
        instance_id_B: what makes a negative false.
        group_B: what splits keep together.
        scene_id_B: int64.
        origin_B2: int64, row and column of the window in its scene.
        label_B: int64, -1 = unlabelled.
        domain_B: int64.
        stem_B: which of the encoder's stems of acquisitions; None where the names of the sensors decide.
    """

    x_BHWC: Tensor
    bands: BandTensors
    mask_BHW: Tensor | None
    sample_id_B: Tensor
    instance_id_B: Tensor
    group_B: Tensor
    scene_id_B: Tensor
    origin_B2: Tensor
    label_B: Tensor
    domain_B: Tensor
    stem_B: Tensor | None = None

    def __len__(self) -> int:
        return self.x_BHWC.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> BatchPart:
        """Move every tensor."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }
        return replace(self, **moved)

    def select(self, index: Tensor) -> BatchPart:
        """Samples ``index`` of the part."""
        chosen: dict[str, Any] = {"bands": self.bands.select(index)}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                chosen[f.name] = value[index]
        return replace(self, **chosen)

    def replace(self, **changes: Any) -> BatchPart:
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Batch:
    """Parts in a fixed order; features come back in the order of the parts laid end to end."""

    parts: tuple[BatchPart, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[BatchPart]:
        return iter(self.parts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Move every part."""
        return Batch(tuple(part.to(device, non_blocking) for part in self.parts))

    def cat(self, field: str) -> Tensor:
        """One per-sample field (``"instance_id_B"``, ``"label_B"``, ...) over all parts, in order."""
        return torch.cat([getattr(part, field) for part in self.parts])

    def select(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` of the whole batch, as a batch (micro-batches)."""
        chosen, first = [], 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, len(part))
            if low < high:
                chosen.append(part.select(torch.arange(low, high, device=part.x_BHWC.device)))
            first += len(part)
        return Batch(tuple(chosen))


def _index(names: tuple[str, ...], name: str | None) -> int:
    return -1 if name is None else names.index(name)
