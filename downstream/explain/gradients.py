"""Importance of single bands by integrated gradients (Sundararajan, Taly, Yan: Axiomatic Attribution, ICML 2017).

What is explained is the probe's logit of a sample's own class, centred over classes. The path runs from the mean
spectrum, scaled to each pixel's brightness, to the pixel itself; what the bands are given sums up to the difference
between the two ends (completeness), and how nearly it does is told.

Shapes: B samples, H W pixels of a window, C bands, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.explain.judge import Judge
from downstream.features.encoders import encoder_device
from downstream.features.extract import iterate_windows
from downstream.features.pooling import encode
from downstream.splits.samples import Samples
from specfm.dense.tile_reader import fitting_batch
from specfm.errors import UsageError
from specfm.progress import progress

if TYPE_CHECKING:
    from specfm.scene import Scene


def require_captum() -> Any:
    """captum's integrated gradients.

    Raises:
        UsageError: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise UsageError(
            f"integrated gradients need captum, which cannot be imported ({error}); pip install 'specfm[explain]', or "
            "leave them out with --gradients 0"
        ) from None
    return IntegratedGradients


def integrated_gradients(
    encoder: Any,
    judge: Judge,
    scenes: Sequence[Scene],
    samples: Samples,
    window: int,
    mean_C: NDArray[Any],
    *,
    pooling: str,
    layers: Sequence[int] = (),
    steps: int = 32,
) -> tuple[NDArray[np.float64], float]:
    """What each band adds to the logit of the true class.

    Args:
        encoder: frozen encoder.
        judge: the linear probe whose logits are explained.
        scenes: scenes of the samples.
        samples: those to explain, of classes that ``judge`` knows.
        window: side, pixels.
        mean_C: mean physical spectrum, 0 in unusable bands.
        pooling: as the probe was fitted.
        layers: likewise.
        steps: of the integral (Gauss-Legendre).

    Returns:
        attribution_NC summed over the pixels of a window, and the mean error of completeness relative to the mean
        difference that was to be explained.
    """
    method = require_captum()
    device = encoder_device(encoder)
    if hasattr(encoder, "eval"):
        encoder.eval()
    weight, bias = (torch.as_tensor(v, dtype=torch.float32, device=device) for v in (judge.weight_KD, judge.bias_K))
    mean = torch.as_tensor(mean_C, dtype=torch.float32, device=device)
    found_NC, errors, differences = np.zeros((len(samples), len(mean_C))), [], []
    with progress("integrated gradients", len(samples)) as advance:
        for part in iterate_windows(scenes, samples, window, batch=16):
            sensor, mask_BHW = part.scene.sensor, torch.from_numpy(np.ascontiguousarray(part.mask_BHW)).to(device)
            physical = torch.from_numpy(part.x_BHWC).to(device) * sensor.scale + sensor.offset
            usable = torch.tensor(sensor.bands.valid, device=device)
            physical = torch.where(usable & mask_BHW[..., None], physical, 0.0)
            scale = (physical @ mean)[..., None] / mean.square().sum().clamp_min(1e-30)
            target = torch.as_tensor(np.searchsorted(judge.classes_K, samples.y_N[part.ids_B]), device=device)

            def logits(x_BHWC: Tensor, mask_BHW: Tensor, sensor: Any = sensor) -> Tensor:
                stored = (x_BHWC - sensor.offset) / sensor.scale
                z_BD = encode(encoder, stored, sensor, mask_BHW, pooling, window, layers).float()
                return z_BD @ weight.T + bias

            given, error_B = method(logits).attribute(
                physical, scale * mean, target, additional_forward_args=(mask_BHW,), n_steps=steps,
                internal_batch_size=fitting_batch(32, window, len(mean_C)), return_convergence_delta=True,
            )  # fmt: skip
            found_NC[part.ids_B] = given.detach().sum((1, 2)).double().cpu().numpy()
            with torch.inference_mode():
                ends = [logits(x, mask_BHW).gather(1, target[:, None])[:, 0] for x in (physical, scale * mean)]
            errors.append(error_B.detach().abs().cpu().numpy())
            differences.append((ends[0] - ends[1]).abs().cpu().numpy())
            advance(len(part.ids_B))
    return found_NC, float(np.concatenate(errors).mean() / max(np.concatenate(differences).mean(), 1e-12))
