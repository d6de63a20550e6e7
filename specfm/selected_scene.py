"""A scene with some of its bands only, as :class:`specfm.band_selection.BandSelection` chooses them; no other is read.

Shapes: C bands of a sensor, K chosen ones, M pixels, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specfm.band_selection import BandSelection, span_text
from specfm.digests import digest_parts
from specfm.errors import UsageError
from specfm.pretreatment import beneath, measured
from specfm.scene import CubeSource, Scene

SAME_NM = 0.5  # a band whose centre differs by less in another scene is the same band
PIXELS = 4000  # that principal components are fitted on
ROWS = 64  # of a scene that these are drawn from


@dataclass(frozen=True)
class SelectedSource:
    """Some bands of a cube, in the order given; no other is read."""

    under: CubeSource
    index_K: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.under.shape[:2], len(self.index_K))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.under.dtype

    @property
    def digest(self) -> str:
        """16 hex digits over what is done to the stored numbers."""
        return digest_parts([f"bands {self.index_K.tolist()}", str(getattr(self.under, "digest", ""))])

    def read(self, rows: range, cols: range, bands: NDArray[np.int64] | None) -> NDArray[Any]:
        return self.under.read(rows, cols, self.index_K if bands is None else self.index_K[bands])


def selected(scene: Scene, index_K: NDArray[np.int64]) -> Scene:
    """The scene with some of its bands (0-based); a pixel is valid by these alone.

    A pretreated one is pretreated from these alone, so that no other band has a part in them.

    Raises:
        SpecfmError: it comes from a file that holds pretreated spectra, or these bands cannot be pretreated so.
    """

    def narrow(scene: Scene) -> Scene:
        sensor = scene.sensor.replace(bands=scene.sensor.bands.subset(index_K))
        return scene.replace(source=SelectedSource(scene.source, index_K), sensor=sensor)

    return beneath(scene, narrow)


def select_scenes(scenes: Sequence[Scene], selection: str | BandSelection | None) -> list[Scene]:
    """Scenes with the chosen bands only; nothing is read, but of ``importance`` some rows of pixels, no label.

    Scenes of one band grid get the same bands. Those of pretreated scenes are chosen from spectra as measured
    (:func:`selected`).

    Raises:
        UsageError: as :meth:`BandSelection.parse` and :meth:`BandSelection.indices`.
        SpecfmError: as :func:`selected`.
    """
    if selection is None:
        return list(scenes)
    wanted = BandSelection.parse(selection)
    as_measured = [measured(scene) for scene in scenes]
    alike: dict[str, list[Scene]] = {}
    for scene in as_measured:
        alike.setdefault(scene.sensor.bands.digest, []).append(scene)
    index = {
        digest: wanted.indices(
            members[0].sensor.bands,
            some_pixels(members) if wanted.kind == "importance" else None,
            members[0].where,
        )
        for digest, members in alike.items()
    }
    return [selected(scene, index[bare.sensor.bands.digest]) for scene, bare in zip(scenes, as_measured, strict=True)]


def selected_again(scene: Scene, selection: str, wavelengths_nm: Sequence[Sequence[float]]) -> Scene:
    """The bands that a selection took of other scenes: those at the same wavelengths, else what it takes of this one.

    Args:
        scene: whose bands are selected.
        selection: as of :func:`selected`.
        wavelengths_nm: centres of what was taken, a list for each sensor.

    Raises:
        UsageError: the scene has none of these lists, and the selection goes by numbers or pixels of other scenes.
        SpecfmError: as :func:`selected`.
    """
    have_C = measured(scene).sensor.bands.wavelengths_nm
    places = [same_places(np.asarray(centres), have_C) for centres in wavelengths_nm]
    if found := [index_K for index_K in places if index_K is not None]:
        most_K = max(found, key=len)
        return scene if np.array_equal(most_K, np.arange(len(have_C))) else selected(scene, most_K)
    wanted = BandSelection.parse(selection)
    if wanted.is_fitted or wanted.kind == "sample":
        raise UsageError(
            f"{scene.where}: lacks bands that {selection} took of the training data ({len(wavelengths_nm[0])} from "
            f"{span_text(np.asarray(wavelengths_nm[0]))}); give a scene of that sensor"
        )
    return select_scenes([scene], wanted)[0]


def same_places(centres_K: NDArray[np.float64], have_C: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """index_K: where the bands of these centres stand in another list; None unless each has a place of its own."""
    gap_KC = np.nan_to_num(np.abs(centres_K[:, None] - have_C), nan=np.inf)
    index_K = gap_KC.argmin(1)
    return index_K if len(set(index_K.tolist())) == len(centres_K) and gap_KC.min(1).max() < SAME_NM else None


def for_encoder(encoder: Any, scene: Scene) -> Scene:
    """What an encoder sees of a scene: where it is built for one list of bands and the scene has more, these alone.

    A pretreated scene is pretreated from these alone, as :func:`selected` does. An encoder that takes any bands gets
    all; one that misses some of its own gets the scene as it is, and says so itself.
    """
    own = getattr(encoder, "bands", None)
    bands = scene.sensor.bands
    if own is None or bool(own.valid.sum() >= bands.valid.sum()):
        return scene
    usable_C = np.where(bands.valid, bands.wavelengths_nm, np.nan)
    index_K = same_places(own.wavelengths_nm[own.valid], usable_C)
    return scene if index_K is None else selected(scene, index_K)


def some_pixels(scenes: Sequence[Scene], most: int = PIXELS) -> NDArray[np.float32]:
    """pixels_MC: physical values of valid pixels of scenes of one band grid, at most ``most``, the same each time."""
    rng, found, share = np.random.default_rng(11), [], -(-most // max(len(scenes), 1))
    for scene in scenes:
        height = scene.shape[0]
        rows = np.unique(np.linspace(0, height - 1, min(ROWS, height)).astype(int))
        usable_C = scene.sensor.bands.valid
        kept: list[NDArray[np.float32]] = []
        for row in rows.tolist():
            stored_WC = scene.read(row)[0]
            good_WC = stored_WC[scene.mask_of(stored_WC[:, usable_C])].astype(np.float32)
            kept.append(good_WC * np.float32(scene.sensor.scale) + np.float32(scene.sensor.offset))
        mine = np.concatenate(kept)
        found.append(mine[np.sort(rng.permutation(len(mine))[:share])])
    return np.concatenate(found)
