"""BandTensors, BatchPart and Batch: stacking, padding, selecting, order.

Shapes: B samples, H W pixels, C bands, G = 1 or B band grids.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specfm import BandGrid, BandTensors, Batch, BatchPart, Sensor, SpecfmError

SHORT = Sensor(BandGrid([500, 600, 0], [10, 20, 0], [1, 1, 0]), "dn", 2.0, 1.0, "raw", 5.0, "short")
LONG = Sensor(BandGrid([400, 500, 600, 700, 800]))


def made(count: int, first: int, bands: BandTensors, mask: bool = False) -> BatchPart:
    """A part whose ids count up from ``first``."""
    ids_B = torch.arange(first, first + count)
    x_BHWC = ids_B.view(-1, 1, 1, 1).expand(-1, 2, 2, bands.channels).float()
    mask_BHW = torch.ones(count, 2, 2, dtype=torch.bool) if mask else None
    origin_B2 = torch.stack([ids_B, -ids_B], 1)
    return BatchPart(x_BHWC, bands, mask_BHW, ids_B, 10 * ids_B, ids_B, ids_B, origin_B2, ids_B % 3 - 1, ids_B // 2)


def test_stacking_pads_with_unusable_bands_and_marks_the_unknown() -> None:
    bands = BandTensors.from_sensors([SHORT, LONG])
    assert len(bands) == 2 and bands.channels == 5
    assert bands.valid_GC.tolist() == [[True, True, False, False, False], [True] * 5]
    assert bands.wavelengths_nm_GC.dtype == torch.float64 and bands.wavelengths_nm_GC.isfinite().all()
    assert bands.fwhm_nm_GC[0, :2].tolist() == [10, 20] and bands.fwhm_nm_GC[1].isnan().all()
    assert bands.quantity_G.tolist() == [0, -1] and bands.level_G.tolist() == [0, -1]
    assert bands.scale_G.tolist() == [2, 1] and bands.offset_G.tolist() == [1, 0]
    assert bands.gsd_m_G[0] == 5 and bands.gsd_m_G[1].isnan() and bands.names == ("short", None)


def test_a_bare_grid_is_a_sensor_of_which_nothing_else_is_known() -> None:
    assert BandTensors.from_sensors(LONG.bands).names == (None,)


def test_more_bands_than_the_cube_are_refused() -> None:
    with pytest.raises(SpecfmError, match="5 bands but the cube has 4"):
        BandTensors.from_sensors([SHORT, LONG], channels=4)


def test_expand_and_select() -> None:
    shared, each = BandTensors.from_sensors(SHORT), BandTensors.from_sensors([SHORT, LONG])
    assert len(shared.expand(4)) == 4 and shared.expand(4).names == ("short",) * 4
    assert each.expand(2) is each
    with pytest.raises(SpecfmError, match="2 band grids given for 3 samples"):
        each.expand(3)
    assert len(shared.select(torch.tensor([1, 2]))) == 1  # shared stays shared
    turned = each.select(torch.tensor([1, 0, 1]))
    assert turned.names == (None, "short", None) and turned.scale_G.tolist() == [1, 2, 1]


def test_cat_keeps_the_order_of_parts() -> None:
    shared = BandTensors.from_sensors(LONG)
    batch = Batch((made(3, 10, shared), made(2, 5, shared, mask=True)))
    assert len(batch) == 5 and [len(part) for part in batch] == [3, 2]
    assert batch.cat("instance_id_B").tolist() == [100, 110, 120, 50, 60]
    assert batch.cat("origin_B2").shape == (5, 2)


@pytest.mark.parametrize(("start", "stop"), ((0, 5), (0, 2), (1, 4), (3, 5), (2, 3)))
def test_micro_batches_are_slices(start: int, stop: int) -> None:
    each = BandTensors.from_sensors([SHORT, LONG, SHORT])
    batch = Batch((made(3, 0, each), made(2, 3, BandTensors.from_sensors(SHORT), mask=True)))
    piece = batch.select(start, stop)
    assert piece.cat("sample_id_B").tolist() == list(range(start, stop))
    for part in piece:
        assert len(part.bands) in (1, len(part))
        assert part.mask_BHW is None or len(part.mask_BHW) == len(part)
        assert part.x_BHWC[:, 0, 0, 0].tolist() == part.sample_id_B.tolist()
        if len(part.bands) > 1 and len(part) == len(part.bands):
            names = [("short", None, "short")[i] for i in part.sample_id_B.tolist()]
            assert list(part.bands.names) == names


def test_select_takes_any_order() -> None:
    part = made(4, 0, BandTensors.from_sensors([SHORT, LONG, SHORT, LONG]), mask=True)
    chosen = part.select(torch.tensor([3, 0]))
    assert chosen.sample_id_B.tolist() == [3, 0] and chosen.bands.names == (None, "short")
    assert chosen.x_BHWC.shape[0] == chosen.mask_BHW.shape[0] == 2


def test_moving_reaches_every_tensor() -> None:
    moved = Batch((made(2, 0, BandTensors.from_sensors(LONG), mask=True),)).to("meta").parts[0]
    tensors = [v for v in vars(moved).values() if isinstance(v, Tensor)]
    tensors += [v for v in vars(moved.bands).values() if isinstance(v, Tensor)]
    assert len(tensors) == 17 and all(t.device.type == "meta" for t in tensors)
