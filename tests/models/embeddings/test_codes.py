"""What a band code reads from the content of a band: the statistics, by hand.

Shapes: B samples, H W pixels, C bands, N tokens, S statistics.
"""

from __future__ import annotations

import math

import pytest
import torch

from specfm.batch import BandTensors
from specfm.models.embeddings.codes import CONTENT_QUANTILES, content_statistics
from specfm.models.patches import patchify
from tests.properties.cases import comb


def test_content_statistics_by_hand() -> None:
    """A 4 x 4 token grid of one pixel each, values 1..16 times the band's factor; one token and one cell are masked."""
    values_HW = torch.arange(1.0, 17.0).view(4, 4)
    x_BHWC = torch.stack([values_HW, -2 * values_HW], dim=-1)[None]
    mask_BHW = torch.ones(1, 4, 4, dtype=torch.bool)
    mask_BHW[0, 0, 0] = False  # of the first cell
    mask_BHW[0, 2:, 2:] = False  # the whole last cell
    patches = patchify(x_BHWC, BandTensors.from_sensors(comb(2)), mask_BHW, 1, level_B=torch.tensor([0.5]))
    found_SC = content_statistics(patches)[0].T
    for band, factor in enumerate((2.0, -4.0)):  # the level 0.5 is divided out
        seen = values_HW[mask_BHW[0]] * factor
        cells = [values_HW[0:2, 0:2].flatten()[1:], values_HW[0:2, 2:4], values_HW[2:4, 0:2]]
        expected = [seen.mean(), seen.std(correction=0)]
        for cell in cells:
            expected += [(cell * factor).mean(), (cell * factor).max()]
        expected += [seen.mean(), seen.mean()]  # nothing seen in the last cell: the mean stands in
        order = seen.sort().values
        expected += [order[round((len(seen) - 1) * q)] for q in CONTENT_QUANTILES]
        expected += [torch.tensor(math.log(0.5))]
        torch.testing.assert_close(found_SC[:, band], torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", (0.0, 3.0))
def test_flat_bands_keep_finite_gradients(value: float) -> None:
    x_BHWC = torch.full((1, 4, 4, 3), value, requires_grad=True)
    patches = patchify(x_BHWC, BandTensors.from_sensors(comb(3)), None, 2, level="none")
    content_statistics(patches).sum().backward()
    assert x_BHWC.grad.isfinite().all()
