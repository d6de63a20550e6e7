"""Our DOFA-style control against torchgeo's embedding, with the same weights (extra ``peers``).

Shapes: B samples, C bands, P pixels of a patch, D token width.
"""

from __future__ import annotations

import pytest
import torch

from specfm.batch import BandTensors
from tests.properties.cases import build, comb, difference

GRID = comb(11)


def test_kernels_are_those_of_torchgeo() -> None:
    dofa = pytest.importorskip("torchgeo.models.dofa", reason="needs torchgeo (extra peers)")
    torch.manual_seed(0)
    theirs = dofa.DOFAEmbedding(128, kernel_size=4, embed_dim=32).eval()
    ours = build("dofa", GRID, patch_size=4, dim=32).embedding
    ours.load_state_dict(theirs.state_dict())
    seen = {}
    theirs.weight_generator.register_forward_hook(lambda module, args, out: seen.update(weight=out[0], bias=out[1]))
    theirs(torch.zeros(1, len(GRID), 8, 8), torch.tensor(GRID.wavelengths_nm / 1000).float())
    kernel_GCPD, bias_GD = ours.kernels(BandTensors.from_sensors(GRID))
    # torchgeo takes the sines of the phases in float32, we in float64: 1e-4 apart at 2,400 radians
    assert difference(kernel_GCPD[0].flatten(1), seen["weight"] * 0.01) < 2e-4
    assert difference(bias_GD[0], seen["bias"] * 0.01) < 2e-4
