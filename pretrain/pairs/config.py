"""What the two views of a sample are views of, and samples that are simulated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from specfm.config import Strict
from specfm.engine.config import Positive
from specfm.simulate.pairs import SurfacePairsConfig


class PairsConfig(Strict):
    """How samples are paired.

    Attributes:
        kind: ``views``: both views are of the sample itself. ``nearest_elsewhere``: the second is of one of the
            nearest samples of another place, which shares what survives a change of place (light, air, ground), that
            is the material. ``same_object``: the second is of the same object (the sample's group) in another scene:
            another date, camera or scan.
        k: nearest samples elsewhere that the partner is drawn from.
        near: samples elsewhere that are nearer to an anchor than its ``near``-th are no negatives of it.
        apart_px: how far apart, within one scene, is elsewhere; only where a shard has one group, else elsewhere is
            another group.
        components: of the whitened spectra in which nearness is measured.
        shift_px: how far apart windows are whose difference counts as noise; at least a patch.
        candidates: samples of a shard among which neighbours are sought at most, evenly spread (memory and time).
        same_place: of ``same_object``: the window at the same place of the other scene, where both scenes lie on one
            grid (two dates); else any window of the object.
    """

    kind: Literal["views", "nearest_elsewhere", "same_object"] = "views"
    k: Positive = 10
    near: Annotated[int, Field(ge=0)] = 200
    apart_px: Positive = 5
    components: Positive = 32
    shift_px: Positive = 3
    candidates: Positive = 200_000
    same_place: bool = False


class SimulatedConfig(SurfacePairsConfig):
    """Surfaces simulated through two sensors (see :class:`specfm.simulate.pairs.SurfacePairsConfig`) as samples.

    Attributes:
        share: of the global batch that is simulated, rounded to whole parts.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
