"""Where the bands of a network for one list of bands stand among those given.

Shapes: C usable bands of the network, G band grids of M bands as given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specfm.batch import BandTensors
from specfm.errors import SpecfmError

SAME_NM = 0.5  # centres that differ by less are one band


def match_bands(own_nm_C: Tensor, tensors: BandTensors, may_miss: bool, network: str) -> tuple[Tensor, Tensor]:
    """Where each of the C bands stands among those given ``[G, C]``, and whether it is there at all.

    Args:
        own_nm_C: centres of the network's bands.
        tensors: the bands given, in any order.
        may_miss: some may be missing, not all; as in training, whose views leave bands out.
        network: its name, for the message.

    Raises:
        SpecfmError: bands that the network does not know, or some that are missing though they may not.
    """
    given_GM = torch.where(tensors.valid_GC, tensors.wavelengths_nm_GC, torch.inf)
    away_GCM = (own_nm_C[None, :, None] - given_GM[:, None]).abs()
    near_GC, index_GC = away_GCM.min(-1)
    there_GC = near_GC < SAME_NM
    # Centres that stand twice (two detectors overlap) are told apart by their order, where all bands are given.
    first_GC = (~tensors.valid_GC).int().argsort(dim=1, stable=True)[:, : len(own_nm_C)]
    if first_GC.shape[1] == len(own_nm_C):
        fits_GC = (given_GM.gather(1, first_GC) - own_nm_C).abs() < SAME_NM
        same_G1 = (fits_GC.all(1) & (tensors.valid_GC.sum(1) == len(own_nm_C)))[:, None]
        index_GC, there_GC = torch.where(same_G1, first_GC, index_GC), there_GC | same_G1
    strange = (tensors.valid_GC & ~(away_GCM.min(1).values < SAME_NM)).any()
    if strange or not there_GC.any() or not (may_miss or there_GC.all()):
        worst = int(there_GC.sum(1).argmin())
        given = tensors.wavelengths_nm_GC[worst][tensors.valid_GC[worst]]
        span = [f"{len(v)} at {v.min():.0f}-{v.max():.0f} nm" if len(v) else "none" for v in (own_nm_C, given)]
        own = int(there_GC[worst].sum())
        remedy = "give a scene of its sensor, or train another"
        if own == len(own_nm_C):
            remedy = "give its own alone, as specfm.selected_scene.for_encoder takes them of a scene"
        raise SpecfmError(
            f"{network} was built for other bands ({span[0]}; here are {span[1]}, of which {own} are its own); {remedy}"
        )
    return index_GC, there_GC
