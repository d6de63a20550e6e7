"""Frozen features of labelled windows: from an encoder, or the raw spectra that every encoder must beat.

Shape suffixes: N samples, B batch, HW window pixels, C bands, T tokens, D feature width, K kept bands.
Windows are centred on the labelled pixel. Pixels outside the scene are not mirrored: they are handed over as invalid,
so no pixel is ever seen twice and the guard band of the splits stays exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from downstream.samples import Samples, collect_samples
from specfm.errors import SpecfmError, UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

Pooling = Literal["mean", "centre", "concat"]
POOLINGS: tuple[str, ...] = ("mean", "centre", "concat")


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
    scenes: Sequence[Scene], samples: Samples, window: int, batch: int = 64, strip: int = 128
) -> Iterator[WindowBatch]:
    """Yield every sample's window once, scene by scene, reading at most ``strip`` + ``window`` rows at a time.

    The labelled pixel sits at (window // 2, window // 2).
    """
    before, after = window // 2, window - window // 2 - 1
    for index, scene in enumerate(scenes):
        mine_I = np.flatnonzero(samples.scene_N == index)
        height, width, _ = scene.shape
        for low in range(0, height, strip):
            rows_i = samples.rc_N2[mine_I, 0]
            here_I = mine_I[(rows_i >= low) & (rows_i < low + strip)]
            if not len(here_I):
                continue
            rc = samples.rc_N2[here_I]
            r0, r1 = max(int(rc[:, 0].min()) - before, 0), min(int(rc[:, 0].max()) + after + 1, height)
            c0, c1 = max(int(rc[:, 1].min()) - before, 0), min(int(rc[:, 1].max()) + after + 1, width)
            rows, cols = slice(r0, r1), slice(c0, c1)
            cube = np.asarray(scene.read(rows, cols), dtype=np.float32)
            mask = np.asarray(scene.mask(rows, cols), dtype=bool)
            pad = ((before, after), (before, after))
            cube = np.pad(np.where(mask[..., None], cube, 0.0), (*pad, (0, 0)))
            mask = np.pad(mask, pad)
            windows = np.lib.stride_tricks.sliding_window_view(cube, (window, window), (0, 1))  # [h, w, C, win, win]
            masks = np.lib.stride_tricks.sliding_window_view(mask, (window, window), (0, 1))
            for start in range(0, len(here_I), batch):
                ids = here_I[start : start + batch]
                at = samples.rc_N2[ids] - np.array([r0, c0])
                x_BHWC = np.ascontiguousarray(windows[at[:, 0], at[:, 1]].transpose(0, 2, 3, 1))
                yield WindowBatch(ids, scene, x_BHWC, masks[at[:, 0], at[:, 1]])


def progress_bar(title: str, total: int) -> tuple[Any, Any]:
    """A bar on stderr, silent when that is not a terminal, and its only task."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    progress = Progress(console=console, disable=not console.is_terminal, transient=True)
    return progress, progress.add_task(title, total=total)


def encoder_device(encoder: Any) -> Any:
    """Device of an encoder's first parameter (CPU for one without parameters)."""
    import torch

    parameters = getattr(encoder, "parameters", None)
    first = next(iter(parameters()), None) if parameters is not None else None
    return first.device if first is not None else torch.device("cpu")


def check_window(encoder: Any, window: int) -> None:
    """Refuse a window that the encoder's patches do not divide."""
    patch = int(encoder.patch_size)
    if window % patch:
        near = max(patch, round(window / patch) * patch)
        raise UsageError(f"window {window} is not a multiple of the encoder's patch of {patch} pixels; try {near}")


def pool(features: Any, pooling: str, window: int, patch: int) -> Any:
    """Pool an encoder's output to one vector a sample.

    Args:
        features: ``tokens_BND``, ``pooled_BD`` (mean over valid tokens) and ``grid_hw`` of its one part.
        pooling: "mean", "centre" (the token that holds the labelled pixel) or "concat" of both.
        window: window side, pixels.
        patch: patch side, pixels.
    """
    import torch

    if pooling == "mean":
        return features.pooled_BD
    row = (window // 2) // patch
    _, columns = features.grid_hw[0]  # one part, one grid
    centre_BD = features.tokens_BND[:, row * columns + row]
    return centre_BD if pooling == "centre" else torch.cat([features.pooled_BD, centre_BD], dim=-1)


def extract(
    encoder: Any,
    scenes: Sequence[Scene] | Scene,
    window: int,
    samples: Samples | None = None,
    *,
    pooling: str = "concat",
    batch: int = 64,
    name: str = "encoder",
) -> FeatureSet:
    """Frozen features of every sample.

    Args:
        encoder: a specfm encoder (or anything with ``patch_size`` and ``(x_BHWC, bands, mask_BHW) -> features``).
        scenes: the scenes that ``samples`` index.
        window: side of the window handed to the encoder, pixels; at most ``samples.window``, which the splits guard.
        samples: which pixels; default every labelled pixel.
        pooling: see ``pool``.
        batch: windows per forward call.
        name: title for the progress bar and the tables.

    Raises:
        UsageError: unknown pooling, window not divisible by the patch or larger than the guarded one.
        SpecfmError: the encoder gives non-finite features.
    """
    import torch

    scene_list: Sequence[Scene] = scenes if isinstance(scenes, (list, tuple)) else [scenes]  # type: ignore[list-item]
    if pooling not in POOLINGS:
        raise UsageError(f"unknown pooling {pooling!r}; one of {', '.join(POOLINGS)}")
    samples = collect_samples(scene_list, window) if samples is None else samples
    if window > samples.window:
        raise UsageError(f"window {window} is larger than the {samples.window} pixels that the split guards")
    check_window(encoder, window)
    device = encoder_device(encoder)
    if hasattr(encoder, "eval"):
        encoder.eval()
    X_ND: np.ndarray | None = None
    progress, task = progress_bar(f"features {name}", len(samples))
    with progress, torch.inference_mode():
        for part in iterate_windows(scene_list, samples, window, batch):
            x_BHWC = torch.from_numpy(part.x_BHWC).to(device)
            mask_BHW = torch.from_numpy(np.ascontiguousarray(part.mask_BHW)).to(device)
            output = encoder(x_BHWC, part.scene.sensor, mask_BHW)
            z_BD = pool(output, pooling, window, int(encoder.patch_size)).float().cpu().numpy()
            if X_ND is None:
                X_ND = np.empty((len(samples), z_BD.shape[1]), np.float32)
            X_ND[part.ids_B] = z_BD
            progress.advance(task, len(part.ids_B))
    assert X_ND is not None
    if not np.isfinite(X_ND).all():
        bad = int((~np.isfinite(X_ND).all(1)).sum())
        raise SpecfmError(f"{name} gives non-finite features for {bad} of {len(samples)} windows; check the masks")
    return FeatureSet(X_ND, samples, name, {"pooling": pooling, "window": window})


def common_bands(scenes: Sequence[Scene]) -> np.ndarray | None:
    """Bool over bands valid in every scene, or None where scenes have different band grids (no common raw spectrum)."""
    first = scenes[0].sensor.bands
    for scene in scenes[1:]:
        centres = scene.sensor.bands.wavelengths_nm
        if len(centres) != len(first) or not np.allclose(centres, first.wavelengths_nm, atol=0.5):
            return None
    return np.logical_and.reduce([s.sensor.bands.valid for s in scenes])


def spectra(scenes: Sequence[Scene], window: int, samples: Samples) -> tuple[FeatureSet, FeatureSet] | None:
    """Raw spectra in physical units: of the labelled pixel, and the mean over the valid pixels of the window.

    Returns:
        (pixel, mean), or None where the scenes do not share one band grid.
    """
    keep_C = common_bands(scenes)
    if keep_C is None:
        return None
    pixel_NK = np.empty((len(samples), int(keep_C.sum())), np.float32)
    mean_NK = np.empty_like(pixel_NK)
    half = window // 2
    progress, task = progress_bar("raw spectra", len(samples))
    with progress:
        for part in iterate_windows(scenes, samples, window, batch=256):
            sensor = part.scene.sensor
            x_BHWK = part.x_BHWC[..., keep_C] * np.float32(sensor.scale) + np.float32(sensor.offset)
            weight_BHW = part.mask_BHW.astype(np.float32)
            pixel_NK[part.ids_B] = x_BHWK[:, half, half]
            total = np.maximum(weight_BHW.sum((1, 2)), 1)[:, None]
            mean_NK[part.ids_B] = np.einsum("bhwk,bhw->bk", x_BHWK, weight_BHW) / total
            progress.advance(task, len(part.ids_B))
    for array in (pixel_NK, mean_NK):
        np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    info = {"window": window}
    return FeatureSet(pixel_NK, samples, "pixel spectrum", info), FeatureSet(mean_NK, samples, "mean spectrum", info)
