"""Frozen features of labelled windows, from an encoder.

Shape suffixes: N samples, B batch, HW window pixels, C bands, T tokens, D feature width.
Windows are centred on the labelled pixel. Pixels outside the scene are not mirrored: they are handed over as invalid,
so no pixel is ever seen twice and the guard band of the splits stays exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.bank import gather
from downstream.features.encoders import encoder_device
from downstream.features.pooling import chosen_layers, encode, pooling_parts
from downstream.splits.samples import Samples, collect_samples
from specfm.dense.tile_reader import fitting_batch
from specfm.errors import SpecfmError, UsageError
from specfm.models.backbone import side_multiple
from specfm.models.one_size import refuse_other_side
from specfm.progress import progress
from specfm.selected_scene import for_encoder
from specfm.window import read_window

if TYPE_CHECKING:
    from downstream.features.bank import Bank
    from downstream.features.fit import SceneStems
    from specfm.scene import Scene


@dataclass(frozen=True)
class FeatureSet:
    """Features of samples: ``X_ND`` float32 beside the samples they belong to."""

    X_ND: np.ndarray
    samples: Samples
    name: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def y_N(self) -> np.ndarray:
        """Class per sample."""
        return self.samples.y_N

    @property
    def group_N(self) -> np.ndarray:
        """Group per sample."""
        return self.samples.group_N

    def __len__(self) -> int:
        return len(self.X_ND)


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one scene: ids into the samples, values as stored (float32), validity."""

    ids_B: np.ndarray
    scene: Scene
    x_BHWC: np.ndarray
    mask_BHW: np.ndarray


def iterate_windows(
    scenes: Sequence[Scene], samples: Samples, window: int, batch: int = 64, strip: int = 128, first: int = 0
) -> Iterator[WindowBatch]:
    """Yield every sample's window once, scene by scene, reading at most ``strip`` + ``window`` rows at a time.

    A batch holds fewer windows where they are large (``specfm.dense.tile_encoder.BATCH_BYTES``).
    The labelled pixel sits at (window // 2, window // 2); of a list of spectra it is the only valid one. The order is
    fixed; the batches before ``first`` are neither read nor given, so that an extraction goes on where it was stopped.
    """
    number = 0
    before = window // 2
    centre_HW = np.zeros((window, window), bool)
    centre_HW[before, before] = True
    for index, scene in enumerate(scenes):
        mine_I = np.flatnonzero(samples.scene_N == index)
        for low in range(0, scene.shape[0], strip):
            rows_i = samples.rc_N2[mine_I, 0]
            here_I = mine_I[(rows_i >= low) & (rows_i < low + strip)]
            if not len(here_I):
                continue
            step = fitting_batch(batch, window, scene.shape[2])
            starts = [s for i, s in enumerate(range(0, len(here_I), step)) if number + i >= first]
            number += -(-len(here_I) // step)
            if not starts:
                continue
            rc = samples.rc_N2[here_I]
            low_2, high_2 = rc.min(0), rc.max(0)
            (r0, c0), (rows, cols) = (low_2 - before).tolist(), (high_2 - low_2 + window).tolist()
            cube, mask = read_window(scene, r0, c0, rows, cols)
            cube[~mask] = 0.0
            windows = np.lib.stride_tricks.sliding_window_view(cube, (window, window), (0, 1))  # [h, w, C, win, win]
            masks = np.lib.stride_tricks.sliding_window_view(mask, (window, window), (0, 1))
            for start in starts:
                ids = here_I[start : start + step]
                at = samples.rc_N2[ids] - low_2
                x_BHWC = np.ascontiguousarray(windows[at[:, 0], at[:, 1]].transpose(0, 2, 3, 1))
                mask_BHW = masks[at[:, 0], at[:, 1]]
                if not scene.neighbours:
                    mask_BHW = mask_BHW & centre_HW
                    x_BHWC = np.where(mask_BHW[..., None], x_BHWC, np.float32(0))
                yield WindowBatch(ids, scene, x_BHWC, mask_BHW)


def check_window(encoder: Any, window: int) -> None:
    """Refuse a window that the encoder's patches do not divide; one pixel (point spectra) is a patch padded.

    Raises:
        UsageError: that, or another one than the only one that the encoder reads.
    """
    refuse_other_side(encoder, window, "window")
    patch = side_multiple(encoder)
    if window > 1 and window % patch:
        near = max(patch, round(window / patch) * patch)
        raise UsageError(f"window {window} is not a multiple of the encoder's patch of {patch} pixels; try {near}")


def extract(
    encoder: Any,
    scenes: Sequence[Scene] | Scene,
    window: int,
    samples: Samples | None = None,
    *,
    pooling: str = "concat",
    layers: Sequence[int] = (),
    batch: int = 64,
    name: str = "encoder",
    bank: Bank | None = None,
    data_digest: str | None = None,
    stems: SceneStems | None = None,
) -> FeatureSet:
    """Frozen features of every sample.

    Args:
        encoder: a specfm encoder (or anything with ``patch_size`` and ``(x_BHWC, bands, mask_BHW) -> features``).
        scenes: the scenes that ``samples`` index.
        window: side of the window handed to the encoder, pixels; at most ``samples.window``, which the splits guard.
        samples: which pixels; default every labelled pixel.
        pooling: see ``downstream.features.pooling.pool``.
        layers: blocks whose features are put beside each other; default the encoder's output.
        batch: windows per forward call.
        name: title for the progress bar and the tables.
        bank: take the features from there if it has them, else keep them there.
        data_digest: with ``bank``, the digest of the windows' pixels where the caller has it already.
        stems: where each scene has its own stem (``downstream.features.fit``).

    Raises:
        UsageError: unknown pooling or layer, window not divisible by the patch or larger than the guarded one.
        SpecfmError: the encoder gives non-finite features.
    """

    scene_list: Sequence[Scene] = scenes if isinstance(scenes, (list, tuple)) else [scenes]  # type: ignore[list-item]
    pooling_parts(pooling)
    samples = collect_samples(scene_list, window) if samples is None else samples
    if window > samples.window:
        raise UsageError(f"window {window} is larger than the {samples.window} pixels that the split guards")
    check_window(encoder, window)
    scene_list = [for_encoder(encoder, scene) for scene in scene_list]
    if layers:
        layers = chosen_layers(encoder, layers)
    if hasattr(encoder, "eval"):
        encoder.eval()

    def compute(first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return _feature_batches(encoder, scene_list, samples, window, pooling, layers, batch, first, name, stems)

    view = {"window": window, "pooling": "+".join(pooling_parts(pooling)), "layers": list(layers), "batch": batch}
    if stems is not None:  # a stem of all scenes is among the encoder's weights
        view["stems"] = stems.digest
    if bank is None:
        X_ND = gather(compute(0), len(samples))
    else:
        X_ND = bank.features(encoder, scene_list, samples, view, compute, data_digest)
    return FeatureSet(X_ND, samples, name, {"pooling": pooling, "layers": list(layers), "window": window})


def _feature_batches(
    encoder: Any, scenes: Sequence[Scene], samples: Samples, window: int, pooling: str, layers: Sequence[int],
    batch: int, first: int, name: str, stems: SceneStems | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """(sample ids, features) per batch, from batch ``first`` on, with a progress bar."""
    import torch

    device = encoder_device(encoder)
    with progress(f"features {name}", len(samples)) as advance:
        for part in iterate_windows(scenes, samples, window, batch, first=first):
            if stems is not None:
                stems.on(part.scene)
            with torch.inference_mode():
                x_BHWC = torch.from_numpy(part.x_BHWC).to(device)
                mask_BHW = torch.from_numpy(np.ascontiguousarray(part.mask_BHW)).to(device)
                z_BD = encode(encoder, x_BHWC, part.scene.sensor, mask_BHW, pooling, window, layers)
                values_BD = z_BD.float().cpu().numpy()
            if not np.isfinite(values_BD).all():
                bad = int((~np.isfinite(values_BD).all(1)).sum())
                raise SpecfmError(
                    f"{name} gives non-finite features for {bad} of {len(values_BD)} windows of scene "
                    f"{part.scene.name!r}; check its masks"
                )
            yield part.ids_B, values_BD
            advance(len(part.ids_B))
