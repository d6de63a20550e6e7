"""How long an encoder will take on windows of these scenes, measured on a few of them before the work begins.

Shapes: H W window pixels, C bands.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.encoders import encoder_device
from downstream.features.extract import iterate_windows
from downstream.features.pooling import encode
from downstream.splits.samples import Samples
from specfm.selected_scene import for_encoder

if TYPE_CHECKING:
    from specfm.scene import Scene

FEW = 32  # windows that are timed


def seconds_a_window(
    encoder: Any, scenes: Sequence[Scene], samples: Samples, window: int, pooling: str = "mean", few: int = FEW
) -> float:
    """Seconds that the encoder takes for a window of the first scene, once warm.

    Args:
        encoder: frozen.
        scenes: of the samples.
        samples: places of windows.
        window: side of the windows, pixels.
        pooling: see ``downstream.features.pooling``.
        few: how many windows are timed, twice.
    """
    import torch

    part = next(iterate_windows([for_encoder(encoder, scene) for scene in scenes], samples, window, few))
    device = encoder_device(encoder)
    x_BHWC = torch.from_numpy(part.x_BHWC).to(device)
    mask_BHW = torch.from_numpy(np.ascontiguousarray(part.mask_BHW)).to(device)
    took = 0.0
    with torch.inference_mode():
        for _ in range(2):  # the first call pays for what is worked out once
            start = time.perf_counter()
            encode(encoder, x_BHWC, part.scene.sensor, mask_BHW, pooling, window, ()).float().cpu()
            took = time.perf_counter() - start
    return took / len(x_BHWC)
